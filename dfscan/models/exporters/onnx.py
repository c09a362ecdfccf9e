"""ONNX, run by ONNX Runtime: any batch size."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dfscan.errors import ModelError
from dfscan.models.exporters.base import (
    FACTS,
    INPUT,
    OUTPUT,
    Exporter,
    Facts,
    PixelNetwork,
    Pixels,
    Runner,
    refusal,
)

LARGEST: Final = 2**31 - 1
"""Bytes of one protobuf message; beyond it ONNX keeps tensors in other files."""

_METADATA, _KEY, _VALUE = 14, 1, 2
"""Fields of ONNX's ModelProto (``metadata_props``) and StringStringEntryProto (``onnx.proto``)."""
_MANY: Final = 1 << 20
"""A message has fewer fields; one of nothing but empty fields would take for ever."""


def convert(network: PixelNetwork, facts: Facts, faces: Pixels) -> bytes:
    """The file; see :class:`~dfscan.models.exporters.base.Exporter`.

    :raises ModelError: the network does something that ONNX has no operator for, or takes one batch
        size only, or is too large for one file.
    """
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    del faces
    needed = sum(p.numel() * p.element_size() for p in network.parameters())
    if needed > LARGEST:
        raise ModelError(
            f"the network cannot be exported as onnx (its {needed:,} bytes of weights do not fit "
            "one file of 2 GiB): leave onnx out of --format"
        )
    try:
        program = torch.onnx.export(
            network,
            (network.example(),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise refusal("onnx", error) from None
    if program is None:
        raise ModelError("torch.onnx.export gave nothing: leave onnx out of --format")
    # The exporter notes where in which source file every node came from: paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    made = program.model_proto
    batch = made.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:  # the exporter falls back to the example's, and says nothing
        raise refusal("onnx", ValueError("it takes one batch size only"))
    describe_graph(made, facts)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def describe_graph(made: Any, facts: Facts) -> None:
    """Put the facts into a ModelProto's metadata, and their plain words where viewers show them."""
    from onnx.helper import set_model_props

    set_model_props(made, dict(facts))
    made.graph.doc_string = facts["description"]


def load(data: bytes, threads: int) -> Runner:
    """The network on the CPU, with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run([OUTPUT], {INPUT: pixels})[0]
        return logits

    return run


def facts(data: bytes) -> dict[str, str]:
    """What the file says of itself; see :class:`~dfscan.models.exporters.base.Exporter`."""
    entries = [
        dict(_pieces(entry)) for field, entry in _pieces(memoryview(data)) if field == _METADATA
    ]
    texts = {bytes(e.get(_KEY, b"")): bytes(e.get(_VALUE, b"")) for e in entries}
    return {key: texts[key.encode()].decode() for key in FACTS if key.encode() in texts}


def _pieces(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message that have a length, by number; the others are stepped over.

    :raises ValueError: it is no such message.
    """
    at = 0
    for _ in range(_MANY):
        if at >= len(message):
            return
        tag, at = _varint(message, at)
        kind, size = tag & 7, 0
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            yield tag >> 3, message[at : at + size]
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of type {kind} at byte {at:,}")
        at += size
        if at > len(message):
            raise ValueError("cut off")
    raise ValueError(f"more than {_MANY:,} fields")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at:,}")


PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")

ONNX = Exporter(".onnx", convert, load, facts, extra="onnx", packages=PACKAGES)
