"""Configuration of ``dfscan export``."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dfscan.config.base import CommandConfig
from dfscan.config.types import PathText, _names


class ExportConfig(CommandConfig):
    """``dfscan export``: a model for other runtimes, checked against the original."""

    from_score: ClassVar[Mapping[str, str]] = {"model": "model"}

    model: PathText | None = None
    formats: Annotated[
        tuple[Literal["onnx", "onnx-int8", "torchscript", "litert"], ...], BeforeValidator(_names)
    ] = ("onnx",)
    out: PathText | None = Field(
        None, description="null: beside the model, export or, of x.safetensors, x_export"
    )
    faces: PathText | None = Field(
        None, description="a face dataset to compare the formats on, and to fit int8 to"
    )
