"""The promises made on real clips."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.commands import score as score_job
from dfscan.commands import train as train_job
from dfscan.config.extract import ExtractConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.train import TrainConfig
from dfscan.pipeline.progress import Progress

pytestmark = pytest.mark.slow


def zip_part(folder: Path, target: Path) -> str:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return str(target)


def videos(root: Path) -> list[dict[str, Any]]:
    return [r for _, t in storage.read_tables(root / "videos") for r in t.to_pylist()]


def test_two_dfdc_parts_read_in_place(samples: Path, tmp_path: Path) -> None:
    parts = [
        zip_part(samples / "dfdc" / f"dfdc_train_part_{n}", tmp_path / f"part_{n:02}.zip")
        for n in (0, 10)
    ]
    out = tmp_path / "faces"
    extract_job.run(
        ExtractConfig(source=parts, out=str(out), stride="real=30,fake=100", inline=True),
        Progress(),
    )
    rows = videos(out)
    assert [(r["label"], r["frames_sampled"]) for r in sorted(rows, key=lambda r: r["video_id"])] == [
        ("FAKE", 3), ("REAL", 10), ("FAKE", 3), ("FAKE", 3),
    ]  # fmt: skip
    faces = [r for _, t in storage.read_tables(out / "faces") for r in t.to_pylist()]
    with_face = {(f["video_id"], f["frame_index"]) for f in faces}
    assert len(with_face) >= 0.9 * sum(r["frames_sampled"] for r in rows)
    assert rows[0]["video_id"].startswith("part_")
    assert "!/dfdc_train_part_" in rows[0]["video_id"]


def test_folders_and_faceforensics_through_every_verb(samples: Path, tmp_path: Path) -> None:
    source = (str(samples / "clips"), str(samples / "ffpp"))
    faces, run, out = (str(tmp_path / n) for n in ("faces", "run", "v.parquet"))
    extracted = extract_job.run(ExtractConfig(source=source, out=faces, inline=True), Progress())
    assert extracted.counts["label"] == {"FAKE": 5, "REAL": 5, "unlabelled": 1}
    trained = train_job.run(TrainConfig(faces=faces, out=run, epochs=1, inline=True), Progress())
    for side in trained.metrics["split"].values():
        assert min(side["real_faces"], side["fake_faces"]) > 0
    assert trained.metrics["validation"]["by_frame"]["auc"] is not None
    scored = score_job.run(
        ScoreConfig(source=source, model=run, out=out, frames=2, inline=True), Progress()
    )
    assert scored.videos == 11
    assert scored.exit_code == 0


def test_one_real_video_alone_cannot_be_held_out(samples: Path, tmp_path: Path) -> None:
    """The four DFDC samples have one real clip: training says what it can and cannot tell."""
    faces = str(tmp_path / "faces")
    source = str(samples / "dfdc")
    extract_job.run(ExtractConfig(source=source, out=faces, stride="60", inline=True), Progress())
    notes: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            notes.append(message)

    result = train_job.run(
        TrainConfig(faces=faces, out=str(tmp_path / "run"), epochs=1, inline=True, seed=1), Told()
    )
    validation = result.metrics["validation"]["by_frame"]
    if not validation["reals"]:
        assert validation["auc"] is None
        assert any("no AUC" in note for note in notes)
    else:
        pytest.fail("the split put the only real clip on the held-out side")
