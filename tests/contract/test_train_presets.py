"""Every preset of ``dfscan train`` takes a step in each of its phases, without pretrained weights."""

from pathlib import Path

import pytest

from dfscan.commands import train as train_job
from dfscan.config.loading import build, configs_folder, preset_names, resolve
from dfscan.config.train import TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.models.modelfile import read_header
from dfscan.pipeline.progress import Progress

PRESETS = preset_names("train")
SMALL = {"cnn1": 32, "cnn2": 32}
"""Networks whose parameters are fewer where their input is small; others take 96 pixels."""


def small(preset: str, faceset: FaceSet, out: Path) -> TrainConfig:
    """The preset with epochs of one step and a small input."""
    flags = {"faces": (str(faceset.root),), "out": str(out), "inline": True, "workers": 1}
    asked = resolve(TrainConfig, flags, preset=preset)
    given = asked.model_fields_set - {"phases"}
    values = {k: v for k, v in asked.model_dump().items() if k in given}
    if asked.phases:
        values["phases"] = [p.model_dump() | {"epochs": 1} for p in asked.phases]
    else:
        values["epochs"] = 1
    values["input"] = asked.input.model_dump() | {"size": SMALL.get(asked.backbone, 96)}
    return build(TrainConfig, values | {"pretrained": False, "batch_size": 4, "epoch_faces": 4})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_in_every_phase(preset: str, faceset: FaceSet, tmp_path: Path) -> None:
    config = small(preset, faceset, tmp_path / "run")
    result = train_job.run(config, Progress())
    assert [row["phase"] for row in result.history] == [
        number + 1 for number, phase in enumerate(config.stages()) for _ in range(phase.epochs)
    ]
    header = read_header(Path(result.model))
    assert (header.backbone, header.head) == (config.backbone, config.head)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_what_it_is(preset: str) -> None:
    text = (configs_folder() / "train" / f"{preset}.yaml").read_text()
    assert text.startswith("# ")


def test_the_classics_are_all_there() -> None:
    classics = {name.removeprefix("classics/") for name in PRESETS if name.startswith("classics/")}
    families = ("efficientnet", "mnasnet", "mobilenet", "resnet", "resnext", "vgg16")
    backbones = ("efficientnet_b7", "inception_resnet_v2", "inception_v3", "resnet50", "vgg16")
    assert classics >= {
        *(f"rff_{name}" for name in families),
        *(f"dfdc_{name}" for name in backbones),
        *("cnn1", "cnn2_1", "cnn2_2", "resnet18_ft"),
        *("cifake_resnet50", "omnigen_efficientnet_b0", "dfdc_winner", "sbi"),
    }
