"""Configuration of ``dfscan purge``."""

from dfscan.config.base import CommandConfig
from dfscan.config.types import Paths, PathText


class PurgeConfig(CommandConfig):
    """``dfscan purge``: remove every trace of some videos."""

    path: PathText = "faces"
    video: Paths = ()
