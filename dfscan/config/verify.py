"""Configuration of ``dfscan verify``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from dfscan.config.base import DecodingConfig
from dfscan.config.flags import CLUSTER, MAX_FAILED, MODELS, TIMEOUT, Flag
from dfscan.config.types import BatchSize, Paths, PathText


class VerifyConfig(DecodingConfig):
    """``dfscan verify``: verdicts, made again from their custody record and compared."""

    from_score: ClassVar[Mapping[str, str]] = {
        "verdicts": "out",
        **{
            key: key
            for key in (
                *("model", "unit_size", "batch_size", "timeout", "max_memory", "recycle"),
                *("decoders", "isolate"),
            )
        },
    }
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("verdicts", metavar="[VERDICTS]", argument=True), MODELS,
        Flag("video", metavar="VIDEO_ID", many=True), Flag("sample"), Flag("seed"),
        Flag("tolerance", "Comparison"), TIMEOUT, MAX_FAILED, *CLUSTER,
    )  # fmt: skip

    verdicts: PathText = Field("verdicts.parquet", description="Verdicts to compute again")
    model: Paths = Field(
        (), description="Model that scored: model.safetensors or a run folder; one per model"
    )
    video: Paths = Field(
        (), description="video_id of a verdict; may be repeated (default: all verdicts)"
    )
    sample: int | None = Field(None, ge=1, description="Number of verdicts, chosen at random")
    seed: int = Field(0, ge=0, description="Seed of the random choice")
    tolerance: float = Field(
        1e-3,
        ge=0,
        description="Largest difference of two logits; by default more for half precision",
    )
    max_failed: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of verdicts that cannot be checked above which the exit code is 3",
    )
    batch_size: BatchSize = "auto"

    @model_validator(mode="after")
    def _one_choice(self) -> "VerifyConfig":
        if self.video and self.sample is not None:
            raise ValueError("video and sample exclude each other: give one of them")
        return self
