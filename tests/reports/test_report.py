import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.faces import face, person, picture, write_faces
from support.reports import BOX, MODEL, p_fake, verdict, write_verdicts

from dfscan import report, storage
from dfscan.cli import main
from dfscan.commands import evaluate as evaluate_job
from dfscan.config.evaluate import EvaluateConfig
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import OutputError, SourceError
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import Face, Page, _json, _videos_data, render
from dfscan.reports import dataset as report_dataset
from dfscan.reports import evaluation as report_evaluation
from dfscan.reports import training_run as report_run
from dfscan.reports import verdicts as report_verdicts
from dfscan.reports.figures import side_table
from dfscan.reports.tallies import by_reason, by_value
from dfscan.reports.thumbnails import (
    SIDE,
    Picture,
    Spot,
    Wanted,
    from_datasets,
    from_videos,
    rows_at,
    thumbnail,
)
from dfscan.schemas.records import Verdict, VideoRef
from dfscan.verdicts.table import open_verdicts


def faces_of(page: Page, title: str) -> Sequence[Face]:
    return next(g.faces for g in page.galleries if g.title == title)


def logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def column(page: Page, title: str) -> list[Any]:
    assert page.videos is not None
    return list(next(c.values for c in page.videos.columns if c.title == title))


def pixels(jpeg: bytes | None) -> Any:
    assert jpeg is not None
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def collect_verdicts(path: Path, faces: int = 0) -> Page:
    config = ReportConfig(path=str(path), faces=faces)
    return report_verdicts.collect(path, path.name, config, Progress())


# ---------------------------------------------------------------- faces


def wanted_from(faceset: FaceSet, count: int) -> tuple[list[Wanted], list[Picture]]:
    """A stored face of so many videos each: where it is, and its thumbnail as it is stored."""
    wanted, stored = [], []
    videos = [r for _, t in storage.read_tables(faceset.videos) for r in t.to_pylist()]
    faces = [r for _, t in storage.read_tables(faceset.faces) for r in t.to_pylist()]
    for video in videos[:count]:
        mine = [f for f in faces if f["video_id"] == video["video_id"]]
        chosen = [mine[0], mine[-1]]
        spots = tuple(
            Spot(f["frame_index"], f["pts_s"], f["track_id"], tuple(f["box"])) for f in chosen
        )
        ref = VideoRef(
            video["video_id"], video["uri"], "", video["label"], None, "", video["bytes"], "1"
        )
        size = (video["width"], video["height"])
        wanted.append(Wanted(ref, video["content_sha256"], *size, spots))
        stored += [
            thumbnail(f["image"]["bytes"], tuple(f["crop_box"]), tuple(f["box"])) for f in chosen
        ]
    return wanted, stored


def test_faces_cut_out_of_videos_again_are_those_that_were_found(faceset: FaceSet) -> None:
    wanted, stored = wanted_from(faceset, 3)
    found = [p for each in from_videos(wanted, ReportConfig(workers=1), Progress()) for p in each]
    assert len(found) == len(stored) == 6
    for again, before in zip(found, stored, strict=True):
        assert pixels(again.jpeg).shape == (SIDE, SIDE, 3)
        assert np.abs(pixels(again.jpeg) - pixels(before.jpeg)).mean() < 3
    other = np.abs(pixels(found[0].jpeg) - pixels(stored[-1].jpeg)).mean()
    assert other > 6  # another face would be seen to be another


def test_a_video_that_is_gone_or_changed_gives_the_reason(faceset: FaceSet) -> None:
    (whole, changed), _ = wanted_from(faceset, 2)
    gone = replace(whole, ref=replace(whole.ref, uri="/nowhere/a.mp4"))
    moved = replace(whole, spots=(replace(whole.spots[0], pts_s=99.0),))
    wanted = [gone, replace(changed, content_sha256="0" * 64), moved]
    config = ReportConfig(workers=1)
    found = from_videos(wanted, config, Progress())
    assert {p.missing for p in found[0]} == {"the file is gone"}
    assert {p.missing for p in found[1]} == {"the file has changed since"}
    assert {p.missing for p in found[2]} == {"the frame could not be had again"}
    assert all(p.jpeg is None for each in found for p in each)


