"""Configuration of ``dfscan extract``."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from dfscan.config.base import VideoInputConfig
from dfscan.config.flags import (
    CLUSTER,
    DRY_RUN,
    LAYOUT,
    MAX_FAILED,
    OUT,
    OVERWRITE,
    RUNNING,
    SAMPLING,
    SOURCE,
    TIMEOUT,
    Flag,
)
from dfscan.config.types import PathText
from dfscan.schemas.recipe import Crop, Detector, FaceRecipe, Sampling, SamplingMode, Stride

FACES: Final = "Faces"


class ExtractConfig(VideoInputConfig):
    """``dfscan extract``: videos → a face dataset."""

    flags: ClassVar[tuple[Flag, ...]] = (
        SOURCE, LAYOUT, Flag("retry", metavar="STATUS,…"), Flag("allow_gone"),
        OUT, OVERWRITE,
        Flag("stride", SAMPLING, metavar="N"), Flag("phase", SAMPLING, metavar="N"),
        Flag("sampling", SAMPLING), Flag("decoder", SAMPLING),
        Flag("detector.name", FACES, name="--detector"), Flag("detector.min_face", FACES, metavar="N"),
        Flag("detector.max_faces", FACES), Flag("crop.context", FACES, name="--margin"),
        Flag("crop.face_size", FACES), Flag("boxes_from", FACES),
        TIMEOUT, MAX_FAILED, Flag("decoders", RUNNING), DRY_RUN, *CLUSTER,
    )  # fmt: skip

    out: PathText = Field("faces", description="Face dataset to write")
    sampling: SamplingMode = Field(
        "exact",
        description="Which frames may stand in for those chosen: nearest and keyframes decode less",
    )
    stride: Stride = Field(
        default_factory=Stride,
        description="Take every n-th frame: 30, or per label real=30,fake=100 (default: 30)",
    )
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = Field(
        "hash", description="First frame: a number, or hash: another one for each video"
    )
    detector: Detector = Field(default_factory=Detector)
    crop: Crop = Field(default_factory=Crop)
    boxes_from: Literal["detected", "original"] = Field(
        "detected",
        description="Where faces are cut out; original: fakes where the faces of their original are",
    )
    dry_run: bool = Field(False, description="Show what would be done and write nothing")

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
