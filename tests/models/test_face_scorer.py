from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.faces import face, picture
from torch import nn

from dfscan.config.train import InputConfig
from dfscan.errors import ModelError
from dfscan.models import face_scorer
from dfscan.models.backbones import network_input
from dfscan.models.face_scorer import FaceScorer, FaceScores, NamedModel
from dfscan.models.modelfile import Model, ModelHeader
from dfscan.schemas.recipe import FaceRecipe, Sampling

RECIPE = FaceRecipe(
    sampling=Sampling(frames=3), input=network_input("mesoinception4", InputConfig(size=64))
)
FACES = [face("a", frame=n, image=picture(str(n))) for n in range(23)]


class Small(nn.Module):
    """The mean of each face, of ``most`` faces at once; ``asked`` are the batches it was given."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.asked = most, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=(1, 2, 3))


class Overflowing(nn.Module):
    """Infinity for every other face in half precision, 1 for each in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.ones(len(x))
        if torch.is_autocast_enabled("cpu"):
            found[::2] = torch.inf
        return found


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FaceScorer]:
    """A scorer around a network."""
    monkeypatch.setattr(face_scorer, "_fitting", {})

    def make(network: nn.Module, **changes: Any) -> FaceScorer:
        model = Model(ModelHeader(backbone="mesoinception4", recipe=RECIPE), network, "0" * 64)
        monkeypatch.setattr(face_scorer, "_load", lambda *_: model)
        values: dict[str, Any] = {
            "models": (NamedModel(tmp_path, "0" * 64),), "calibrations": (None,), "device": "cpu",
            "precision": "float32", "batch_size": 16,
        }  # fmt: skip
        return FaceScorer(**(values | changes))

    return make


def same(one: FaceScores, other: FaceScores) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(FaceScores)]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_what_does_not_fit_is_halved_and_remembered(scorer: Callable[..., FaceScorer]) -> None:
    roomy = Small(most=16)
    expected = scorer(roomy).score(FACES)
    assert roomy.asked == [16, 7]
    tight = Small(most=5)
    assert same(scorer(tight).score(FACES), expected)
    assert tight.asked == [16, 8, 4, 4, 4, 4, 4, 3]
    tight.asked.clear()
    assert same(scorer(tight).score(FACES[:6]), expected[:6])  # another scorer, the same process
    assert tight.asked == [4, 2]


def test_not_even_one_face_fits(scorer: Callable[..., FaceScorer]) -> None:
    with pytest.raises(ModelError, match=r"not even one face of 64 pixels fits .*--gpus 0") as told:
        scorer(Small(most=0)).score(FACES)
    assert "\n" not in str(told.value)


def test_what_overflows_is_computed_again(scorer: Callable[..., FaceScorer]) -> None:
    assert scorer(Overflowing(), precision="bfloat16").score(FACES).fused.tolist() == [1.0] * len(
        FACES
    )


def test_logits_come_back_in_single_precision(scorer: Callable[..., FaceScorer]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 1), nn.Flatten(0))
    full, half = (scorer(network, precision=p).score(FACES).fused for p in ("float32", "bfloat16"))
    assert 0 < np.abs(np.subtract(full, half)).max() < 0.05
