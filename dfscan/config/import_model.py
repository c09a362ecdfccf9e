"""Configuration of ``dfscan models import``."""

from dfscan.config.base import CommandConfig
from dfscan.config.types import PathText


class ImportModelConfig(CommandConfig):
    """``dfscan models import``: a published detector's weights → a dfscan model."""

    kind: str = ""
    file: PathText = ""
    out: PathText | None = None
    mapping: PathText | None = None
