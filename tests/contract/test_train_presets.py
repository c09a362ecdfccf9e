"""Every preset of ``dfscan train`` takes a step in each of its phases, without pretrained weights.

One of each family of backbones computes its steps; the others are built on PyTorch's ``meta`` device,
which checks shapes and computes nothing. With the tests marked ``slow`` those compute theirs as well.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dfscan.commands import train as train_job
from dfscan.config.loading import build, configs_folder, preset_names, resolve
from dfscan.config.train import TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.models.backbones import create_network, network_input
from dfscan.models.freezing import head_of, unfreeze
from dfscan.models.modelfile import read_header
from dfscan.pipeline.progress import Progress
from dfscan.training.optimising import make_optimiser, make_schedule

PRESETS = preset_names("train")
SMALL = {"cnn1": 32, "cnn2": 32}
"""Networks whose parameters are fewer where their input is small; others take 96 pixels."""

COMPUTED = {
    "cnn2": "classics/cnn2_1_adadelta",
    "efficientnet": "classics/omnigen_efficientnet_b0",
    "inception": "classics/dfdc_inception_v3",
    "resn": "classics/resnet18_ft",  # ResNeXts too
    "vgg": None,  # 130 million parameters: half a minute
}
"""Families of several presets, or of costly ones, and the preset that computes its steps for all."""


def asked(preset: str, **flags: Any) -> TrainConfig:
    return resolve(TrainConfig, {"faces": ("faces",), "out": "run", **flags}, preset=preset)


def computed(preset: str) -> bool:
    """Whether a preset computes its steps in ``make test``; one without a family here does."""
    backbone = asked(preset).backbone.removeprefix("tf_")
    chosen = [one for family, one in COMPUTED.items() if backbone.startswith(family)]
    return chosen in ([], [preset])


ON_META = [preset for preset in PRESETS if not computed(preset)]


def small(preset: str, faceset: FaceSet, out: Path) -> TrainConfig:
    """The preset with epochs of one step and a small input."""
    flags = {"faces": (str(faceset.root),), "out": str(out), "inline": True, "workers": 1}
    config = asked(preset, **flags)
    given = config.model_fields_set - {"phases"}
    values = {k: v for k, v in config.model_dump().items() if k in given}
    if config.phases:
        values["phases"] = [p.model_dump() | {"epochs": 1} for p in config.phases]
    else:
        values["epochs"] = 1
    values["input"] = config.input.model_dump() | {"size": SMALL.get(config.backbone, 96)}
    return build(TrainConfig, values | {"pretrained": False, "batch_size": 4, "epoch_faces": 4})


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("preset", [
    pytest.param(preset, marks=pytest.mark.slow) if preset in ON_META else preset
    for preset in PRESETS
])  # fmt: skip
def test_a_step_in_every_phase(preset: str, faceset: FaceSet, tmp_path: Path) -> None:
    config = small(preset, faceset, tmp_path / "run")
    result = train_job.run(config, Progress())
    assert [row["phase"] for row in result.history] == [
        number + 1 for number, phase in enumerate(config.stages()) for _ in range(phase.epochs)
    ]
    header = read_header(Path(result.model))
    assert (header.backbone, header.head) == (config.backbone, config.head)


def learning(network: nn.Module, train: str | tuple[str, ...]) -> set[str]:
    """The names of the parameters that ``train`` stands for."""
    named = [name for name, _ in network.named_parameters()]
    head = {id(p) for module in head_of(network) for p in module.parameters()}
    of_head = {name for name, p in network.named_parameters() if id(p) in head}
    if train == "all":
        return set(named)
    if train == "head":
        return of_head
    if isinstance(train, tuple):
        return of_head | {n for n in named if n.startswith(tuple(f"{t}." for t in train))}
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in named))
    last = layers[-int(train.removeprefix("last:")) :]
    return {name for name in named if name.rpartition(".")[0] in last}


@pytest.mark.parametrize("preset", ON_META)
def test_each_phase_trains_what_it_names_and_nothing_else(preset: str) -> None:
    """With the preset's own size of input and rates; nothing is computed on ``meta``."""
    config = asked(preset)
    size = network_input(config.backbone, config.input).size
    with torch.device("meta"):
        network = create_network(config.backbone, size, head=config.head)
        pixels = torch.zeros(4, 3, size, size)
    for phase in config.stages():
        trainable, total = unfreeze(network, phase.train)
        wanted = learning(network, phase.train)
        assert {n for n, p in network.named_parameters() if p.requires_grad} == wanted
        assert trainable == sum(p.numel() for n, p in network.named_parameters() if n in wanted)
        assert 0 < trainable <= total
        optimiser = make_optimiser(phase, network.parameters())
        schedule = make_schedule(phase, optimiser, steps=2)
        logits = network.train()(pixels)
        assert logits.shape == (4,)
        logits.sum().backward()
        assert {n for n, p in network.named_parameters() if p.grad is not None} == wanted
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)


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
