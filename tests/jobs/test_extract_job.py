import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfscan import storage
from dfscan.config import ExtractConfig
from dfscan.errors import OutputError, SourceError
from dfscan.facesets import FaceSet
from dfscan.jobs import extract_job
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import ExtractResult
from dfscan.steps.look import Look
from dfscan.synthetic import Corpus


def extract(source: Any, out: Path, **changes: Any) -> ExtractResult:
    values = {"source": source, "out": str(out), "inline": True, "stride": "4"} | changes
    return extract_job.run(ExtractConfig(**values), Progress())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [r for _, t in storage.read_tables(folder) for r in t.to_pylist()]


def without_times(folder: Path) -> list[dict[str, Any]]:
    hidden = ("elapsed_s", "committed_at")
    found = [{k: v for k, v in r.items() if k not in hidden} for r in rows(folder)]
    return sorted(
        found, key=lambda r: (r["video_id"], r.get("frame_index", 0), r.get("face_index", 0))
    )


def test_a_dataset_shows_every_video_and_its_faces(corpus: Corpus, tmp_path: Path) -> None:
    result = extract(tuple(str(p) for p in corpus.parts), tmp_path / "faces")
    videos, faces = rows(tmp_path / "faces" / "videos"), rows(tmp_path / "faces" / "faces")
    assert result.videos == len(videos) == 12
    assert result.counts["faces"] == len(faces) == sum(v["faces"] for v in videos)
    assert {v["label"] for v in videos} == {"REAL", "FAKE"}
    by_id = {v["video_id"]: v for v in videos}
    for video in videos:
        if video["label"] == "FAKE":
            assert by_id[video["original"]]["group"] == video["group"]
    header = json.loads((tmp_path / "faces" / "dataset.json").read_text())
    assert header["finished"] is True
    assert header["counts"] == result.counts
    assert "```" not in (tmp_path / "faces" / "README.md").read_text()


def test_running_again_opens_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(str(corpus.test), tmp_path / "faces")
    before = without_times(tmp_path / "faces" / "faces")
    read = storage.read_bytes

    def no_video(uri: str, limit: int | None = None) -> bytes:
        assert not uri.endswith(".mp4"), "opened a video again"
        return read(uri, limit)

    monkeypatch.setattr(storage, "read_bytes", no_video)
    result = extract(str(corpus.test), tmp_path / "faces")
    assert result.new == 0
    assert without_times(tmp_path / "faces" / "faces") == before


def test_an_interrupted_run_continues_to_the_same_dataset(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tuple(str(p) for p in corpus.parts)
    extract(parts, tmp_path / "whole", unit_size=2)
    commit, calls = FaceSet.commit, []

    def dies_on_the_third(self: FaceSet, unit: str, videos: Any, faces: Any) -> None:
        calls.append(unit)
        if len(calls) == 3:
            storage.commit_table(
                self.faces / f"{unit}.parquet",
                storage.read_table(next(self.faces.glob("*.parquet"))),
            )
            raise KeyboardInterrupt
        commit(self, unit, videos, faces)

    monkeypatch.setattr(FaceSet, "commit", dies_on_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract(parts, tmp_path / "cut", unit_size=2)
    monkeypatch.setattr(FaceSet, "commit", commit)
    result = extract(parts, tmp_path / "cut", unit_size=2)
    assert 0 < result.new < 12
    for kind in ("videos", "faces"):
        assert without_times(tmp_path / "cut" / kind) == without_times(tmp_path / "whole" / kind)


def test_a_changed_video_supersedes_its_rows(
    corpus: Corpus, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/a.mp4").parent
    write_clip("src/b.mp4")
    extract(str(source), tmp_path / "faces")
    write_clip("src/b.mp4", frames=31)
    write_clip("src/c.mp4")
    result = extract(str(source), tmp_path / "faces")
    assert result.new == 2
    decoded = {v["video_id"]: v["frames_decoded"] for v in rows(tmp_path / "faces" / "videos")}
    assert decoded == {"src/a.mp4": 20, "src/b.mp4": 31, "src/c.mp4": 20}
    assert result.videos == 3


def test_an_exception_nobody_expected_costs_one_video_its_row(
    tmp_path: Path, write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip("src/a.mp4").parent
    write_clip("src/b.mp4", frames=9)
    look = Look._look

    def fails(self: Look, ref: Any, *args: Any) -> Any:
        if ref.video_id == "src/b.mp4":
            raise MemoryError("no room")
        return look(self, ref, *args)

    monkeypatch.setattr(Look, "_look", fails)
    extract(str(source), tmp_path / "faces")
    found = {v["video_id"]: (v["status"], v["reason"]) for v in rows(tmp_path / "faces" / "videos")}
    assert found["src/b.mp4"] == ("crashed", "MemoryError: no room")
    assert found["src/a.mp4"][0] == "no_face"
    monkeypatch.setattr(Look, "_look", look)
    result = extract(str(source), tmp_path / "faces")
    assert (result.new, result.videos, result.status) == (1, 2, {"no_face": 2})


def test_another_configuration_on_the_same_folder_is_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    extract(str(corpus.test), tmp_path / "faces")
    with pytest.raises(OutputError, match=r"sampling\.stride\.fake: 4 → 6"):
        extract(str(corpus.test), tmp_path / "faces", stride="6")
    assert extract(str(corpus.test), tmp_path / "faces", stride="6", overwrite=True).new == 4


def test_a_foreign_folder_is_not_touched(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"holds no dataset\.json"):
        extract(str(corpus.test), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"


@pytest.mark.parametrize("make_folder", [True, False])
def test_nothing_at_the_source_stops_before_any_work(tmp_path: Path, make_folder: bool) -> None:
    if make_folder:
        (tmp_path / "source").mkdir()
    with pytest.raises(SourceError, match="source"):
        extract(str(tmp_path / "source"), tmp_path / "faces")
    assert not (tmp_path / "faces").exists()


def test_many_failures_give_exit_code_3(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    source = write_clip("src/good.mp4").parent
    (source / "bad.mp4").write_text("no video")
    assert extract(str(source), tmp_path / "faces").exit_code == 3
    assert extract(str(source), tmp_path / "f2", max_failed=0.5).exit_code == 0
