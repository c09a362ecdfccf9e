import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfscan.config import InputConfig, TrainConfig
from dfscan.errors import ConfigError, UsageError
from dfscan.facesets import FaceSet
from dfscan.jobs import train_job
from dfscan.jobs.progress import Progress
from dfscan.models.modelfile import load_model
from dfscan.training.loop import _Run, make_plan, train_rank


def config(faceset: FaceSet, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "faces": (str(faceset.root),), "out": str(out), "inline": True, "workers": 1,
        "epochs": 1, "batch_size": 8, "val_fraction": 0.34, "input": InputConfig(size=64),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def test_a_group_lies_on_one_side_and_both_classes_on_both(
    faceset: FaceSet, tmp_path: Path
) -> None:
    plan = make_plan(config(faceset, tmp_path), world=1)
    sides = [set(plan.index.group[p].tolist()) for p in (plan.train, plan.val)]
    assert not sides[0] & sides[1]
    assert len(plan.train) + len(plan.val) == len(plan.index)
    for positions in (plan.train, plan.val):
        assert 0 < plan.index.fake[positions].sum() < len(positions)


def test_the_network_learns_its_training_faces(faceset: FaceSet, tmp_path: Path) -> None:
    settings = config(
        faceset, tmp_path, epochs=20, backbone="resnet10t", pretrained=False, augment="none"
    )
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


def test_equal_seeds_give_equal_runs(faceset: FaceSet, tmp_path: Path) -> None:
    one = train_job.run(config(faceset, tmp_path / "a"), Progress())
    two = train_job.run(config(faceset, tmp_path / "b"), Progress())
    assert one.history[0]["train_loss"] == two.history[0]["train_loss"]


def test_one_class_held_out_gives_no_auc_and_says_so(faceset: FaceSet, tmp_path: Path) -> None:
    plan = make_plan(config(faceset, tmp_path), world=1)
    reals = plan.val[~plan.index.fake[plan.val]]
    object.__setattr__(plan, "val", np.asarray(reals))
    rows: list[dict[str, Any]] = []
    train_rank(plan, tmp_path, 0, 1, "cpu", rows.append)
    assert rows[0]["val_frame_auc"] is None
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "the held-out side has only REAL: no AUC" in metrics["notes"]


def test_a_run_that_was_interrupted_starts_anew(
    faceset: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = _Run.keep

    def stops(self: _Run, *args: Any) -> None:
        keep(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(_Run, "keep", stops)
    with pytest.raises(KeyboardInterrupt):
        train_job.run(config(faceset, tmp_path, epochs=2), Progress())
    assert (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr(_Run, "keep", keep)
    assert len(train_job.run(config(faceset, tmp_path, epochs=2), Progress()).history) == 2


def test_a_run_that_diverges_says_so(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"diverged.*lower --lr"):
        train_job.run(config(faceset, tmp_path, lr=1e30, epochs=3), Progress())


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 8), (4, 64), (2, 16), (1, 1000)])
def test_any_number_of_steps_can_be_scheduled(
    faceset: FaceSet, tmp_path: Path, epochs: int, batch_size: int
) -> None:
    settings = config(faceset, tmp_path, epochs=epochs, batch_size=batch_size)
    assert len(train_job.run(settings, Progress()).history) == epochs


def test_a_run_is_not_overwritten_unasked(faceset: FaceSet, tmp_path: Path) -> None:
    train_job.run(config(faceset, tmp_path), Progress())
    with pytest.raises(UsageError, match="holds a run already"):
        train_job.run(config(faceset, tmp_path), Progress())
    train_job.run(config(faceset, tmp_path, overwrite=True), Progress())


def test_a_batch_too_small_for_the_workers_is_refused(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave fewer than 2 a step"):
        make_plan(config(faceset, tmp_path, batch_size=2), world=2)


def test_a_margin_wider_than_stored_is_refused(faceset: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"context of 0\.6"):
        make_plan(config(faceset, tmp_path, input=InputConfig(size=64, margin=0.8)), world=1)