def test_a_thumbnail_shows_the_box_in_its_middle() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[40:60, 45:55] = 255
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    found = pixels(thumbnail(sink.getvalue(), (0, 0, 100, 100), (45, 40, 55, 60)).jpeg)
    bright = np.argwhere(found.mean(axis=2) > 128)
    assert np.allclose(bright.mean(axis=0), (SIDE - 1) / 2, atol=1.5)
    assert np.ptp(bright[:, 0]) == pytest.approx(SIDE / 1.5, abs=3)  # a quarter on each side
    assert np.ptp(bright[:, 1]) == pytest.approx(SIDE / 3, abs=3)


def test_a_stored_picture_that_is_damaged_says_so() -> None:
    found = thumbnail(b"not a picture", (0, 0, 10, 10), (2, 2, 8, 8))
    assert found == Picture(None, "the stored picture does not decode")


def test_stored_faces_are_found_by_their_key_wherever_they_lie(tmp_path: Path) -> None:
    rows = [*person("a", frames=4), *person("b", frames=4)]
    root = write_faces(tmp_path / "faces", rows, units=3).root
    keys = [("a.mp4", 2, None), ("b_0.mp4", 3, None), ("c.mp4", 0, None)]
    found = from_datasets([tmp_path / "gone", root], keys)
    assert found.keys() == set(keys[:2])
    wanted = next(r for r in rows if (r.video_id, r.frame_index) == ("b_0.mp4", 3))
    assert found[keys[1]] == thumbnail(wanted.image, wanted.crop_box, wanted.box)


def test_only_the_row_groups_that_are_needed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    storage.commit_table(path, pa.table({"n": list(range(100))}), row_group_rows=7)
    assert rows_at(path, [99, 0, 14, 13], ["n"]) == {n: {"n": n} for n in (0, 13, 14, 99)}


# ---------------------------------------------------------------- verdicts


def test_the_most_suspicious_come_first_and_uncertain_ones_apart(tmp_path: Path) -> None:
    rows = [
        verdict("real.mp4", {0: [-2.0, -1.0]}),
        verdict("fake.mp4", {0: [1.0, 3.0]}),
        verdict("faker.mp4", {0: [4.0]}),
        verdict("unsure.mp4", {0: [9.0]}, verdict="UNCERTAIN", reason="few_frames (1 of 9)"),
        verdict("slow.mp4", status="timeout", reason="not done after 120 s"),
        verdict("slower.mp4", status="timeout", reason="not done after 180 s"),
    ]
    page = collect_verdicts(write_verdicts(tmp_path / "v.parquet", rows), faces=10)
    assert column(page, "video") == [
        "unsure.mp4", "faker.mp4", "fake.mp4", "real.mp4", "slow.mp4", "slower.mp4",
    ]  # fmt: skip
    assert [f.name for f in faces_of(page, "Most suspicious")] == [
        "faker.mp4", "fake.mp4", "real.mp4"
    ]  # fmt: skip
    assert [f.name for f in faces_of(page, "Uncertain")] == ["unsure.mp4"]
    assert all(f.missing == "the file is gone" for g in page.galleries for f in g.faces)
    assert any("4 faces cannot be shown (4 × the file is gone)" in note for note in page.notes)
    assert page.failures is not None
    assert page.failures.rows == [["timeout", "not done after … s", 2, "slow.mp4, slower.mp4"]]
    tiles = {t.title: t.value for t in page.tiles}
    assert tiles == {
        "videos": 6, "FAKE": 2, "UNCERTAIN": 1, "REAL": 1, "no verdict": 2, "failed": 2
    }  # fmt: skip


def test_timelines_are_on_the_scale_of_p_fake(tmp_path: Path) -> None:
    rows = [verdict("a.mp4", {0: [0.2, 1.0], 3: [-1.0, 0.4]}), verdict("b.mp4", {0: [0.9]})]
    page = collect_verdicts(write_verdicts(tmp_path / "v.parquet", rows))
    assert page.videos is not None
    line = page.videos.timelines[column(page, "video").index("a.mp4")]
    assert line is not None
    assert (line.duration_s, line.threshold) == (10.0, 0.5)
    assert [(t.person, list(t.times_s)) for t in line.tracks] == [(1, [0.0, 0.5]), (4, [0.0, 0.5])]
    for track, scores in zip(line.tracks, ([0.2, 1.0], [-1.0, 0.4]), strict=True):
        assert list(track.p_fake) == pytest.approx([p_fake(s) for s in scores], abs=1e-4)


