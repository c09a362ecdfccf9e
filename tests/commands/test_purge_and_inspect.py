import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from support.faces import person, write_faces
from support.verdicts import make_model
from support.weights import keras_arrays, write_hdf5

import dfscan
from dfscan import inspect, purge, storage
from dfscan.cli import main
from dfscan.commands import export as export_job
from dfscan.commands import extract as extract_job
from dfscan.commands import stress as stress_job
from dfscan.commands import train as train_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.extract import ExtractConfig
from dfscan.errors import ModelError, OutputError, SourceError
from dfscan.evaluation import verdict_data as evaluate_rows
from dfscan.models.exporters.litert import with_facts
from dfscan.pipeline.progress import Progress
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.storage.committing import TEMPORARY
from dfscan.training import results as train_results


@pytest.fixture
def dataset(corpus: Corpus, tmp_path: Path) -> Path:
    out = tmp_path / "faces"
    config = ExtractConfig(
        source=str(corpus.parts[0]),
        out=str(out),
        stride="4",
        inline=True,
        detector={"name": "none"},
    )
    extract_job.run(config, Progress())
    return out


def ids(folder: Path) -> list[str]:
    return [r["video_id"] for _, t in storage.read_tables(folder) for r in t.to_pylist()]


def test_a_purged_original_leaves_no_row_no_face_and_true_counts(dataset: Path) -> None:
    videos = [r for _, t in storage.read_tables(dataset / "videos") for r in t.to_pylist()]
    original = next(v for v in videos if v["label"] == "REAL")
    told: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            told.append(message)

    result = purge(str(dataset), original["video_id"], progress=Told())
    assert (result.rows, result.faces) == (1, original["faces"])
    assert result.made_from_it == 1
    assert any("1 fake(s) made from the purged are still there" in n for n in told)
    assert original["video_id"] not in ids(dataset / "videos") + ids(dataset / "faces")
    header = json.loads((dataset / "dataset.json").read_text())
    assert header["counts"]["videos"] == len(ids(dataset / "videos")) == len(videos) - 1
    assert header["counts"]["faces"] == len(ids(dataset / "faces"))
    assert header["finished"] is True
    again = purge(str(dataset), original["video_id"])
    assert (again.rows, again.missing, again.exit_code) == (0, [original["video_id"]], 2)


def test_a_dataset_in_use_is_not_purged(dataset: Path) -> None:
    with (
        storage.Lock(dataset / ".dfscan.lock", dataset),
        pytest.raises(OutputError, match="in use by another dfscan run"),
    ):
        purge(str(dataset), "x")


def test_verdicts_are_purged(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    rows = [dict.fromkeys(VERDICT_SCHEMA.names) | {"video_id": name} for name in ("a", "b")]
    storage.commit_table(path, pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA))
    assert purge(str(path), "a").rows == 1
    assert storage.read_table(path).column("video_id").to_pylist() == ["b"]


def test_what_a_killed_run_left_is_purged_and_nobody_elses_file(tmp_path: Path) -> None:
    path, parts = tmp_path / "v.parquet", tmp_path / "v.parquet.parts"
    storage.commit_table(path, VERDICT_SCHEMA.empty_table())
    parts.mkdir()
    ours = [
        tmp_path / f".v.parquet{TEMPORARY}1", tmp_path / f".v.parquet.lock{TEMPORARY}4",
        parts / f".unit.parquet{TEMPORARY}2",
    ]  # fmt: skip
    other = tmp_path / f".w.parquet{TEMPORARY}3"
    for file in (*ours, other):
        file.touch()
        os.utime(file, (1, 1))
    purge(str(path), "a")
    assert not any(file.exists() for file in ours)
    assert other.exists()


def test_only_verdicts_and_datasets_are_purged(dataset: Path, tmp_path: Path) -> None:
    unit = next((dataset / "videos").iterdir())
    with pytest.raises(SourceError, match="holds no verdicts of dfscan"):
        purge(str(unit), "a")
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(SourceError, match="is not a readable Parquet file"):
        purge(str(tmp_path / "x.parquet"), "a")


def test_a_dataset_without_a_committed_unit_can_be_purged(dataset: Path) -> None:
    for unit in (dataset / "videos").iterdir():
        unit.unlink()
    (dataset / "faces" / f".x.parquet{TEMPORARY}1").write_bytes(b"faces of a run that was killed")
    result = purge(str(dataset), "a")
    assert (result.rows, result.missing) == (0, ["a"])
    assert list((dataset / "faces").iterdir()) == []


