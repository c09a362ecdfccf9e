"""Files laid out as detectors are published, with random weights; and MesoNet worked out in numpy."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import timm
import torch
import torchvision
from torch import Tensor, nn

Array = npt.NDArray[np.float64]

MESO4 = [(3, 3, 8), (5, 8, 8), (5, 8, 16), (5, 16, 16)]
"""Kernel size, inputs and outputs of Meso-4's convolutions, in the order they are made."""

MESOINCEPTION4 = [
    (1, 3, 1), (1, 3, 4), (3, 4, 4), (1, 3, 4), (3, 4, 4), (1, 3, 2), (3, 2, 2),
    (1, 11, 2), (1, 11, 4), (3, 4, 4), (1, 11, 4), (3, 4, 4), (1, 11, 2), (3, 2, 2),
    (5, 12, 16), (5, 16, 16),
]  # fmt: skip
CONVOLUTIONS = {"meso4": MESO4, "mesoinception4": MESOINCEPTION4}
NORMALISED = {"meso4": [8, 8, 16, 16], "mesoinception4": [11, 12, 16, 16]}


def keras_arrays(backbone: str, first: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights under Keras' names; its layers of a kind are numbered from ``first`` on."""
    rng = np.random.default_rng(7)
    arrays = {}

    def put(kind: str, number: int, **tensors: npt.NDArray[np.float64]) -> None:
        layer = f"{kind}_{number + first}"
        for name, array in tensors.items():
            arrays[f"{layer}/{layer}/{name}:0"] = array.astype(np.float32)

    for n, (size, inputs, outputs) in enumerate(CONVOLUTIONS[backbone]):
        scale = 1.5 / size / inputs**0.5
        put(
            "conv2d", n,
            kernel=rng.normal(0, scale, (size, size, inputs, outputs)), bias=rng.normal(0, 0.1, outputs),
        )  # fmt: skip
    for n, width in enumerate(NORMALISED[backbone]):
        put(
            "batch_normalization", n,
            gamma=rng.uniform(0.5, 1.5, width), beta=rng.normal(0, 0.2, width),
            moving_mean=rng.normal(0, 0.2, width), moving_variance=rng.uniform(0.01, 1, width),
        )  # fmt: skip
    put("dense", 0, kernel=rng.normal(0, 0.01, (1024, 16)), bias=rng.normal(0, 0.1, 16))
    put("dense", 1, kernel=rng.normal(0, 0.3, (16, 1)), bias=rng.normal(0, 0.1, 1))
    return arrays


def write_hdf5(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path


def keras_logits(file: Path, pixels: Array) -> Array:
    """What Keras computes of a MesoNet file: (N, 256, 256, 3) in [0, 1] → (N,) logits of REAL.

    Straight from the arrays, in float64 and numpy alone, after the authors' ``classifiers.py``.
    """
    with h5py.File(file) as opened:
        paths: list[str] = []
        opened.visit(paths.append)
        arrays = {p: np.float64(opened[p][()]) for p in paths if p.endswith(":0")}
    return np.array([_keras_logit(arrays, picture) for picture in pixels])


def _keras_logit(arrays: Mapping[str, Array], x: Array) -> float:
    convolutions = _layers(arrays, "conv2d")
    norms = _layers(arrays, "batch_normalization")
    dense = _layers(arrays, "dense")
    if len(convolutions) == 4:
        for number, (convolution, pool) in enumerate(zip(convolutions, (2, 2, 2, 4), strict=True)):
            x = _pool(_norm(_relu(_conv(x, convolution)), norms[number]), pool)
    else:
        for block in range(2):
            x = _pool(_norm(_inception(x, convolutions[7 * block :][:7]), norms[block]), 2)
        for number, pool in ((2, 2), (3, 4)):
            x = _pool(_norm(_relu(_conv(x, convolutions[12 + number])), norms[number]), pool)
    hidden = x.reshape(-1) @ dense[0]["kernel"] + dense[0]["bias"]
    hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
    return float((hidden @ dense[1]["kernel"] + dense[1]["bias"])[0])


def _layers(arrays: Mapping[str, Array], kind: str) -> list[dict[str, Array]]:
    found: dict[int, dict[str, Array]] = {}
    for path, array in arrays.items():
        layer, _, name = path.split("/")
        base, _, number = layer.rpartition("_")
        if base == kind:
            found.setdefault(int(number), {})[name.removesuffix(":0")] = array
    return [found[number] for number in sorted(found)]


def _inception(x: Array, layers: list[dict[str, Array]]) -> Array:
    first, *rest = layers
    branches = [_relu(_conv(x, first))]
    for n, dilation in enumerate((1, 2, 3)):
        inner = _relu(_conv(x, rest[2 * n]))
        branches.append(_relu(_conv(inner, rest[2 * n + 1], dilation)))
    return np.concatenate(branches, axis=-1)


def _conv(x: Array, layer: Mapping[str, Array], dilation: int = 1) -> Array:
    kernel, around = layer["kernel"], dilation * (len(layer["kernel"]) // 2)
    padded = np.pad(x, ((around, around), (around, around), (0, 0)))
    height, width = x.shape[:2]
    total = np.zeros((height, width, kernel.shape[3]))
    for i, j in np.ndindex(*kernel.shape[:2]):
        total += padded[i * dilation :][:height, j * dilation :][:, :width] @ kernel[i, j]
    return total + layer["bias"]


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _norm(x: Array, layer: Mapping[str, Array]) -> Array:
    scaled = (x - layer["moving_mean"]) / np.sqrt(layer["moving_variance"] + 1e-3)
    return layer["gamma"] * scaled + layer["beta"]


def _pool(x: Array, size: int) -> Array:
    height, width, channels = x.shape
    return x.reshape(height // size, size, width // size, size, channels).max(axis=(1, 3))


class DeepFakeClassifier(nn.Module):
    """The DFDC winner's network: its names, and what it computes."""

    def __init__(self, encoder: str = "tf_efficientnet_b7.ns_jft_in1k") -> None:
        super().__init__()
        self.encoder = timm.create_model(encoder)
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(self.encoder.num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.avg_pool(self.encoder.forward_features(x)).flatten(1)
        logits: Tensor = self.fc(self.dropout(features))
        return logits


class ByNumber(nn.Module):
    """DeepfakeBench's ResNet-34: torchvision's without its last two layers, in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(torchvision.models.resnet34().children())[:-2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.avgpool(self.resnet(x)).flatten(1))
        return logits


class ByLastLinear(nn.Module):
    """DeepfakeBench's Xception by its names; timm's legacy_xception is the same code at its root."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("legacy_xception", num_classes=2)
        self.unused = nn.Sequential(nn.Conv2d(2048, 512, 1), nn.BatchNorm2d(512))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def published(self) -> dict[str, Tensor]:
        """Under the published names."""
        own = {k.replace("fc.", "last_linear."): v for k, v in self.network.state_dict().items()}
        unused = {f"adjust_channel.{k}": v for k, v in self.unused.state_dict().items()}
        return {f"backbone.{k}": v for k, v in (own | unused).items()}


class ByBlockNumber(nn.Module):
    """An EfficientNet-B4 under efficientnet_pytorch's names, which numbers blocks through."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("tf_efficientnet_b4", num_classes=2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def published(self) -> dict[str, Tensor]:
        """Under the published names."""
        return {f"net.{self._name(k)}": v for k, v in self.network.state_dict().items()}

    def _name(self, name: str) -> str:
        top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        top["classifier"] = "_fc"
        parts = name.split(".")
        if parts[0] in top:
            return ".".join([top[parts[0]], *parts[1:]])
        stages = [len(stage) for stage in self.network.blocks]
        stage, block, layer, *rest = int(parts[1]), int(parts[2]), *parts[3:]
        shallow = {
            "conv_dw": "depthwise_conv",
            "bn1": "bn1",
            "conv_pw": "project_conv",
            "bn2": "bn2",
        }
        deep = {
            "conv_pw": "expand_conv", "bn1": "bn0", "conv_dw": "depthwise_conv", "bn2": "bn1",
            "conv_pwl": "project_conv", "bn3": "bn2",
        }  # fmt: skip
        if layer == "se":
            layer, rest = rest[0].replace("conv_", "se_"), rest[1:]
        else:
            layer = (shallow if stage == 0 else deep)[layer]
        return ".".join([f"_blocks.{sum(stages[:stage]) + block}._{layer}", *rest])


def as_checkpoint(content: Any) -> bytes:
    """As ``torch.save`` writes it."""
    sink = io.BytesIO()
    torch.save(content, sink)
    return sink.getvalue()
