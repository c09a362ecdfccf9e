"""Configuration of ``dfscan evaluate``."""

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.types import BatchSize, Layout, Names, PathText


class EvaluateConfig(CommandConfig):
    """``dfscan evaluate``: verdicts, or faces and a model, against the truth."""

    path: PathText = Field("verdicts.parquet", description="a verdict file, or a face dataset")
    model: PathText | None = Field(None, description="what judges the faces of a dataset")
    against: PathText | None = Field(
        None, description="other verdicts on the same videos; of faces another model"
    )
    labels: PathText | None = Field(
        None, description="a table, metadata.json, or the labelled source; null: the rows' own"
    )
    layout: Layout = "auto"
    by: Names = Field((), description="part, resolution, face_size, people, or any attribute")
    threshold: float | None = Field(None, ge=0, le=1, description="null: each verdict's own")
    out: PathText = "evaluation"
    resamples: int = Field(1000, ge=100, le=100_000, description="of the bootstrap intervals")
    seed: int = Field(0, ge=0, description="of the resamples")
    faces: int = Field(300, ge=0, le=1000, description="on the page; 0: no video is opened for it")
    batch_size: BatchSize = "auto"
