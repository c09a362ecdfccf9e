"""Training under Ray: several workers learn what one does, and a lost one costs an epoch at most."""

import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from support.faces import person, write_faces

from dfscan.commands import train as train_job
from dfscan.commands.train import TrainResult
from dfscan.config.extract import ExtractConfig
from dfscan.config.train import InputConfig, Phase, TrainConfig
from dfscan.execution import ray_training
from dfscan.execution.executor import ray_session
from dfscan.models.modelfile import load_model
from dfscan.pipeline.progress import Progress
from dfscan.training import results as train_results
from dfscan.training.plan import make_plan

# As in test_ray.py: Ray's own modules warn about themselves.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_plots"),
    pytest.mark.filterwarnings("default:::ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EPOCHS = 4
DIES_IN = (1, 2)
"""The epochs, counted from 0, in each of which a worker is killed once."""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for this module."""
    with ray_session(ExtractConfig(workers=2)):
        yield


def tinted(picture: bytes) -> bytes:
    sink = io.BytesIO()
    pixels = np.asarray(Image.open(io.BytesIO(picture))) * (1, 0.75, 0.6)
    Image.fromarray(pixels.astype(np.uint8)).save(sink, "JPEG", quality=90)
    return sink.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty people, even numbers of reals and fakes on every side; fakes are of another colour."""
    rows = [row for i in range(20) for row in person(f"p{i:02d}", frames=4)]
    rows = [row if row.label == "REAL" else replace(row, image=tinted(row.image)) for row in rows]
    return str(write_faces(tmp_path_factory.mktemp("ray") / "faces", rows, units=3).root)


def config(faces: str, out: Path, **changes: Any) -> TrainConfig:
    """A head on a network that stays as it is: no dropout, normalisations with fixed statistics."""
    phase = Phase(train="head", epochs=EPOCHS, schedule="constant", lr=0.02)
    values: dict[str, Any] = {
        "faces": faces, "out": str(out), "backbone": "resnet10t", "pretrained": False,
        "phases": (phase,), "input": InputConfig(size=32), "balance": "none", "augment": "none",
        "batch_size": 1000, "workers": 2,
    }  # fmt: skip
    return TrainConfig(**(values | changes))


class Told(Progress):
    """Keeps what a user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def message(self, message: str) -> None:
        self.notes.append(message)


def losses(result: TrainResult) -> np.ndarray:
    return np.array([[r["train_loss"], r["val_frame_log_loss"]] for r in result.history])


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return dict(load_model(Path(result.model)).network.state_dict())


@pytest.fixture(scope="module")
def undisturbed(faces: str, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Two workers that share one batch of everything a step."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_results, "_draw", lambda *_: None)
        return train_job.run(config(faces, tmp_path_factory.mktemp("two") / "run"), Progress())


def test_two_workers_take_the_steps_that_one_takes(
    faces: str, undisturbed: TrainResult, tmp_path: Path
) -> None:
    """Where a batch is the whole epoch, its gradient is the same whoever works out which half.

    The ranks' halves are of one size, so the mean of their means is the mean; sums in another order
    differ by 1e-7 each in float32, which AdamW's division by small second moments makes larger.
    """
    single = config(faces, tmp_path / "one", workers=1, inline=True)
    plans = [make_plan(single, world=world) for world in (1, 2)]
    assert [plan.steps for plan in plans] == [1, 1]
    assert plans[0].share == 2 * plans[1].share
    one = train_job.run(single, Progress())
    np.testing.assert_allclose(losses(undisturbed), losses(one), rtol=1e-4)
    assert losses(one)[0, 0] - losses(one)[-1, 0] > 100 * 1e-4  # it has learned meanwhile
    mine = weights(one)
    for name, tensor in weights(undisturbed).items():
        torch.testing.assert_close(tensor, mine[name], rtol=1e-3, atol=1e-5)


def test_two_workers_learn_as_well_as_one(faces: str, tmp_path: Path) -> None:
    """With small batches the workers' batches are others, and so are the faces that are mirrored.

    Over four orders of the faces the last loss had a standard deviation of 0.006 with one worker and
    of 0.011 with two, with means 0.005 apart; a fifth of what is learnt, 0.03, is above twice the
    deviation of their difference. Half the rate is off by 0.06.
    """
    small = {"batch_size": 16, "augment": "flip", "balance": "uniform"}
    phases = (Phase(train="head", epochs=EPOCHS, schedule="cosine", lr=0.02),)
    alone = config(faces, tmp_path / "one", workers=1, inline=True, phases=phases, **small)
    assert make_plan(alone, world=1).steps == make_plan(alone, world=2).steps > 4
    one = losses(train_job.run(alone, Progress()))
    two = losses(train_job.run(config(faces, tmp_path / "two", phases=phases, **small), Progress()))
    learnt = np.log(2) - one[-1]
    assert (learnt > 0.1).all()
    assert (np.abs(two[-1] - one[-1]) < learnt / 5).all(), (one, two)


def dying(options: dict[str, Any]) -> None:
    """The loop of a worker that keeps a log; rank 1 is killed at some epochs' ends, once in each."""
    from dfscan.execution.ray_training import _ray_loop
    from dfscan.training.loop import _Run

    train, folder = _Run._train, Path(options["out"]).parent

    def logged(self: Any, number: int) -> Any:
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps([self._rank, number]) + "\n")
        row = train(self, number)
        killed = folder / f"killed_{number}"
        if self._rank == 1 and number in DIES_IN and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    _Run._train = logged  # type: ignore[method-assign]  # in this worker's process alone
    _ray_loop(options)


def test_a_worker_killed_twice_costs_an_epoch_each_time_and_changes_nothing(
    faces: str, undisturbed: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_training, "_ray_loop", dying)
    told = Told()
    result = train_job.run(config(faces, tmp_path / "run"), told)
    assert all((tmp_path / f"killed_{number}").exists() for number in DIES_IN)
    trained = Counter(
        tuple(json.loads(line)) for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    assert trained == {
        (rank, number): 1 + (number in DIES_IN) for rank in (0, 1) for number in range(EPOCHS)
    }
    lost = [note for note in told.notes if "going on from the last epoch" in note]
    assert lost == [
        "training worker 1 died (killed, out of memory, or with its node); going on from the last "
        f"epoch, {turn} of at most 3 times"
        for turn in range(1, len(DIES_IN) + 1)
    ]
    shown = [note.partition(":")[0] for note in told.notes if note.startswith("epoch ")]
    assert shown == [f"epoch {i + 1}/{EPOCHS}" for i in range(EPOCHS)]
    assert [row["epoch"] for row in result.history] == list(range(1, EPOCHS + 1))
    np.testing.assert_array_equal(losses(result), losses(undisturbed))
    mine = weights(result)
    assert all(torch.equal(tensor, mine[name]) for name, tensor in weights(undisturbed).items())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is True
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
