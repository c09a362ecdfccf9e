"""Configuration of ``dfscan quickstart``."""

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.types import PathText


class QuickstartConfig(CommandConfig):
    """``dfscan quickstart``: a small synthetic corpus through extract, train, score and evaluate."""

    out: PathText = "quickstart"
    seed: int = Field(0, ge=0)
    people: int = Field(28, ge=4, le=200, description="invented people in the training parts")
    test_people: int = Field(8, ge=2, le=100, description="others, in the test part")
    epochs: int = Field(12, ge=1)
