"""Configuration of ``dfscan quickstart``."""

from typing import ClassVar

from pydantic import Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import INLINE, OUTPUT, OVERWRITE, WORKERS, Flag
from dfscan.config.types import PathText


class QuickstartConfig(CommandConfig):
    """``dfscan quickstart``: a small synthetic corpus through extract, train, score and evaluate."""

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("out", OUTPUT, metavar="[DIR]", argument=True), OVERWRITE,
        Flag("epochs", "Training"), Flag("seed", "Training"), INLINE, WORKERS,
    )  # fmt: skip

    out: PathText = Field("quickstart", description="Folder to write")
    seed: int = Field(0, ge=0, description="Seed of the corpus, the split and the weights")
    people: int = Field(28, ge=4, le=200, description="Invented people in the training parts")
    test_people: int = Field(8, ge=2, le=100, description="Other people, in the test part")
    epochs: int = Field(12, ge=1, description="Passes over the faces")