def test_a_single_pair_of_score_and_p_fake_fixes_the_timeline_there(tmp_path: Path) -> None:
    page = collect_verdicts(write_verdicts(tmp_path / "v.parquet", [verdict("a.mp4", {0: [0.7]})]))
    assert page.videos is not None
    line = page.videos.timelines[0]
    assert line is not None
    assert list(line.tracks[0].p_fake) == pytest.approx([p_fake(0.7)], abs=1e-5)


def test_timelines_of_quick_and_full_looks_have_maps_of_their_own(tmp_path: Path) -> None:
    def looked(name: str, look: str, slope: float, score: float) -> Verdict:
        told = verdict(name, {0: [score, score + 1], 1: [score - 1]}, look=look)
        tracks = [{**t, "p_fake": logistic(slope * t["score_raw"])} for t in told.tracks or ()]
        return replace(told, tracks=tuple(tracks), p_fake=logistic(slope * (told.score_raw or 0)))

    rows = [looked(f"{i}.mp4", "quick", 0.5, i / 3) for i in range(4)]
    rows += [looked(f"{i}_full.mp4", "full", 3.0, i / 3) for i in range(4)]
    page = collect_verdicts(write_verdicts(tmp_path / "v.parquet", rows))
    assert page.videos is not None
    for name, slope in (("2.mp4", 0.5), ("2_full.mp4", 3.0)):
        line = page.videos.timelines[column(page, "video").index(name)]
        assert line is not None
        assert list(line.tracks[1].p_fake) == pytest.approx([logistic(slope * -1 / 3)], abs=1e-4)


def test_without_a_straight_map_there_is_no_timeline(tmp_path: Path) -> None:
    odd = [verdict(f"{i}.mp4", {0: [i / 5]}) for i in range(4)]
    tracks = ({**(odd[0].tracks or ())[0], "p_fake": 0.9},)
    odd[0] = replace(odd[0], tracks=tracks)
    page = collect_verdicts(write_verdicts(tmp_path / "v.parquet", odd), faces=4)
    assert page.videos is not None
    assert list(page.videos.timelines) == [None] * 4
    assert "The first 0 of 4" in page.videos.note
    assert faces_of(page, "Most suspicious")[0].facts["this face"] is None


def test_a_page_of_very_many_faces_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        verdict(f"archive/part/{i:064}.mp4", {0: rng.normal(size=2000).tolist()}) for i in range(10)
    ]
    path = write_verdicts(tmp_path / "v.parquet", rows)
    with monkeypatch.context() as patch:
        patch.setattr(report_verdicts, "MAX_POINTS", 10_000)
        few = collect_verdicts(path)
    whole = collect_verdicts(path)
    assert few.videos is not None
    assert sum(line is not None for line in few.videos.timelines) == 5
    assert few.videos.note == "The first 5 of 10 with faces have a timeline."
    point = (len(render(whole)) - len(render(few))) / 10_000
    blank = write_verdicts(tmp_path / "b.parquet", [verdict("a.mp4")])
    row = len(_json(_videos_data(whole.videos))) / 10
    pictures = 300 * 7_000  # some 4.6 kB in base64, and facts
    most = len(render(collect_verdicts(blank))) + pictures
    most += report_verdicts.MAX_POINTS * point + report_verdicts.MAX_ROWS * row
    assert most < 15e6


def test_with_room_left_further_people_are_shown(tmp_path: Path) -> None:
    people = {n: [5.0 - n, 1.0] for n in range(6)}
    rows = [verdict("crowd.mp4", people), verdict("one.mp4", {0: [0.8]})]
    path = write_verdicts(tmp_path / "v.parquet", rows)
    shown = [
        (f.name, f.facts.get("person"))
        for f in faces_of(collect_verdicts(path, faces=4), "Most suspicious")
    ]
    assert shown == [("crowd.mp4", 1), ("crowd.mp4", 2), ("crowd.mp4", 3), ("one.mp4", None)]
    few = faces_of(collect_verdicts(path, faces=1), "Most suspicious")
    assert [f.name for f in few] == ["crowd.mp4"]


def test_without_faces_no_video_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a video would be opened")

    monkeypatch.setattr("dfscan.reports.thumbnails.make_extractor", refuse)
    path = write_verdicts(tmp_path / "v.parquet", [verdict("a.mp4", {0: [1.0]})])
    assert report(str(path), faces=0).faces == 0
    with pytest.raises(AssertionError, match="would be opened"):
        report(str(path), faces=1)


