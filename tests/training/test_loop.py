import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dfscan.commands import train as train_job
from dfscan.commands.train import TrainResult
from dfscan.config.train import InputConfig, Phase, TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ConfigError, UsageError
from dfscan.models.modelfile import load_model
from dfscan.pipeline.progress import Progress
from dfscan.training import results as train_results
from dfscan.training.loop import _Run, train_rank
from dfscan.training.plan import make_plan
from dfscan.training.results import finalize_run

pytestmark = pytest.mark.usefixtures("no_plots")


def config(faceset: FaceSet, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "faces": (str(faceset.root),), "out": str(out), "inline": True, "workers": 1,
        "epochs": 1, "batch_size": 8, "val_fraction": 0.34, "input": InputConfig(size=64),
    }  # fmt: skip
    if "phases" in changes:
        del values["epochs"]
    return TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def trained(faceset: FaceSet, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of one epoch. Not to be written to."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_results, "_draw", lambda *_: None)
        out = tmp_path_factory.mktemp("trained") / "run"
        return train_job.run(config(faceset, out), Progress())


def test_a_group_lies_on_one_side_and_both_classes_on_both(
    faceset: FaceSet, tmp_path: Path
) -> None:
    plan = make_plan(config(faceset, tmp_path), world=1)
    groups = [set(plan.index.group[p].tolist()) for p in plan.sides.values()]
    assert len(set.union(*groups)) == sum(len(side) for side in groups) == len(plan.index.groups)
    assert sum(len(p) for p in plan.sides.values()) == len(plan.index)
    for positions in plan.sides.values():
        assert 0 < plan.index.fake[positions].sum() < len(positions)


def test_the_network_learns_its_training_faces(faceset: FaceSet, tmp_path: Path) -> None:
    settings = config(
        faceset, tmp_path, epochs=20, backbone="resnet10t", pretrained=False, augment="none",
        input=InputConfig(size=32),
    )  # fmt: skip
    result = train_job.run(settings, Progress())
    losses = [float(row["train_loss"]) for row in result.history]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_folder_holds_what_the_contract_says(faceset: FaceSet, tmp_path: Path) -> None:
    result = train_job.run(config(faceset, tmp_path, epochs=2), Progress())
    model = load_model(Path(result.model))
    assert model.header.backbone == "mesoinception4"
    assert model.header.recipe.crop == faceset.recipe().crop
    assert model.header.recipe.input is not None
    assert model.header.recipe.input.size == 64
    assert model.header.calibration is None
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["model_sha256"] == model.sha256
    assert metrics["validation"]["by_frame"]["auc"] is not None
    assert metrics["validation"]["by_video"]["reals"] == metrics["validation"]["by_video"]["fakes"]
    assert any("not calibrated" in note for note in metrics["notes"])
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["val_video_log_loss"]) > 0 for row in rows)


def test_equal_seeds_give_equal_runs(
    faceset: FaceSet, trained: TrainResult, tmp_path: Path
) -> None:
    one, two = trained, train_job.run(config(faceset, tmp_path / "b"), Progress())
    assert one.history[0]["train_loss"] == two.history[0]["train_loss"]


def test_one_class_held_out_gives_no_auc_and_says_so(faceset: FaceSet, tmp_path: Path) -> None:
    plan = make_plan(config(faceset, tmp_path), world=1)
    held = plan.sides["validation"]
    plan.sides["validation"] = held[~plan.index.fake[held]]  # type: ignore[index]
    rows: list[dict[str, Any]] = []
    train_rank(plan, tmp_path, 0, 1, "cpu", rows.append)
    assert rows[0]["val_frame_auc"] is None
    metrics = finalize_run(tmp_path, plan)
    assert metrics["validation"]["by_frame"]["auc"] is None
    assert metrics["validation"]["by_video"]["note"] == "only REAL here: no AUC"
    assert metrics["threshold_logit"] is None


class Killed(BaseException):
    """As good as a kill: nothing of dfscan's catches it."""


PHASES = (
    Phase(train="head", epochs=1, optimizer="adam", schedule="constant"),
    Phase(train="all", epochs=3, lr=3e-3, schedule="onecycle"),
)
WAYS: dict[str, dict[str, Any]] = {
    "phases": {"phases": PHASES},
    "averaged": {"ema": 0.9, "epochs": 3},
    "sgd": {"phases": (Phase(epochs=3, optimizer="sgd", schedule="cosine"),)},
}


