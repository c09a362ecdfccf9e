"""Configuration of ``dfscan report``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import DecodingConfig
from dfscan.config.flags import OUT, OUTPUT, OVERWRITE, TIMEOUT, Flag
from dfscan.config.types import PathText


class ReportConfig(DecodingConfig):
    """``dfscan report``: one page about a dataset, a run, verdicts or an evaluation."""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("path", metavar="[PATH]", argument=True), OUT, Flag("faces", OUTPUT), OVERWRITE,
        TIMEOUT,
    )  # fmt: skip

    path: PathText = Field(
        "verdicts.parquet", description="A face dataset, a run, verdicts or an evaluation"
    )
    out: PathText | None = Field(
        None, description="Page to write (default: report.html in or beside PATH)"
    )
    faces: int = Field(300, ge=0, le=1000, description="Faces to show, the most suspicious first")
