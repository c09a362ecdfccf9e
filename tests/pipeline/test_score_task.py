"""Verdict rows hold every number that decides about them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faces import face, picture
from support.verdicts import SAMPLING, make_model

from dfscan import storage
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError
from dfscan.models.modelfile import load_model, save_model
from dfscan.pipeline.extraction.extractor import ExtractionResult, ReferenceFaces, failed_row
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.scoring_setup import make_score_task, record_of
from dfscan.pipeline.work_units import make_unit
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import FaceRow, VideoRef
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.redecision import recorded_rule, redecide
from dfscan.verdicts.provenance import hash_of

SMALL = (60.0, 60.0, 71.3, 69.9)
AGGREGATIONS = ("mean", "confident", "max_track", "trimmed")


def faces(name: str, count: int, **changes: Any) -> list[FaceRow]:
    """Frames of two people in turns."""
    return [face(name, frame=n, track_id=n % 2, **changes) for n in range(count)]


VIDEOS = {
    "many.mp4": ("ok", faces("many.mp4", 14), 14),
    "lost.mp4": ("partial", faces("lost.mp4", 9), 12),
    "few.mp4": ("ok", faces("few.mp4", 2), 12),
    "small.mp4": ("ok", faces("small.mp4", 7, box=SMALL), 7),
    "flat.mp4": ("ok", faces("flat.mp4", 6, image=picture("flat", quality=5, size=16)), 6),
    "none.mp4": ("no_face", [], 5),
    "text.mp4": ("not_video", [], None),
}


@dataclass
class Scripted:
    """An extractor that finds the faces of :data:`VIDEOS`."""

    recipe: FaceRecipe
    device: str = "cpu"
    max_concurrent: int = 1

    def abandon(self) -> None:
        pass

    def extract(
        self, ref: VideoRef, also: Sequence[int] = (), reference: ReferenceFaces | None = None
    ) -> ExtractionResult:
        status, found, sampled = VIDEOS[ref.video_id]
        reason = None if status in ("ok", "no_face") else "why"
        return ExtractionResult(
            replace(failed_row(ref, status, reason), frames_sampled=sampled), found
        )

    def sample_frames(self, ref: VideoRef) -> list[int]:
        return []


def calibrated(path: Path, seed: int, fitted: bool) -> str:
    """A model with a calibration of its own for each aggregation, or none."""
    loaded = load_model(make_model(path, detector="none", seed=seed))
    known = [
        Calibration(
            scale=2.5 + seed, offset=0.3 - seed, reals=9, fakes=8, aggregation=how,
            sampling=SAMPLING, people=0.2, threshold=0.45, top_reals=(2.0, 1.0),
        )
        for how in AGGREGATIONS
    ]  # fmt: skip
    header = {"calibration": None, "calibrations": tuple(known) if fitted else ()}
    save_model(path, loaded.network, loaded.header.model_copy(update=header))
    return str(path)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("fitted", "threshold"),
    [
        ((True,), None),
        ((False,), None),
        ((False,), 0.5),
        ((True, True), None),
        ((True, False), None),
    ],
)
def test_a_decision_follows_from_the_stored_row_and_its_record(
    tmp_path: Path, fitted: tuple[bool, ...], threshold: float | None, aggregation: str
) -> None:
    models = [calibrated(tmp_path / f"{n}.safetensors", n, f) for n, f in enumerate(fitted)]
    config = ScoreConfig(
        source="x", model=models, aggregation=aggregation, threshold=threshold, inline=True,
        evidence={"errors": 0.5}, batch_size=10,
    )  # fmt: skip
    task = make_score_task(config, tmp_path / "parts", Progress())
    extractor = Scripted(task.full.extractor.recipe)
    task = replace(task, full=replace(task.full, extractor=extractor))
    refs = [VideoRef(v, f"/{v}", "p", None, None, v, 1, "1") for v in VIDEOS]
    task(make_unit(refs, task.config_hash))
    ((_, table),) = storage.read_tables(tmp_path / "parts")
    rows, records = table.to_pylist(), json.loads(json.dumps(record_of(task)))
    for row in rows:
        record = records[row["custody"]["config_hash"]]
        assert hash_of(record) == row["custody"]["config_hash"]
        again = redecide(row, *recorded_rule(record, row))
        assert (again.verdict, again.reason) == (row["verdict"], row["reason"])
        for name in ("score_raw", "p_fake", "llr", "threshold"):
            stored, found = row[name], getattr(again, name)
            assert stored == (None if found is None else float(np.float32(found))), name
        members = {None if f["logits"] is None else len(f["logits"]) for f in row["frames"]}
        assert members <= {len(models) if len(models) > 1 else None}
    reasons = {row["video_id"]: row["reason"] for row in rows}
    assert reasons["text.mp4"] == "why"
    assert reasons["none.mp4"] == "no_face"
    if task.full.rule.calibration and aggregation == "mean":
        assert reasons["few.mp4"].startswith("few_frames (2 of 12")
        assert "small_faces (11 pixels)" in reasons["small.mp4"]
        assert "blurred_faces" in reasons["flat.mp4"]


def test_a_new_calibration_applies_to_stored_logits(tmp_path: Path) -> None:
    models = [calibrated(tmp_path / f"{n}.safetensors", n, True) for n in range(2)]
    made = []
    for offset in (0.0, 1.5):
        path = Path(models[0])
        loaded = load_model(path)
        known = tuple(
            c.model_copy(update={"offset": c.offset + offset}) for c in loaded.header.calibrations
        )
        header = loaded.header.model_copy(update={"calibrations": known})
        save_model(path, loaded.network, header)
        config = ScoreConfig(source="x", model=models, inline=True)
        task = make_score_task(config, tmp_path / f"parts{offset}", Progress())
        extractor = Scripted(task.full.extractor.recipe)
        task = replace(task, full=replace(task.full, extractor=extractor))
        task(make_unit([VideoRef("many.mp4", "/m", "p", None, None, "m", 1, "1")], "c"))
        ((_, table),) = storage.read_tables(task.target)
        made.append((task, table.to_pylist()[0]))
    (_, old), (task, new) = made
    again = redecide(old, task.full.rule, task.scorer.calibrations)
    assert old["score_raw"] != new["score_raw"]
    assert np.float32(again.p_fake or 0) == np.float32(new["p_fake"])
    assert (again.verdict, again.reason) == (new["verdict"], new["reason"])


def test_a_record_of_an_earlier_version_says_that_it_lacks_calibrations() -> None:
    with pytest.raises(ConfigError, match="holds no calibration: an earlier dfscan"):
        recorded_rule({"threshold": 0.5}, {"look": "full", "custody": {"models": ["m"]}})
