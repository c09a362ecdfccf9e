"""Configuration of ``dfscan inspect``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import Flag
from dfscan.config.types import PathText


class InspectConfig(CommandConfig):
    """``dfscan inspect``: what is this?"""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("path", metavar="PATH", argument=True, required=True),
    )

    path: PathText = Field(".", description="A source, a video, or what a command wrote")
