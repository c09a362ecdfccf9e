"""Configuration of ``dfscan export``."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dfscan.config.base import CommandConfig
from dfscan.config.flags import OUT, OVERWRITE, Flag
from dfscan.config.types import PathText, comma_separated


class ExportConfig(CommandConfig):
    """``dfscan export``: a model for other runtimes, checked against the original."""

    from_score: ClassVar[Mapping[str, str]] = {"model": "model"}
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("model", metavar="MODEL", argument=True), Flag("faces", metavar="FACES"),
        Flag("formats", "Output", name="--format", metavar="FORMAT,…"), OUT, OVERWRITE,
    )  # fmt: skip

    model: PathText | None = Field(None, description="model.safetensors or a run folder")
    formats: Annotated[
        tuple[Literal["onnx", "onnx-int8", "torchscript", "litert"], ...],
        BeforeValidator(comma_separated),
    ] = Field(("onnx",), description="Some of onnx, onnx-int8, torchscript, litert (default: onnx)")
    out: PathText | None = Field(
        None,
        description="Folder to write (default: export beside the model, or x_export beside "
        "x.safetensors)",
    )
    faces: PathText | None = Field(
        None, description="Face dataset to compare the formats on and to fit int8 to"
    )
