"""Configuration of ``dfscan extract``."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dfscan.config.base import VideoInputConfig
from dfscan.config.types import PathText
from dfscan.schemas.recipe import Crop, Detector, FaceRecipe, Sampling, SamplingMode, Stride


class ExtractConfig(VideoInputConfig):
    """``dfscan extract``: videos → a face dataset."""

    out: PathText = "faces"
    sampling: SamplingMode = Field(
        "exact", description="nearest and keyframes decode less and take frames nearby"
    )
    stride: Stride = Stride(real=30, fake=30)
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"
    detector: Detector = Detector()
    crop: Crop = Crop()
    boxes_from: Literal["detected", "original"] = Field(
        "detected", description="original: cut fakes where their original's faces are"
    )
    dry_run: bool = Field(False, description="only say what there is to do")

    @model_validator(mode="after")
    def _same_frames(self) -> "ExtractConfig":
        if self.boxes_from == "original" and self.sampling != "exact":
            raise ValueError(
                f"boxes_from: original needs the same frames of fake and original, and sampling: "
                f"{self.sampling} takes what each has: use sampling: exact"
            )
        return self

    def recipe(self) -> FaceRecipe:
        """The part of this configuration that decides about pixels."""
        sampling = Sampling(mode=self.sampling, stride=self.stride, phase=self.phase)
        return FaceRecipe(sampling=sampling, detector=self.detector, crop=self.crop)
