import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from support import verdicts as making_verdicts
from support.verdicts import apart, verdicts

from dfscan import storage
from dfscan.commands import score as score_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.commands.score.result import ScorePlan, ScoreResult
from dfscan.commands.verify.reproducibility import HALF
from dfscan.config.loading import build
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, ModelError, OutputError, UsageError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, Triage, load_model, save_model
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.score_task import ScoreTask
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.scoring import calibration
from dfscan.scoring.calibration import Calibration
from dfscan.verdicts import provenance as custody
from dfscan.verdicts.parts import parts_folder

SAMPLING = Sampling(stride=Stride(real=30, fake=30))


def make_model(
    path: Path, calibrated: bool = True, seed: int = 0, sampling: Sampling = SAMPLING
) -> Path:
    torch.manual_seed(seed)
    recipe = FaceRecipe(
        sampling=sampling, input=network_input("mesoinception4", InputConfig(size=64))
    )
    fitted = Calibration(scale=1.0, offset=0.0, reals=8, fakes=8, sampling=SAMPLING)
    header = ModelHeader(
        backbone="mesoinception4", recipe=recipe, calibration=fitted if calibrated else None
    )
    save_model(path, create_network("mesoinception4", 64), header)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model.safetensors")


def score(source: Any, model: Path | list[Path], out: Path, **changes: Any) -> ScoreResult:
    models = [str(m) for m in (model if isinstance(model, list) else [model])]
    values = {"source": source, "model": models, "out": str(out), "inline": True, "frames": 3}
    return score_job.run(ScoreConfig(**(values | changes)), Progress())


def rows(path: Path) -> dict[str, dict[str, Any]]:
    return {r["video_id"]: r for r in storage.read_table(path).to_pylist()}


def test_scoring_samples_as_its_model_learned(corpus: Corpus, tmp_path: Path) -> None:
    sampling = SAMPLING.model_copy(update={"mode": "keyframes"})
    model = make_model(tmp_path / "keys.safetensors", sampling=sampling)
    out = tmp_path / "v.parquet"
    score(str(corpus.test), model, out, frames=5)
    for row in storage.read_table(out).to_pylist():
        assert [f["frame_index"] for f in row["frames"]] == [0]  # their one key frame


