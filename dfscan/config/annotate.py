"""Configuration of ``dfscan annotate``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from dfscan.config.base import MODEL_HELP, DecodingConfig
from dfscan.config.flags import GPUS, MODELS, OUT, OVERWRITE, Flag
from dfscan.config.types import BatchSize, Paths, PathText, Seconds
from dfscan.schemas.scoring import Aggregation


class AnnotateConfig(DecodingConfig):
    """``dfscan annotate``: a video or picture with boxes."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "threshold": "threshold",
        "aggregation": "aggregation",
    }
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("file", metavar="FILE", argument=True), MODELS, OUT, OVERWRITE,
        Flag("threshold", "Decision"), GPUS,
    )  # fmt: skip

    file: PathText | None = Field(None, description="A video or a picture")
    model: Paths = Field((), description=MODEL_HELP)
    out: PathText | None = Field(
        None,
        description="File to write (default: FILE_annotated.mp4, or FILE_results.png of a picture)",
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="p_fake from which a person is FAKE (default: the model's)"
    )
    aggregation: Aggregation = Field(
        "mean", description="How the scores of the faces become one score"
    )
    every: Seconds = Field(0.2, description="Seconds between the frames that are scored")
    batch_size: BatchSize = "auto"
