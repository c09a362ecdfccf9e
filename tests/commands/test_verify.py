import importlib.metadata
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import dfscan
from dfscan import storage
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.commands.verify import VerifyResult
from dfscan.commands.verify.reproducibility import Checked, Difference
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, ModelError, SourceError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, Triage, save_model
from dfscan.pipeline.sandbox.process import end_child
from dfscan.schemas.fingerprint import json_hash
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.scoring.calibration import Calibration
from dfscan.verdicts import provenance as custody

SAMPLING = Sampling(stride=Stride(real=30, fake=30))


def make_model(path: Path, seed: int = 0, deep_if: float = 0.0) -> Path:
    torch.manual_seed(seed)
    seen = network_input("mesoinception4", InputConfig(size=64))
    fitted = Calibration(
        scale=2.0, offset=0.5, reals=8, fakes=8, sampling=SAMPLING,
        top_reals=(0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
    )  # fmt: skip
    recipe = FaceRecipe(sampling=SAMPLING, input=seen)
    quick = fitted.model_copy(update={"scale": 3.0})
    triage = Triage(calibration=quick, deep_if=deep_if, flagged=9, recall=0.9)
    header = ModelHeader(
        backbone="mesoinception4", recipe=recipe, calibration=fitted, triage=triage
    )
    save_model(path, create_network("mesoinception4", 64), header)
    return path


def score(source: Any, model: Any, out: Path, **changes: Any) -> None:
    values = {"model": model, "out": out, "inline": True, "frames": 3, "isolate": False}
    dfscan.score(source, **(values | changes))


def verify(verdicts: Path, *video: str, model: Any, **changes: Any) -> VerifyResult:
    return dfscan.verify(
        str(verdicts), *video, **({"model": model, "inline": True, "isolate": False} | changes)
    )


def only(result: VerifyResult) -> Checked:
    (checked,) = result.videos
    return checked


def rewrite(path: Path, out: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    table = storage.read_table(path)
    rows = table.to_pylist()
    change(rows)
    storage.commit_table(out, pa.Table.from_pylist(rows, schema=table.schema))
    return out


def with_record(path: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same verdicts under another record, which they refer to by its own hash."""
    (record,) = custody.records(path).values()
    change(record)
    recipe = FaceRecipe.model_validate({k: v for k, v in record["recipe"].items() if k != "x"})
    inputs = {k: v for k, v in record.items() if k not in custody.FOLLOWING}
    name = json_hash({**inputs, "recipe": recipe.legacy_hash()})

    def refer(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["custody"]["config_hash"] = name

    table = storage.read_table(rewrite(path, out, refer))
    storage.commit_table(out, custody.with_records(table, {name: record}))
    return out


@dataclass(frozen=True)
class Scored:
    path: Path
    model: Path
    names: list[str]


@pytest.fixture(scope="module")
def scored(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Verdicts on the members of the corpus's test archive. Not to be written to."""
    folder = tmp_path_factory.mktemp("scored")
    model = make_model(folder / "model.safetensors")
    score(str(corpus.test), model, folder / "v.parquet")
    table = storage.read_table(folder / "v.parquet")
    names = [r["video_id"] for r in table.to_pylist() if len(r["frames"]) == 3]
    assert names
    return Scored(folder / "v.parquet", model, names)


@pytest.fixture
def stripes(tmp_path: Path, write_clip: Callable[..., Path]) -> Scored:
    """Three clips without a face, one file that is no video, and their null verdicts."""
    model = make_model(tmp_path / "model.safetensors")
    for name in "abc":
        clip = write_clip(f"src/{name}.mp4", frames=10 + ord(name))
    (clip.parent / "text.mp4").write_text("no video")
    score(str(clip.parent), model, tmp_path / "v.parquet")
    return Scored(tmp_path / "v.parquet", model, ["src/a.mp4", "src/b.mp4", "src/c.mp4"])


def test_verdicts_of_an_archive_agree_and_nothing_is_written(scored: Scored) -> None:
    before = {p.name: p.read_bytes() for p in scored.path.parent.iterdir()}
    assert all(".zip!/" in r["uri"] for r in storage.read_table(scored.path).to_pylist())
    result = verify(scored.path, model=scored.model, isolate=True)
    assert result.counts == {"agrees": 4, "differs": 0, "unchecked": 0}
    assert (result.exit_code, result.notes) == (0, [])
    assert {p.name: p.read_bytes() for p in scored.path.parent.iterdir()} == before


def frame(row: dict[str, Any], column: str, by: float) -> None:
    row["frames"][1][column] += by


TAMPERED: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("p_fake", lambda row: row.update(p_fake=row["p_fake"] + 0.01)),
    ("llr", lambda row: row.update(llr=row["llr"] + 0.01)),
    ("score_raw", lambda row: row.update(score_raw=row["score_raw"] + 0.01)),
    ("threshold", lambda row: row.update(threshold=0.9)),
    ("verdict", lambda row: row.update(verdict={"REAL": "FAKE"}.get(row["verdict"], "REAL"))),
    ("status", lambda row: row.update(status="partial")),
    ("reason", lambda row: row.update(reason="small_faces (3 pixels)")),
    ("frames[1].pts_s", lambda row: frame(row, "pts_s", 0.04)),
    ("frames[1].score_raw", lambda row: frame(row, "score_raw", 0.01)),
    ("frames[1].box", lambda row: row["frames"][1]["box"].reverse()),
    ("frames.frame_index", lambda row: frame(row, "frame_index", 1)),
    ("top_frames_s", lambda row: row.update(top_frames_s=[99.0])),
    ("custody.recipe_hash", lambda row: row["custody"].update(recipe_hash="0")),
    ("custody.models", lambda row: row["custody"]["models"].append("0" * 64)),
]


@pytest.mark.parametrize(("what", "change"), TAMPERED, ids=[what for what, _ in TAMPERED])
def test_a_changed_row_is_named(
    scored: Scored, tmp_path: Path, what: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    name = scored.names[0]

    def tamper(rows: list[dict[str, Any]]) -> None:
        change(next(r for r in rows if r["video_id"] == name))

    path = rewrite(scored.path, tmp_path / "v.parquet", tamper)
    result = verify(path, name, model=scored.model)
    checked = only(result)
    assert (checked.outcome, result.exit_code) == ("differs", 5)
    assert [d.what for d in checked.differences] == [what]
    assert checked.differences[0].recorded != checked.differences[0].found


def test_the_tolerance_is_the_users(scored: Scored, tmp_path: Path) -> None:
    name = scored.names[0]

    def tamper(rows: list[dict[str, Any]]) -> None:
        frame(next(r for r in rows if r["video_id"] == name), "score_raw", 0.01)

    path = rewrite(scored.path, tmp_path / "v.parquet", tamper)
    assert verify(path, name, model=scored.model, tolerance=0.02).exit_code == 0
    assert verify(path, name, model=scored.model, tolerance=0).exit_code == 5


def test_other_libraries_are_a_note(scored: Scored, tmp_path: Path) -> None:
    def older(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["custody"]["libraries"] = [{"key": "torch", "value": "0.1"}]

    path = rewrite(scored.path, tmp_path / "v.parquet", older)
    result = verify(path, scored.names[0], model=scored.model)
    assert result.exit_code == 0
    now = importlib.metadata.version("torch")
    assert f"torch 0.1 → {now} (1 of 1)" in result.notes
    assert f"torch 0.1 → {now}" in only(result).notes


def test_every_way_to_decide_is_replayed(corpus: Corpus, scored: Scored, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other.safetensors", seed=1)
    ways: list[dict[str, Any]] = [
        {"stride": "real=5,fake=4", "frames": None, "phase": 1, "threshold": 0.3},
        {"every": "0.2s", "frames": None, "at_fpr": 0.25},
        {"model": [other, scored.model], "aggregation": "trimmed", "min_frames": 2},
        {"decoder": "decord", "evidence": {"errors": 0, "frames": 0}},
        {"sampling": "keyframes", "threshold": 0.9},
        {"triage": True, "evidence": {"errors": 0, "frames": 0}},
    ]
    for number, way in enumerate(ways):
        out = tmp_path / f"{number}.parquet"
        score(str(corpus.test), out=out, **({"model": scored.model} | way))
        result = verify(out, scored.names[0], model=[scored.model, other])
        assert (only(result).outcome, result.notes) == ("agrees", []), (way, result.videos)


def test_a_quick_look_is_replayed(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", deep_if=1.0)
    out = tmp_path / "v.parquet"
    score(str(corpus.test), model, out, triage=True, evidence={"errors": 0, "frames": 0})
    looks = {r["video_id"]: r["look"] for r in storage.read_table(out).to_pylist()}
    name = next(name for name, look in looks.items() if look == "quick")
    result = verify(out, name, model=model)
    assert (only(result).outcome, result.notes) == ("agrees", [])


@pytest.fixture(scope="module")
def halved(scored: Scored, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """The same verdicts in bfloat16. Not to be written to."""
    out = tmp_path_factory.mktemp("halved") / "v.parquet"
    score(str(corpus.test), scored.model, out, precision="bfloat16")
    return replace(scored, path=out)


def as_float16(halved: Scored, out: Path) -> Path:
    """Verdicts as a card would have written them."""

    def say(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["custody"]["precision"] = "float16"

    with_record(halved.path, out, lambda record: record.update(precision="float16"))
    return rewrite(out, out, say)


def test_half_precision_is_replayed(halved: Scored) -> None:
    result = verify(halved.path, model=halved.model)
    assert result.counts == {"agrees": 4, "differs": 0, "unchecked": 0}
    assert result.notes == ["scored in bfloat16: logits to 0.25 (4 of 4)"]
    exact = verify(halved.path, model=halved.model, tolerance=1e-5)  # the same arithmetic here
    assert exact.counts["agrees"] == 4
    assert exact.notes == ["scored in bfloat16: logits to 1e-05 (4 of 4)"]


def test_rounding_that_sends_a_video_another_way_is_no_difference(
    scored: Scored, corpus: Corpus, tmp_path: Path
) -> None:
    out, moved = tmp_path / "v.parquet", tmp_path / "moved.parquet"
    ways = {"triage": True, "evidence": {"errors": 0, "frames": 0}}
    score(str(corpus.test), scored.model, out, precision="bfloat16", **ways)

    def other_look(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["look"] = {"quick": "full", "full": "quick"}[row["look"]]

    assert verify(rewrite(out, moved, other_look), model=scored.model).counts["unchecked"] == 4
    score(str(corpus.test), scored.model, out, stale="rescan", **ways)
    rewrite(out, moved, other_look)
    assert verify(moved, model=scored.model).counts["differs"] == 4


def test_float16_is_compared_with_float32_where_there_is_no_gpu(
    halved: Scored, tmp_path: Path
) -> None:
    path = as_float16(halved, tmp_path / "v.parquet")
    result = verify(path, model=halved.model)
    assert result.counts == {"agrees": 4, "differs": 0, "unchecked": 0}
    assert result.notes == [
        "precision float16 → float32 (4 of 4)",
        "scored in float16: logits to 0.1 (4 of 4)",
    ]
    assert verify(path, model=halved.model, tolerance=1e-5).counts["differs"] > 0


@pytest.mark.parametrize(("by", "outcome"), [(0.2, "agrees"), (0.3, "differs")])
def test_how_far_half_precision_may_be_off(
    halved: Scored, tmp_path: Path, by: float, outcome: str
) -> None:
    name = halved.names[0]

    def tamper(rows: list[dict[str, Any]]) -> None:
        row = next(r for r in rows if r["video_id"] == name)
        for part in (row, *row["frames"], *row["tracks"]):
            part["score_raw"] += by

    path = rewrite(halved.path, tmp_path / "v.parquet", tamper)
    assert only(verify(path, name, model=halved.model)).outcome == outcome


def test_rounding_may_move_a_verdict_across_the_threshold_and_nothing_else_may(
    corpus: Corpus, scored: Scored, tmp_path: Path
) -> None:
    name, out = scored.names[0], tmp_path / "v.parquet"
    p_fake = _of(storage.read_table(scored.path), name)["p_fake"]
    no_more = {"frames": 0, "errors": 0, "sharpness": 0, "face_px": 0}
    threshold = p_fake + 1e-4
    score(
        str(corpus.test), scored.model, out,
        precision="bfloat16", threshold=threshold, evidence=no_more,
    )  # fmt: skip
    verdict = _of(storage.read_table(out), name)["verdict"]

    def move(by: float, verdict: str) -> Callable[[list[dict[str, Any]]], None]:
        def change(rows: list[dict[str, Any]]) -> None:
            row = next(r for r in rows if r["video_id"] == name)
            for part in (row, *row["frames"], *row["tracks"]):
                part["score_raw"] += by
            row["verdict"] = verdict

        return change

    other = {"REAL": "FAKE", "FAKE": "REAL"}[verdict]
    far = 0.1 if other == "FAKE" else -0.1
    crossed = rewrite(out, tmp_path / "crossed.parquet", move(far, other))
    assert only(verify(crossed, name, model=scored.model)).outcome == "agrees"
    lied = rewrite(out, tmp_path / "lied.parquet", move(0.0, other))
    (difference,) = only(verify(lied, name, model=scored.model)).differences
    assert (difference.what, difference.recorded) == ("verdict", other)


def test_a_precision_that_the_record_does_not_know(
    scored: Scored, halved: Scored, tmp_path: Path
) -> None:
    def say(precision: str) -> Callable[[list[dict[str, Any]]], None]:
        return lambda rows: [r["custody"].update(precision=precision) for r in rows] and None

    name = scored.names[0]
    for source, precision, recorded in (
        (scored, "bfloat16", "float32"),
        (halved, "float32", "bfloat16"),
    ):
        path = rewrite(source.path, tmp_path / "v.parquet", say(precision))
        (difference,) = only(verify(path, name, model=scored.model)).differences
        assert difference == Difference("custody.precision", precision, recorded)


def _of(table: pa.Table, name: str) -> dict[str, Any]:
    return next(row for row in table.to_pylist() if row["video_id"] == name)


def test_null_verdicts_agree_too(stripes: Scored) -> None:
    result = verify(stripes.path, model=stripes.model)
    assert result.counts == {"agrees": 4, "differs": 0, "unchecked": 0}
    assert {r["verdict"] for r in storage.read_table(stripes.path).to_pylist()} == {None}


def test_another_content_differs_and_a_file_that_is_gone_cannot_be_checked(
    stripes: Scored, write_clip: Callable[..., Path]
) -> None:
    write_clip("src/a.mp4", frames=7)
    (stripes.path.parent / "src" / "b.mp4").unlink()
    os.utime(stripes.path.parent / "src" / "c.mp4")  # another time is no other content
    result = verify(stripes.path, model=stripes.model)
    a, b, c, _ = result.videos
    assert a.differences[0].what == "content_sha256"
    assert a.differences[0].found == storage.sha256(
        (stripes.path.parent / "src" / "a.mp4").read_bytes()
    )
    assert (b.outcome, c.outcome) == ("unchecked", "agrees")
    assert b.reason is not None
    assert "there is no file at" in b.reason
    assert result.exit_code == 5
    assert verify(stripes.path, "src/b.mp4", model=stripes.model).exit_code == 3
    assert verify(stripes.path, "src/b.mp4", model=stripes.model, max_failed=1).exit_code == 0


def test_a_member_that_changed_and_one_that_is_gone(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    model = make_model(tmp_path / "model.safetensors")
    for names in ("abc", "ab"):
        with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
            for name in names:
                clip = write_clip(f"{name}.mp4", frames=len(names) if name == "b" else 9)
                archive.write(clip, f"part/{name}.mp4")
        if names == "abc":
            score(str(tmp_path / "part.zip"), model, tmp_path / "v.parquet")
    outcomes = {
        c.video_id[-5]: c.outcome for c in verify(tmp_path / "v.parquet", model=model).videos
    }
    assert outcomes == {"a": "agrees", "b": "differs", "c": "unchecked"}


def test_another_model_cannot_check(stripes: Scored, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other.safetensors", seed=1)
    result = verify(stripes.path, "src/a.mp4", model=other)
    assert (only(result).outcome, result.exit_code) == ("unchecked", 3)
    assert only(result).reason == (
        f"scored by another model (SHA-256 {storage.sha256(stripes.model.read_bytes())[:16]}…; "
        f"given {storage.sha256(other.read_bytes())[:16]}…)"
    )
    with pytest.raises(ModelError, match="no model: give --model"):
        verify(stripes.path, model=())
    other.write_bytes(b"no model")
    with pytest.raises(ModelError, match="not a safetensors file"):
        verify(stripes.path, model=other)


def test_what_a_machine_did_not_manage_cannot_be_checked(
    stripes: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: list[dict[str, Any]]) -> None:
        for row, status in zip(rows, ("missing", "crashed", "timeout"), strict=False):
            row["status"] = status

    path = rewrite(stripes.path, tmp_path / "failed.parquet", fail)
    result = verify(path, *stripes.names, model=stripes.model)
    reasons = [c.reason for c in result.videos]
    assert reasons == [f"was {s} when it was scored" for s in ("missing", "crashed", "timeout")]
    monkeypatch.setenv("DFSCAN_FAULTS", "child.look@a.mp4=sleep")
    end_child()  # the next one has the fault
    now = verify(stripes.path, "src/a.mp4", model=stripes.model, isolate=True, timeout=0.1)
    assert only(now).outcome == "unchecked"
    assert (only(now).reason or "").startswith("is timeout now")
    shutil.copy(stripes.path.parent / "src" / "b.mp4", stripes.path.parent / "src" / "a.mp4")
    now = verify(stripes.path, "src/a.mp4", model=stripes.model, isolate=True, timeout=0.1)
    assert [d.what for d in only(now).differences] == ["content_sha256"]
    end_child()


def test_a_sample_is_chosen_by_its_seed(stripes: Scored) -> None:
    def chosen(seed: int) -> list[str]:
        result = verify(stripes.path, model=stripes.model, sample=2, seed=seed)
        return [c.video_id for c in result.videos]

    assert len(chosen(0)) == 2
    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(6)}) > 1
    assert len(verify(stripes.path, model=stripes.model, sample=99).videos) == 4
    with pytest.raises(ConfigError, match="video and sample exclude each other"):
        verify(stripes.path, "src/a.mp4", model=stripes.model, sample=1)


def test_a_file_that_does_not_say_how_it_was_scored(stripes: Scored, tmp_path: Path) -> None:
    old = tmp_path / "old.parquet"
    table = storage.read_table(stripes.path)
    metadata = {k: v for k, v in table.schema.metadata.items() if k != custody.KEY}
    storage.commit_table(old, table.replace_schema_metadata(metadata))
    with pytest.raises(SourceError, match=r"does not say how it was scored .*--overwrite") as told:
        verify(old, model=stripes.model)
    assert "\n" not in str(told.value)
    for damaged in (b"[", b"[]", b'{"a": 1}', b'{"a": {"models": 1}}'):
        other = table.replace_schema_metadata(metadata | {custody.KEY: damaged})
        storage.commit_table(old, other)
        with pytest.raises(SourceError, match=r"\(metadata dfscan\.score\) is damaged"):
            verify(old, model=stripes.model)
    storage.commit_table(old, table.replace_schema_metadata(metadata | {custody.KEY: b"{}"}))
    with pytest.raises(SourceError, match="does not say how it was scored"):
        verify(old, model=stripes.model)


def test_what_is_no_verdict_file(stripes: Scored, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no verdicts at"):
        verify(tmp_path / "nothing.parquet", model=stripes.model)
    table = storage.read_table(stripes.path)
    bad = tmp_path / "bad.parquet"
    storage.commit_table(bad, table.replace_schema_metadata(None))
    with pytest.raises(SourceError, match="holds no verdicts of dfscan"):
        verify(bad, model=stripes.model)
    storage.commit_table(bad, pa.concat_tables([table, table]))
    with pytest.raises(SourceError, match=r"several rows of src/a\.mp4"):
        verify(bad, model=stripes.model)
    storage.commit_table(bad, table.drop_columns(["frames"]))
    with pytest.raises(SourceError, match="has no column frames"):
        verify(bad, model=stripes.model)
    storage.commit_table(bad, table.slice(0, 0))
    with pytest.raises(SourceError, match="nothing to verify"):
        verify(bad, model=stripes.model)
    with pytest.raises(SourceError, match=r"no row of 'src/d\.mp4': did you mean"):
        verify(stripes.path, "src/d.mp4", model=stripes.model)


def test_a_changed_record_is_a_difference(stripes: Scored, tmp_path: Path) -> None:
    records = custody.records(stripes.path)
    for record in records.values():
        record["max_bytes"] += 1
    path = tmp_path / "v2.parquet"
    table = storage.read_table(stripes.path)
    storage.commit_table(path, custody.with_records(table, records))
    result = verify(path, "src/a.mp4", model=stripes.model)
    assert result.exit_code == 5
    assert "record of how it was scored" in only(result).differences[0].what


def test_a_configuration_of_another_dfscan(stripes: Scored, tmp_path: Path) -> None:
    path = tmp_path / "v2.parquet"
    with_record(stripes.path, path, lambda record: record.update(unheard_of=1))
    checked = only(verify(path, "src/a.mp4", model=stripes.model))
    assert checked.outcome == "unchecked"
    assert "cannot be had here (unheard_of: 1 → null)" in (checked.reason or "")
    with_record(stripes.path, path, lambda record: record["recipe"].update(x=1))
    checked = only(verify(path, "src/a.mp4", model=stripes.model))
    assert (checked.reason or "").startswith("its recorded recipe.x is not known here")
    with_record(stripes.path, path, lambda record: record.pop("aggregation"))
    result = verify(path, "src/a.mp4", model=stripes.model)
    assert result.notes == ['aggregation not recorded → "mean" (1 of 1)']
    assert result.exit_code == 0


def test_the_record_is_kept_while_a_row_refers_to_it(
    stripes: Scored, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = stripes.path.parent / "src"
    (first,) = custody.records(stripes.path)
    other = make_model(tmp_path / "other.safetensors", seed=1)
    write_clip("src/a.mp4", frames=7)
    score(str(source), other, stripes.path)
    both = custody.records(stripes.path)
    assert len(both) == 2
    outcomes = [c.outcome for c in verify(stripes.path, model=[stripes.model, other]).videos]
    assert outcomes == ["agrees"] * 4
    one = [c.outcome for c in verify(stripes.path, model=other).videos]
    assert one == ["agrees", "unchecked", "unchecked", "unchecked"]
    dfscan.purge(str(stripes.path), "src/a.mp4")
    assert verify(stripes.path, model=stripes.model).counts["agrees"] == 3
    for name in "bc":
        write_clip(f"src/{name}.mp4", frames=7)
    (source / "text.mp4").write_text("no video either")
    score(str(source), other, stripes.path)
    assert first not in custody.records(stripes.path)
    assert len(custody.records(stripes.path)) == 1


def test_the_record_holds_all_that_decides(stripes: Scored) -> None:
    (record,) = custody.records(stripes.path).values()
    assert record["recipe"]["sampling"]["frames"] == 3
    assert record["models"] == [storage.sha256(stripes.model.read_bytes())]
    assert {"threshold", "forced", "min_frames", "max_bytes"} <= record.keys()
    assert json.loads(storage.read_table(stripes.path).schema.metadata[b"dfscan.score"])
