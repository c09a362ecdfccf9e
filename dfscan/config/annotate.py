"""Configuration of ``dfscan annotate``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from dfscan.config.base import DecodingConfig
from dfscan.config.types import BatchSize, Paths, PathText, Seconds
from dfscan.schemas.scoring import Aggregation


class AnnotateConfig(DecodingConfig):
    """``dfscan annotate``: a video or picture with boxes."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "threshold": "threshold",
        "aggregation": "aggregation",
    }

    file: PathText | None = None
    model: Paths = Field((), description="one, or several whose scores are averaged")
    out: PathText | None = None
    threshold: float | None = Field(None, ge=0, le=1)
    aggregation: Aggregation = Field("mean", description="how the file's faces become one score")
    every: Seconds = Field(0.2, description="seconds between the frames that are judged")
    batch_size: BatchSize = "auto"
