"""Reading verdicts as one table, be they one file or the files of a folder.

Files of every schema version are read as tables of :data:`~dfscan.schemas.records.VERDICT_SCHEMA`,
see :mod:`dfscan.schemas.evolution`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dfscan import storage
from dfscan.errors import OutputError, SourceError
from dfscan.schemas.evolution import conform, read_version, stored_columns, subset
from dfscan.schemas.records import VERDICT_SCHEMA

FILE: Final = ".parquet"
"""How the name of one file ends; a folder's does not."""

RowIndices = npt.NDArray[np.int64]
RowBlock = tuple[int, Callable[[], pa.Table]]
"""Some rows: how many, and what reads them."""

_UNREADABLE: Final = (pa.ArrowInvalid, OSError)


def verdict_files(where: storage.StoragePath) -> list[storage.StoragePath]:
    """The files that hold the verdicts, by name: itself, or those of a folder; [] if there are none."""
    if storage.is_folder(where):
        return storage.parquet_files(where)
    return [where] if storage.exists(where) else []


def is_verdict_folder(where: storage.StoragePath) -> bool:
    """Whether there is a folder whose first Parquet file holds verdicts."""
    files = verdict_files(where) if storage.is_folder(where) else []
    try:
        return bool(files) and _kind(storage.open_parquet(files[0])) == b"verdicts"
    except _UNREADABLE:
        return False


@dataclass(frozen=True)
class VerdictTable:
    """Verdict files as one table: a file's rows in its order, a folder's by ``video_id``.

    Columns are named as in :data:`~dfscan.schemas.records.VERDICT_SCHEMA`; those that an older dfscan
    did not write are null. The files stay open: one that is replaced meanwhile is read as it was.
    """

    files: tuple[pq.ParquetFile, ...]

    @property
    def num_rows(self) -> int:
        """The rows of all files."""
        return sum(file.metadata.num_rows for file in self.files)

    def metadata(self, key: bytes) -> list[bytes]:
        """This entry of each file's metadata, of the files that have it."""
        entries = ((file.schema_arrow.metadata or {}).get(key) for file in self.files)
        return [entry for entry in entries if entry is not None]

    def lacks(self, columns: Sequence[str]) -> list[str]:
        """Those of these columns that no file has, under any name."""
        return [
            name
            for name in columns
            if not any(stored_columns(f.schema_arrow, VERDICT_SCHEMA, [name]) for f in self.files)
        ]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows.

        :param columns: some columns or fields of them, as ``custody.models`` or ``frames.track_id``;
            None: all columns.
        :raises pa.ArrowException: a file is damaged, or lacks what every verdict file has.
        """
        names = VERDICT_SCHEMA.names if columns is None else columns
        table = pa.concat_tables([_read(file, names) for file in self.files])
        return table if len(self.files) == 1 else table.take(self._order)

    def take(self, rows: Sequence[int] | RowIndices) -> pa.Table:
        """Some rows with all columns, in this order; one row group is in memory at a time."""
        if len(self.files) > 1:
            rows = self._order.take(pa.array(rows, pa.int64())).to_numpy()
        return take_rows(rows, self.row_blocks())

    @cached_property
    def _order(self) -> pa.Array:
        """The rows of all files, one file after another, sorted by ``video_id``."""
        names = [_read(file, ["video_id"]) for file in self.files]
        return pc.sort_indices(pa.concat_tables(names).column("video_id"))

    def row_blocks(self) -> list[RowBlock]:
        """Every row group of every file, in the order in which they are stored."""
        return [
            (file.metadata.row_group(n).num_rows, partial(file.read_row_group, n))
            for file in self.files
            for n in range(file.num_row_groups)
        ]


def _read(file: pq.ParquetFile, names: Sequence[str]) -> pa.Table:
    wanted = stored_columns(file.schema_arrow, VERDICT_SCHEMA, names)
    return _selected(file.read(columns=wanted), names)


def _selected(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Without the file's own metadata, which only its whole table has."""
    return conform(table, subset(VERDICT_SCHEMA, names)).replace_schema_metadata(None)


