"""What a worker and its child say to each other: a JSON header, Arrow tables, a video's bytes.

Both formats are read without running anything that they hold. A child that a hostile file took
over can still lie about what it sees in this video and the next ones, until it is replaced; whose
rows they are is not its to say.
"""

import json
import struct
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from dfscan.pipeline.extraction.extractor import ExtractionResult, ReferenceFaces
from dfscan.schemas.evolution import conform
from dfscan.schemas.records import FACE_SCHEMA, FaceRow, VideoRow, face_rows, to_table

PREFIX: Final = struct.Struct("<QQ")
"""Lengths of header and tables in bytes, before each message."""

PIECE: Final = struct.Struct("<Q")
"""Length of each piece of a video's bytes. After the last comes 0, then their SHA-256."""

GIVEN_UP: Final = (1 << 64) - 1
"""In place of a length: the rest cannot be read, there will be no answer."""

DIGEST: Final = 32

LIMIT: Final = 8 << 30
"""No message is longer; a prefix that says so is not one of ours."""


def message(header: dict[str, Any], faces: tuple[FaceRow, ...] | list[FaceRow] = ()) -> bytes:
    """One message, ready to be sent."""
    text = json.dumps(header).encode()
    table = _to_bytes(to_table(faces, FACE_SCHEMA)) if faces else b""
    return PREFIX.pack(len(text), len(table)) + text + table


def too_much(memory: int) -> list[str]:
    """Status and reason of a video that took more than so many bytes."""
    return ["crashed", f"used more than {memory / 2**30:.1f} GiB of memory"]


def faces_of(table: bytes) -> list[FaceRow]:
    """The faces of a message.

    :raises pyarrow.ArrowInvalid: the bytes are no table of faces.
    """
    if not table:
        return []
    return face_rows(conform(pa.ipc.open_stream(table).read_all(), FACE_SCHEMA))


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def result_message(result: ExtractionResult) -> bytes:
    """What a child answers."""
    times = [[index, when] for index, when in result.times.items()]
    header = {"row": asdict(result.row), "times": times, "faces_s": result.faces_s}
    return message(header, result.faces)


def read_result(header: dict[str, Any], table: bytes) -> ExtractionResult:
    """The answer of a child.

    :raises TypeError: it holds a column that no video row has.
    """
    times = {int(index): float(when) for index, when in header["times"]}
    return ExtractionResult(
        VideoRow(**header["row"]), faces_of(table), times, float(header["faces_s"])
    )


def reference_header(reference: ReferenceFaces | None) -> dict[str, Any] | None:
    """A reference without its faces, which travel as the message's table."""
    if reference is None:
        return None
    times = [[index, when] for index, when in reference.times.items()]
    return {"width": reference.width, "height": reference.height, "times": times}


def read_reference(header: dict[str, Any] | None, table: bytes) -> ReferenceFaces | None:
    """The inverse of :func:`reference_header`."""
    if header is None:
        return None
    times = {int(index): float(when) for index, when in header["times"]}
    return ReferenceFaces(header["width"], header["height"], times, tuple(faces_of(table)))