def test_labels_stand_against_verdicts_and_custody_is_told(tmp_path: Path) -> None:
    rows = [
        verdict("a.mp4", {0: [1.0]}, label="REAL"),
        verdict("b.mp4", {0: [-1.0]}, label="FAKE"),
        verdict("c.mp4", {0: [2.0]}, label="FAKE"),
        verdict("d.mp4", {0: [2.0]}),
    ]
    path = write_verdicts(tmp_path / "v.parquet", rows)
    page = collect_verdicts(path)
    assert page.figures[0].rows == [
        ["REAL", 1, 0, 0, 0, 1], ["FAKE", 1, 0, 1, 0, 2], ["no label", 1, 0, 0, 0, 1],
    ]  # fmt: skip
    assert page.provenance["models (SHA-256)"] == MODEL
    assert page.provenance["SHA-256 of the file"] == storage.sha256(path.read_bytes())


def test_an_uncalibrated_model_and_two_configurations_are_said(tmp_path: Path) -> None:
    other = replace(verdict("b.mp4").custody, config_hash="d" * 16)
    rows = [
        verdict("a.mp4", {0: [1.0]}, calibrated=False),
        verdict("b.mp4", {0: [1.0]}, custody=other),
    ]
    notes = collect_verdicts(write_verdicts(tmp_path / "v.parquet", rows)).notes
    assert any(n.startswith("1 videos were scored by a model without a calibration") for n in notes)
    assert any("2 configurations" in n for n in notes)


def test_of_very_many_videos_the_most_suspicious_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_verdicts, "MAX_ROWS", 5)
    monkeypatch.setattr(report_verdicts, "MAX_TIMELINES", 3)
    rows = [verdict(f"{i:03}.mp4", {0: [(i * 7 % 40) / 10]}) for i in range(40)]
    path = tmp_path / "v.parquet"
    write_verdicts(path, rows)
    storage.commit_table(path, storage.read_table(path), row_group_rows=6)
    page = collect_verdicts(path)
    ranked = sorted(rows, key=lambda r: -(r.p_fake or 0))
    assert column(page, "video") == [r.video_id for r in ranked[:5]]
    assert column(page, "p_fake") == pytest.approx([r.p_fake for r in ranked[:5]])
    assert page.videos is not None
    assert [t is not None for t in page.videos.timelines] == [True] * 3 + [False] * 2
    assert page.tiles[0].value == 40
    assert any("lists the 5 most suspicious" in note for note in page.notes)


def test_no_verdict_at_all_is_a_page_too(tmp_path: Path) -> None:
    rows: list[Verdict] = []
    result = report(str(write_verdicts(tmp_path / "v.parquet", rows)))
    assert result.kind == "verdicts"
    assert Path(result.out).stat().st_size == result.bytes


# ---------------------------------------------------------------- output


def test_only_a_page_about_the_same_thing_is_replaced(tmp_path: Path) -> None:
    paths = [write_verdicts(tmp_path / f"{n}.parquet", [verdict(n, {0: [1.0]})]) for n in "ab"]
    out = tmp_path / "report.html"
    out.write_text("<html>my own page</html>")
    with pytest.raises(OutputError, match="was not made by dfscan report"):
        report(str(paths[0]), faces=0, overwrite=True)
    assert out.read_text() == "<html>my own page</html>"
    out.unlink()
    assert report(str(paths[0]), faces=0).out == str(out)
    first = out.read_bytes()
    report(str(paths[0]), faces=0)  # its own page
    with pytest.raises(OutputError, match=r"about 'a\.parquet', not about 'b\.parquet'"):
        report(str(paths[1]), faces=0)
    assert b"a.parquet" in out.read_bytes()
    report(str(paths[1]), faces=0, overwrite=True)
    assert out.read_bytes() != first
    with pytest.raises(OutputError, match="is a folder"):
        report(str(paths[0]), faces=0, out=str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "report.html"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "nothing exists at"), ("empty", "cannot be reported on")],
)
def test_what_is_nothing_of_ours_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=said):
        report(str(tmp_path / name))
    assert list((tmp_path / "empty").iterdir()) == []