@pytest.mark.parametrize("path", ["nothing.parquet", "nothing", "."])
def test_what_cannot_be_purged_says_so(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceError, match=r"does not exist|neither a face dataset"):
        purge(str(tmp_path / path), "a")
    with pytest.raises(SourceError, match="no video: name one"):
        purge(str(tmp_path / path))


def test_inspecting_a_dataset_an_archive_and_a_clip(
    corpus: Corpus, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect(str(dataset))
    assert found.kind == "face dataset"
    assert found.facts["finished"] is True
    assert found.facts["videos"] == 6
    assert found.facts["detector"]["name"] == "none"
    part = inspect(str(corpus.parts[0]))
    assert part.kind == "source"
    assert part.facts["layout"] == "dfdc"
    assert part.facts["label"] == {"FAKE": 3, "REAL": 3}
    assert part.facts["fakes whose original is here"] == 3
    files = sorted((dataset / "videos").glob("*.parquet"))
    table = inspect(str(files[0]))
    assert (table.kind, table.facts["rows"]) == ("table of videos", 6)
    with pytest.raises(SystemExit) as stopped:
        main_with("inspect", str(dataset))
    assert not stopped.value.code
    assert "face dataset" in capsys.readouterr().out


def test_inspecting_one_clip_shows_what_extract_would_write(write_clip, tmp_path: Path) -> None:
    clip = inspect(str(write_clip(frames=40)))
    assert clip.kind == "video or picture"
    assert clip.facts["codec"] == "h264"
    assert (clip.facts["frames_decoded"], clip.facts["status"]) == (40, "no_face")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a little, without plots; every run of a test on the same faces."""
    faces = write_faces(tmp_path / "trained on", [r for n in "abcdef" for r in person(n)]).root
    monkeypatch.setattr(train_results, "_draw", lambda *_: None)
    settings = {"backbone": "cnn1", "epochs": 2, "batch_size": 8, "val_fraction": 0.34}

    def go(name: str, **changes: Any) -> Path:
        out = tmp_path / name
        asked = settings | {"inline": True, "workers": 1, "input": {"size": 64}} | changes
        dfscan.train(str(faces), out=str(out), **asked)
        return out

    return go


def test_inspecting_a_run_its_export_and_the_exported_files(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("run")
    found = inspect(str(run))
    metrics = json.loads((run / "metrics.json").read_text())
    assert (found.kind, found.facts["finished"]) == ("run folder with a model", True)
    assert (found.facts["epochs done"], found.facts["epochs planned"]) == (2, 2)
    assert found.facts["weights of epoch"] == metrics["best_epoch"]
    assert found.facts["faces by side"].keys() >= {"train", "validation"}
    assert found.facts["backbone"] == "cnn1"
    rows = [r for r in found.rows if r["side"] == "validation"]
    assert [r["by"] for r in rows] == ["video", "frame"]
    assert rows[0]["auc"] == metrics["validation"]["by_video"]["auc"]

    monkeypatch.setattr(export_job, "_ROUNDS", 1)
    made = dfscan.export(str(run), formats=("torchscript",))
    found = inspect(made.out)
    assert (found.kind, found.facts["of the model"]) == ("export", "model.safetensors")
    assert found.facts["model SHA-256"] == metrics["model_sha256"]
    assert [r["format"] for r in found.rows] == ["original", "torchscript"]
    row = made.rows[1]
    file = Path(made.out) / row["file"]
    found = inspect(str(file))
    assert (found.kind, found.facts["format"]) == ("exported model", "torchscript")
    assert found.facts["exported from"] == "model.safetensors"
    assert found.facts["model SHA-256"] == metrics["model_sha256"]
    assert found.facts["logits differ by up to"] == row["max_delta"]
    assert (found.facts["backbone"], found.facts["input"]["size"]) == ("cnn1", 64)
    facts = inspect(str(file.rename(run / "renamed.pt"))).facts
    assert facts["model SHA-256"] == metrics["model_sha256"]
    assert "exported from" not in facts
    with pytest.raises(SystemExit) as stopped:
        main_with("inspect", made.out)
    assert not stopped.value.code
    assert "torchscript" in capsys.readouterr().out


def test_inspecting_an_unfinished_run_and_a_series(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = inspect(str(train("folds", folds=2, epochs=1)))
    assert (series.kind, series.facts["finished"]) == ("series of runs", True)
    assert [r["run"] for r in series.rows] == ["fold_0", "fold_1"]

    class Killed(BaseException):
        pass

    def die(out: Path, plan: Any) -> None:
        raise Killed

    monkeypatch.setattr(train_job, "finalize_run", die)
    with pytest.raises(Killed):
        train("killed", epochs=3)
    found = inspect(str(train_job.storage.as_path(series.path).parent / "killed"))
    assert (found.kind, found.facts["finished"]) == ("unfinished run folder", False)
    assert (found.facts["epochs done"], found.facts["epochs planned"]) == (3, 3)
    assert found.facts["checkpoint"] is True
    assert found.facts["to go on"] == "the same dfscan train"


def test_inspecting_a_stress_test_and_an_evaluation(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", detector="none")
    asked = {"inline": True, "frames": 2, "isolate": False}
    out = str(tmp_path / "stress")
    done = dfscan.stress(str(model), str(corpus.test), out=out, conditions=("half",), **asked)
    found = inspect(out)
    assert (found.kind, found.facts["finished"]) == ("stress test", True)
    assert found.facts["conditions done"] == ["half", "original"]
    assert [(r["condition"], r["videos"]) for r in found.rows] == [("original", 4), ("half", 4)]
    assert found.rows[1]["auc"] == done.rows[1]["auc"]
    verdicts = str(Path(out) / "verdicts" / "original.parquet")
    out = str(tmp_path / "evaluation")
    metrics = dfscan.evaluate(verdicts, out=out, resamples=100, faces=0).metrics
    found = inspect(out)
    assert (found.kind, found.facts["of"]) == ("evaluation", "verdicts")
    assert found.facts["evaluated"] == verdicts
    assert found.facts["videos"]["labelled"] == 4
    assert [r["by"] for r in found.rows] == ["video", "frame"]
    assert found.rows[0]["auc"] == metrics["by_video"]["auc"]
    assert found.rows[0]["auc_interval"] == metrics["by_video"]["intervals"]["auc"]


def test_an_imported_model_says_where_it_is_from(tmp_path: Path) -> None:
    weights = write_hdf5(tmp_path / "Meso4_DF.h5", keras_arrays("meso4"))
    model = dfscan.import_model("mesonet", str(weights), out=str(tmp_path / "m.safetensors")).out
    facts = inspect(model).facts
    assert (facts["imported as"], facts["licence"]) == ("mesonet", "Apache-2.0")
    assert facts["source"] == "https://github.com/DariusAf/MesoNet"
    assert facts["from the file"] == "Meso4_DF.h5"
    assert facts["notes"]
    assert "HDF5" in inspect(str(weights)).facts["seems to be"]


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_told_and_not_opened(tmp_path: Path, zipped: bool) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(Canary(canary))
    if zipped:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr("archive/data.pkl", data)
        data = sink.getvalue()
    (tmp_path / "x.pt").write_bytes(data)
    found = inspect(str(tmp_path / "x.pt"))
    assert found.kind == "another program's weights"
    assert "code when loaded" in found.facts["seems to be"]
    assert not canary.exists()


def test_exported_files_of_any_content_are_told_or_refused(tmp_path: Path) -> None:
    def told(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(inspect(str(tmp_path / name)).facts["seems to be"])

    assert told("a.onnx", b"\x08\x0a\x12\x01x") == "an ONNX graph"
    assert told("a.tflite", b"\x1c\0\0\0TFL3 network") == "a LiteRT network"
    with pytest.raises(SourceError, match=r"b\.onnx is no onnx file, or is damaged: cut off"):
        told("b.onnx", b"\x08\x0a\x12\xff\x01x")
    with pytest.raises(SourceError, match=r"b\.pt is no torchscript file, or is damaged"):
        told("b.pt", b"PK\x03\x04 cut short")
    for header in ("[", "[1]", '{"format": 99}'):
        data = with_facts(b"\x1c\0\0\0TFL3", {"dfscan": header, "model_sha256": "ab"})
        with pytest.raises(ModelError, match=r"c\.tflite"):
            told("c.tflite", data)


MARKERS = (evaluate_rows.MARKER, train_job.MARKER, export_job.MARKER, stress_job.MARKER)


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_of_any_shape_is_no_crash(
    tmp_path: Path, marker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = (3, "x", None, [1, {"a": 2}], {"rows": 3})
    for value in odd:
        keys = ("config", "configuration", "rows", "faces", "notes", "models", "truth_by_verdict")
        figures = ("by_video", "split", "validation", "runs", "finished", "dfscan", "path")
        content = dict.fromkeys((*keys, *figures), value)
        for name in (marker, "metrics.json"):
            (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(SystemExit) as stopped:
            main_with("inspect", str(tmp_path))
        assert not stopped.value.code
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / marker).write_text("[]")
    with pytest.raises(SourceError, match="no JSON object"):
        inspect(str(tmp_path))


def main_with(*arguments: str) -> None:
    with mock.patch.object(sys, "argv", ["dfscan", *arguments]):
        main()