def read_columns(path: storage.StoragePath, names: Sequence[str]) -> pa.Table:
    """Some columns of one file, as in :meth:`VerdictTable.read`; nothing else is read.

    :raises OutputError: it is no verdict file.
    """
    with _as_verdicts(path):
        table = storage.read_columns(
            path, lambda stored: stored_columns(_checked(stored, path), VERDICT_SCHEMA, names)
        )
        return _selected(table, names)


def read_file(path: storage.StoragePath) -> pa.Table:
    """One file with its metadata and the columns that this dfscan does not know, to be rewritten.

    :raises OutputError: it is no verdict file.
    """
    with _as_verdicts(path):
        table = storage.read_table(path)
        _checked(table.schema, path)
        return conform(table, VERDICT_SCHEMA, keep_unknown=True)


def _checked(stored: pa.Schema, path: storage.StoragePath) -> pa.Schema:
    """A file's schema, which can be read as that of verdicts."""
    read_version(stored.metadata, path)
    conform(stored.empty_table(), VERDICT_SCHEMA)
    return stored


@contextmanager
def _as_verdicts(path: storage.StoragePath) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise OutputError(
            f"{path} exists and is no verdict file of this dfscan ({detail}): give another --out",
            code="output.foreign",
        ) from None


def take_rows(
    rows: Sequence[int] | RowIndices,
    blocks: Sequence[RowBlock],
    schema: pa.Schema = VERDICT_SCHEMA,
) -> pa.Table:
    """Some rows of verdict tables that lie one below the other, in the order of ``rows``.

    Only the blocks that hold one of them are read, one after another.
    """
    wanted = np.asarray(rows, np.int64)
    ascending = np.sort(wanted)
    starts = np.cumsum([0, *(count for count, _ in blocks)], dtype=np.int64)
    firsts = np.searchsorted(ascending, starts)
    tables = [schema.empty_table()]
    for number in np.flatnonzero(np.diff(firsts)).tolist():
        mine = ascending[firsts[number] : firsts[number + 1]] - starts[number]
        tables.append(conform(blocks[number][1]().take(pa.array(mine)), schema))
    order = np.searchsorted(ascending, wanted)
    return pa.concat_tables(tables).take(pa.array(order, pa.int64()))


def in_memory(tables: Sequence[pa.Table]) -> list[RowBlock]:
    """Blocks of tables that need not be read."""
    return [(table.num_rows, partial(pa.Table.slice, table)) for table in tables]


def open_verdicts(where: storage.PathLike) -> VerdictTable:
    """A verdict file, a unit's part of one, or a folder of verdicts.

    :raises SourceError: it is none of these, or not there.
    """
    place = storage.as_path(where)
    files = verdict_files(place)
    if not files and storage.is_folder(place):
        raise SourceError(
            f"{str(where)!r} is a folder without verdicts: give the file or the folder that score wrote",
            code="source.wrong_kind",
        )
    if not files:
        raise SourceError(
            f"no verdicts at {str(where)!r}: dfscan score SOURCE --model MODEL --out {where} makes them",
            code="source.missing",
        )
    return VerdictTable(tuple(map(_open, files)))


def _open(file: storage.StoragePath) -> pq.ParquetFile:
    try:
        opened = storage.open_parquet(file)
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())[:160]
        raise SourceError(
            f"{file} is not a readable Parquet file: {detail}", code="source.unreadable"
        ) from None
    kind = _kind(opened)
    if kind != b"verdicts":
        found = f"a table of {kind.decode()}" if kind else "another program's table"
        raise SourceError(f"{file} holds no verdicts of dfscan but is {found}", code="source.empty")
    read_version(opened.schema_arrow.metadata, file)
    return opened


def _kind(file: pq.ParquetFile) -> bytes | None:
    kind: bytes | None = (file.schema_arrow.metadata or {}).get(b"dfscan")
    return kind
