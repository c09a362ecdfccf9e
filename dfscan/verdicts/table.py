"""Verdicts as one table, be they one file or the files of a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dfscan import storage
from dfscan.errors import SourceError

FILE: Final = ".parquet"
"""How the name of one file ends; a folder's does not."""

Places = npt.NDArray[np.int64]
Piece = tuple[int, Callable[[], pa.Table]]
"""Some rows: how many, and what reads them."""

_UNREADABLE: Final = (pa.ArrowInvalid, OSError)


def verdict_files(where: storage.StoragePath) -> list[storage.StoragePath]:
    """The files that hold the verdicts, by name: itself, or those of a folder; none where none are."""
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
class OpenFiles:
    """Parquet files of one schema as one table: of one file as it lies, of several by ``video_id``.

    They stay open: what replaces one of them meanwhile does not move its rows.
    """

    files: tuple[pq.ParquetFile, ...]

    @property
    def num_rows(self) -> int:
        """How many rows they have together."""
        return sum(file.metadata.num_rows for file in self.files)

    def metadata(self, key: bytes) -> list[bytes]:
        """What each says in its metadata, those that say something."""
        said = ((file.schema_arrow.metadata or {}).get(key) for file in self.files)
        return [text for text in said if text is not None]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows whole, or some columns of them.

        :raises pa.ArrowException: they lack one of them.
        """
        wanted = None if columns is None else list(columns)
        table = pa.concat_tables([file.read(columns=wanted) for file in self.files])
        return table if len(self.files) == 1 else table.take(self._order)

    def take(self, places: Sequence[int] | Places) -> pa.Table:
        """Some rows whole, in this order; a row group is in memory at a time."""
        if len(self.files) > 1:
            places = self._order.take(pa.array(places, pa.int64())).to_numpy()
        return rows_at(places, self.pieces(), self.files[0].schema_arrow)

    @cached_property
    def _order(self) -> pa.Array:
        """Where the rows lie in the files, one below the other."""
        names = [file.read(columns=["video_id"]) for file in self.files]
        return pc.sort_indices(pa.concat_tables(names).column("video_id"))

    def pieces(self) -> list[Piece]:
        """Every row group of every file, as they lie."""
        return [
            (file.metadata.row_group(n).num_rows, partial(file.read_row_group, n))
            for file in self.files
            for n in range(file.num_row_groups)
        ]


def rows_at(places: Sequence[int] | Places, pieces: Sequence[Piece], schema: pa.Schema) -> pa.Table:
    """Some rows of tables that lie one below the other, in the order of their places.

    Only the tables that hold one of them are read, one after another.
    """
    wanted = np.asarray(places, np.int64)
    ascending = np.sort(wanted)
    starts = np.cumsum([0, *(count for count, _ in pieces)], dtype=np.int64)
    firsts = np.searchsorted(ascending, starts)
    tables = [schema.empty_table()]
    for number in np.flatnonzero(np.diff(firsts)).tolist():
        mine = ascending[firsts[number] : firsts[number + 1]] - starts[number]
        tables.append(pieces[number][1]().take(pa.array(mine)).cast(schema))
    order = np.searchsorted(ascending, wanted)
    return pa.concat_tables(tables).take(pa.array(order, pa.int64()))


def in_memory(tables: Sequence[pa.Table]) -> list[Piece]:
    """Tables that need not be read."""
    return [(table.num_rows, partial(_itself, table)) for table in tables]


def _itself(table: pa.Table) -> pa.Table:
    return table


def open_verdicts(where: storage.PathLike) -> OpenFiles:
    """A verdict file, a unit of one, or a folder of verdicts.

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
    opened = OpenFiles(tuple(map(_open, files)))
    for file, parquet in zip(files, opened.files, strict=True):
        if not parquet.schema_arrow.equals(opened.files[0].schema_arrow):
            raise SourceError(
                f"{file} has not the columns of {files[0]}: another dfscan wrote it; score again with "
                "--overwrite"
            )
    return opened


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
    return opened


def _kind(file: pq.ParquetFile) -> bytes | None:
    kind: bytes | None = (file.schema_arrow.metadata or {}).get(b"dfscan")
    return kind
