"""Configuration of ``dfscan purge``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import Flag
from dfscan.config.types import Paths, PathText


class PurgeConfig(CommandConfig):
    """``dfscan purge``: remove every trace of some videos."""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("path", metavar="PATH", argument=True, required=True),
        Flag("video", metavar="VIDEO_ID", many=True),
    )

    path: PathText = Field("faces", description="A face dataset, or verdicts")
    video: Paths = Field((), description="video_id of a video to remove; may be repeated")
