"""Configuration of ``dfscan report``."""

from pydantic import Field

from dfscan.config.base import DecodingConfig
from dfscan.config.types import PathText


class ReportConfig(DecodingConfig):
    """``dfscan report``: one page about a dataset, a run, verdicts or an evaluation."""

    path: PathText = "verdicts.parquet"
    out: PathText | None = Field(None, description="null: report.html in or beside the path")
    faces: int = Field(300, ge=0, le=1000, description="thumbnails, the most suspicious first")
