"""Configuration of ``dfscan models import``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import OUT, OVERWRITE, Flag
from dfscan.config.types import PathText


class ImportModelConfig(CommandConfig):
    """``dfscan models import``: a published detector's weights → a dfscan model."""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("kind", metavar="KIND", argument=True, required=True),
        Flag("file", metavar="FILE", argument=True, required=True),
        Flag("mapping", metavar="PATH"), OUT, OVERWRITE,
    )  # fmt: skip

    kind: str = Field("", description="Kind of model, see dfscan models list")
    file: PathText = Field("", description="Its published weights")
    out: PathText | None = Field(
        None, description="Model file to write (default: FILE.safetensors here)"
    )
    mapping: PathText | None = Field(
        None,
        description="For KIND mapping: a YAML file that says which tensor goes where, or the name "
        "of one that comes with dfscan, see dfscan models list",
    )
