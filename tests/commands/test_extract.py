import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.commands.extract import ExtractResult
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.extract import ExtractConfig
from dfscan.corpora import list_videos
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ClusterError, ConfigError, OutputError, SourceError
from dfscan.pipeline.estimate import PlanResult
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.sandbox.process import end_child


def extract(source: Any, out: Path, **changes: Any) -> ExtractResult:
    values = {"source": source, "out": str(out), "inline": True, "stride": "4"} | changes
    result = extract_job.run(ExtractConfig(**values), Progress())
    assert isinstance(result, ExtractResult)
    return result


def rows(folder: Path) -> list[dict[str, Any]]:
    return [r for _, t in storage.read_tables(folder) for r in t.to_pylist()]


def without_times(folder: Path) -> list[dict[str, Any]]:
    hidden = ("elapsed_s", "committed_at", "unit")
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
    original = InProcessExtractor._extract

    def fails(self: InProcessExtractor, row: Any, *args: Any) -> Any:
        if row.video_id == "src/b.mp4":
            raise MemoryError("no room")
        return original(self, row, *args)

    monkeypatch.setattr(InProcessExtractor, "_extract", fails)
    extract(str(source), tmp_path / "faces", isolate=False)
    found = {v["video_id"]: (v["status"], v["reason"]) for v in rows(tmp_path / "faces" / "videos")}
    assert found["src/b.mp4"] == ("crashed", "MemoryError: no room")
    assert found["src/a.mp4"][0] == "no_face"
    monkeypatch.setattr(InProcessExtractor, "_extract", extract)
    assert extract(str(source), tmp_path / "faces").new == 0
    assert extract(str(source), tmp_path / "faces", retry="timeout").new == 0
    result = extract(str(source), tmp_path / "faces", retry="timeout,crashed")
    assert (result.new, result.videos, result.status) == (1, 2, {"no_face": 2})


