"""Networks for other runtimes. A new format is one file and one line in the table."""

from collections.abc import Mapping
from typing import Final

from dfscan.models.exporters.base import Exporter
from dfscan.models.exporters.litert import LITERT
from dfscan.models.exporters.onnx import ONNX
from dfscan.models.exporters.onnx_int8 import ONNX_INT8
from dfscan.models.exporters.torchscript import TORCHSCRIPT

EXPORTERS: Final[Mapping[str, Exporter]] = {
    "onnx": ONNX,
    "onnx-int8": ONNX_INT8,
    "torchscript": TORCHSCRIPT,
    "litert": LITERT,
}
