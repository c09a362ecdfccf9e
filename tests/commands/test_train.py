import csv
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfscan import storage
from dfscan.commands import train as train_job
from dfscan.commands.train import TrainResult
from dfscan.config.train import InputConfig, Phase, TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import OutputError, SourceError, UsageError
from dfscan.models.backbones import create_network, normalise
from dfscan.models.modelfile import load_model
from dfscan.pipeline.progress import Progress
from dfscan.training.loop import _Run
from dfscan.training.plan import make_plan
from dfscan.training.reader import FaceReader

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def settings(faceset: FaceSet, tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(out: str = "run", **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "faces": (str(faceset.root),), "out": str(tmp_path / out), "inline": True,
            "workers": 1, "epochs": 1, "batch_size": 8, "val_fraction": 0.34,
            "input": InputConfig(size=32), "backbone": "meso4",
        }  # fmt: skip
        if "phases" in changes:
            del values["epochs"]
        return TrainConfig(**(values | changes))

    return make


Settings = Callable[..., TrainConfig]


def train(config: TrainConfig) -> TrainResult:
    return train_job.run(config, Progress())


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return dict(load_model(Path(result.model)).network.state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


class Killed(BaseException):
    """As good as a kill: nothing of dfscan's catches it."""


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The folder and the number of every epoch that is trained; ``("die", n)`` in it kills the n-th."""
    done: list[tuple[str, int]] = []
    epoch = _Run.epoch

    def counting(self: _Run, number: int) -> dict[str, Any]:
        if ("die", len(done)) in done:
            raise Killed
        row = epoch(self, number)
        done.append((self._out.name, number))
        return row

    monkeypatch.setattr(_Run, "epoch", counting)
    return done


def prescribe(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> Iterator[float]:
    """The validation's log loss of each epoch; returns those that are left."""
    left, validated = iter(losses), _Run._validated

    def prescribed(self: _Run, outputs: dict[str, Any]) -> dict[str, Any]:
        return validated(self, outputs) | {"val_loss": next(left)}

    monkeypatch.setattr(_Run, "_validated", prescribed)
    return left


# ---------------------------------------------------------------- a run


def test_a_finished_run_says_so_and_leaves_no_checkpoint(
    settings: Settings, tmp_path: Path
) -> None:
    result = train(settings(epochs=2))
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "README.md", "history.csv", "metrics.json", "model.safetensors", "predictions",
        "run.json", "tensorboard",
    }  # fmt: skip
    marker = json.loads((tmp_path / "run" / "run.json").read_text())
    assert marker["finished"] is True
    assert marker["config"]["epochs"] == 2
    assert not {"out", "workers", "inline", "overwrite"} & marker["config"].keys()
    assert result.out == str(tmp_path / "run")
    assert [row["epoch"] for row in result.history] == [1, 2]
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(json.dumps(result.metrics)) == written
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_predictions_are_what_the_saved_model_says_of_each_face(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prescribe(monkeypatch, [0.5, 0.4, 0.6])
    config = settings(epochs=3, ema=0.5)
    result = train(config)
    assert result.metrics["best_epoch"] == 2
    plan = make_plan(config, world=1)
    network, seen = load_model(Path(result.model)).network.eval(), plan.recipe.input
    for side in ("validation", "test"):
        logits: dict[int, float] = {}
        with torch.inference_mode():
            for batch in FaceReader(plan.index, seen).all_batches(plan.sides[side], 5):
                found = network(normalise(batch.pixels, seen)).tolist()
                logits |= dict(zip(batch.position.tolist(), found, strict=True))
        table = storage.read_table(tmp_path / "run" / "predictions" / f"{side}.parquet")
        rows = table.to_pylist()
        assert len(rows) == len(logits) == len(plan.sides[side])
        for position, row in zip(plan.sides[side].tolist(), rows, strict=True):
            video = plan.index.videos[plan.index.video[position]]
            assert row["video_id"] == video.video_id
            assert row["group"] == plan.index.groups[plan.index.group[position]]
            assert row["frame_index"] == plan.index.frame[position]
            assert row["label"] == ("FAKE" if plan.index.fake[position] else "REAL")
            assert row["score_raw"] == pytest.approx(logits[position], abs=1e-4)


def test_a_damaged_picture_is_told_and_the_run_goes_on(
    faceset: FaceSet, settings: Settings, tmp_path: Path
) -> None:
    import pyarrow as pa

    plan = make_plan(settings(), world=1)
    bad = {side: int(plan.sides[side][0]) for side in ("train", "validation", "test")}
    copy = FaceSet(tmp_path / "copy")
    copy.prepare(faceset.header(), overwrite=False)
    for path in storage.parquet_files(faceset.videos):
        storage.commit_table(copy.videos / Path(path).name, storage.read_table(path))
    at = {(plan.index.files[plan.index.file[p]], int(plan.index.row[p])) for p in bad.values()}
    for path in storage.parquet_files(faceset.faces):
        table = storage.read_table(path)
        place = table.schema.get_field_index("image")
        images = table["image"].to_pylist()
        for row, image in enumerate(images):
            if (str(path), row) in at:
                image["bytes"] = f"damaged {path} {row}".encode()
        field = table.schema.field("image")
        table = table.set_column(place, field, pa.array(images, field.type))
        storage.commit_table(copy.faces / Path(path).name, table)
    result = train(settings(faces=(str(copy.root),)))
    (note,) = [n for n in result.metrics["notes"] if "did not decode" in n]
    assert note.startswith("3 picture(s) did not decode and were skipped")
    for side, position in bad.items():
        assert plan.index.videos[plan.index.video[position]].video_id in note, side
    counts = result.metrics["validation"]["by_frame"]
    held = result.metrics["split"]["validation"]["faces"]
    assert counts["reals"] + counts["fakes"] == held - 1


# ---------------------------------------------------------------- how it learns


def resnet(**changes: Any) -> dict[str, Any]:
    """A network without dropout whose batch normalisations keep their statistics."""
    phase = Phase(**({"train": "head", "epochs": 2, "schedule": "constant", "lr": 0.01} | changes))
    return {"backbone": "resnet10t", "pretrained": False, "phases": (phase,), "augment": "none"}


def test_accumulating_changes_nothing_but_rounding(settings: Settings) -> None:
    """Normalisations are frozen and nothing drops out: the parts' gradients add up to the batch's.

    What is left are sums in another order, 1e-7 a step in float32; hence 1e-5 after some steps.
    """
    one = train(settings("one", **resnet(optimizer="sgd")))
    for parts in (2, 3, 100):
        other = train(settings(str(parts), accumulate=parts, **resnet(optimizer="sgd")))
        for row, same in zip(one.history, other.history, strict=True):
            assert row["train_loss"] == pytest.approx(same["train_loss"], rel=1e-5)
            assert row["val_frame_log_loss"] == pytest.approx(same["val_frame_log_loss"], rel=1e-5)


def test_a_head_learns_and_everything_before_it_stays(settings: Settings) -> None:
    config = settings(seed=3, **resnet())
    result = train(config)
    torch.manual_seed(3)
    fresh = create_network("resnet10t", 32).state_dict()
    changed = {name for name, tensor in weights(result).items() if not tensor.equal(fresh[name])}
    assert changed == {"model.fc.weight", "model.fc.bias"}


@pytest.mark.parametrize(("choose", "kept"), [("loss", 2), ("auc", 3), ("last", 4)])
def test_the_epoch_that_is_kept(
    choose: str, kept: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, aucs = iter([0.7, 0.5, 0.6, 0.9]), iter([0.6, 0.7, 0.9, 0.8])
    validated = _Run._validated

    def told(self: _Run, outputs: dict[str, Any]) -> dict[str, Any]:
        return validated(self, outputs) | {"val_loss": next(losses), "val_video_auc": next(aucs)}

    monkeypatch.setattr(_Run, "_validated", told)
    result = train(settings(epochs=4, choose=choose))
    assert result.metrics["best_epoch"] == kept
    with pytest.raises(ValueError, match="leave patience out"):
        settings(choose="last", patience=1)


def test_patience_ends_a_phase_and_the_next_one_still_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = prescribe(monkeypatch, [0.7, 0.6, 0.65, 0.62, 0.5, 0.55, 0.4, 0.41, 0.42, 0.1])
    phases = (Phase(epochs=6), Phase(epochs=7), Phase(epochs=1))
    result = train(settings(phases=phases, patience=2))
    # 1: 0.6, then two that are not lower; 2: from 0.5 on, which beats 0.6, till two above 0.4
    assert [(row["epoch"], row["phase"]) for row in result.history] == [
        (1, 1), (2, 1), (3, 1), (4, 1), (7, 2), (8, 2), (9, 2), (10, 2), (11, 2), (14, 3),
    ]  # fmt: skip
    assert result.metrics["best_epoch"] == 14
    assert next(losses, None) is None


def test_a_run_that_was_killed_after_its_patience_goes_on_with_the_next_phase(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, epochs: list[tuple[str, int]]
) -> None:
    prescribe(monkeypatch, [0.1, 0.2, 0.3])
    config = settings(phases=(Phase(epochs=5), Phase(epochs=1)), patience=1)
    epochs.append(("die", 3))
    with pytest.raises(Killed):
        train(config)
    assert epochs[1:] == [("run", 0), ("run", 1)]
    epochs.clear()
    result = train(config)
    assert epochs == [("run", 5)]
    assert [row["epoch"] for row in result.history] == [1, 2, 6]


def test_averaging_changes_what_is_saved_but_not_the_training(settings: Settings) -> None:
    common = {"epochs": 2, "seed": 1, "schedule": "constant"}
    plain, averaged = (train(settings(str(ema), ema=ema, **common)) for ema in (None, 0.9))
    assert [r["train_loss"] for r in plain.history] == [r["train_loss"] for r in averaged.history]
    assert plain.history[0]["val_frame_log_loss"] != averaged.history[0]["val_frame_log_loss"]
    assert not equal(weights(plain), weights(averaged))
    assert weights(plain).keys() == weights(averaged).keys()


def test_averaged_weights_are_their_moving_average(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    step = _Run._step

    def watched(self: _Run, batch: Any) -> Any:
        loss = step(self, batch)
        seen.append({k: v.detach().clone() for k, v in self._network.state_dict().items()})
        return loss

    monkeypatch.setattr(_Run, "_step", watched)
    found = weights(train(settings(ema=0.8, batch_size=4)))
    assert len(seen) > 2
    for name, tensor in found.items():
        if tensor.is_floating_point():
            expected = seen[0][name]
            for number, state in enumerate(seen[1:], start=1):
                decay = min(0.8, (1 + number) / (10 + number))  # less of it at the start
                expected = decay * expected + (1 - decay) * state[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_is_clipped(settings: Settings) -> None:
    """Plain SGD moves by no more than rate times norm a step."""
    phase = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "epochs": 1}
    config = settings(clip_grad=1e-4, **resnet(**phase))
    result = train(config)
    torch.manual_seed(0)
    fresh = create_network("resnet10t", 32).state_dict()
    moved = sum(
        float((v.double() - fresh[k].double()).pow(2).sum()) for k, v in weights(result).items()
    )
    steps = make_plan(config, 1).steps
    assert 0 < moved**0.5 <= steps * 1e-4 * 1.01
    free = train(settings("free", **resnet(**phase)))
    assert not equal(weights(free), weights(result))


def test_half_precision_where_the_device_has_it(settings: Settings) -> None:
    full = train(settings("fp32", precision="fp32"))
    assert train(settings("auto")).history[0]["train_loss"] == full.history[0]["train_loss"]
    half = train(settings("bf16", precision="bf16"))
    one, other = full.history[0]["train_loss"], half.history[0]["train_loss"]
    assert one != other
    assert one == pytest.approx(other, abs=0.05)  # 8 bits of mantissa: 0.4 % of each activation
    assert all(v.dtype != torch.bfloat16 for v in weights(half).values())
    with pytest.raises(UsageError, match=r"train\.precision: fp16 needs a GPU: use fp32, or bf16"):
        train(settings("fp16", precision="fp16"))


def test_a_compiled_network_is_saved_as_it_would_be_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the backend that runs what was traced as it is: generating code takes twenty seconds."""
    calls: list[Any] = []
    compiled = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(model) or compiled(model))
    config = resnet(epochs=1)
    plain = train(settings("plain", **config))
    assert calls == []
    traced = train(settings("compiled", compile=True, **config))
    assert len(calls) == 1
    assert plain.history[0]["train_loss"] == pytest.approx(
        traced.history[0]["train_loss"], rel=1e-5
    )
    assert weights(plain).keys() == weights(traced).keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"paired": True},
        {"augment": "sbi"},
        {"balance": "weights"},
        {"balance": "undersample", "loss": {"name": "focal", "label_smoothing": 0.1}},
        {"balance": "none", "loss": {"apart": True}, "accumulate": 2},
        {"augment": "dfdc", "epoch_faces": 20},
        {"optimizer": "adadelta"},
        {"optimizer": "sgd", "schedule": "poly", "ema": 0.99, "precision": "bf16"},
    ],
    ids=str,
)
def test_whatever_may_be_combined_trains_and_is_repeatable(
    settings: Settings, changes: dict[str, Any]
) -> None:
    one, other = (train(settings(out, **changes)) for out in ("one", "other"))
    assert np.isfinite(one.history[0]["train_loss"])
    assert one.history[0]["train_loss"] == other.history[0]["train_loss"]
    assert equal(weights(one), weights(other))
    assert one.metrics["validation"]["by_frame"]["auc"] is not None


def test_faces_that_cannot_be_blended_end_the_run(
    corpus: Any, settings: Settings, tmp_path: Path
) -> None:
    from dfscan.commands import extract as extract_job
    from dfscan.config.extract import ExtractConfig
    from dfscan.schemas.recipe import Detector

    whole = ExtractConfig(
        source=tuple(str(p) for p in corpus.parts), out=str(tmp_path / "whole"), stride="6",
        detector=Detector(name="none"), inline=True,
    )  # fmt: skip
    extract_job.run(whole, Progress())
    with pytest.raises(SourceError, match="sbi needs landmarks"):
        train(settings(faces=(whole.out,), augment="sbi"))


# ---------------------------------------------------------------- folds and shares


def table_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "series.csv").read_text().splitlines()))


def test_folds_hold_out_every_video_once_and_are_summed_up(
    settings: Settings, tmp_path: Path, epochs: list[tuple[str, int]]
) -> None:
    out = tmp_path / "run"
    result = train(settings(folds=3))
    assert epochs == [("fold_0", 0), ("fold_1", 0), ("fold_2", 0)]
    assert {p.name for p in out.iterdir()} == {
        "fold_0", "fold_1", "fold_2", "series.csv", "metrics.json", "run.json",
    }  # fmt: skip
    assert (result.model, result.history) == ("", [])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == result.metrics
    held: list[str] = []
    tested = set()
    for row, fold in zip(metrics["runs"], ("fold_0", "fold_1", "fold_2"), strict=True):
        own = json.loads((out / fold / "metrics.json").read_text())
        assert load_model(out / fold / "model.safetensors").sha256 == own["model_sha256"]
        assert (row["run"], row["side"]) == (fold, "validation")
        assert row["video_auc"] == own["validation"]["by_video"]["auc"]
        assert row["frame_log_loss"] == own["validation"]["by_frame"]["log_loss"]
        assert row["groups"] == own["split"]["train"]["groups"]
        sides = [
            storage.read_table(out / fold / "predictions" / f"{side}.parquet")[
                "video_id"
            ].to_pylist()
            for side in ("validation", "test")
        ]
        held += sorted(set(sides[0]))
        tested.add(frozenset(sides[1]))
    assert len(tested) == 1
    assert len(held) == len(set(held)) == 10
    assert not set(held) & set.union(*map(set, tested))
    together = metrics["out_of_fold"]["by_video"]
    assert together["reals"] + together["fakes"] == 10
    lines = table_of(out)
    assert [line["run"] for line in lines] == ["fold_0", "fold_1", "fold_2"]
    for line, row in zip(lines, metrics["runs"], strict=True):
        assert line == {k: "" if v is None else str(v) for k, v in row.items()}

    with pytest.raises(
        OutputError, match=r"holds a run already: give another --out, or --overwrite"
    ):
        train(settings(folds=3))
    alone = train(settings("alone", folds=3, fold=1))  # one fold by itself is the same
    assert equal(
        weights(alone), dict(load_model(out / "fold_1" / "model.safetensors").network.state_dict())
    )
    with pytest.raises(OutputError, match="holds a run already"):
        train(settings("alone", folds=3, fold=1))
    epochs.clear()
    train(settings(folds=2, overwrite=True))
    assert [name for name, _ in epochs] == ["fold_0", "fold_1"]
    assert not (out / "fold_2").exists()


def test_folds_without_an_interruption_or_with_one_are_the_same(
    settings: Settings, tmp_path: Path, epochs: list[tuple[str, int]]
) -> None:
    whole = train(settings("whole", folds=3, epochs=2))
    epochs[:] = [("die", 4)]  # in the second epoch of the second fold
    broken = settings("broken", folds=3, epochs=2)
    with pytest.raises(Killed):
        train(broken)
    assert epochs[1:] == [("fold_0", 0), ("fold_0", 1), ("fold_1", 0)]
    out = tmp_path / "broken"
    assert json.loads((out / "run.json").read_text())["finished"] is False
    assert not (out / "series.csv").exists()
    finished = (out / "fold_0" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(
        OutputError, match=r"unfinished run of another configuration \(folds: 3 → 4"
    ):
        train(settings("broken", folds=4, epochs=2))
    epochs.clear()
    again = train(broken)
    assert epochs == [("fold_1", 1), ("fold_2", 0), ("fold_2", 1)]
    assert (out / "fold_0" / "model.safetensors").stat().st_mtime_ns == finished
    assert again.metrics == whole.metrics
    assert (out / "series.csv").read_text() == (tmp_path / "whole" / "series.csv").read_text()


def test_a_sweep_trains_on_growing_shares_and_judges_alike(
    settings: Settings, tmp_path: Path, epochs: list[tuple[str, int]]
) -> None:
    result = train(settings(sweep=(0.4, 1)))
    assert epochs == [("share_0.4", 0), ("share_1", 0)]
    lines = table_of(tmp_path / "run")
    assert [(line["run"], line["side"]) for line in lines] == [
        ("share_0.4", "test"), ("share_1", "test"),
    ]  # fmt: skip
    assert [int(line["groups"]) for line in lines] == [2, 3]
    assert "out_of_fold" not in result.metrics
    counts = [
        json.loads((tmp_path / "run" / name / "metrics.json").read_text())["split"]
        for name, _ in epochs
    ]
    for side in ("validation", "test"):
        assert counts[0][side] == counts[1][side]
    whole = train(settings("whole"))
    full = load_model(tmp_path / "run" / "share_1" / "model.safetensors").network.state_dict()
    assert equal(weights(whole), dict(full))
    epochs.clear()
    single = train(settings("single", sweep=(0.4,)))  # one share is one run
    assert [name for name, _ in epochs] == ["single"]
    assert single.metrics["split"] == counts[0]


def test_a_sweep_without_a_test_side_is_judged_by_validation(
    settings: Settings, tmp_path: Path
) -> None:
    train(settings(sweep=(0.5, 1), test_fraction=0))
    assert {line["side"] for line in table_of(tmp_path / "run")} == {"validation"}


def test_a_series_is_refused_before_anything_is_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for changes in ({"folds": 3}, {"sweep": (0.5, 1)}, {}):
        with pytest.raises(OutputError):
            train(settings(**changes))
        with pytest.raises(OutputError):
            train(settings(overwrite=True, **changes))
    assert [p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")] == [
        "thesis.txt"
    ]