@pytest.fixture(scope="module")
def undisturbed_runs() -> dict[str, TrainResult]:
    """By way, trained once for all moments at which another run is killed."""
    return {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_been(
    faceset: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, after: int,
    undisturbed_runs: dict[str, TrainResult], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    whole = config(faceset, tmp_path / "whole", augment="light", **WAYS[way])
    if way not in undisturbed_runs:
        out = str(tmp_path_factory.mktemp(way) / "whole")
        undisturbed_runs[way] = train_job.run(whole.model_copy(update={"out": out}), Progress())
    undisturbed = undisturbed_runs[way]
    epoch = _Run.epoch

    def dies(self: _Run, number: int) -> dict[str, Any]:
        if number == after:
            raise Killed
        return epoch(self, number)

    broken = whole.model_copy(update={"out": str(tmp_path / "broken")})
    monkeypatch.setattr(_Run, "epoch", dies)
    with pytest.raises(Killed):
        train_job.run(broken, Progress())
    monkeypatch.setattr(_Run, "epoch", epoch)
    done: list[int] = []
    monkeypatch.setattr(_Run, "_train", counted(_Run._train, done))
    resumed = train_job.run(broken, Progress())
    assert done == list(range(after, len(undisturbed.history)))
    timing = {"seconds", "faces_per_s", "waited", "reader_core_ms"}
    for one, other in zip(undisturbed.history, resumed.history, strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == {
            k: v for k, v in other.items() if k not in timing
        }
    weights = [load_model(Path(r.model)).network.state_dict() for r in (undisturbed, resumed)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def counted(train: Any, done: list[int]) -> Any:
    def counting(self: _Run, number: int) -> Any:
        done.append(number)
        return train(self, number)

    return counting


def test_an_unfinished_run_of_another_configuration_is_refused(
    faceset: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = _Run.epoch

    def dies(self: _Run, number: int) -> Any:
        if number:
            raise Killed
        return epoch(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(_Run, "epoch", dies)
        with pytest.raises(Killed):
            train_job.run(config(faceset, tmp_path / "run", epochs=2), Progress())
    more = config(faceset, tmp_path / "run", epochs=2, batch_size=8, workers=2)
    plan = make_plan(more, world=2)
    with (
        pytest.raises(
            UsageError, match=r"other faces or another number of workers \(faces_per_step"
        ),
        train_job._run_folder(tmp_path / "run", more, plan),
    ):
        pass
    other = config(faceset, tmp_path / "run", lr=0.01, epochs=2)
    with pytest.raises(
        UsageError, match=r"unfinished run of another configuration \(lr: 0.001 → 0.01"
    ):
        train_job.run(other, Progress())
    assert train_job.run(other.model_copy(update={"overwrite": True}), Progress()).history


def test_a_run_that_diverges_says_so(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"diverged.*lower --lr"):
        train_job.run(config(faceset, tmp_path, lr=1e30, epochs=3), Progress())


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 8), (4, 64), (2, 16), (1, 1000)])
def test_any_number_of_steps_can_be_scheduled(
    faceset: FaceSet, tmp_path: Path, epochs: int, batch_size: int
) -> None:
    settings = config(faceset, tmp_path, epochs=epochs, batch_size=batch_size)
    assert len(train_job.run(settings, Progress()).history) == epochs


def test_a_run_is_not_overwritten_unasked(
    faceset: FaceSet, trained: TrainResult, tmp_path: Path
) -> None:
    shutil.copytree(trained.out, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UsageError, match="holds a run already"):
        train_job.run(config(faceset, tmp_path), Progress())
    train_job.run(config(faceset, tmp_path, overwrite=True), Progress())


def test_a_batch_too_small_for_the_workers_is_refused(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave fewer than 2 a step"):
        make_plan(config(faceset, tmp_path, batch_size=2), world=2)


def test_a_margin_wider_than_stored_is_refused(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"context of 0\.6"):
        make_plan(config(faceset, tmp_path, input=InputConfig(size=64, margin=0.8)), world=1)