def test_another_programs_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    storage.commit_table(path, pa.table({"a": [1]}))
    with pytest.raises(SourceError, match="holds no verdicts of dfscan"):
        report(str(path))


def call(*arguments: str) -> int:
    with mock.patch.object(sys, "argv", ["dfscan", "report", *arguments]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_the_command_says_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_verdicts(tmp_path / "v.parquet", [verdict("a.mp4", {0: [1.0]})])
    assert call(str(path), "--faces", "0", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["kind"], told["faces"], told["out"]) == (
        "verdicts", 0, str(tmp_path / "report.html")
    )  # fmt: skip
    assert call(str(path), "--faces", "0", "-q") == 0
    assert "wrote " in capfd.readouterr().out


# ---------------------------------------------------------------- datasets


def test_a_dataset_shows_a_sample_and_what_is_odd_in_it(tmp_path: Path) -> None:
    rows = [
        *person("a", frames=10, attributes={"manipulation": "swap"}),
        face("tiny.mp4", frame=1, box=(60.0, 60.0, 64.0, 64.0)),
        face("doubt.mp4", frame=2, detector_score=0.5),
    ]
    root = write_faces(tmp_path / "faces", rows).root
    config = ReportConfig(path=str(root), faces=12)
    page = report_dataset.collect(root, ".", config, Progress())
    assert faces_of(page, "Least sure")[0].name == "doubt.mp4"
    assert faces_of(page, "Smallest")[0].name == "tiny.mp4"
    sample = faces_of(page, "A sample")
    assert len(sample) == 8
    assert len({(f.name, f.facts["at"]) for g in page.galleries for f in g.faces}) == 12
    want = next(r for r in rows if r.video_id == "doubt.mp4")
    jpeg = thumbnail(want.image, want.crop_box, want.box).jpeg
    assert faces_of(page, "Least sure")[0].jpeg == jpeg
    assert {t.title: t.value for t in page.tiles}["faces"] == 22
    assert column(page, "video") == ["a.mp4", "a_0.mp4", "doubt.mp4", "tiny.mp4"]
    assert sum(sum(s) for h in page.histograms for s in h.series.values()) == 22
    assert any("has not finished" in note for note in page.notes)


def test_every_kind_of_page_is_written_where_it_belongs(faceset: FaceSet, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = report(str(faceset.root), out=str(out), faces=5)
    assert (result.kind, result.faces, result.out) == ("face dataset", 5, str(out))
    text = out.read_text()
    assert len(re.findall(r'class="look"', text)) == 5


# ---------------------------------------------------------------- runs


def write_run(root: Path, dataset: Path, logits: Mapping[tuple[str, int], float]) -> Path:
    """What a training leaves of its validation side."""
    names = [name for name, _ in logits]
    table = pa.table(
        {
            "video_id": names,
            "group": names,
            "attributes": pa.array([[] for _ in names], evaluate_job.ROW_SCHEMA.field("attributes").type),
            "frame_index": [frame for _, frame in logits],
            "track_id": [-1] * len(names),
            "label": ["FAKE" if "_" in name else "REAL" for name in names],
            "score_raw": list(logits.values()),
        }
    )  # fmt: skip
    storage.commit_table(root / "predictions" / "validation.parquet", table)
    storage.commit_bytes(root / "model.safetensors", b"weights")
    storage.commit_bytes(root / "plots" / "learning.png", b"\x89PNG\r\n\x1a\n learning")
    storage.commit_bytes(root / "plots" / "a.png", b"\x89PNG\r\n\x1a\n a")
    storage.commit_bytes(root / "plots" / "evil.png", b"<svg onload=alert(1)>")
    figures = {"reals": 4, "fakes": 4, "auc": 0.75, "intervals": {"auc": [0.5, 0.9]}}
    metrics = {
        "dfscan": "0.1.0", "identities": {"persons": 2, "by": "face"}, "model_sha256": storage.sha256(b"weights"), "backbone": "tiny",
        "threshold": 0.5, "threshold_rule": "f1", "validation": {"by_video": figures},
        "split": {"validation": {"videos": 4}}, "notes": ["a note"],
    }  # fmt: skip
    storage.commit_json(root / "metrics.json", metrics)
    storage.commit_json(root / "run.json", {"finished": True, "config": {"faces": [str(dataset)]}})
    return root


def test_a_run_shows_the_most_wrong_held_out_faces(tmp_path: Path) -> None:
    rows = [*person("a", frames=5), *person("b", frames=5)]
    root = write_faces(tmp_path / "faces", rows).root
    logits = {(f"{n}.mp4", i): -1.0 + i / 10 for n in "ab" for i in range(5)}
    logits |= {(f"{n}_0.mp4", i): 1.0 for n in "ab" for i in range(5)}
    logits |= {("b.mp4", 2): 4.0, ("a_0.mp4", 3): -3.0}
    run = write_run(tmp_path / "run", root, logits)
    page = report_run.collect(run, ".", ReportConfig(path=str(run), faces=8), Progress())
    reals = faces_of(page, "Reals that look most fake")
    assert [(f.name, f.facts["frame"]) for f in reals] == [
        ("b.mp4", 2), ("a.mp4", 4), ("b.mp4", 4), ("a.mp4", 3)
    ]  # fmt: skip
    fakes = faces_of(page, "Fakes that look most real")
    assert (fakes[0].name, fakes[0].facts["frame"], len(fakes)) == ("a_0.mp4", 3, 4)
    shown = next(r for r in rows if (r.video_id, r.frame_index) == ("b.mp4", 2))
    assert reals[0].jpeg == thumbnail(shown.image, shown.crop_box, shown.box).jpeg
    assert [p.title for p in page.plots] == ["learning", "a"]  # and nothing that is no PNG
    assert column(page, "video")[0] == "b.mp4"
    assert page.notes == ["a note"]
    assert page.provenance["identities"] == "persons 2, by face"
    row = next(r for r in page.figures[0].rows if r[0] == "AUC")
    assert row == ["AUC", "0.750\xa0(0.500\xa0to\xa00.900)"]


def test_a_run_says_what_is_gone_or_changed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "gone", {("a.mp4", 0): 1.0, ("a_0.mp4", 0): 1.0})
    (run / "model.safetensors").write_bytes(b"others")
    page = report_run.collect(run, ".", ReportConfig(path=str(run)), Progress())
    assert any("has changed since these metrics" in note for note in page.notes)
    assert {f.missing for g in page.galleries for f in g.faces} == {
        "no longer in the run's datasets"
    }
    assert report(str(run)).out == str(run / "report.html")
    (run / "metrics.json").unlink()
    with pytest.raises(SourceError, match="has not finished"):
        report(str(run))


def test_a_series_of_runs_is_a_table(tmp_path: Path) -> None:
    ways = {"by_video": {"reals": 2, "fakes": 2, "auc": 0.7}}
    runs = [{"run": "fold_0", "auc": 0.6}, {"run": "fold_1", "auc": None}]
    metrics = {"dfscan": "0.1.0", "runs": runs, "out_of_fold": ways}
    storage.commit_json(tmp_path / "metrics.json", metrics)
    storage.commit_json(tmp_path / "run.json", {"config": {"folds": 2}})
    page = report_run.collect(tmp_path, ".", ReportConfig(path=str(tmp_path)), Progress())
    assert [t.title for t in page.figures] == ["All folds together", "Runs"]
    assert page.figures[1].rows == [["fold_0", 0.6], ["fold_1", None]]


# ---------------------------------------------------------------- evaluations


def test_an_evaluation_shows_the_worst_mistakes_first(tmp_path: Path) -> None:
    rows = [
        verdict("right.mp4", {0: [2.0]}, label="FAKE"),
        verdict("miss.mp4", {0: [-3.0, 1.0]}, label="FAKE"),
        verdict("alarm.mp4", {0: [5.0, 2.0]}, label="REAL"),
        verdict("milder.mp4", {0: [1.0]}, label="REAL"),
        verdict("unsure.mp4", {0: [0.5]}, label="REAL", verdict="UNCERTAIN"),
        verdict("fine.mp4", {0: [-2.0]}, label="REAL"),
        verdict("broken.mp4", label="FAKE", status="timeout", reason="not done after 120 s"),
    ]
    path = write_verdicts(tmp_path / "v.parquet", rows)
    out = tmp_path / "evaluation"
    config = EvaluateConfig(path=str(path), out=str(out), resamples=100)
    evaluate_job.run(config, Progress())
    assert (out / "report.html").exists()
    page = report_evaluation.collect(out, ".", ReportConfig(path=str(out), faces=9), Progress())
    assert column(page, "video")[:4] == ["alarm.mp4", "miss.mp4", "milder.mp4", "unsure.mp4"]
    assert column(page, "outcome")[:4] == ["false alarm", "miss", "false alarm", "uncertain"]
    assert [f.name for f in faces_of(page, "False alarms")] == ["alarm.mp4", "milder.mp4"]
    assert [f.name for f in faces_of(page, "Misses")] == ["miss.mp4"]
    assert [f.name for f in faces_of(page, "Uncertain")] == ["unsure.mp4"]
    assert {f.missing for g in page.galleries for f in g.faces} == {"the file is gone"}
    tiles = {t.title: (t.value, t.note) for t in page.tiles}
    assert tiles["false alarms"] == (2, "of 4 reals")
    assert tiles["misses"] == (1, "of 3 fakes")
    assert page.failures is not None
    assert page.failures.rows[0][:3] == ["timeout", "not done after … s", 1]
    assert page.videos is not None
    assert page.videos.timelines[0] is not None
    table = next(t for t in page.figures if t.title == "Truth and verdict")
    assert [row[-1] for row in table.rows] == [4, 3]
    assert {p.title for p in page.plots} >= {"roc", "confusion"}


def evaluation(folder: Path, rows: list[Verdict], **config: Any) -> tuple[Path, Path]:
    """Verdicts, and an evaluation of them."""
    path, out = write_verdicts(folder / "v.parquet", rows), folder / "evaluation"
    given = {"path": str(path), "out": str(out), "resamples": 100, "faces": 0, **config}
    evaluate_job.run(EvaluateConfig(**given), Progress())
    return path, out


def about(out: Path, faces: int = 9) -> Page:
    return report_evaluation.collect(out, ".", ReportConfig(path=str(out), faces=faces), Progress())


def test_of_very_many_videos_the_worst_keep_faces_and_timelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [verdict(f"{i}.mp4", {0: [i + 1.0]}, label="FAKE") for i in range(6)]
    rows += [
        verdict("miss.mp4", {0: [-3.0]}, label="FAKE"),
        verdict("r", {0: [-1.0]}, label="REAL"),
    ]
    rows.append(verdict("unsure.mp4", {0: [0.5]}, label="REAL", verdict="UNCERTAIN", reason="x"))
    _, out = evaluation(tmp_path, rows)
    for module in (report_verdicts, report_evaluation):
        monkeypatch.setattr(module, "MAX_ROWS", 1)
    page = about(out)
    assert column(page, "video") == ["miss.mp4"]
    assert page.videos is not None
    assert all(line is not None for line in page.videos.timelines)
    for title in ("Misses", "Uncertain"):  # the second lies below the table's end
        assert [f.missing for f in faces_of(page, title)] == ["the file is gone"]
    assert any("lists the 1 worst; the counts include all videos" in n for n in page.notes)


def test_an_evaluation_shows_nothing_of_other_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [verdict(f"{i}.mp4", {0: [i - 2.0]}, label=("REAL", "FAKE")[i % 2]) for i in range(6)]
    monkeypatch.chdir(tmp_path)
    path, out = evaluation(tmp_path, rows, path="v.parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert storage.read_json(str(out / "metrics.json"))["path"] == str(path)
    assert not [n for n in about(out).notes if "another verdict" in n]
    rows[0] = verdict("0.mp4", {0: [7.0]}, label="REAL")  # the same content, scored again
    write_verdicts(path, rows)
    page = about(out)
    assert any(n.startswith("1 videos now have another verdict in") for n in page.notes)
    assert page.videos is not None
    without = [line is None for line in page.videos.timelines]
    assert without == [name == "0.mp4" for name in column(page, "video")]
    path.write_bytes(b"no table")
    assert any("is not a readable Parquet file" in n for n in about(out).notes)


def test_tables_of_an_evaluation_say_what_is_undecided_and_compared(tmp_path: Path) -> None:
    doubt = {"verdict": "UNCERTAIN", "reason": "few_frames (1 of 9)"}
    rows = [verdict(f"r{i}.mp4", {0: [i - 2.0]}, label="REAL") for i in range(4)]
    rows += [verdict(f"f{i}.mp4", {0: [i - 1.0]}, label="FAKE") for i in range(3)]
    rows += [verdict("unsure.mp4", {0: [0.5]}, label="FAKE", **doubt)]
    lines = [f"{r.video_id},{r.label},{'swap' if r.label == 'FAKE' else ''},9" for r in rows]
    table = "\n".join(["video_id,label,manipulation,score", *lines])
    storage.commit_bytes(tmp_path / "l.csv", table.encode())
    _, out = evaluation(
        tmp_path, rows, labels=str(tmp_path / "l.csv"), by=("manipulation",), threshold=None
    )
    page = about(out)
    tables = {t.title: t for t in page.figures}
    decided = next(r for r in tables["Figures"].rows if r[0] == "called REAL or FAKE")
    assert decided[1] == "7 of 8"
    by = tables["By manipulation"]
    assert list(by.columns[:5]) == ["manipulation", "reals", "fakes", "undecided", "against"]
    assert by.rows[0][:5] == ["swap", 0, 4, 1, "all reals"]
    facts = faces_of(page, "Uncertain")[0].facts
    assert facts["score"] == 0.5  # and not what the table of labels has in a column of that name
    assert facts["manipulation"] == "swap"


def test_a_threshold_of_zero_is_told(tmp_path: Path) -> None:
    rows = [verdict(f"{i}.mp4", {0: [i - 2.0]}, label=("REAL", "FAKE")[i % 2]) for i in range(4)]
    _, out = evaluation(tmp_path, rows, threshold=0.0)
    assert about(out).provenance["threshold"] == 0.0


def test_a_note_of_figures_keeps_its_capitals() -> None:
    ways = {"by_video": {"reals": 2, "fakes": 0, "note": "only REAL here: no AUC"}}
    assert side_table("x", ways).note == "Only REAL here: no AUC."


def test_an_evaluation_outlives_its_verdicts(tmp_path: Path) -> None:
    rows = [verdict(f"{i}.mp4", {0: [i - 2.0]}, label=("REAL", "FAKE")[i % 2]) for i in range(6)]
    path = write_verdicts(tmp_path / "v.parquet", rows)
    out = tmp_path / "evaluation"
    evaluate_job.run(EvaluateConfig(path=str(path), out=str(out), resamples=100), Progress())
    path.unlink()
    page = report_evaluation.collect(out, ".", ReportConfig(path=str(out)), Progress())
    assert any("are missing: no face can be shown" in note for note in page.notes)
    assert len(column(page, "video")) == 6
    (out / "rows.parquet").unlink()
    with pytest.raises(SourceError, match=r"holds no rows\.parquet"):
        report(str(out))


def test_the_wrong_face_of_a_miss_is_its_least_suspicious(tmp_path: Path) -> None:
    rows = [verdict("a.mp4", {0: [3.0, -1.0], 1: [0.0]})]
    file = open_verdicts(write_verdicts(tmp_path / "v.parquet", rows))
    verdicts = report_verdicts.Verdicts.of(file, [0])
    assert [(s.track_id, s.frame_index) for s in verdicts.spots(0)] == [(0, 0), (1, 0)]
    assert [(s.track_id, s.frame_index) for s in verdicts.spots(0, lowest=True)] == [(0, 5), (1, 0)]
    assert verdicts.spots(0)[0].box == BOX
    assert verdicts.spots(0)[0].p_fake == pytest.approx(p_fake(3.0), abs=1e-4)


# ---------------------------------------------------------------- counting


def test_values_are_counted_in_their_order_and_the_rare_ones_together() -> None:
    found = by_value("x", ["b", None, "a", "b", "c"], ("c", "z"))
    assert list(found.counts.items()) == [("c", 1), ("b", 2), ("none", 1), ("a", 1)]
    many = by_value("x", [str(i) for i in range(100)])
    assert (len(many.counts), many.others) == (12, (88, 88))


def test_reasons_that_differ_by_numbers_are_one() -> None:
    table = by_reason(
        ["a", "b", "c"], ["timeout"] * 2 + ["ok"], ["after 1.5 s", "after 20 s", None]
    )
    assert table is not None
    assert table.rows == [["timeout", "after … s", 2, "a, b"], ["ok", None, 1, "c"]]
    assert by_reason([], [], []) is None


def test_a_picture_is_a_small_jpeg() -> None:
    found = thumbnail(picture("a", size=300), (0, 0, 300, 300), (100, 100, 200, 200))
    assert found.jpeg is not None
    assert found.jpeg.startswith(b"\xff\xd8")
    assert len(found.jpeg) < 8000