def test_one_verdict_a_video(corpus: Corpus, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    result = score(str(corpus.test), model, out)
    table = storage.read_table(out)
    assert table.schema.equals(VERDICT_SCHEMA)
    assert result.videos == table.num_rows == 4
    assert not parts_folder(out).exists()
    for row in table.to_pylist():
        assert row["verdict"] in ("REAL", "FAKE")
        assert row["calibrated"]
        assert (row["p_fake"] >= row["threshold"]) == (row["verdict"] == "FAKE")
        mean = sum(f["score_raw"] for f in row["frames"]) / len(row["frames"])
        assert row["score_raw"] == pytest.approx(mean, abs=1e-6)
        assert row["custody"]["models"] == [storage.sha256(model.read_bytes())]
        assert row["custody"]["decoder"].startswith("av ")
        assert row["top_frames_s"][0] in [f["pts_s"] for f in row["frames"]]


def test_nothing_to_judge_is_null_with_a_reason(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/stripes.mp4").parent
    (source / "text.mp4").write_text("no video")
    result = score(str(source), model, tmp_path / "v.parquet")
    found = rows(tmp_path / "v.parquet")
    assert found["src/stripes.mp4"]["reason"] == "no_face"
    assert found["src/text.mp4"]["reason"] == "a text file, not a video"
    for row in found.values():
        assert row["verdict"] is row["p_fake"] is row["score_raw"] is None
    assert result.exit_code == 3


def test_an_uncalibrated_model_is_uncertain_unless_told(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", calibrated=False)
    score(str(corpus.test), model, tmp_path / "a.parquet")
    for row in rows(tmp_path / "a.parquet").values():
        assert (row["verdict"], row["reason"]) == ("UNCERTAIN", "model_uncalibrated")
        assert row["score_raw"] is not None
        assert not row["calibrated"]
    score(str(corpus.test), model, tmp_path / "b.parquet", threshold=0.0)
    assert {r["verdict"] for r in rows(tmp_path / "b.parquet").values()} == {"FAKE"}


def test_scoring_again_works_on_new_and_changed_videos_only(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    out = tmp_path / "v.parquet"
    source = write_clip("src/a.mp4").parent
    write_clip("src/b.mp4")
    score(str(source), model, out)
    first = rows(out)
    assert score(str(source), model, out).new == 0
    assert rows(out) == first
    write_clip("src/b.mp4", frames=33)
    write_clip("src/c.mp4", frames=27)
    assert score(str(source), model, out).new == 2
    second = rows(out)
    assert list(second) == ["src/a.mp4", "src/b.mp4", "src/c.mp4"]
    assert second["src/a.mp4"] == first["src/a.mp4"]
    assert second["src/b.mp4"]["content_sha256"] != first["src/b.mp4"]["content_sha256"]


def test_an_interrupted_run_keeps_its_units(
    corpus: Corpus, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, commit, calls = tmp_path / "v.parquet", storage.commit_table, []

    def dies_on_the_second(*args: Any, **more: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        commit(*args, **more)

    monkeypatch.setattr(storage, "commit_table", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(str(corpus.test), model, out, unit_size=2)
    monkeypatch.setattr(storage, "commit_table", commit)
    assert not out.exists()
    result = score(str(corpus.test), model, out, unit_size=2)
    assert (result.new, result.videos) == (2, 4)
    assert not parts_folder(out).exists()


def test_verdicts_of_another_model_are_kept_and_counted(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.parquet"
    score(str(corpus.test), model, out)
    other = make_model(tmp_path / "other.safetensors", seed=1)
    result = score(str(corpus.test), other, out)
    assert (result.new, result.stale) == (0, 4)
    result = score(str(corpus.test), other, out, overwrite=True)
    assert (result.new, result.stale) == (4, 0)


def test_an_unmounted_source_is_refused(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    out = tmp_path / "v.parquet"
    source = write_clip("src/a.mp4").parent
    write_clip("src/b.mp4")
    score(str(source), model, out)
    before = out.read_bytes()
    (source / "b.mp4").unlink()
    with pytest.raises(OutputError, match=r"1 of the 2 videos .* not at the source"):
        score(str(source), model, out)
    assert out.read_bytes() == before
    assert score(str(source), model, out, allow_gone=True).gone == 1
    assert {k: v["gone"] for k, v in rows(out).items()} == {"src/a.mp4": False, "src/b.mp4": True}
    assert score(str(source), model, out).gone == 1  # accepted once is accepted


@pytest.mark.parametrize("changes", [
    {"batch_size": 1, "unit_size": 1}, {"batch_size": 7, "unit_size": 3}, {"decoders": 2},
], ids=str)  # fmt: skip
def test_verdicts_do_not_depend_on_batches_units_or_the_order_of_sources(
    corpus: Corpus, tmp_path: Path, changes: dict[str, int]
) -> None:
    model = making_verdicts.make_model(tmp_path / "m.safetensors")
    source = [str(path) for path in (*corpus.parts, corpus.test)]
    score(source, model, tmp_path / "a.parquet", batch_size=32, unit_size=16)
    score(source[::-1], model, tmp_path / "b.parquet", **changes)
    one, two = verdicts(tmp_path / "a.parquet"), verdicts(tmp_path / "b.parquet")
    assert list(one) == list(two)
    assert apart(one, two) == []
    assert len({round(row["score_raw"], 3) for row in one.values()}) > 8


def test_verdicts_do_not_depend_on_the_order_of_a_list(corpus: Corpus, tmp_path: Path) -> None:
    model = making_verdicts.make_model(tmp_path / "m.safetensors", detector="none")
    with zipfile.ZipFile(corpus.test) as archive:
        archive.extractall(tmp_path / "clips")
    clips = sorted(str(path) for path in (tmp_path / "clips").rglob("*.mp4"))
    for folder, order in (("a", clips), ("b", clips[::-1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "list.txt").write_text("\n".join(order))
        score(str(tmp_path / folder / "list.txt"), model, tmp_path / f"{folder}.parquet")
    one, two = verdicts(tmp_path / "a.parquet"), verdicts(tmp_path / "b.parquet")
    assert len(one) == 4
    assert apart(one, two) == []


def test_a_foreign_file_is_not_overwritten(corpus: Corpus, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    out.write_bytes(b"somebody else's")
    with pytest.raises(OutputError, match="no verdict file"):
        score(str(corpus.test), model, out)
    assert out.read_bytes() == b"somebody else's"


def test_no_model_is_one_clear_line(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dfscan train"):
        score_job.run(
            ScoreConfig(source=(str(corpus.test),), out=str(tmp_path / "v.parquet")), Progress()
        )


# ---------------------------------------------------------------- plans


def test_a_plan_counts_and_writes_and_opens_nothing(
    model: Path,
    tmp_path: Path,
    write_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, source = tmp_path / "v.parquet", write_clip("src/a.mp4").parent
    reports = {"log": str(tmp_path / "log.jsonl"), "metrics_file": str(tmp_path / "m.prom")}

    def plan(**changes: Any) -> ScorePlan:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(storage, "read_bytes", _no_reading)
            patch.setattr(storage, "content_sha256", _no_reading)
            found = score(str(source), model, out, dry_run=True, **reports, **changes)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert isinstance(found, ScorePlan)
        assert found.exit_code == 0
        return found

    first = plan()
    assert (first.videos, first.new, first.todo, first.units) == (1, 1, 1, 1)
    for name in "bc":
        write_clip(f"src/{name}.mp4")
    score(str(source), model, out)
    assert plan().todo == 0
    assert (plan(overwrite=True).new, plan(overwrite=True).gone) == (3, 0)
    write_clip("src/b.mp4", frames=33)
    write_clip("src/d.mp4")
    (source / "c.mp4").unlink()
    found = plan()
    assert (found.videos, found.new, found.changed, found.stale, found.gone) == (3, 1, 1, 0, 1)
    assert found.bytes == sum((source / f"{n}.mp4").stat().st_size for n in "bd")
    kept, rescanned = plan(min_frames=2), plan(min_frames=2, stale="rescan")
    assert (kept.stale, kept.todo) == (1, 2)
    assert (rescanned.stale, rescanned.todo, rescanned.units) == (1, 3, 2)


def _no_reading(path: Any, *_: Any) -> Any:
    if str(path).endswith(".mp4"):
        raise AssertionError(f"{path} was opened")
    return Path(path).read_bytes()


def test_a_plan_for_pictures_knows_no_verdicts(
    corpus: Corpus, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score(str(corpus.test), model, tmp_path / "verdicts.parquet")  # the default's name
    (tmp_path / "who.png").write_bytes(b"\x89PNG")
    config = ScoreConfig(source="who.png", model=str(model), inline=True, dry_run=True)
    found = score_job.run(config, Progress())
    assert isinstance(found, ScorePlan)
    assert (found.new, found.gone) == (1, 0)


# ---------------------------------------------------------------- models and rules


def test_several_models_are_averaged(corpus: Corpus, tmp_path: Path) -> None:
    models = [make_model(tmp_path / f"{i}.safetensors", seed=i) for i in range(2)]
    found = []
    for i, chosen in enumerate(([models[0]], [models[1]], models, models[::-1])):
        out = tmp_path / f"{i}.parquet"
        score(str(corpus.test), chosen, out)
        found.append(rows(out))
    for name, row in found[2].items():
        one, other, back = (f[name] for f in (found[0], found[1], found[3]))
        mean = (one["score_raw"] + other["score_raw"]) / 2  # their calibrations are the identity
        assert row["score_raw"] == pytest.approx(mean, abs=1e-5)
        assert row["score_raw"] == back["score_raw"]
        assert len(row["custody"]["models"]) == 2
        assert row["custody"]["config_hash"] == back["custody"]["config_hash"]


def test_models_of_other_faces_and_twins_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    one = make_model(tmp_path / "a.safetensors")
    other = make_model(
        tmp_path / "b.safetensors", sampling=SAMPLING.model_copy(update={"mode": "keyframes"})
    )
    with pytest.raises(ConfigError, match=r"found or cut in different ways \(sampling"):
        score(str(corpus.test), [one, other], tmp_path / "v.parquet")
    with pytest.raises(ConfigError, match="are the same model"):
        score(str(corpus.test), [one, one], tmp_path / "v.parquet")


def test_another_aggregation_needs_a_calibration_of_its_own(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.parquet"
    score(str(corpus.test), model, out, aggregation="trimmed", frames=12)
    for row in rows(out).values():
        assert (row["verdict"], row["reason"]) == ("UNCERTAIN", "model_uncalibrated")
        scores = sorted(f["score_raw"] for f in row["frames"])
        cut = len(scores) // 10
        kept = scores[cut : len(scores) - cut]
        assert row["score_raw"] == pytest.approx(sum(kept) / len(kept), abs=1e-5)
    loaded = load_model(model)
    (tmp_path / "run").mkdir()
    fitted = Calibration(
        scale=2.0, offset=1.0, reals=8, fakes=8, sampling=SAMPLING, aggregation="trimmed",
        threshold=0.0,
    )  # fmt: skip
    header = loaded.header.model_copy(update={"calibrations": (fitted,)})
    save_model(tmp_path / "run" / "model.safetensors", loaded.network, header)
    score(str(corpus.test), tmp_path / "run", tmp_path / "w.parquet", aggregation="trimmed")
    for row in rows(tmp_path / "w.parquet").values():
        assert row["calibrated"]
        assert row["threshold"] == 0.0
        assert row["llr"] == pytest.approx(2 * row["score_raw"] + 1, abs=1e-4)


def test_a_false_positive_rate_sets_the_threshold(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors")
    loaded = load_model(model)
    with pytest.raises(UsageError, match="does not hold its reals' scores"):
        score(str(corpus.test), model, tmp_path / "v.parquet", at_fpr=0.1)
    fitted = calibration.fit(
        np.linspace(-3, 3, 40), np.arange(40) >= 20, SAMPLING, frames=np.full(40, 3)
    )
    assert fitted is not None
    save_model(model, loaded.network, loaded.header.model_copy(update={"calibration": fitted}))
    score(str(corpus.test), model, tmp_path / "v.parquet", at_fpr=0.1)
    (threshold,) = {row["threshold"] for row in rows(tmp_path / "v.parquet").values()}
    third = fitted.p_fake(np.linspace(-3, 3, 40)[17])  # two of twenty reals may lie above
    assert threshold == pytest.approx(third, abs=1e-6)
    with pytest.raises(UsageError, match=r"20 held-out reals allow for 0\.05"):
        score(str(corpus.test), model, tmp_path / "v.parquet", at_fpr=0.01)


def test_the_share_of_fakes_moves_p_fake_and_no_verdict(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors")
    score(str(corpus.test), model, tmp_path / "even.parquet")
    score(str(corpus.test), model, tmp_path / "rare.parquet", prevalence=0.01)
    rare = rows(tmp_path / "rare.parquet")
    for name, row in rows(tmp_path / "even.parquet").items():
        odds = row["p_fake"] / (1 - row["p_fake"]) * 0.01 / 0.99
        assert rare[name]["p_fake"] == pytest.approx(odds / (1 + odds), rel=1e-4)
        assert rare[name]["llr"] == pytest.approx(row["llr"], abs=1e-5)
        assert rare[name]["verdict"] == row["verdict"]
        assert rare[name]["threshold"] == pytest.approx(0.01, rel=1e-4)
    plain = make_model(tmp_path / "plain.safetensors", calibrated=False)
    with pytest.raises(ConfigError, match="not calibrated, so its p_fake is no probability"):
        score(str(corpus.test), plain, tmp_path / "v.parquet", prevalence=0.01)


def test_a_picture_is_judged_without_an_output(
    corpus: Corpus, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "who.png"
    with zipfile.ZipFile(corpus.test) as part:
        name = next(n for n in part.namelist() if n.endswith(".mp4"))
        with av.open(io.BytesIO(part.read(name))) as clip:
            next(clip.decode(video=0)).to_image().save(picture)
    config = ScoreConfig(source=str(picture), model=str(model))
    before = sorted(tmp_path.iterdir())
    (row,) = score_job.run(config, Progress()).rows
    assert (row["video_id"], row["status"]) == ("who.png", "ok")
    assert row["verdict"] in ("REAL", "FAKE")
    assert row["calibrated"]
    assert sorted(tmp_path.iterdir()) == before


def test_far_more_faces_than_at_calibration_are_told(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors")
    loaded = load_model(model)
    fitted = loaded.header.calibration
    assert fitted is not None
    told: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            told.append(message)

    for usual, expected in ((40.0, 1), (3.0, 0)):
        told.clear()
        fitted = fitted.model_copy(update={"frames_median": usual})
        save_model(model, loaded.network, loaded.header.model_copy(update={"calibration": fitted}))
        values = {"source": str(corpus.test), "model": str(model), "frames": 3, "inline": True}
        out = str(tmp_path / f"{usual}.parquet")
        score_job.run(ScoreConfig(**values, out=out), Told())
        assert sum("where the model was calibrated" in note for note in told) == expected


# ---------------------------------------------------------------- precision and batches


def logits(path: Path) -> np.ndarray[Any, Any]:
    return np.array([f["score_raw"] for row in rows(path).values() for f in row["frames"]])


def test_half_precision_is_used_named_and_near(corpus: Corpus, model: Path, tmp_path: Path) -> None:
    for precision in ("auto", "float32", "bfloat16"):
        score(str(corpus.test), model, tmp_path / f"{precision}.parquet", precision=precision)
        (found,) = {
            r["custody"]["precision"] for r in rows(tmp_path / f"{precision}.parquet").values()
        }
        assert found == ("bfloat16" if precision == "bfloat16" else "float32")
    full, half = logits(tmp_path / "float32.parquet"), logits(tmp_path / "bfloat16.parquet")
    assert len(full) == len(half) > 0
    assert 0 < np.abs(full - half).max() <= HALF["bfloat16"]
    assert np.array_equal(full, logits(tmp_path / "auto.parquet"))


def test_only_half_precision_is_another_configuration(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.parquet"
    score(str(corpus.test), model, out)
    (record,) = custody.records(out).values()
    assert "precision" not in record
    assert score(str(corpus.test), model, out, precision="float32").stale == 0
    assert score(str(corpus.test), model, out, precision="bfloat16").stale == 4
    score(str(corpus.test), model, out, precision="bfloat16", stale="rescan")
    (record,) = custody.records(out).values()
    assert record["precision"] == "bfloat16"


def test_gpus_compute_in_float16_unless_told() -> None:
    asked = [ScoreConfig(gpus=g).computes_in() for g in (0, 1)]
    assert asked == ["float32", "float16"]
    assert ScoreConfig(gpus=1, precision="float32").computes_in() == "float32"


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"float16 needs a GPU \(--gpus 1\): use float32, or"
    ) as told:
        build(ScoreConfig, {"precision": "float16"})
    assert "\n" not in str(told.value)
    build(ScoreConfig, {"precision": "float16", "gpus": 1})


def test_batches_are_sized_to_the_device() -> None:
    assert [ScoreConfig(gpus=g).faces_together() for g in (0, 1)] == [32, 256]
    assert ScoreConfig(gpus=1, batch_size=48).faces_together() == 48


# ---------------------------------------------------------------- triage


def with_triage(path: Path, deep_if: float) -> Path:
    loaded = load_model(make_model(path))
    quick = Calibration(
        scale=1.0, offset=0.0, reals=8, fakes=8, sampling=Sampling(frames=32, mode="keyframes")
    )
    triage = Triage(calibration=quick, deep_if=deep_if, flagged=400, recall=0.99)
    save_model(path, loaded.network, loaded.header.model_copy(update={"triage": triage}))
    return path


def test_what_key_frames_settle_is_not_looked_at_again(corpus: Corpus, tmp_path: Path) -> None:
    model = with_triage(tmp_path / "m.safetensors", deep_if=1.0)
    score(str(corpus.test), model, tmp_path / "v.parquet", triage=True, frames=5)
    for row in rows(tmp_path / "v.parquet").values():
        assert (row["look"], row["verdict"], row["threshold"]) == ("quick", "REAL", 1.0)
        assert [f["frame_index"] for f in row["frames"]] == [0]  # their one key frame


def test_what_is_not_clearly_real_has_the_full_look(corpus: Corpus, tmp_path: Path) -> None:
    model = with_triage(tmp_path / "m.safetensors", deep_if=0.0)
    score(str(corpus.test), model, tmp_path / "deep.parquet", triage=True, frames=5)
    score(str(corpus.test), model, tmp_path / "full.parquet", frames=5)
    deep, full = rows(tmp_path / "deep.parquet"), rows(tmp_path / "full.parquet")
    assert deep.keys() == full.keys()
    for name, row in deep.items():
        other = full[name]
        assert row["look"] == other["look"] == "full"
        for key in ("verdict", "score_raw", "frames", "threshold", "tracks"):
            assert row[key] == other[key]
        assert row["custody"]["recipe_hash"] == other["custody"]["recipe_hash"]
        assert row["custody"]["config_hash"] != other["custody"]["config_hash"]


def test_what_cannot_be_read_is_not_read_twice(
    tmp_path: Path, write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip("src/stripes.mp4").parent
    (source / "text.mp4").write_text("no video")
    model = with_triage(tmp_path / "m.safetensors", deep_if=1.0)
    seen: list[tuple[str, str]] = []
    usual = ScoreTask._score

    def noting(self: ScoreTask, videos: Any, scoring_pass: Any) -> Any:
        seen.extend((v.video_id, scoring_pass.name) for v in videos)
        return usual(self, videos, scoring_pass)

    monkeypatch.setattr(ScoreTask, "_score", noting)
    score(str(source), model, tmp_path / "v.parquet", triage=True)
    assert sorted(seen) == [
        ("src/stripes.mp4", "full"), ("src/stripes.mp4", "quick"), ("src/text.mp4", "quick"),
    ]  # fmt: skip
    assert rows(tmp_path / "v.parquet")["src/text.mp4"]["status"] == "not_video"


def test_triage_is_refused_where_its_misses_are_unknown(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="never compared with the full look's"):
        score(str(corpus.test), model, tmp_path / "v.parquet", triage=True)


def test_another_sampling_has_no_calibration(corpus: Corpus, model: Path, tmp_path: Path) -> None:
    score(str(corpus.test), model, tmp_path / "v.parquet", sampling="keyframes")
    for row in rows(tmp_path / "v.parquet").values():
        assert row["reason"] == "model_uncalibrated"
        assert [f["frame_index"] for f in row["frames"]] == [0]
