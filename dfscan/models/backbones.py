"""Backbones by name: dfscan's own, and every one of timm's.

A backbone of ours is one line in :data:`OWN`; the contract suite tests whatever stands there.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, did_you_mean
from dfscan.models.dctresnet import DctResNet
from dfscan.models.heads import TimmClassifier, classifiers, make_head
from dfscan.models.hogmlp import HogMlp
from dfscan.models.mesonet import Meso4, MesoInception4
from dfscan.models.plaincnn import cnn1, cnn2
from dfscan.models.weights import load_weights
from dfscan.schemas.recipe import Head, NetworkInput, Triple

LINEAR: Final = Head()
_HALF: Final = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class OwnBackbone:
    """How to make a backbone of ours: ``make(size)``; sizes are multiples of ``multiple``.

    Its pixels are normalised by ``mean`` and ``std`` of their RGB channels, in [0, 1].
    """

    make: Callable[[int], nn.Module]
    size: int
    multiple: int
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)


OWN: Final[Mapping[str, OwnBackbone]] = {
    "mesoinception4": OwnBackbone(MesoInception4, 256, 32),
    "meso4": OwnBackbone(Meso4, 256, 32),
    "dct_resnet": OwnBackbone(DctResNet, 256, 32),
    "hog_mlp": OwnBackbone(HogMlp, 256, 32),
    "cnn1": OwnBackbone(cnn1, 128, 4, _HALF, _HALF),
    "cnn2": OwnBackbone(cnn2, 128, 4, _HALF, _HALF),
}


def check_backbone(name: str) -> None:
    """Refuse a name that is neither ours nor timm's.

    :raises ConfigError: with the nearest names.
    """
    if name not in _names():
        raise ConfigError(
            f"train.backbone: unknown backbone {name!r}: {did_you_mean(name, _names())} "
            f"(allowed: {', '.join(OWN)} and every model of timm, see timm.list_models())"
        )


def network_input(backbone: str, wanted: InputConfig) -> NetworkInput:
    """What the network sees: the wanted values, and what suits the backbone where they are null.

    :raises ConfigError: the backbone cannot take the wanted size.
    """
    check_backbone(backbone)
    values: dict[str, Any] = {k: v for k, v in wanted.model_dump().items() if v is not None}
    if backbone not in OWN:
        published = _published(backbone)
        suited = {"size": published["input_size"][1]} | {k: published[k] for k in ("mean", "std")}
        return NetworkInput.model_validate(suited | values)
    own = OWN[backbone]
    if values.get("size", own.size) % own.multiple:
        raise ConfigError(
            f"train.input.size: got {values['size']}; {backbone} takes multiples of {own.multiple}"
        )
    suited = {"size": own.size, "mean": own.mean, "std": own.std}
    return NetworkInput.model_validate(suited | values)


def create_network(
    backbone: str,
    size: int,
    pretrained: bool = False,
    head: Head = LINEAR,
    weights: str | None = None,
) -> nn.Module:
    """A fresh network: (N, 3, size, size) float32 → (N,) logits of FAKE.

    Its weights lie channels last, as decoded pictures do: MesoInception-4 trains almost three
    times as fast that way on a CPU (``benchmarks/cpu_choices.py``).

    :param pretrained: load timm's published weights, from its cache or the hub.
    :param head: what follows timm's pooled features; backbones of ours have their own.
    :param weights: a safetensors file to start from instead: timm's names, whose classifier is
        left out, or a model file of dfscan's with this backbone.
    :raises ConfigError: unknown name, no published weights, or the hub cannot be reached.
    :raises ModelError: the file of weights is missing, damaged, a pickle, or does not fit.
    """
    check_backbone(backbone)
    if pretrained and weights is not None:
        raise ConfigError("train.weights and train.pretrained exclude each other: give one of them")
    if backbone in OWN:
        network = _own(backbone, size, pretrained, head)
        if weights is not None:
            load_weights(network, weights)
    else:
        model = _timm(backbone, size, pretrained, head)
        if weights is not None:
            load_weights(model, weights, left_out=classifiers(model))
        network = TimmClassifier(model, make_head(model, head))
    return network.to(memory_format=torch.channels_last)


def _own(backbone: str, size: int, pretrained: bool, head: Head) -> nn.Module:
    if pretrained:
        raise ConfigError(
            f"train.pretrained: {backbone} has no published weights: use --no-pretrained"
        )
    if head != LINEAR:
        raise ConfigError(
            f"train.head: {backbone} has a head of its own: leave it out, or take a backbone of timm's"
        )
    return OWN[backbone].make(size)


def _timm(backbone: str, size: int, pretrained: bool, head: Head) -> nn.Module:
    """With one output for a linear head, else with pooled features as its output."""
    import timm

    options: dict[str, Any] = (
        {"img_size": size} if _published(backbone).get("fixed_input_size") else {}
    )
    outputs = 1 if head.kind == "linear" else 0
    try:
        model: nn.Module = timm.create_model(
            backbone, pretrained=pretrained, num_classes=outputs, **options
        )
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ConfigError(
            f"cannot get the published weights of {backbone} ({_first_line(error)}): check the "
            "network, or fill timm's cache (HF_HOME) on a machine that has one, or train from "
            "scratch with --no-pretrained"
        ) from None
    return model


def has_published_weights(backbone: str) -> bool:
    """Whether timm offers pretrained weights for this backbone."""
    if backbone in OWN:
        return False
    published = _published(backbone)
    return any(published.get(k) for k in ("url", "hf_hub_id", "file"))


def count_parameters(network: nn.Module) -> int:
    """All parameters, frozen or not."""
    return sum(p.numel() for p in network.parameters())


def normalise(pixels: Tensor, recipe: NetworkInput) -> Tensor:
    """(N, S, S, 3) uint8 → (N, 3, S, S) float32, as (x / 255 - mean) / std."""
    mean = torch.tensor(recipe.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(recipe.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float().div(255) - mean) / std


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    import timm

    return frozenset(OWN) | frozenset(timm.list_models()) | frozenset(timm.list_pretrained())


def _published(backbone: str) -> dict[str, Any]:
    import timm

    config = timm.get_pretrained_cfg(backbone)
    return (
        config.to_dict()
        if config is not None
        else {
            "input_size": (3, 224, 224),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
