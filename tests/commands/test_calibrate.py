import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch

from dfscan import calibrate, storage
from dfscan.cli import main
from dfscan.commands import score as score_job
from dfscan.commands.calibrate import CalibrateResult
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, ModelError, OutputError, SourceError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, Triage, load_model, read_header, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.scoring.calibration import Calibration

RECIPE = FaceRecipe(
    sampling=Sampling(stride=Stride(real=30, fake=30)),
    input=network_input("mesoinception4", InputConfig(size=64)),
)
SCORED = Sampling(frames=32)
OWN = Calibration(scale=1.0, offset=0.0, reals=8, fakes=8, sampling=SCORED)


def make_model(path: Path, fitted: Calibration | None = None) -> Path:
    torch.manual_seed(0)
    header = ModelHeader(backbone="mesoinception4", recipe=RECIPE, calibration=fitted)
    save_model(path, create_network("mesoinception4", 64), header)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model.safetensors")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_model(tmp_path / "own.safetensors", OWN)


def row(number: int, score: float | None, label: str | None, model: Path, **changes: Any) -> Any:
    values = dict.fromkeys(VERDICT_SCHEMA.names) | {
        "video_id": f"clips/{number:05}.mp4",
        "label": label,
        "score_raw": score,
        "frames": [{"frame_index": i, "score_raw": score} for i in range(10)],
        "custody": custody(model),
    }
    return values | changes


def custody(model: Path, sampling: Sampling = SCORED, config_hash: str = "c") -> dict[str, Any]:
    recipe = RECIPE.model_copy(update={"sampling": sampling})
    sha256 = storage.sha256(model.read_bytes())
    return {"recipe_hash": recipe.legacy_hash(), "config_hash": config_hash, "models": [sha256]}


def write(path: Path, rows: list[Any], **metadata: str) -> Path:
    table = pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)
    known = {**(VERDICT_SCHEMA.metadata or {}), **metadata}
    storage.commit_table(path, table.replace_schema_metadata(known))
    return path


