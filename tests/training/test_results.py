import csv
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from support.faces import RECIPE, face, write_faces

from dfscan import storage
from dfscan.commands import train as train_job
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.models.modelfile import load_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.records import FaceRow
from dfscan.scoring import calibration
from dfscan.training import results as train_results
from dfscan.training.plan import Plan, make_plan
from dfscan.training.results import finalize_run, finalize_series, read_history, read_outputs

PEOPLE = 40
FRAMES = 4


def faces_of(person: int, fake: bool) -> list[FaceRow]:
    group, name = f"p{person:02d}", f"p{person:02d}_fake.mp4" if fake else f"p{person:02d}.mp4"
    attributes = {"compression": f"c{23 + person % 2}", "camera": name}
    if fake:
        attributes["manipulation"] = ("swap", "lips")[person // 2 % 2]
    about: dict[str, Any] = {"group": group, "attributes": attributes}
    if fake:
        about["original"] = f"{group}.mp4"
    return [face(name, "FAKE" if fake else "REAL", i, **about) for i in range(FRAMES)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A run on forty people, half of them to validate with."""
    folder = tmp_path_factory.mktemp("results")
    rows = [r for i in range(PEOPLE) for fake in (False, True) for r in faces_of(i, fake)]
    dataset = write_faces(folder / "forty", rows)
    config = TrainConfig(
        faces=str(dataset.root), out=str(folder / "run"), backbone="meso4", inline=True, workers=1,
        epochs=1, input=InputConfig(size=32), val_fraction=0.5, test_fraction=0.2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_results, "_draw", lambda *_: None)
        train_job.run(config, Progress())
    return folder / "run", make_plan(config, world=1)


Score = Callable[[dict[str, Any]], float]
Judge = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def judge(trained: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Conclude a run whose network said what ``score`` says of each face."""

    def conclude_with(
        score: Score,
        keep: Callable[[dict[str, Any]], bool] = lambda _: True,
        name: str = "run",
        draw: bool = False,
        bad: Sequence[str] = (),
        **changes: Any,
    ) -> tuple[dict[str, Any], Path]:
        run, plan = trained
        out = tmp_path / name
        shutil.copytree(run, out)
        for side in ("validation", "test"):
            path = out / "predictions" / f"{side}.parquet"
            table = storage.read_table(path)
            rows = [r for r in table.to_pylist() if keep(r)]
            told = {b"bad": "\n".join(bad).encode()}
            made = pa.Table.from_pylist(rows, table.schema.with_metadata(told))
            column = made.schema.get_field_index("score_raw")
            made = made.set_column(column, "score_raw", pa.array([float(score(r)) for r in rows]))
            storage.commit_table(path, made)
        with monkeypatch.context() as patched:
            if not draw:
                patched.setattr(train_results, "_draw", lambda *_: None)
            config = plan.config.model_copy(update=changes)
            return finalize_run(out, replace(plan, config=config)), out

    return conclude_with


def leaning(row: dict[str, Any]) -> float:
    """A score that leans the right way, with some noise of the face's and more of the video's."""
    random = np.random.default_rng(zlib.crc32(f"{row['video_id']}".encode()))
    face = np.random.default_rng(zlib.crc32(f"{row['video_id']}{row['frame_index']}".encode()))
    return (row["label"] == "FAKE") + random.normal() + 0.4 * face.normal() + 0.7


def outputs(
    out: Path, side: str = "validation"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits and truth by face, and by video as means over its rows, in plain Python."""
    rows = storage.read_table(out / "predictions" / f"{side}.parquet").to_pylist()
    faces = np.array([r["score_raw"] for r in rows])
    fake = np.array([r["label"] == "FAKE" for r in rows])
    videos: dict[str, list[tuple[float, bool]]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append((row["score_raw"], row["label"] == "FAKE"))
    means = np.array([np.mean([s for s, _ in v]) for v in videos.values()])
    return faces, fake, means, np.array([v[0][1] for v in videos.values()])


# ---------------------------------------------------------------- figures


def test_figures_are_those_of_the_predictions(judge: Judge, trained: tuple[Path, Plan]) -> None:
    metrics, out = judge(leaning)
    assert json.loads(json.dumps(metrics)) == json.loads((out / "metrics.json").read_text())
    assert set(metrics) >= {
        "schema_version", "dfscan", "model_sha256", "backbone", "parameters", "recipe_hash",
        "config_hash", "best_epoch", "chosen_by", "split", "validation", "test", "breakdown",
        "threshold", "threshold_logit", "threshold_rule", "calibration", "audits", "identities",
        "notes",
    }  # fmt: skip
    for side in ("validation", "test"):
        faces, fake, means, truth = outputs(out, side)
        at = metrics["threshold_logit"]
        for by, logits, label in (("by_frame", faces, fake), ("by_video", means, truth)):
            found = metrics[side][by]
            assert found["auc"] == pytest.approx(roc_auc_score(label, logits))
            assert found["log_loss"] == pytest.approx(log_loss(label, expit(logits)))
            assert found["accuracy"] == pytest.approx(((logits >= at) == label).mean())
            assert found["f1"] == pytest.approx(f1_score(label, logits >= at))
            assert (found["reals"], found["fakes"]) == ((~label).sum(), label.sum())
            low, high = found["intervals"]["auc"]
            assert low <= found["auc"] <= high
            assert found["bootstrap"]["groups"] == metrics["split"][side]["groups"]
    plan = trained[1]
    assert metrics["split"] == plan.summary()
    assert metrics["recipe_hash"] == plan.recipe.hash()
    assert metrics["audits"]["leaks"]["pictures"] == 2 * PEOPLE * FRAMES


def test_the_model_file_says_what_the_metrics_say(judge: Judge) -> None:
    metrics, out = judge(leaning)
    model = load_model(out / "model.safetensors")
    assert (
        metrics["model_sha256"]
        == model.sha256
        == storage.sha256((out / "model.safetensors").read_bytes())
    )
    header = model.header
    assert header.threshold == metrics["threshold"]
    assert header.calibration is not None
    assert header.calibration.model_dump(mode="json") == metrics["calibration"]
    assert header.training["validation"] == json.loads(json.dumps(metrics["validation"]))
    assert header.training["epoch"] == metrics["best_epoch"]
    assert header.training["config"]["backbone"] == "meso4"
    assert not {"faces", "out", "workers"} & header.training["config"].keys()  # nobody's paths
    assert metrics["parameters"] == sum(p.numel() for p in model.network.parameters())


# ---------------------------------------------------------------- threshold


def candidates(logits: np.ndarray) -> np.ndarray:
    levels = np.unique(logits)
    return np.concatenate([[levels[0] - 1], (levels[1:] + levels[:-1]) / 2, [levels[-1] + 1]])


@pytest.mark.parametrize("rule", ["f1", "youden", "fpr=0.05", "fpr=0.2"])
def test_the_threshold_is_the_best_by_its_rule(judge: Judge, rule: str) -> None:
    metrics, out = judge(leaning, threshold=rule)
    assert metrics["threshold_rule"] == rule
    _, _, logits, fake = outputs(out)

    def rates(at: float) -> tuple[float, float]:
        return float((logits[fake] >= at).mean()), float((logits[~fake] >= at).mean())

    def worth(at: float) -> float:
        found, false = rates(at)
        if rule == "f1":
            return float(f1_score(fake, logits >= at, zero_division=0))
        return found - false if rule == "youden" else found

    allowed = float(rule.removeprefix("fpr=")) if rule.startswith("fpr") else 1.0
    best = max(worth(at) for at in candidates(logits) if rates(at)[1] <= allowed)
    chosen = metrics["threshold_logit"]
    assert worth(chosen) == pytest.approx(best)
    assert rates(chosen)[1] <= allowed
    assert metrics["validation"]["by_video"]["threshold"] == chosen
    assert metrics["test"]["by_video"]["threshold"] == chosen  # chosen on validation alone
    fitted = metrics["calibration"]
    expected = 1 / (1 + np.exp(-(fitted["scale"] * chosen + fitted["offset"])))
    assert metrics["threshold"] == pytest.approx(expected)


def test_rules_differ(judge: Judge) -> None:
    found = {
        rule: judge(leaning, threshold=rule, name=rule)[0]["threshold_logit"]
        for rule in ("youden", "fpr=0.01")
    }
    assert found["fpr=0.01"] > found["youden"]


# ---------------------------------------------------------------- calibration


def test_a_calibration_is_bound_to_how_it_was_made(judge: Judge) -> None:
    """Half of the videos lose three of four faces, one real all but one."""
    few = {f"p{i:02d}{end}.mp4" for i in range(0, PEOPLE, 3) for end in ("", "_fake")}
    metrics, out = judge(leaning, keep=lambda r: r["video_id"] not in few or r["frame_index"] == 0)
    rows = storage.read_table(out / "predictions" / "validation.parquet")["video_id"].to_pylist()
    counts = [rows.count(name) for name in set(rows)]
    _, _, logits, fake = outputs(out)
    bound = metrics["calibration"]
    assert bound["frames_median"] == np.median(counts)
    assert (bound["reals"], bound["fakes"]) == ((~fake).sum(), fake.sum())
    assert (bound["aggregation"], bound["prior"]) == ("mean", 0.5)
    assert bound["sampling"] == RECIPE.sampling.model_dump(mode="json")
    assert bound["scale"] > 0
    card = (out / "README.md").read_text()
    assert f"{bound['frames_median']:g} faces per video (median)" in card
    # rows of each class count half: the fitted probabilities have the regularised targets' mean
    p = expit(bound["scale"] * logits + bound["offset"])
    reals, fakes = (~fake).sum(), fake.sum()
    wanted = ((fakes + 1) / (fakes + 2) + 1 / (reals + 2)) / 2
    assert (p[fake].mean() + p[~fake].mean()) / 2 == pytest.approx(wanted, abs=1e-4)


def test_what_cannot_be_calibrated_is_said(judge: Judge, trained: tuple[Path, Plan]) -> None:
    plan = trained[1]
    held = plan.sides["validation"]
    names = sorted({plan.index.videos[v].video_id for v in plan.index.video[held]})
    kept = [n for n in names if "fake" in n] + [n for n in names if "fake" not in n][:7]
    for name, arguments in {
        "seven reals": (leaning, lambda r: r["video_id"] in kept),
        "falling": (lambda r: -leaning(r), lambda _: True),
    }.items():
        metrics, out = judge(*arguments, name=name)
        assert metrics["calibration"] is None
        assert load_model(out / "model.safetensors").header.calibration is None
        assert any(n.startswith("not calibrated: fewer than 8") for n in metrics["notes"])
        assert metrics["threshold"] == pytest.approx(expit(metrics["threshold_logit"]))
    more = [*kept, [n for n in names if "fake" not in n][7]]
    found, _ = judge(leaning, lambda r: r["video_id"] in more, name="eight")
    assert found["calibration"]["reals"] == calibration.MIN_PER_CLASS == 8
    assert not any("not calibrated" in n for n in found["notes"])


# ---------------------------------------------------------------- what a user is told


def test_a_model_that_says_one_thing_of_everything_is_told(judge: Judge) -> None:
    metrics, _ = judge(lambda r: 0.3 + 1e-3 * leaning(r))
    assert any(n.startswith("validation: the scores barely vary") for n in metrics["notes"])
    sound, _ = judge(lambda r: 3 * leaning(r), name="sound")
    assert not any("barely vary" in n or "nearly everything" in n for n in sound["notes"])


def test_pictures_that_did_not_decode_are_named(judge: Judge) -> None:
    metrics, _ = judge(leaning, bad=["a.mp4 (f)", "b.mp4 (f)"])
    (note,) = [n for n in metrics["notes"] if "did not decode" in n]
    assert note.startswith("2 picture(s)")  # both sides name them: they are counted once
    assert "a.mp4 (f)" in note


def test_figures_are_broken_down_by_attributes_of_a_few_values(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_results, "_VALUES", 10)
    metrics, out = judge(leaning)
    found = metrics["breakdown"]
    assert set(found) == {"compression", "manipulation"}  # a camera a video is a name
    rows = storage.read_table(out / "predictions" / "test.parquet").to_pylist()
    scores: dict[str, list[float]] = {}
    facts = {}
    for row in rows:
        scores.setdefault(row["video_id"], []).append(row["score_raw"])
        entries = row["attributes"]
        facts[row["video_id"]] = (
            row["label"],
            dict(
                [(e["key"], e["value"]) for e in entries]
                if isinstance(entries[0], dict)
                else entries
            ),
        )
    for value in ("c23", "c24"):
        mine = [v for v, (_, about) in facts.items() if about["compression"] == value]
        label = [facts[v][0] == "FAKE" for v in mine]
        auc = roc_auc_score(label, [np.mean(scores[v]) for v in mine])
        assert found["compression"][value]["auc"] == pytest.approx(auc)
        assert found["compression"][value]["against"] == f"reals of {value}"
    reals = sum(label == "REAL" for label, _ in facts.values())
    assert found["manipulation"]["swap"]["reals"] == reals
    assert found["manipulation"]["swap"]["against"] == "all reals"


def test_card_and_plots_are_there(judge: Judge) -> None:
    metrics, out = judge(leaning, draw=True)
    card = (out / "README.md").read_text()
    assert card.startswith("---\n")
    for said in (
        metrics["model_sha256"], "forty", "meso4", "Youden", f"{metrics['validation']['by_video']['auc']:.3f}",
        "leaks", "shortcuts", "mean of a video's logits",
    ):  # fmt: skip
        assert said in card, said
    names = {"learning.png"} | {
        f"{side}_{kind}.png"
        for side in ("validation", "test")
        for kind in ("confusion", "scores", "roc", "pr", "reliability")
    }
    assert {p.name for p in (out / "plots").iterdir()} == names
    for path in (out / "plots").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 5, path.name  # something is drawn


def test_one_class_held_out_draws_what_there_is(judge: Judge) -> None:
    metrics, out = judge(leaning, keep=lambda r: r["label"] == "REAL", draw=True)
    assert metrics["threshold_logit"] is None
    assert metrics["threshold"] == 0.5
    assert metrics["validation"]["by_video"]["auc"] is None
    names = {p.name for p in (out / "plots").iterdir()}
    assert "validation_roc.png" not in names
    assert {"learning.png", "validation_scores.png", "validation_confusion.png"} <= names
    assert (out / "README.md").is_file()


# ---------------------------------------------------------------- files


def test_history_and_predictions_are_read_as_they_were_written(judge: Judge) -> None:
    _, out = judge(leaning)
    (row,) = read_history(out / "history.csv")
    (text,) = csv.DictReader((out / "history.csv").read_text().splitlines())
    assert row["epoch"] == 1
    assert all(value == float(text[name]) for name, value in row.items())
    assert read_outputs(out, "training") is None
    found = read_outputs(out, "validation")
    assert found is not None
    faces, fake, means, truth = outputs(out)
    np.testing.assert_array_equal(found.faces[0], faces)
    np.testing.assert_array_equal(found.faces[1], fake)
    order = np.argsort([about["camera"] for about in found.attributes])
    assert order.tolist() == list(range(len(truth)))  # sorted by name, as the attributes are
    assert sorted(found.videos[0]) == pytest.approx(sorted(means))
    assert found.faces_a_video.tolist() == [FRAMES] * len(truth)


def test_folds_are_judged_together_without_thresholds_chosen_on_them(
    judge: Judge, tmp_path: Path
) -> None:
    shifts = {"fold_0": 0.0, "fold_1": 5.0, "fold_2": -3.0}
    scores, labels = [], []
    for name, shift in shifts.items():
        own = zlib.crc32(name.encode()) % 7
        _, out = judge(
            lambda r, s=shift, o=own: leaning(r | {"frame_index": r["frame_index"] + o}) + s,
            name=name,
        )
        _, _, means, truth = outputs(out)
        scores += means.tolist()
        labels += truth.tolist()
    result = finalize_series(tmp_path, list(shifts))
    together = result["out_of_fold"]["by_video"]
    assert together["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert together["accuracy"] == pytest.approx(np.mean((np.array(scores) >= 0) == labels))
    assert together["reals"] + together["fakes"] == len(labels)
    assert [row["run"] for row in result["runs"]] == list(shifts)
    lines = list(csv.DictReader((tmp_path / "series.csv").read_text().splitlines()))
    for line, name in zip(lines, shifts, strict=True):
        own = json.loads((tmp_path / name / "metrics.json").read_text())
        for column, (by, key) in {
            "video_auc": ("by_video", "auc"),
            "frame_f1": ("by_frame", "f1"),
            "video_log_loss": ("by_video", "log_loss"),
        }.items():
            assert float(line[column]) == own["validation"][by][key]
