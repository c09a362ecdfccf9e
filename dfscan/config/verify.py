"""Configuration of ``dfscan verify``."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from dfscan.config.base import DecodingConfig
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

    verdicts: PathText = "verdicts.parquet"
    model: Paths = Field((), description="every model that scored")
    video: Paths = ()
    sample: int | None = Field(None, ge=1, description="so many verdicts, chosen at random")
    seed: int = Field(0, ge=0, description="of the choice")
    tolerance: float = Field(
        1e-3,
        ge=0,
        description="how far two logits may lie apart; left alone, more where one is of half precision",
    )
    batch_size: BatchSize = "auto"

    @model_validator(mode="after")
    def _one_choice(self) -> "VerifyConfig":
        if self.video and self.sample is not None:
            raise ValueError("video and sample exclude each other: give one of them")
        return self
