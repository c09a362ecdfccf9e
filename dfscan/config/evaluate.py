"""Configuration of ``dfscan evaluate``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import GPUS, LABELS, LAYOUT, OUT, OVERWRITE, Flag
from dfscan.config.types import BatchSize, Layout, Names, PathText


class EvaluateConfig(CommandConfig):
    """``dfscan evaluate``: verdicts, or faces and a model, against the truth."""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("path", metavar="[VERDICTS|FACES]", argument=True), LABELS, LAYOUT,
        Flag("model", metavar="MODEL"), Flag("against", metavar="PATH"), OUT, OVERWRITE,
        Flag("by", "Evaluation", metavar="NAME,…"), Flag("threshold", "Evaluation"), GPUS,
    )  # fmt: skip

    path: PathText = Field(
        "verdicts.parquet", description="Verdicts, or with --model a face dataset"
    )
    model: PathText | None = Field(None, description="Score the faces of a dataset with this model")
    against: PathText | None = Field(
        None,
        description="Compare with other verdicts on the same videos; of faces, with another model",
    )
    labels: PathText | None = Field(
        None,
        description="Labels: a table with video_id or filename, and label; metadata.json; or the "
        "labelled source itself (default: the labels in the verdicts)",
    )
    layout: Layout = Field("auto", description="Folder layout that the labels are read from")
    by: Names = Field(
        (), description="Break down by part, resolution, face_size, people or any attribute"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="p_fake from which a video is FAKE (default: the threshold of each verdict)",
    )
    out: PathText = Field("evaluation", description="Folder to write")
    resamples: int = Field(
        1000, ge=100, le=100_000, description="Bootstrap samples for the intervals"
    )
    seed: int = Field(0, ge=0, description="Seed of the bootstrap samples")
    faces: int = Field(
        300, ge=0, le=1000, description="Faces to show on the page; 0: no video is opened"
    )
    batch_size: BatchSize = "auto"
