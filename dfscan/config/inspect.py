"""Configuration of ``dfscan inspect``."""

from dfscan.config.base import CommandConfig
from dfscan.config.types import PathText


class InspectConfig(CommandConfig):
    """``dfscan inspect``: what is this?"""

    path: PathText = "."
