"""The audits before every training, over the pictures as they are stored."""

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan import storage
from dfscan.datasets.audit import (
    NO_HASH,
    SidedPictures,
    SidedVideos,
    check_sides,
    near_duplicates,
    perceptual_hash,
    picture_digest,
    shortcuts,
)
from dfscan.training.index import FaceIndex

HASHED: Final = 200_000
"""Faces that are compared by perceptual hash, at most: a third of a millisecond each. Of more, one
in so many: then a copy is found where both are among them.
"""

_THREADS: Final = 4

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """Of every face's picture: digest, perceptual hash (of some) and size in bytes, (N,) each."""

    digest: npt.NDArray[np.uint64]
    perceptual: npt.NDArray[np.uint64]
    size: npt.NDArray[np.int64]


def check_videos(index: FaceIndex, sides: Mapping[str, Positions]) -> None:
    """Stop at a leak that is plain before any picture is read.

    :param sides: train, validation and test, in this order.
    :raises UsageError: a group, an original or a video's content lies on two sides.
    """
    check_sides(_sided(index, sides)[0])


def audit_leaks(
    index: FaceIndex, sides: Mapping[str, Positions], pictures: Pictures
) -> tuple[dict[str, Any], list[str]]:
    """What lies on two sides: for ``metrics.json``, and as lines for the user.

    :param sides: train, validation and test, in this order.
    :raises UsageError: a group, an original, a video's content or a picture does.
    """
    videos, split, video = _sided(index, sides)
    hashes = pictures.perceptual[split]
    sided = SidedPictures(video.astype(np.int32), pictures.digest[split], hashes)
    check_sides(videos, sided)
    near = near_duplicates(videos, sided)
    found = asdict(near) | {"pictures": len(split), "hashed": int((hashes != NO_HASH).sum())}
    return found, [near.warning] if near.warning else []


def _sided(
    index: FaceIndex, sides: Mapping[str, Positions]
) -> tuple[SidedVideos, Positions, Positions]:
    """The videos of a split, its faces, and each face's video among these."""
    side_of = np.full(len(index), -1, np.int8)
    for number, positions in enumerate(sides.values()):
        side_of[positions] = number
    split = np.flatnonzero(side_of >= 0)
    used, first, video = np.unique(index.video[split], return_index=True, return_inverse=True)
    videos = SidedVideos(
        video_id=[index.videos[v].video_id for v in used],
        side=side_of[split][first],
        group=[index.groups[g] for g in index.group[split][first]],
        original=[index.videos[v].original for v in used],
        content_sha256=[index.videos[v].content_sha256 for v in used],
    )
    return videos, split, video


def audit_shortcuts(
    index: FaceIndex, positions: Positions, pictures: Pictures, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Whether anything but the pixels tells fakes: for ``metrics.json``, and as lines for the user."""
    width, height = (index.crop_box[:, 2:] - index.crop_box[:, :2]).T
    columns = {
        "frame_index": index.frame,
        "key_frame": index.key_frame,
        "crop_width": width,
        "crop_height": height,
        "bytes": pictures.size,
        "detector_score": index.detector_score,
    }
    chosen = {name: values[positions] for name, values in columns.items()}
    found = shortcuts(chosen, index.fake[positions], index.group[positions], seed)
    told = [found.warning] if found.warning else []
    return asdict(found) | {"told": bool(told)}, told


def read_pictures(index: FaceIndex) -> Pictures:
    """Every face's picture, read once; the folds of a cross-validation share what was read."""
    every = -(-len(index) // HASHED)
    with ThreadPoolExecutor(_THREADS) as pool:
        files = list(pool.map(functools.partial(_pictures_of, every=every), index.files))
    digest, perceptual, sizes = (
        np.concatenate([file[part] for file in files]) for part in range(3)
    )
    begins = np.cumsum([0] + [len(file[0]) for file in files])
    groups = [file[3] for file in files]
    rows = np.empty(len(index), np.int64)
    for number, begin in enumerate(begins[:-1]):
        mine = index.file == number
        rows[mine] = begin + groups[number][index.row_group[mine]] + index.row[mine]
    return Pictures(digest[rows], perceptual[rows], sizes[rows])


@functools.lru_cache(maxsize=4096)
def _pictures_of(
    file: str, every: int
) -> tuple[
    npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]
]:
    """Of a file's pictures: digest, perceptual hash of one in ``every``, bytes; row groups' begins."""
    parquet = storage.open_parquet(file)
    digests, hashes, sizes, begins = [], [], [], [0]
    for number in range(parquet.num_row_groups):
        images = parquet.read_row_group(number, columns=["image"])["image"]
        for row, image in enumerate(images):
            picture = image["bytes"].as_py()
            digests.append(picture_digest(picture))
            sizes.append(len(picture))
            hashed = (begins[-1] + row) % every == 0
            hashes.append(perceptual_hash(picture) if hashed else NO_HASH)
        begins.append(len(digests))
    return (
        np.array(digests, np.uint64),
        np.array(hashes, np.uint64),
        np.array(sizes, np.int64),
        np.array(begins[:-1], np.int64),
    )
