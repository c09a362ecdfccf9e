"""Files that dfscan 0.1.0 wrote, read by the code of today (see fixtures/v1/README.md).

The files name /data/dfscan-fixture, which is not there. Where media are needed, the clips lie
elsewhere, as they would for a user who has moved an archive.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dfscan
from dfscan.cli import main
from dfscan.schemas.evolution import conform
from dfscan.schemas.records import VERDICT_SCHEMA

FIXTURES = Path(__file__).parent / "fixtures" / "v1"
CLIPS = "clips/dfdc_test"
FAKE = "dfdc_test/bjmnyiypni.mp4"
REAL = "dfdc_test/wcxkbspjaf.mp4"
LABELS = {"REAL": 8, "FAKE": 8}
Command = Callable[..., int]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all of them, which is the working folder."""
    copy = tmp_path / "v1"
    shutil.copytree(FIXTURES, copy)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return copy


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process; returns the exit code."""

    def call(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dfscan", *args])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def rows(path: str) -> dict[str, dict[str, Any]]:
    """By video, verdicts with the columns of today."""
    table = pq.read_table(path)
    if table.schema.metadata[b"dfscan"] == b"verdicts":
        table = conform(table, VERDICT_SCHEMA)
    return {row["video_id"]: row for row in table.to_pylist()}


def count(path: str, column: str) -> Counter[str]:
    return Counter(row[column] for row in rows(path).values())


INSPECTED = {
    "faces": ("face dataset", {"videos": 16, "faces": 64, "label": LABELS, "finished": True}),
    "run": ("run folder with a model", {"epochs done": 40, "finished": True}),
    "run/model.safetensors": ("model", {"backbone": "meso4", "calibrated": False}),
    "other.safetensors": ("model", {"backbone": "mesoinception4", "calibrated": False}),
    "calibrated.safetensors": ("model", {"backbone": "meso4", "calibrated": True}),
    "run/export": ("export", {"finished": True}),
    "run/export/model.onnx": ("exported model", {"backbone": "meso4", "format": "onnx"}),
    "verdicts.parquet": (
        "table of verdicts",
        {"rows": 16, "label": LABELS, "verdict": {"FAKE": 3, "REAL": 9, "UNCERTAIN": 4}},
    ),
    "verdicts": (
        "folder of verdicts",
        {"rows": 16, "label": LABELS, "verdict": {"FAKE": 3, "REAL": 9, "UNCERTAIN": 4}},
    ),
    "ensemble.parquet": (
        "table of verdicts",
        {"rows": 16, "verdict": {"FAKE": 6, "REAL": 8, "UNCERTAIN": 2}},
    ),
    "quick.parquet": ("table of verdicts", {"rows": 16, "verdict": {"UNCERTAIN": 16}}),
    "evaluation": ("evaluation", {}),
    "stress": ("stress test", {"finished": True, "conditions done": ["crf40", "original"]}),
    "clips": ("source", {"videos and pictures": 32, "label": {"REAL": 16, "FAKE": 16}}),
}


@pytest.mark.parametrize("path", INSPECTED)
def test_inspect(path: str) -> None:
    found = dfscan.inspect(path)
    kind, facts = INSPECTED[path]
    assert found.kind == kind
    assert {name: found.facts.get(name) for name in facts} == facts


@pytest.mark.parametrize("path", ["verdicts.parquet", "verdicts"])
def test_history_is_read_as_verdicts(path: str) -> None:
    (file,) = Path(f"{path}.history").iterdir()
    found = dfscan.inspect(str(file))
    assert found.facts["rows"] == 16
    assert found.facts["verdict"] == {"UNCERTAIN": 16}


@pytest.mark.parametrize("name", ["dfscan.yaml", "config/as_init_wrote_it.yaml"])
def test_a_configuration_is_taken(
    name: str, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("score", "--config", name, "--model", "run", "--dry-run", "--json") == 0
    assert json.loads(capfd.readouterr().out)["videos"] == 16
    assert command("report", "faces", "--config", name, "--json") == 0


# ---------------------------------------------------------------- faces and models


def test_extract_goes_on_with_the_dataset(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("extract", "--json", "-q") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["videos"], found["new"], found["counts"]["faces"]) == (16, 0, 64)


def test_train_on_the_dataset() -> None:
    result = dfscan.train(
        "faces",
        out="new",
        backbone="meso4",
        input={"size": 64},
        epochs=1,
        batch_size=16,
        inline=True,
    )
    assert len(result.history) == 1
    assert sum(s["faces"] for s in result.metrics["split"].values()) == 64
    assert dfscan.inspect("new").kind == "run folder with a model"


def test_train_takes_every_key(command: Command) -> None:
    assert command("train", "--out", "new", "-q") == 0
    assert dfscan.inspect("new").facts["epochs done"] == 2


def test_a_finished_run_is_not_written_over(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    before = Path("run/model.safetensors").read_bytes()
    assert command("train", "-q") == 2
    assert "finished" in capfd.readouterr().err
    assert Path("run/model.safetensors").read_bytes() == before


def test_evaluate_faces() -> None:
    result = dfscan.evaluate("faces", model="run", out="new", resamples=100, faces=0)
    assert result.metrics["by_frame"]["auc"] == pytest.approx(0.997, abs=0.002)


def test_export() -> None:
    result = dfscan.export("run", out="new", faces="faces")
    assert [row["format"] for row in result.rows] == ["original", "onnx"]
    assert result.rows[1]["max_delta"] < 1e-4
    assert result.faces["compared"] == 64


def test_purge_faces() -> None:
    video = next(iter(rows(str(next(Path("faces/videos").iterdir())))))
    result = dfscan.purge("faces", video)
    assert (result.rows, result.faces, result.exit_code) == (1, 4, 0)
    assert dfscan.inspect("faces").facts["faces"] == 60


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("path", ["verdicts.parquet", "verdicts", "ensemble.parquet"])
def test_evaluate(path: str) -> None:
    result = dfscan.evaluate(path, out="new", resamples=100, faces=0)
    before = json.loads(Path("evaluation/metrics.json").read_text())
    assert result.metrics["by_video"]["auc"] > 0.7
    if path == "verdicts.parquet":
        assert result.metrics["by_video"]["auc"] == before["by_video"]["auc"]
        assert result.metrics["by_frame"]["auc"] == before["by_frame"]["auc"]
    assert pq.read_metadata("new/rows.parquet").num_rows == 16


def test_evaluate_against_others() -> None:
    result = dfscan.evaluate(
        "verdicts", against="ensemble.parquet", out="new", resamples=100, faces=0
    )
    assert result.exit_code == 0
    assert dfscan.inspect("new").kind == "evaluation"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("faces", "face dataset"),
        ("run", "run"),
        ("verdicts.parquet", "verdicts"),
        ("verdicts", "verdicts"),
        ("evaluation", "evaluation"),
    ],
)
def test_report(path: str, kind: str, tmp_path: Path) -> None:
    result = dfscan.report(path, out=str(tmp_path / "page.html"), faces=4, isolate=False)
    assert kind in result.kind
    assert "</html>" in (tmp_path / "page.html").read_text()
    assert result.faces == (4 if path in ("faces", "run") else 0)  # no clip is where it was


def test_calibrate() -> None:
    (first,) = Path("verdicts.parquet.history").iterdir()
    result = dfscan.calibrate("run", str(first), out="new.safetensors")
    before = dfscan.inspect("calibrated.safetensors").facts
    after = dfscan.inspect("new.safetensors").facts
    assert after["calibrated"]
    assert after["threshold"] == pytest.approx(before["threshold"], abs=1e-6)
    assert result.rows["used"] == 16


def test_score_knows_moved_clips_and_verify_agrees(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    before = rows("verdicts.parquet")
    lost = dfscan.verify("verdicts.parquet", model="calibrated.safetensors", inline=True)
    assert (lost.counts, lost.exit_code) == ({"agrees": 0, "differs": 0, "unchecked": 16}, 3)

    assert command("score", "--json", "-q") == 0
    assert json.loads(capfd.readouterr().out)["recognised"] == 16
    after = rows("verdicts.parquet")
    assert after.keys() == before.keys()
    for name, row in after.items():
        assert row["uri"] == str(Path(CLIPS, Path(name).name).absolute())
        same = ("label", "verdict", "score_raw", "threshold", "frames", "custody")
        assert [row[key] for key in same] == [before[name][key] for key in same]

    found = dfscan.verify(
        "verdicts.parquet", FAKE, REAL, model="calibrated.safetensors", inline=True, isolate=False
    )
    assert found.counts == {"agrees": 2, "differs": 0, "unchecked": 0}
    assert dfscan.report("verdicts.parquet", faces=4, isolate=False).faces == 4


@pytest.mark.parametrize(
    ("path", "models", "config"),
    [
        ("ensemble.parquet", ["calibrated.safetensors", "other.safetensors"], {"threshold": 0.5}),
        ("quick.parquet", ["calibrated.safetensors"], {"sampling": "keyframes"}),
    ],
)
def test_verdicts_of_two_models_and_of_key_frames(
    path: str, models: list[str], config: dict[str, Any]
) -> None:
    before = {name: row["p_fake"] for name, row in rows(path).items()}
    result = dfscan.score(CLIPS, model=models, out=path, frames=4, inline=True, **config)
    assert (result.videos, result.recognised) == (16, 16)
    assert {name: row["p_fake"] for name, row in rows(path).items()} == before
    found = dfscan.verify(path, FAKE, model=models, inline=True, isolate=False)
    assert found.counts == {"agrees": 1, "differs": 0, "unchecked": 0}


@pytest.mark.parametrize("out", ["verdicts.parquet", "verdicts/"])
def test_score_adds_to_verdicts(out: str) -> None:
    frames = 6 if out == "verdicts.parquet" else 4
    shutil.unpack_archive("clips/dfdc_train_part_00.zip", "more")
    new = sorted(Path("more/dfdc_train_part_0").glob("*.mp4"))[0]
    shutil.copy(new, CLIPS)
    result = dfscan.score(
        CLIPS, model="calibrated.safetensors", out=out, frames=frames, inline=True, isolate=False
    )
    assert (result.videos, result.new, result.recognised) == (17, 1, 16)
    assert dfscan.inspect(out.rstrip("/")).facts["rows"] == 17


def test_score_goes_on_where_it_was_killed() -> None:
    out = "interrupted/verdicts.parquet"
    result = dfscan.score(
        CLIPS, model="calibrated.safetensors", out=out, frames=4, inline=True, isolate=False
    )
    assert (result.videos, result.recognised) == (16, 8)
    assert count(out, "label") == LABELS
    whole = rows("verdicts/verdicts-00000.parquet")
    assert {n: r["verdict"] for n, r in rows(out).items()} == {
        n: r["verdict"] for n, r in whole.items()
    }
    assert not Path(f"{out}.parts").exists()


@pytest.mark.parametrize("path", ["verdicts.parquet", "verdicts"])
def test_purge_verdicts_and_their_history(path: str) -> None:
    result = dfscan.purge(path, FAKE)
    assert (result.rows, result.exit_code) == (2, 0)
    (old,) = Path(f"{path}.history").iterdir()
    assert dfscan.inspect(path).facts["rows"] == dfscan.inspect(str(old)).facts["rows"] == 15


def test_a_stress_folder_is_compared(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """The source is elsewhere, and that alone is what differs."""
    assert command("stress", "-q") == 2
    told = capfd.readouterr().err
    assert "another configuration (source: " in told
    assert told.count(" → ") == 1
    assert count("stress/verdicts/crf40.parquet", "label").total() == 4
