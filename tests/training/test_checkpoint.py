import pickle
import random
import struct
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dfscan.config.train import Loss, Phase
from dfscan.errors import OutputError
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.training.checkpoint import FILE_NAME, Checkpoint, load_checkpoint, save_checkpoint
from dfscan.training.optimising import loss_of, make_optimiser, make_schedule

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, tuples as lists."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.contiguous().view(-1).view(torch.uint8).equal(
                other.contiguous().view(-1).view(torch.uint8)
            )
        )  # fmt: skip
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and [*map(repr, one)] == [*map(repr, other)]  # 1 is no "1", and they keep their order
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    if isinstance(one, float):
        return isinstance(other, float) and struct.pack("d", one) == struct.pack("d", other)
    return type(one) is type(other) and bool(one == other)


def test_whatever_a_state_holds_comes_back_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chance = random.Random(0)
    wide = torch.randn(6, 8)
    state = {
        "dtypes": {str(d): (torch.randn(3, 5) * 9).to(d) for d in DTYPES},
        "shapes": [torch.tensor(3.5), torch.zeros(0), torch.randn(2, 3, 4, 5)],
        "views": (wide[:, 2:5], wide.t(), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        "again": [wide, wide],
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "leaf": nn.Parameter(torch.randn(2)),
        "by number": {0: {"step": torch.tensor(7.0)}, 1: {}, 12: None},
        "floats": [chance.random() * 10 ** chance.randint(-300, 300) for _ in range(50)],
        "odd floats": [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, float("inf")],
        "empty": {}, "none": None, "yes": True, "no": False, "zero": 0, "large": 2**70,
        "text": "Größe – \u4e16 \"tensor\"\n", "nested": ((1, (2.5, None)), [[]], {"items": [1]}),
        "looks like one": {"tensor": "no"}, "": {"tensor": torch.ones(1)},
    }  # fmt: skip
    save_checkpoint(tmp_path, Checkpoint(7, state))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.epochs == 7
    assert same(state, found.states)
    assert found.states["nested"] == [[1, [2.5, None]], [[]], {"items": [1]}]


def test_the_last_one_counts_and_nothing_else_stays(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for epochs in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(epochs, {"x": torch.full((3,), float(epochs))}))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.epochs, found.states["x"].tolist()) == (2, [2.0, 2.0, 2.0])
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, Checkpoint(1, {"x": object()}))
    assert not list(tmp_path.iterdir())


def refused(folder: Path) -> None:
    with pytest.raises(OutputError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{folder / FILE_NAME} is damaged" in message
    assert "--overwrite starts anew" in message


def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(3, {"x": torch.arange(100.0), "y": {"z": 1}}))
    whole = (tmp_path / FILE_NAME).read_bytes()
    for length in (0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        refused(tmp_path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for write in (
        lambda path: path.write_bytes(pickle.dumps(Trap(sprung))),
        lambda path: torch.save({"epochs": 1, "states": Trap(sprung)}, path),
        lambda path: torch.save(Trap(sprung), path, _use_new_zipfile_serialization=False),
    ):
        write(tmp_path / FILE_NAME)
        refused(tmp_path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap is one


def test_a_file_of_another_kind_is_damaged(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    recipe = FaceRecipe(sampling=Sampling(frames=3))
    save_model(tmp_path / FILE_NAME, nn.Linear(2, 1), ModelHeader(backbone="meso4", recipe=recipe))
    refused(tmp_path)
    texts = ['{"epochs": 1}', "[]", "3", "null", '{"epochs": 1, "states": {"tensor": "gone"}}', "{"]
    for metadata in (None, {}, {"other": "x"}, *({"dfscan": text} for text in texts)):
        save_file({"x": torch.ones(2)}, tmp_path / FILE_NAME, metadata=metadata)
        refused(tmp_path)


# ---------------------------------------------------------------- going on


OPTIMISERS = get_args(Phase.model_fields["optimizer"].annotation)
SCHEDULES = get_args(Phase.model_fields["schedule"].annotation)
STEPS = 4


class Learning:
    """A small network with everything that an optimiser keeps count of."""

    def __init__(self, phase: Phase) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 1))
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
        )
        self.optimiser: Optimizer = make_optimiser(phase, self.network.parameters())
        self.schedule: LRScheduler = make_schedule(phase, self.optimiser, STEPS)
        self.phase = phase

    def steps(self, first: int, last: int) -> list[float]:
        """The rates of these steps, whose data follow from their numbers."""
        rates = []
        for number in range(first, last):
            data = torch.randn(6, 5, generator=torch.Generator().manual_seed(number))
            self.optimiser.zero_grad()
            fake = (data.sum(1) > 0).float()
            loss_of(self.network(data)[:, 0], fake, Loss(label_smoothing=0.1), 1.0).backward()
            self.optimiser.step()
            rates.append(self.optimiser.param_groups[0]["lr"])
            self.schedule.step()
            self.average.update_parameters(self.network)
        return rates

    def parts(self) -> dict[str, Any]:
        names = ("network", "average", "optimiser", "schedule")
        return {name: getattr(self, name) for name in names}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_optimisers_and_schedules_go_on_to_the_bit(
    tmp_path: Path, optimizer: str, schedule: str
) -> None:
    phase = Phase(optimizer=optimizer, schedule=schedule, epochs=3, step_epochs=1, lr=0.02)
    whole, first, second = Learning(phase), Learning(phase), Learning(phase)
    rates = whole.steps(0, 12)
    half = first.steps(0, 5)
    states = {name: part.state_dict() for name, part in first.parts().items()}
    save_checkpoint(tmp_path, Checkpoint(5, states))
    second.steps(30, 33)  # it has been elsewhere in between
    found = load_checkpoint(tmp_path)
    assert found is not None
    for name, part in second.parts().items():
        part.load_state_dict(found.states[name])
    assert half + second.steps(5, 12) == rates
    for name, part in whole.parts().items():
        assert same(part.state_dict(), second.parts()[name].state_dict()), name
    assert schedule == "constant" or len(set(rates)) > 1