def test_a_video_that_hangs_costs_its_row_and_retry_runs_it_alone(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sorted(zipfile.ZipFile(corpus.test).namelist())[0]
    monkeypatch.setenv("DFSCAN_FAULTS", f"child.look@{name}=sleep")
    end_child()
    out = tmp_path / "faces"
    result = extract(str(corpus.test), out, timeout=3, detector={"name": "none"})
    assert result.status == {"ok": 3, "timeout": 1}
    monkeypatch.delenv("DFSCAN_FAULTS")
    end_child()
    result = extract(str(corpus.test), out, retry="timeout", detector={"name": "none"})
    assert (result.new, result.status) == (1, {"ok": 4})
    extract(str(corpus.test), tmp_path / "whole", detector={"name": "none"})
    assert without_times(out / "faces") == without_times(tmp_path / "whole" / "faces")


def test_a_removed_video_keeps_its_rows_and_costs_no_work(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/a.mp4").parent
    gone = write_clip("src/b.mp4")
    extract(str(source), tmp_path / "faces")
    gone.unlink()
    told: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            told.append(message)

    config = ExtractConfig(source=str(source), out=str(tmp_path / "faces"), inline=True, stride="4")
    result = extract_job.run(config, Told())
    assert isinstance(result, ExtractResult)
    assert (result.new, result.videos) == (0, 2)
    assert any(
        n.startswith("1 video(s) of the dataset are not at this source, first src/b") for n in told
    )


def listed(folder: Path, *clips: Path) -> Path:
    path = folder / "clips.csv"
    path.write_text("path\n" + "".join(f"{c.relative_to(folder)}\n" for c in clips))
    return path


def test_an_unmounted_disk_takes_nothing_from_a_dataset_made_from_a_list(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    clips = [write_clip(f"disk/{n}.mp4") for n in range(3)]
    source, out = listed(tmp_path, *clips), tmp_path / "faces"
    whole = {"detector": {"name": "none"}}
    extract(str(source), out, **whole)
    before = without_times(out / "faces")
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    with pytest.raises(
        OutputError, match=r"3 of the 3 known videos are not at the source.*unmounted"
    ):
        extract(str(source), out, **whole)
    assert json.loads((out / "dataset.json").read_text())["finished"] is True
    result = extract(str(source), out, allow_gone=True, **whole)
    assert (result.new, result.status) == (0, {"ok": 3})
    assert without_times(out / "faces") == before
    result = extract(str(source), tmp_path / "new", **whole)
    assert result.status == {"missing": 3}
    assert extract(str(source), tmp_path / "new", **whole).status == {"missing": 3}
    (tmp_path / "unmounted").rename(tmp_path / "disk")
    result = extract(str(source), tmp_path / "new", **whole)
    assert (result.new, result.status) == (3, {"ok": 3})


def test_what_is_refused_leaves_an_existing_dataset_as_it_is(
    corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "faces"
    extract(str(corpus.test), out, detector={"name": "none"})
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for wrong, error in (
        ({"gpus": 1}, ConfigError),
        ({"inline": False, "ray_address": "127.0.0.1:1"}, ClusterError),
    ):
        with pytest.raises(error):
            extract(str(corpus.test), out, overwrite=True, **wrong)
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_retry_alone_does_not_finish_a_dataset(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    result = extract(str(corpus.test), out, retry="timeout", detector={"name": "none"})
    assert (result.new, result.videos) == (0, 0)
    assert json.loads((out / "dataset.json").read_text())["finished"] is False
    extract(str(corpus.test), out, detector={"name": "none"})
    assert json.loads((out / "dataset.json").read_text())["finished"] is True


def test_the_row_of_a_half_copied_archive_goes_when_it_is_whole(
    corpus: Corpus, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/a.mp4").parent
    part = corpus.test.read_bytes()
    (source / "part.zip").write_bytes(part[: len(part) // 2])
    result = extract(str(source), tmp_path / "faces", detector={"name": "none"})
    assert result.status == {"not_video": 1, "ok": 1}
    (source / "part.zip").write_bytes(part)
    result = extract(str(source), tmp_path / "faces", detector={"name": "none"})
    assert (result.new, result.status) == (4, {"ok": 5})


def test_a_worker_whose_clock_is_behind_does_not_lose_to_older_rows(
    tmp_path: Path, write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip("src/a.mp4").parent
    extract(str(source), tmp_path / "faces")
    write_clip("src/a.mp4", frames=33)
    monkeypatch.setattr("dfscan.pipeline.extract_task.time.time", lambda: 1000.0)
    result = extract(str(source), tmp_path / "faces")
    assert (result.new, result.videos) == (1, 1)
    assert [v["frames_decoded"] for v in rows(tmp_path / "faces" / "videos")] == [33]


def test_a_plan_counts_and_estimates_and_writes_nothing(corpus: Corpus, tmp_path: Path) -> None:
    parts = tuple(str(p) for p in corpus.parts)
    values = {"source": parts, "out": str(tmp_path / "faces"), "stride": "4", "inline": True}
    plan = extract_job.run(ExtractConfig(dry_run=True, **values), Progress())
    assert isinstance(plan, PlanResult)
    assert (plan.videos, plan.todo, plan.parts, plan.units) == (12, 12, 2, 2)
    assert plan.label == {"FAKE": 6, "REAL": 6}
    assert plan.looked_at == 6
    assert not (tmp_path / "faces").exists()
    result = extract(parts, tmp_path / "faces")
    assert plan.frames == result.counts["frames_sampled"] == 36
    assert plan.faces == pytest.approx(result.counts["faces"], rel=0.2)
    again = extract_job.run(ExtractConfig(dry_run=True, **values), Progress())
    assert isinstance(again, PlanResult)
    assert (again.videos, again.todo, again.units, again.frames) == (12, 0, 0, None)


def test_fakes_are_cut_where_their_originals_faces_are(corpus: Corpus, tmp_path: Path) -> None:
    parts = tuple(str(p) for p in corpus.parts)
    extract(parts, tmp_path / "faces", boxes_from="original", unit_size=3)
    faces = rows(tmp_path / "faces" / "faces")
    place = {(f["video_id"], f["frame_index"], f["face_index"]): f for f in faces}
    fakes = [f for f in faces if f["label"] == "FAKE"]
    assert fakes
    for fake in fakes:
        original = place[fake["original"], fake["frame_index"], fake["face_index"]]
        assert (fake["box_from"], original["box_from"]) == ("original", "detected")
        assert fake["box"] == original["box"]
        assert fake["crop_box"] == original["crop_box"]
        assert fake["track_id"] == original["track_id"]
        assert original["face_diff"] is None
        assert 0.02 < fake["face_diff"] < 1
    with pytest.raises(OutputError, match="boxes_from"):
        extract(parts, tmp_path / "faces")


def test_a_fake_without_its_original_is_looked_at_itself(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    with zipfile.ZipFile(corpus.parts[0]) as archive:
        archive.extractall(folder)
    originals = [v for v in list_videos([str(folder)]).videos if v.label == "REAL"]
    for video in originals:
        Path(video.uri).write_text("no video any more")
    result = extract(str(folder), tmp_path / "faces", boxes_from="original", max_failed=1)
    assert result.status["not_video"] == len(originals)
    faces = rows(tmp_path / "faces" / "faces")
    assert {f["label"] for f in faces} == {"FAKE"}
    assert {f["box_from"] for f in faces} == {"detected"}
    assert {f["face_diff"] for f in faces} == {None}


def test_a_fake_added_later_has_its_family_done_again(corpus: Corpus, tmp_path: Path) -> None:
    folder, aside = tmp_path / "part", tmp_path / "aside.mp4"
    with zipfile.ZipFile(corpus.parts[0]) as archive:
        archive.extractall(folder)
    fake = next(v for v in list_videos([str(folder)]).videos if v.label == "FAKE")
    extract(str(folder), tmp_path / "whole", boxes_from="original")
    Path(fake.uri).rename(aside)
    extract(str(folder), tmp_path / "faces", boxes_from="original")
    aside.rename(fake.uri)
    values = {"source": str(folder), "out": str(tmp_path / "faces"), "stride": "4", "inline": True}
    plan = extract_job.run(ExtractConfig(dry_run=True, boxes_from="original", **values), Progress())
    assert isinstance(plan, PlanResult)
    assert plan.todo == 2
    assert extract(str(folder), tmp_path / "faces", boxes_from="original").new == 2
    for kind in ("videos", "faces"):
        found = without_times(tmp_path / "faces" / kind)
        assert found == without_times(tmp_path / "whole" / kind)


def test_pictures_are_taken_whole_and_only_the_largest_faces_kept(
    tmp_path: Path, samples: Path
) -> None:
    result = extract(
        str(samples / "images" / "ffpp_crops"), tmp_path / "whole", detector={"name": "none"}
    )
    assert result.status == {"ok": 96}
    assert result.counts["label"] == {"FAKE": 48, "REAL": 48}
    for face in rows(tmp_path / "whole" / "faces"):
        assert (face["box_from"], face["landmarks"], face["track_id"]) == ("whole_picture", None, 0)
        assert face["box"] == face["crop_box"]
    clip = samples / "clips" / "several_people_1080p.mp4"
    extract(str(clip), tmp_path / "all", stride="30")
    extract(str(clip), tmp_path / "two", stride="30", detector={"max_faces": 2})
    every, two = (rows(tmp_path / n / "faces") for n in ("all", "two"))
    assert Counter(f["frame_index"] for f in two) == dict.fromkeys(
        {f["frame_index"] for f in every}, 2
    )
    kept = {(f["frame_index"], *f["box"]) for f in two}
    for frame in {f["frame_index"] for f in every}:
        largest = sorted(
            (f for f in every if f["frame_index"] == frame),
            key=lambda f: (f["box"][2] - f["box"][0]) * (f["box"][3] - f["box"][1]),
        )[-2:]
        assert {(frame, *f["box"]) for f in largest} <= kept


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
