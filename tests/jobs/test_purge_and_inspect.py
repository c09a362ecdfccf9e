import json
import os
import sys
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest

from dfscan import inspect, purge, storage
from dfscan.cli import main
from dfscan.config import ExtractConfig
from dfscan.errors import OutputError, SourceError
from dfscan.jobs import extract_job
from dfscan.jobs.progress import Progress
from dfscan.records import VERDICT_SCHEMA
from dfscan.storage.committing import TEMPORARY
from dfscan.synthetic import Corpus


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
        def note(self, message: str) -> None:
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


def main_with(*arguments: str) -> None:
    with mock.patch.object(sys, "argv", ["dfscan", *arguments]):
        main()
