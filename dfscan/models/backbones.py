"""Backbones by name: dfscan's own, and every one of timm's.

A backbone of ours is one line in :data:`OWN`; the contract suite tests whatever stands there.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from dfscan.config import InputConfig
from dfscan.errors import ConfigError, did_you_mean
from dfscan.models.mesonet import MesoInception4
from dfscan.recipe import NetworkInput


@dataclass(frozen=True)
class OwnBackbone:
    """How to make a backbone of ours: ``make(size)``; sizes are multiples of ``multiple``."""

    make: Callable[[int], nn.Module]
    size: int
    multiple: int


OWN: Final[Mapping[str, OwnBackbone]] = {"mesoinception4": OwnBackbone(MesoInception4, 256, 32)}


class TimmClassifier(nn.Module):
    """A timm model with one output. Forward: (N, 3, S, S) float32 → (N,) logits of FAKE."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.model(x).squeeze(1)
        return logits


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
    values: dict[str, Any] = wanted.model_dump()
    if backbone in OWN:
        own = OWN[backbone]
        values["size"] = wanted.size or own.size
        if values["size"] % own.multiple:
            raise ConfigError(
                f"train.input.size: got {values['size']}; {backbone} takes multiples of {own.multiple}"
            )
        return NetworkInput.model_validate(values)
    published = _published(backbone)
    values["size"] = wanted.size or published["input_size"][1]
    values["mean"], values["std"] = published["mean"], published["std"]
    return NetworkInput.model_validate(values)


def create_network(backbone: str, size: int, pretrained: bool = False) -> nn.Module:
    """A fresh network: (N, 3, size, size) float32 → (N,) logits of FAKE.

    Its weights lie channels last, as decoded pictures do: MesoInception-4 trains almost three
    times as fast that way on a CPU (``benchmarks/cpu_choices.py``).

    :param pretrained: load timm's published weights, from its cache or the hub.
    :raises ConfigError: unknown name, no published weights, or the hub cannot be reached.
    """
    check_backbone(backbone)
    if backbone in OWN:
        if pretrained:
            raise ConfigError(
                f"train.pretrained: {backbone} has no published weights: use --no-pretrained"
            )
        return OWN[backbone].make(size).to(memory_format=torch.channels_last)
    import timm

    options: dict[str, Any] = (
        {"img_size": size} if _published(backbone).get("fixed_input_size") else {}
    )
    try:
        model = timm.create_model(backbone, pretrained=pretrained, num_classes=1, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ConfigError(
            f"cannot get the published weights of {backbone} ({_first_line(error)}): check the "
            "network, or fill timm's cache (HF_HOME) on a machine that has one, or train from "
            "scratch with --no-pretrained"
        ) from None
    return TimmClassifier(model).to(memory_format=torch.channels_last)


def has_published_weights(backbone: str) -> bool:
    """Whether timm offers pretrained weights for this backbone."""
    if backbone in OWN:
        return False
    published = _published(backbone)
    return any(published.get(k) for k in ("url", "hf_hub_id", "file"))


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


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
