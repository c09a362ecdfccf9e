"""Families under ``paired``, and what becomes of them when one of them cannot be seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import VideoError
from dfscan.pipeline import extract_task as extract
from dfscan.pipeline.extract_task import ExtractTask
from dfscan.pipeline.extraction.extractor import ExtractionResult, ReferenceFaces, failed_row
from dfscan.pipeline.work_units import make_unit
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VideoRef
from dfscan.storage import read_tables

REFS = [
    VideoRef(name, f"/{name}", "p", "FAKE" if original else "REAL", original, "g", 1, "1")
    for name, original in (("o", None), ("f1", "o"), ("f2", "o"), ("x", None))
]


@dataclass
class Scripted:
    """Answers as told and remembers what it was asked."""

    status: dict[str, str] = field(default_factory=dict)
    hangs: frozenset[str] = frozenset()
    asked: list[tuple[str, tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=list)
    recipe: FaceRecipe = field(
        default_factory=lambda: FaceRecipe(sampling=Sampling(stride=Stride()))
    )
    device: str = "cpu"
    max_concurrent: int = 1

    def abandon(self) -> None:
        pass

    def extract(
        self,
        ref: VideoRef,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        known = None if reference is None else tuple(reference.times)
        self.asked.append((ref.video_id, tuple(extra_frames), known))
        status = self.status.get(ref.video_id, "no_face")
        row = replace(failed_row(ref, status, "why"), width=8, height=8)
        return ExtractionResult(
            row, [], {i: i / 10 for i in (0, *extra_frames)} if status == "no_face" else {}
        )

    def sample_frames(self, ref: VideoRef) -> list[int]:
        if ref.video_id in self.hangs:
            raise VideoError("timeout", "not done after 1 s")
        return {"f1": [1, 5], "f2": [2]}[ref.video_id]


def run(extractor: Scripted, tmp_path: Path, paired: bool = True) -> dict[str, tuple[str, str]]:
    task = ExtractTask(extractor, FaceSet(tmp_path), "run", paired=paired)
    assert task(make_unit(REFS, "c")).videos == 4
    rows = [r for _, t in read_tables(tmp_path / "videos") for r in t.to_pylist()]
    return {r["video_id"]: (r["status"], r["reason"]) for r in rows}


def test_an_original_is_asked_for_its_fakes_frames_and_they_for_its_boxes(tmp_path: Path) -> None:
    extractor = Scripted()
    run(extractor, tmp_path)
    assert extractor.asked == [
        ("o", (1, 2, 5), None), ("f1", (), (1, 5)), ("f2", (), (2,)), ("x", (), None),
    ]  # fmt: skip


def test_without_pairing_every_video_is_alone(tmp_path: Path) -> None:
    extractor = Scripted()
    run(extractor, tmp_path, paired=False)
    assert extractor.asked == [(r.video_id, (), None) for r in REFS]


@pytest.mark.parametrize("status", ["timeout", "crashed", "missing"])
def test_fakes_share_the_fate_of_an_original_that_was_not_seen(tmp_path: Path, status: str) -> None:
    extractor = Scripted({"o": status})
    rows = run(extractor, tmp_path)
    assert rows["f1"] == rows["f2"] == (status, "its original was not seen: why")
    assert rows["x"][0] == "no_face"


def test_the_fakes_of_a_broken_original_are_looked_at_themselves(tmp_path: Path) -> None:
    extractor = Scripted({"o": "decode_error"})
    assert run(extractor, tmp_path)["f1"][0] == "no_face"
    assert ("f1", (), None) in extractor.asked


def test_a_fake_that_hangs_is_not_opened_twice(tmp_path: Path) -> None:
    extractor = Scripted(hangs=frozenset({"f1"}))
    assert run(extractor, tmp_path)["f1"] == ("timeout", "not done after 1 s")
    assert [name for name, *_ in extractor.asked] == ["o", "f2", "x"]


def test_a_unit_is_split_into_families_or_single_videos(tmp_path: Path) -> None:
    def split(paired: bool) -> list[list[str]]:
        task = ExtractTask(Scripted(), FaceSet(tmp_path), "run", paired=paired)
        return [[v.video_id for v in u.videos] for u in task.split(make_unit(REFS, "c"))]

    assert split(paired=True) == [["o", "f1", "f2"], ["x"]]
    assert split(paired=False) == [["o"], ["f1"], ["f2"], ["x"]]


def test_much_is_committed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "COMMIT_BYTES", -1)
    rows = run(Scripted(), tmp_path, paired=False)
    assert len(rows) == 4
    assert len(list((tmp_path / "videos").iterdir())) == 4