def drawn(model: Path, reals: int, fakes: int = 0, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    scores = [*rng.normal(-2, 3, reals), *rng.normal(4, 3, fakes)]
    labels = ["REAL"] * reals + ["FAKE"] * fakes
    return [row(i, s, x, model) for i, (s, x) in enumerate(zip(scores, labels, strict=True))]


def run(model: Path, rows: list[Any], told: list[str] | None = None, **config: Any) -> Any:
    verdicts = write(model.parent / "v.parquet", rows)

    class Told(Progress):
        def message(self, message: str) -> None:
            if told is not None:
                told.append(message)

    config = {"out": str(model.parent / "new.safetensors")} | config
    return calibrate(str(model), str(verdicts), progress=Told(), **config)


def test_both_classes_give_a_calibration_and_the_same_tensors(model: Path) -> None:
    told: list[str] = []
    found: CalibrateResult = run(model, drawn(model, 300, 200), told)
    old, new = load_model(model), load_model(Path(found.out))
    assert new.sha256 == found.model_sha256 != old.sha256 == found.scored_by
    for name, tensor in old.network.state_dict().items():
        assert torch.equal(tensor, new.network.state_dict()[name])
    fitted = new.header.calibration
    assert fitted is not None
    assert fitted.scale == pytest.approx(2 / 3, rel=0.25)
    assert (fitted.sampling, fitted.reals, fitted.frames_median) == (SCORED, 300, 10)
    assert new.header.threshold == found.threshold == fitted.threshold
    assert found.threshold == pytest.approx(1 / (1 + math.exp(-found.threshold_logit)))
    assert new.header.recipe == old.header.recipe
    point = new.header.operating_point
    assert point is not None
    assert (point.rule, point.reals, point.fakes) == ("youden", 300, 200)
    assert point.true_positive_rate == found.fitted["true_positive_rate"]["rate"]
    assert point.scored_by == old.sha256
    assert found.rows == {"rows": 500, "used": 500}
    assert found.folds == 5
    assert found.out_of_fold is not None
    assert found.out_of_fold["log_loss"] < found.before["log_loss"]
    assert not any("not better" in note for note in told)


@pytest.mark.parametrize("rule", ["f1", "fpr=0.02"])
def test_the_rules_of_training_are_known(model: Path, rule: str) -> None:
    found = run(model, drawn(model, 200, 100), threshold_rule=rule)
    assert found.operating_point["rule"] == rule
    if rule == "fpr=0.02":
        assert found.fitted["false_positive_rate"]["called"] == 4


def test_reals_alone_keep_to_an_alert_budget(own: Path) -> None:
    told: list[str] = []
    found = run(own, drawn(own, 400), told, alert_budget=4)
    false = found.fitted["false_positive_rate"]
    assert (false["called"], false["of"]) == (4, 400)
    assert false["interval"] == pytest.approx([0.00273, 0.02541], abs=1e-5)
    header = read_header(Path(found.out))
    assert header.calibration == OWN.model_copy(update={"threshold": found.threshold})
    assert header.operating_point is not None
    assert header.operating_point.rule == "alert budget: 4 of 400 videos a night"
    assert header.operating_point.false_positive_rate_upper == false["interval"][1]
    assert header.operating_point.true_positive_rate is None
    assert found.fitted["log_loss"] is None
    assert any("a night is taken to bring 400 videos" in note for note in told)
    assert any("the model's own calibration stays" in note for note in told)
    assert any("at most about 1.25%" in note for note in told)


def test_a_night_may_bring_other_numbers(own: Path) -> None:
    found = run(
        own,
        drawn(own, 300),
        alert_budget=20,
        videos_a_night=1000,
        out=str(own.parent / "n.safetensors"),
    )
    assert found.fitted["false_positive_rate"]["called"] == 6
    assert "1,000 videos a night" in found.rule


def test_an_alert_budget_works_with_both_classes(model: Path) -> None:
    found = run(model, drawn(model, 200, 50), alert_budget=10, videos_a_night=500)
    assert found.calibration is not None
    assert found.fitted["false_positive_rate"]["called"] == 4
    assert found.fitted["true_positive_rate"]["of"] == 50


def test_a_model_without_calibration_decides_at_its_operating_point(
    model: Path, corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "scored.parquet"
    values = {"source": str(corpus.test), "out": str(out), "inline": True, "frames": 3}
    config = ScoreConfig(**values, model=str(model))
    score_job.run(config, Progress())
    scored = storage.read_table(out).to_pylist()
    assert {r["verdict"] for r in scored} == {"UNCERTAIN"}
    highest = max(r["score_raw"] for r in scored)
    reals = [row(i, highest - 1e-4 * i, "REAL", model) for i in range(30)]
    found = run(model, reals, at_fpr=0.05)
    assert found.calibration is None
    rescored = tmp_path / "again.parquet"
    told: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            told.append(message)

    score_job.run(ScoreConfig(**values | {"model": found.out, "out": str(rescored)}), Told())
    again = storage.read_table(rescored).to_pylist()
    assert {r["reason"] for r in again} == {None}
    assert {r["calibrated"] for r in again} == {False}
    for r in again:
        assert (r["score_raw"] >= found.threshold_logit) == (r["verdict"] == "FAKE")
    assert "FAKE" in {r["verdict"] for r in again}
    assert not any("UNCERTAIN" in note for note in told)


def test_another_prevalence_moves_p_fake_and_no_verdict(model: Path) -> None:
    rows = drawn(model, 100, 100)
    half = run(model, rows)
    rare = run(model, rows, prevalence=0.01, out=str(model.parent / "rare.safetensors"))
    assert rare.calibration["prior"] == 0.01
    moved = half.threshold_logit - math.log(99)
    assert rare.threshold_logit == pytest.approx(moved)
    assert rare.threshold < half.threshold
    assert rare.fitted["false_positive_rate"] == half.fitted["false_positive_rate"]


def test_what_cannot_be_used_is_left_out_and_counted(model: Path) -> None:
    rows = drawn(model, 20, 20)
    n = len(rows)
    other = {**custody(model), "models": ["0" * 64]}
    rows += [row(n, 9.0, "REAL", model, custody=other)]
    rows += [row(n + 1, None, "REAL", model, frames=[])]
    rows += [row(n + 2, 9.0, None, model)]
    rows += [row(n + 3, 9.0, "REAL", model, custody=custody(model, Sampling(frames=5)))]
    found = run(model, rows)
    assert found.rows == {
        "rows": 44, "used": 40, "other_model": 1, "no_score": 1, "unlabelled": 1,
        "other_sampling": 1,
    }  # fmt: skip
    assert (found.operating_point["reals"], found.operating_point["fakes"]) == (20, 20)


def test_where_nothing_can_be_used_the_reasons_are_named(model: Path) -> None:
    other = {**custody(model), "models": ["0" * 64]}
    rows = [row(0, 1.0, "REAL", model, custody=other), row(1, None, "REAL", model)]
    with pytest.raises(SourceError, match=r"none of the 2 verdicts .* 1 of another model than"):
        run(model, rows)
    with pytest.raises(SourceError, match=r"1 without a label \(give --labels FILE"):
        run(model, [row(0, 1.0, None, model)])
    with pytest.raises(SourceError, match=r"0 verdicts .* it is empty"):
        run(model, [])


def test_labels_from_a_file_win_and_make_groups(model: Path) -> None:
    rows = [r | {"label": None} for r in drawn(model, 40, 40)]
    truth = {f"{i:05}.mp4": {"label": "REAL"} for i in range(40)}
    truth |= {f"{40 + i:05}.mp4": {"label": "FAKE", "original": f"{i:05}.mp4"} for i in range(40)}
    truth["elsewhere.mp4"] = {"label": "REAL"}
    path = model.parent / "metadata.json"
    path.write_text(json.dumps(truth))
    told: list[str] = []
    rows += [row(90, 1.0, None, model), row(91, 1.0, None, model, video_id="x/00001.mp4")]
    found = run(model, rows, told, labels=str(path))
    assert found.groups == 40
    # Two videos are called 00001.mp4: neither is taken.
    assert found.rows == {"rows": 82, "used": 79, "unlabelled": 1, "ambiguous": 2}
    assert any("1 label(s)" in note and "name no video" in note for note in told)


def test_every_video_may_be_said_to_be_real(own: Path) -> None:
    rows = [r | {"label": None} for r in drawn(own, 150)]
    found = run(own, rows, labels="REAL", at_fpr=0.02)
    assert found.operating_point["reals"] == 150
    with pytest.raises(ConfigError, match=r"1 verdict\(s\) .* are labelled FAKE"):
        run(own, [*rows, row(900, 1.0, "FAKE", own)], labels="REAL", at_fpr=0.02, overwrite=True)


def test_a_few_fakes_are_too_few_for_p_fake_and_still_counted(own: Path) -> None:
    found = run(own, drawn(own, 100, 5), at_fpr=0.05)
    kept = read_header(Path(found.out)).calibration
    assert kept == OWN.model_copy(update={"threshold": found.threshold})
    assert found.fitted["true_positive_rate"]["of"] == 5


@pytest.mark.parametrize(
    ("reals", "fakes", "config", "message"),
    [
        (99, 0, {"at_fpr": 0.01}, "99 reals cannot show .* at least 100, and 300"),
        (99, 50, {"threshold_rule": "fpr=0.01"}, "at least 100, and 300"),
        (50, 0, {"alert_budget": 1, "videos_a_night": 1000}, "50 reals cannot .* at least 1,000"),
        (50, 0, {"alert_budget": 50}, "got 50 for 50 videos a night; must be less"),
        (50, 0, {}, "youden needs 8 videos of each class, .* --alert-budget N or --at-fpr"),
        (50, 7, {"threshold_rule": "f1"}, "f1 needs 8 videos of each class, got 50 reals and 7"),
        (0, 50, {"at_fpr": 0.1}, "50 fakes and no reals"),
        (50, 0, {"at_fpr": 0.1, "prevalence": 0.1}, "prevalence 0.1: the model has no calibration"),
        (9, 9, {"at_fpr": 0.1, "alert_budget": 1}, "at_fpr and alert_budget exclude each other"),
        (9, 9, {"frames": 3, "every": 1}, "frames and every exclude|every and frames exclude"),
        (9, 9, {"videos_a_night": 3}, "give both"),
        (9, 9, {"threshold_rule": "fpr=0"}, "no number of reals shows a rate of 0"),
        (9, 9, {"threshold_rule": "best"}, "must be f1, youden"),
        (9, 9, {"prevalence": 1}, "less than 1"),
        (9, 9, {"out": "m.txt"}, r"must be a file that ends in \.safetensors"),
        (9, 9, {"out": None}, "say where the model goes"),
    ],
)
def test_what_cannot_be_done_says_so(
    model: Path, reals: int, fakes: int, config: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(model, drawn(model, reals, fakes), **config)
    assert not (model.parent / "new.safetensors").exists()


def test_scores_that_fall_with_fakes_are_refused(model: Path) -> None:
    rows = [row(i, -r["score_raw"], r["label"], model) for i, r in enumerate(drawn(model, 50, 50))]
    with pytest.raises(ConfigError, match="higher scores do not mean fakes"):
        run(model, rows)


def test_scores_that_p_fake_cannot_tell_apart_are_refused(model: Path) -> None:
    rows = [row(i, 60.0 + i, "REAL", model) for i in range(20)]
    with pytest.raises(ConfigError, match="p_fake is the same number for all"):
        run(model, rows, at_fpr=0.1)


def test_a_fit_that_is_no_better_says_so(own: Path) -> None:
    """Eight of each class, from a model whose own calibration is the true one."""
    rng = np.random.default_rng(0)
    scores = [*rng.normal(-2, 2, 8), *rng.normal(2, 2, 8)]
    told: list[str] = []
    run(own, [row(i, s, "FAKE" if i >= 8 else "REAL", own) for i, s in enumerate(scores)], told)
    assert any("p_fake is not better for it" in note for note in told)


def test_how_the_verdicts_were_sampled_is_checked(model: Path) -> None:
    rows = [r | {"custody": custody(model, Sampling(frames=5))} for r in drawn(model, 20, 20)]
    with pytest.raises(ConfigError, match=r"none of the 40 .* scored on 32 frames.* --frames N"):
        run(model, rows)
    found = run(model, rows, frames=5)
    assert found.calibration["sampling"]["frames"] == 5
    with pytest.raises(ConfigError, match="was scored on one frame in 1 s"):
        run(model, rows, every=1, overwrite=True)
    with pytest.raises(ConfigError, match="32 frames, spread evenly, phase 0"):
        run(model, rows, phase=0, overwrite=True)


def test_frames_of_another_kind_have_a_calibration_of_their_own(own: Path) -> None:
    keys = Sampling(mode="keyframes", frames=32)
    rows = [r | {"custody": custody(own, keys)} for r in drawn(own, 40, 40)]
    with pytest.raises(ConfigError, match="scored on 32 frames, spread evenly: say how"):
        run(own, rows)
    found = run(own, rows, sampling="keyframes")
    new = read_header(Path(found.out))
    assert new.calibration == OWN
    assert new.threshold == read_header(own).threshold
    fitted = new.calibrated("mean", "keyframes")
    assert fitted is not None
    assert fitted.sampling == keys
    assert not found.before["calibrated"]


def test_verdicts_of_a_triage_are_refused(own: Path) -> None:
    quick = [row(90 + i, -9.0, "REAL", own, look="quick") for i in range(3)]
    with pytest.raises(ConfigError, match=r"3 verdict\(s\) are of --triage"):
        run(own, [*drawn(own, 20, 20), *quick])


def test_a_triage_does_not_outlive_its_threshold(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors", OWN)
    old = load_model(model)
    triage = Triage(calibration=OWN, deep_if=0.1, flagged=100, recall=0.97)
    header = old.header.model_copy(update={"triage": triage})
    save_model(model, old.network, header)
    told: list[str] = []
    found = run(model, drawn(model, 20, 20), told)
    assert read_header(Path(found.out)).triage is None
    assert any("has no triage" in note for note in told)


def test_what_the_verdicts_say_of_their_sampling_is_read(model: Path) -> None:
    five = Sampling(frames=5)
    recipe = RECIPE.model_copy(update={"sampling": five}).model_dump(mode="json")
    said = json.dumps({"c": {"recipe": recipe}})
    rows = [r | {"custody": custody(model, five)} for r in drawn(model, 20, 20)]
    path = write(model.parent / "said.parquet", rows, **{"dfscan.score": said})
    out = str(model.parent / "new.safetensors")
    found = calibrate(str(model), str(path), out=out)
    assert found.calibration is not None
    assert found.calibration["sampling"]["frames"] == 5
    write(path, [*rows, row(99, 1.0, "REAL", model)], **{"dfscan.score": said})
    with pytest.raises(ConfigError, match=r"in 2 ways of sampling .*name one with --frames N"):
        calibrate(str(model), str(path), out=out, overwrite=True)
    write(path, rows, **{"dfscan.score": '{"c": 3}'})
    with pytest.raises(SourceError, match="is not what score writes"):
        calibrate(str(model), str(path), out=out, overwrite=True)


def people(number: int, means: list[float], label: str, model: Path) -> Any:
    """A video of several people, ten faces each, scored by the largest mean of a track."""
    frames = [
        {"frame_index": i, "track_id": track, "score_raw": mean}
        for track, mean in enumerate(means)
        for i in range(10)
    ]
    tracks = [{"track_id": t, "faces": 10, "score_raw": m} for t, m in enumerate(means)]
    return row(number, max(means), label, model, frames=frames, tracks=tracks)


def crowds(model: Path, count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        means = rng.normal(0, 1, 1 + number % 4)
        fake = number // 4 % 2 == 1
        means[0] += 3 * fake
        rows.append(people(number, means.tolist(), "FAKE" if fake else "REAL", model))
    return rows


def test_other_ways_of_aggregating_have_calibrations_of_their_own(own: Path) -> None:
    found = run(own, crowds(own, 400), aggregation="max_track", at_fpr=0.05)
    new = read_header(Path(found.out))
    assert new.calibration == OWN
    assert new.threshold == read_header(own).threshold
    fitted = new.calibrated("max_track", "exact")
    assert fitted is not None
    assert fitted.people < -0.1  # of many people a high score says less
    assert fitted.threshold == found.threshold
    assert new.decides("max_track", "exact")
    assert not new.decides("mean", "exact")
    assert found.fitted["false_positive_rate"]["called"] == 10
    again = run(
        Path(found.out),
        crowds(Path(found.out), 400),
        aggregation="max_track",
        at_fpr=0.05,
        out=str(own.parent / "again.safetensors"),
    )
    assert len(read_header(Path(again.out)).calibrations) == 1
    assert again.before["false_positive_rate"] == found.fitted["false_positive_rate"]


def test_a_threshold_for_one_way_leaves_the_others_theirs(own: Path) -> None:
    """OWN has no threshold, as those of older files: it goes by the model's."""
    reals = [r for r in crowds(own, 200) if r["label"] == "REAL"]
    found = run(own, reals, aggregation="max_track", at_fpr=0.05)
    new = read_header(Path(found.out))
    assert found.calibration is None
    assert new.threshold == found.threshold != 0.5
    assert new.calibration == OWN.model_copy(update={"threshold": 0.5})


def test_how_the_scores_were_aggregated_is_checked(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"got mean, and .* max_track is what its scores agree"):
        run(model, crowds(model, 60))
    rows = [r | {"score_raw": r["score_raw"] + 1} for r in drawn(model, 20, 20)]
    with pytest.raises(ConfigError, match="no way of aggregating is what its scores agree with"):
        run(model, rows)


def test_scores_of_several_models_together_are_no_one_models(model: Path) -> None:
    both = {**custody(model), "models": [custody(model)["models"][0], "0" * 64]}
    found = run(model, [*drawn(model, 20, 20), row(90, 9.0, "REAL", model, custody=both)])
    assert found.rows == {"rows": 41, "used": 40, "other_model": 1}


def test_a_model_is_never_replaced_unasked(model: Path) -> None:
    rows, before = drawn(model, 20, 20), model.read_bytes()
    with pytest.raises(OutputError, match="exists: give another --out, or --overwrite"):
        run(model, rows, out=str(model))
    assert model.read_bytes() == before
    run(model, rows, out=str(model), overwrite=True)
    assert read_header(model).calibration is not None


def test_what_is_no_model_or_no_verdicts_is_refused(model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "new.safetensors")
    with pytest.raises(ModelError, match="no model at"):
        calibrate(str(tmp_path / "none"), "v.parquet", out=out)
    with pytest.raises(SourceError, match="no verdicts at"):
        calibrate(str(model), str(tmp_path / "none.parquet"), out=out)
    with pytest.raises(SourceError, match="is not a readable Parquet file"):
        calibrate(str(model), str(model), out=out)
    storage.commit_table(tmp_path / "t.parquet", pa.table({"a": [1]}))
    with pytest.raises(SourceError, match="another program's table"):
        calibrate(str(model), str(tmp_path / "t.parquet"), out=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is a folder without verdicts"):
        calibrate(str(model), str(tmp_path / "empty"), out=out)


def test_a_folder_of_verdicts_calibrates_as_the_file_does(own: Path, tmp_path: Path) -> None:
    rows = drawn(own, 120, 80)
    write(tmp_path / "v.parquet", sorted(rows, key=lambda r: r["video_id"]))
    for number in range(3):
        write(tmp_path / "v" / f"{number}.parquet", rows[number::3])
    out = str(tmp_path / "new.safetensors")
    one, other = (
        calibrate(str(own), f"{tmp_path}/{name}", out=out, overwrite=True)
        for name in ("v.parquet", "v/")
    )
    assert (one.fitted, one.rows) == (other.fitted, other.rows)
    assert one.rows["used"] == 200


def test_the_command_line(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    verdicts = str(write(own.parent / "v.parquet", drawn(own, 300, 40)))
    out = str(own.parent / "new.safetensors")
    command = ["calibrate", str(own), verdicts, "--out", out, "--at-fpr", "0.01"]
    main_with(*command)
    shown = capfd.readouterr()
    for text in (
        "340 videos: 300 real, 40 fake",
        "reals called FAKE",
        "1.00 % (0.21–2.89)",
        "5 folds",
    ):
        assert text in shown.out
    assert "the verdicts were scored on 32 frames" in shown.err
    main_with(*command, "--overwrite", "--json")
    found = json.loads(capfd.readouterr().out)
    assert found["fitted"]["false_positive_rate"]["called"] == 3
    assert found["operating_point"]["rule"] == "fpr=0.01"
    main_with("inspect", out)
    assert "operating point" in capfd.readouterr().out


def main_with(*arguments: str) -> None:
    with mock.patch.object(sys, "argv", ["dfscan", *arguments]), pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
