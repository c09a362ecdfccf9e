"""MesoNet's four Keras files (Afchar et al., WIFS 2018, github.com/DariusAf/MesoNet).

Their layers are those of :mod:`dfscan.models.mesonet`, with four differences of convention: kernels
are (height, width, in, out); what is flattened lies channels last; batch normalisation's epsilon is
1e-3; and output 1 means real, so that the logit of FAKE is theirs negated.

The authors' crops (``pipeline.py``, ``get_aligned_face``) are squares about the nose, turned
upright, whose side is 2.2 × 1.3 times the larger of the distances between the eyes and from eyes to
mouth. On the landmarks of MTCNN that square has 1.23² times the area of MTCNN's box (median of 36 faces,
standard deviation of the factor 0.06). Boxes are 1.34 times as high as wide (median), so a box with 0.03 of
it on each side, grown to a square, is as large. They resize with a spline.

The Meso4 files list no LeakyReLU layer, which the authors' class has; Keras fills layers that have
weights, so what that class computes is what is published, and what is computed here.
"""

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from dfscan.errors import ModelError
from dfscan.models.hdf5 import Array, read_arrays
from dfscan.models.importers.base import Imported, fill, make_network
from dfscan.models.importers.catalogue import MESONET
from dfscan.schemas.recipe import FaceRecipe, NetworkInput, Sampling

RECIPE: Final = FaceRecipe(
    sampling=Sampling(frames=32),
    input=NetworkInput(size=MESONET.size, margin=0.03, square="grow", interpolation="bicubic"),
)

_BACKBONES: Final = {4: "meso4", 16: "mesoinception4"}
"""By their number of convolutions."""

_NAME: Final = re.compile(r"^(\w+?)_(\d+)/\1_\2/(\w+):0$")
_BATCH_NORM: Final = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_TENSORS: Final = {
    "conv2d": {"kernel": "weight", "bias": "bias"},
    "batch_normalization": _BATCH_NORM,
    "dense": {"kernel": "weight", "bias": "bias"},
}
"""Keras' name of a kind of layer → its name of a tensor → torch's."""

_MODULES: Final = {
    "conv2d": nn.Conv2d,
    "batch_normalization": nn.BatchNorm2d,
    "dense": nn.Linear,
}


def read(file: str, data: bytes, mapping: str | None = None) -> Imported:
    """One of the four files, Meso-4's or MesoInception-4's, told by its layers.

    :raises ModelError: it is not one of them, or h5py is missing.
    """
    del mapping  # there is nothing to say about them
    layers = _layers(file, read_arrays(file, data))
    convolutions = sum(kind == "conv2d" for kind, _ in layers)
    if convolutions not in _BACKBONES:
        raise ModelError(
            f"{file} has {convolutions} convolutions: Meso4 has 4, MesoInception4 16; give one of "
            f"the files of {MESONET.where}"
        )
    backbone = _BACKBONES[convolutions]
    network = make_network(file, backbone, MESONET.size)
    counts = fill(file, network, _named(network, layers))
    return Imported(network, backbone, RECIPE, MESONET, {**counts, "left_out": 0})


def _layers(file: str, arrays: Mapping[str, Array]) -> dict[tuple[str, int], dict[str, Array]]:
    """(kind, number) → torch's name of a tensor → array. Keras numbers the layers of a kind as they
    are made."""
    layers: dict[tuple[str, int], dict[str, Array]] = {}
    unknown = []
    for path, array in arrays.items():
        match = _NAME.match(path)
        name = _TENSORS.get(match[1], {}).get(match[3]) if match else None
        if match is None or name is None:
            unknown.append(path)
        else:
            layers.setdefault((match[1], int(match[2])), {})[name] = array
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ModelError(
            f"{file} holds {', '.join(unknown[:3])}{more}, which no MesoNet has: give one of the "
            f"files of {MESONET.where}"
        )
    return layers


def _named(
    network: nn.Module, layers: Mapping[tuple[str, int], Mapping[str, Array]]
) -> dict[str, Tensor]:
    """The tensors by the network's names: the n-th layer of a kind is its n-th module of that kind,
    since both were made in the same order. A layer too many keeps Keras' name."""
    given: dict[str, Tensor] = {}
    for kind, module in _MODULES.items():
        places = [name for name, m in network.named_modules() if isinstance(m, module)]
        numbers = sorted(number for k, number in layers if k == kind)
        places += [f"{kind}_{number}" for number in numbers[len(places) :]]
        for place, number in zip(places, numbers, strict=False):
            for name, array in layers[kind, number].items():
                given[f"{place}.{name}"] = _as_torch(torch.from_numpy(array.copy()))
    *_, first, last = (name for name, m in network.named_modules() if isinstance(m, nn.Linear))
    _reorder(given, first)
    for name in (f"{last}.weight", f"{last}.bias"):
        if name in given:
            given[name] = -given[name]  # theirs is the logit of REAL
    return given


def _as_torch(array: Tensor) -> Tensor:
    """Kernels (H, W, in, out) → (out, in, H, W) and (in, out) → (out, in); vectors stay."""
    return array.permute(3, 2, 0, 1) if array.ndim == 4 else array.T if array.ndim == 2 else array


def _reorder(given: dict[str, Tensor], dense: str) -> None:
    """Columns of the first dense layer: from height, width, channel to channel, height, width."""
    weight = given.get(f"{dense}.weight")
    side = MESONET.size // 32
    if weight is None or weight.ndim != 2 or not weight.numel():
        return  # the check of all tensors says so
    if weight.shape[1] % side**2 == 0:
        maps = weight.reshape(len(weight), side, side, -1)
        given[f"{dense}.weight"] = maps.permute(0, 3, 1, 2).reshape(len(weight), -1)
