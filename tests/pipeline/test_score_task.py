from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.faces import face, picture
from torch import nn

from dfscan.config.train import InputConfig
from dfscan.errors import ModelError
from dfscan.models.backbones import network_input
from dfscan.models.modelfile import Model, ModelHeader
from dfscan.pipeline import score_task as score
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.score_task import NamedModel, ScoreTask
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.scoring.decision import DecisionRule

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
def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ScoreTask]:
    """A task around a network."""
    monkeypatch.setattr(score, "_fitting", {})

    def make(network: nn.Module, **changes: Any) -> ScoreTask:
        model = Model(ModelHeader(backbone="mesoinception4", recipe=RECIPE), network, "0" * 64)
        monkeypatch.setattr(score, "_model", lambda *_: model)
        values: dict[str, Any] = {
            "extractor": InProcessExtractor(RECIPE, "cpu", 1 << 30), "models": (NamedModel(tmp_path, "0" * 64),),
            "calibrations": (None,), "rule": DecisionRule(None, 0.5), "precision": "float32",
            "batch_size": 16, "config_hash": "c", "fingerprint_inputs": {}, "target": tmp_path,
        }  # fmt: skip
        return ScoreTask(**(values | changes))

    return make


def test_what_does_not_fit_is_halved_and_remembered(task: Callable[..., ScoreTask]) -> None:
    roomy = Small(most=16)
    expected, sharp = task(roomy).scores(FACES)
    assert roomy.asked == [16, 7]
    tight = Small(most=5)
    assert task(tight).scores(FACES) == (expected, sharp)
    assert tight.asked == [16, 8, 4, 4, 4, 4, 4, 3]
    tight.asked.clear()
    assert task(tight).scores(FACES[:6])[0] == expected[:6]  # another task, the same process
    assert tight.asked == [4, 2]


def test_not_even_one_face_fits(task: Callable[..., ScoreTask]) -> None:
    with pytest.raises(ModelError, match=r"not even one face of 64 pixels fits .*--gpus 0") as told:
        task(Small(most=0)).scores(FACES)
    assert "\n" not in str(told.value)


def test_what_overflows_is_computed_again(task: Callable[..., ScoreTask]) -> None:
    assert task(Overflowing(), precision="bfloat16").scores(FACES)[0] == [1.0] * len(FACES)


def test_logits_come_back_in_single_precision(task: Callable[..., ScoreTask]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 1), nn.Flatten(0))
    full, half = (task(network, precision=p).scores(FACES)[0] for p in ("float32", "bfloat16"))
    assert 0 < np.abs(np.subtract(full, half)).max() < 0.05
