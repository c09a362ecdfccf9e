"""Configuration of ``dfscan stress``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from dfscan.config.base import MODEL_HELP, VideoInputConfig
from dfscan.config.flags import (
    CLUSTER,
    LABELS,
    LAYOUT,
    MAX_FAILED,
    OUT,
    OVERWRITE,
    SAMPLING,
    SOURCE,
    TIMEOUT,
    Flag,
)
from dfscan.config.types import BatchSize, Names, Paths, PathText
from dfscan.schemas.scoring import Aggregation


class StressConfig(VideoInputConfig):
    """``dfscan stress``: the same clips, re-encoded and scored again."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "source": "source",
        "aggregation": "aggregation",
    }
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("model", metavar="MODEL", argument=True), SOURCE, LABELS, LAYOUT, OUT, OVERWRITE,
        *(Flag(key, SAMPLING) for key in ("sample", "seed", "frames")),
        Flag("conditions", "Test", metavar="NAME,…"), Flag("threshold", "Test"),
        TIMEOUT, MAX_FAILED, *CLUSTER,
    )  # fmt: skip

    model: Paths = Field((), description=MODEL_HELP)
    labels: PathText | None = Field(
        None,
        description="Labels: a table with video_id or filename, and label; metadata.json; or the "
        "labelled source (default: the source's own)",
    )
    conditions: Names = Field(
        (),
        description="Some of reencoded, fps15, half, crf23, crf32, crf40, jpeg, border, mirrored "
        "(default: all)",
    )
    sample: int | None = Field(
        None, ge=1, description="Number of videos, chosen at random (default: all)"
    )
    seed: int = Field(0, ge=0, description="Seed of the random choice")
    frames: int = Field(
        32, ge=1, description="Frames per video, spread evenly; at least one every 2 s"
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="p_fake from which a video is FAKE (default: the model's)"
    )
    aggregation: Aggregation = Field(
        "mean", description="How the scores of the faces become one score"
    )
    out: PathText = Field("stress", description="Folder to write")
    batch_size: BatchSize = "auto"
