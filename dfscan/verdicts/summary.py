"""Verdicts without their frames, as planning compares them: one row per verdict."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.verdicts.table import RowIndices, read_columns, verdict_files

KEYS: Final = ("video_id", "scanned_at")
"""Columns that tell two verdicts apart."""

HASH: Final = "config_hash"
_PLAIN: Final = (
    *("video_id", "uri", "label", "content_sha256", "bytes", "version"),
    *("status", "verdict", "p_fake", "scanned_at", "gone"),
)
COLUMNS: Final = (*_PLAIN, f"custody.{HASH}")
"""What a summary is made of."""

_NEVER: Final = np.iinfo(np.int64).min

Mask = npt.NDArray[np.bool_]


def summary(table: pa.Table) -> pa.Table:
    """What planning needs of verdicts: no frames, and ``config_hash`` as a column of its own."""
    hashes = pc.struct_field(table.column("custody"), HASH)
    return table.select(_PLAIN).append_column(HASH, hashes).replace_schema_metadata(None)


EMPTY: Final = summary(VERDICT_SCHEMA.empty_table())
"""The summary of no verdicts."""


def summaries(tables: Iterable[pa.Table]) -> pa.Table:
    """:func:`summary` of several tables, one below the other."""
    return pa.concat_tables([EMPTY, *map(summary, tables)])


def read_summary(path: storage.StoragePath) -> pa.Table:
    """:func:`summary` of a file or of all files of a folder; nothing else is read.

    :raises OutputError: a file there is no verdict file.
    """
    return summaries(read_columns(file, COLUMNS) for file in verdict_files(path))


def latest_per_video(rows: pa.Table) -> tuple[RowIndices, RowIndices]:
    """Of rows with :data:`KEYS`: those that count, and those they supersede.

    One row per video counts, the one scored last, of equals the one further down; in the order of
    ``video_id``. The same verdict met twice supersedes nothing.
    """
    count = rows.num_rows
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    columns = [rows.column("video_id"), times(rows), pa.array(np.arange(count))]
    keys = pa.table(columns, ["video_id", "time", "row"])
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    names, scored = (keys.column(i).take(order) for i in (0, 1))
    again = to_mask(pc.equal(names.slice(1), names.slice(0, count - 1)))
    last, when = np.append(~again, True), scored.to_numpy()
    group = np.cumsum(np.append(0, ~again))
    superseded = ~last & (when != when[last][group])
    indices: RowIndices = order.to_numpy().astype(np.int64)
    return indices[last], indices[superseded]


def times(rows: pa.Table) -> pa.ChunkedArray:
    """When each was scored, in microseconds; a null is before all."""
    return rows.column("scanned_at").cast(pa.int64()).fill_null(_NEVER)


def find_rows(names: Any, rows: pa.Table) -> pa.Array:
    """The index of each ``video_id`` in rows that have each once; null if it is not there."""
    found = pc.index_in(names, value_set=rows.column("video_id"))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def to_mask(values: pa.Array | pa.ChunkedArray) -> Mask:
    """(N,) bool; null is false."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def same(left: Any, right: Any) -> Mask:
    """(N,) bool: where two text columns agree; null equals null."""
    both = pc.and_(pc.is_null(left), pc.is_null(right))
    return to_mask(pc.or_(pc.fill_null(pc.equal(left, right), False), both))
