"""Configuration of ``dfscan stress``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from dfscan.config.base import VideoInputConfig
from dfscan.config.types import BatchSize, Names, Paths, PathText
from dfscan.schemas.scoring import Aggregation


class StressConfig(VideoInputConfig):
    """``dfscan stress``: the same clips, re-encoded and scored again."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "source": "source",
        "aggregation": "aggregation",
    }

    model: Paths = Field((), description="one, or several whose scores are averaged")
    labels: PathText | None = Field(
        None, description="a table, metadata.json, or the labelled source; null: the source's own"
    )
    conditions: Names = Field((), description="beside the original; empty: all")
    sample: int | None = Field(None, ge=1, description="so many videos, chosen at random")
    seed: int = Field(0, ge=0, description="of the choice")
    frames: int = Field(32, ge=1, description="a video, spread evenly; never sparser than 2 s")
    threshold: float | None = Field(None, ge=0, le=1)
    aggregation: Aggregation = Field("mean", description="how the faces' scores become one")
    out: PathText = "stress"
    batch_size: BatchSize = "auto"
