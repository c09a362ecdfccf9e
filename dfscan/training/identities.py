"""Who is in the videos: faces of one person join their groups, so that no side meets another's people.

The embedding is facenet-pytorch's InceptionResnetV1 with weights that the user has: they are not
part of the package. Only reals are looked at. A fake belongs to its original's group, and whose face
it was given is not for an embedding to say.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dfscan import storage
from dfscan.config.train import Identities
from dfscan.datasets.splits import connected_groups
from dfscan.errors import UsageError
from dfscan.models.weights import load_weights
from dfscan.schemas.recipe import NetworkInput
from dfscan.training.index import FaceIndex
from dfscan.training.reader import FaceReader

INPUT: Final = NetworkInput(size=160, margin=0.0)
"""What facenet-pytorch shows its embedding: the box alone, 160 pixels."""

FACES: Final = 4
"""Faces of a video, evenly spread, whose mean stands for it."""

MOST: Final = 0.5
"""One person in more than this share of the groups is no person but too large a distance."""

_BATCH: Final = 32
_ROWS: Final = 2048

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Checked:
    """``people`` in ``groups`` of reals, from ``faces`` embedded with these weights."""

    people: int
    groups: int
    faces: int
    distance: float
    weights_sha256: str


def merge_identities(index: FaceIndex, wanted: Identities) -> tuple[FaceIndex, dict[str, Any]]:
    """The index with the groups of one person joined, and what was found, for ``metrics.json``.

    :raises UsageError: the weights do not fit, there are no reals, or most groups come out as one
        person.
    """
    chosen = _spread(index)
    if not len(chosen):
        raise UsageError(
            "train.identities: there is no real face to tell people by", code="dataset.unsuitable"
        )
    network = _network(wanted.weights)
    groups, embeddings = _embedded(index, chosen, network)
    links = [
        (index.groups[groups[a]], index.groups[groups[b]])
        for a, b in _near(embeddings, wanted.distance)
        if groups[a] != groups[b]
    ]
    names = connected_groups(index.groups, links)
    real = sorted(set(groups.tolist()))
    people, sizes = np.unique([names[g] for g in real], return_counts=True)
    if len(real) > 2 and sizes.max() > MOST * len(real):
        raise UsageError(
            f"train.identities.distance: got {wanted.distance}; {sizes.max()} of {len(real)} groups "
            "come out as one person: give a smaller one",
            code="dataset.unsuitable",
        )
    joined, number = np.unique(names, return_inverse=True)
    found = Checked(
        people=len(people),
        groups=len(real),
        faces=len(chosen),
        distance=wanted.distance,
        weights_sha256=storage.sha256(storage.read_bytes(wanted.weights)),
    )
    group = number.astype(np.int32)[index.group]
    return replace(index, groups=tuple(joined.tolist()), group=group), asdict(found)


def _network(path: str) -> nn.Module:
    """InceptionResnetV1 up to its embedding, with the weights of a safetensors file."""
    from facenet_pytorch import InceptionResnetV1

    network: Any = InceptionResnetV1(pretrained=None, classify=True, num_classes=1)
    load_weights(network, path, left_out=(network.logits,))  # the published ones name people
    network.classify = False
    embedding: nn.Module = network.eval()
    return embedding


def _spread(index: FaceIndex) -> npt.NDArray[np.int64]:
    """Positions of up to :data:`FACES` faces of every real video."""
    reals = np.flatnonzero(~index.fake)
    order = reals[np.argsort(index.video[reals], kind="stable")]
    _, begins, counts = np.unique(index.video[order], return_index=True, return_counts=True)
    chosen = [
        begin + np.unique(np.linspace(0, count - 1, min(FACES, count)).astype(int))
        for begin, count in zip(begins.tolist(), counts.tolist(), strict=True)
    ]
    return np.sort(order[np.concatenate(chosen)]) if chosen else reals


@torch.inference_mode()
def _embedded(
    index: FaceIndex, chosen: npt.NDArray[np.int64], network: nn.Module
) -> tuple[npt.NDArray[np.int64], Embeddings]:
    """Of each video its group and its mean embedding, of length 1: (V,) and (V, 512)."""
    reader = FaceReader(index, INPUT, threads=max(1, torch.get_num_threads()), ahead=False)
    positions, vectors = [], []
    for batch in reader.all_batches(chosen, _BATCH):
        pixels = batch.pixels.permute(0, 3, 1, 2).float()
        vectors.append(network((pixels - 127.5) / 128).numpy())  # the library's own scaling
        positions.append(batch.position)
    position = np.concatenate(positions)
    videos, first, number = np.unique(index.video[position], return_index=True, return_inverse=True)
    sums = np.zeros((len(videos), vectors[0].shape[1]), np.float32)
    np.add.at(sums, number, np.concatenate(vectors))
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return index.group[position][first].astype(np.int64), sums / np.maximum(lengths, 1e-12)


def _near(embeddings: Embeddings, distance: float) -> list[tuple[int, int]]:
    """Pairs of rows at most so far from each other: |a - b|² = 2 - 2 a·b for vectors of length 1."""
    found = []
    for start in range(0, len(embeddings), _ROWS):
        alike = embeddings[start : start + _ROWS] @ embeddings.T >= 1 - distance**2 / 2
        rows, columns = np.nonzero(np.triu(alike, start + 1))
        found += list(zip((rows + start).tolist(), columns.tolist(), strict=True))
    return found
