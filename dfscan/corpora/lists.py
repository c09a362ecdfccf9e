"""Lists as sources: one path or URI per line (``.txt``), or a table (``.csv``, ``.parquet``). A
table gives paths in its first column among :data:`PATHS`. ``label`` (REAL, FAKE, 0, 1; empty is
null), ``original`` (a path as in the list) and ``group`` are optional; other text columns become
attributes. Relative paths are relative to the list's folder.

A listed file's ``video_id`` is the list's name and the path as listed, without ``./`` or ``/`` in
front: ``clips.csv/sub/a.mp4``; a URI is kept in full: ``clips.csv/s3://bucket/a.mp4``. A listed
archive stands for its members, which inherit its record. Folders are refused.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan import storage
from dfscan.corpora.base import (
    MEDIA_SUFFIXES,
    LabelRecord,
    Source,
    brief,
    content,
    label_of,
    once,
    shared,
    suffix,
)
from dfscan.errors import SourceError

PATHS: Final = ("path", "uri", "filename", "file", "video")
_DAMAGED: Final = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)
"""pyarrow's exceptions for bad bytes, text that is not UTF-8, and duplicate column names."""

MOST_ROWS: Final = 20_000_000
MOST_TEXT: Final = 4 << 30
MOST_COLUMNS: Final = 1_000
"""Limits of a Parquet list: rows, bytes and columns. A small file can claim any number."""

_BATCH: Final = 256
"""Rows per batch, which bounds the copies of a long text repeated in every row."""
_HERE: Final = re.compile(r"^(\./+)+")


@dataclass(frozen=True, slots=True)
class _Row:
    """One line: its number in the file, the path as listed, its label record."""

    number: int
    path: str
    record: LabelRecord | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """A listed path's location (``root + path``) and label record."""

    number: int
    root: str
    record: LabelRecord | None


def is_list(uri: str) -> bool:
    """Whether the suffix is that of a list; a file inside an archive is not a list."""
    return suffix(uri) in _READERS and len(storage.split_uri(uri)) == 1


def table_rows(uri: str, names: Sequence[str]) -> Iterator[tuple[str, LabelRecord | None]]:
    """Read a table: (name, label record) of each row, without looking for the files.

    :param names: possible columns for the name; the first that exists is used.
    :raises SourceError: it is not a table, lacks such a column, or has an invalid label.
    """
    read = _read_parquet if suffix(uri) == ".parquet" else _read_csv
    for row in read(uri, content(uri), names):
        yield row.path, row.record


def open_list(uri: str, name: str) -> Source:
    """List the files that a list names.

    :raises SourceError: it is not UTF-8, lacks a path column, has an invalid label or line, or
        names a folder.
    """
    folder = uri[: len(uri) - len(name)]
    lines: dict[str, _Line] = {}
    for row in _READERS[suffix(uri)](uri, content(uri)):
        with _at(uri, row.number):
            root, path = _place(row.path, folder)
            line = _Line(row.number, root, _resolved(row.record, path, folder))
            _check_same(path, lines.setdefault(path, line), line)
    found = storage.list_paths((line.root, path) for path, line in lines.items())
    return _source(name, lines, found)


def _source(name: str, lines: Mapping[str, _Line], found: Iterable[list[storage.Entry]]) -> Source:
    entries: dict[str, storage.Entry] = {}
    records: dict[str, LabelRecord] = {}
    for (path, line), here in zip(lines.items(), found, strict=True):
        for entry in here:
            entries.setdefault(entry.path, entry)
            if line.record and entry.path == path:
                records[path] = line.record
            elif line.record and suffix(entry.path) in MEDIA_SUFFIXES:
                records.setdefault(entry.path, replace(line.record, original=None))
    named = frozenset(p for p in lines if p in entries)
    return Source(name, tuple(sorted(entries.values(), key=lambda e: e.path)), named, records)


def _place(listed: str, folder: str) -> tuple[str, str]:
    """A path as listed → the root and the path of :class:`~dfscan.storage.Entry`."""
    if "\0" in listed:
        raise ValueError(f"{brief(listed)} holds a zero byte; save the list as UTF-8")
    path = storage.absolute(listed) if storage.is_uri(listed) else listed
    if storage.is_uri(path):
        return "", path
    if path.startswith("/"):
        return "/", path.lstrip("/")
    return folder, _HERE.sub("", path)


def _resolved(record: LabelRecord | None, path: str, folder: str) -> LabelRecord | None:
    """The record with its original as a path inside the source, never the file itself."""
    if record is None or record.original is None:
        return record
    original = once(_place(record.original, folder)[1])
    return replace(record, original=None if original == path else original)


def _check_same(path: str, first: _Line, again: _Line) -> None:
    if first.root != again.root:
        raise ValueError(
            f"{again.root + path!r} and {first.root + path!r} of row {first.number} would have the "
            f"same video_id: write both relative to the list, or both absolute"
        )
    labels = [g and g.label for g in (first.record, again.record)]
    if labels[0] != labels[1]:
        raise ValueError(
            f"{path!r} is labelled {labels[1]} here and {labels[0]} in row {first.number}"
        )


@contextmanager
def _at(uri: str, number: int) -> Iterator[None]:
    """Add the file and the row to errors."""
    try:
        yield
    except (ValueError, SourceError) as error:
        raise SourceError(f"{uri}, row {number}: {error}") from None


def _text(uri: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{uri} is not UTF-8 text (byte {error.start:,}): save it as UTF-8",
            code="source.unreadable",
        ) from None


def _read_txt(uri: str, data: bytes) -> Iterator[_Row]:
    for number, line in enumerate(_text(uri, data).split("\n"), 1):
        if line.strip():
            yield _Row(number, line.strip())


def _read_csv(uri: str, data: bytes, paths: Sequence[str] = PATHS) -> Iterator[_Row]:
    lines = csv.reader(io.StringIO(_text(uri, data), newline=""))
    try:
        columns = _Columns(uri, next(lines, []), paths=paths)
        for values in lines:
            if len(values) > len(columns.names):
                raise SourceError(
                    f"{uri}, row {lines.line_num}: {len(values)} values for "
                    f"{len(columns.names)} columns; put quotes around a value with a comma"
                )
            if any(v.strip() for v in values):
                padded = values + [""] * (len(columns.names) - len(values))
                yield columns.row(lines.line_num, padded)
    except csv.Error as error:
        raise SourceError(f"{uri}, row {lines.line_num}: {error}") from None


def _read_parquet(uri: str, data: bytes, paths: Sequence[str] = PATHS) -> Iterator[_Row]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        texts = [f.name for f in file.schema_arrow if _is_text(f.type)]
        labels = [n for n in file.schema_arrow.names if n.strip().lower() == "label"]
        names = list(dict.fromkeys(texts + labels))
        columns = _Columns(uri, names, file.schema_arrow.names, paths)
        _check_claims(uri, file.metadata, names)
        number = size = 0
        for batch in file.iter_batches(_BATCH, columns=names):
            size += batch.nbytes
            _check_size(uri, number + batch.num_rows, size)
            for values in zip(*(batch[n].to_pylist() for n in names), strict=True):
                number += 1
                yield columns.row(number, values)
    except _DAMAGED as error:
        text = " ".join(str(error).split())
        raise SourceError(
            f"{uri} is not a readable Parquet file: {text}", code="source.unreadable"
        ) from None


def _check_claims(uri: str, about: pq.FileMetaData, names: Sequence[str]) -> None:
    """Refuse a file that is too large by its metadata, before reading it.

    :raises SourceError: too many rows or columns, or too much text.
    """
    if len(names) > MOST_COLUMNS:
        raise SourceError(
            f"{uri} has {len(names):,} text columns, more than {MOST_COLUMNS:,}: remove those that "
            "do not describe the videos",
            code="source.too_large",
        )
    wanted = set(names)
    groups = map(about.row_group, range(about.num_row_groups))
    chunks = (group.column(at) for group in groups for at in range(group.num_columns))
    sizes = (
        max(0, chunk.total_uncompressed_size)
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] in wanted
    )
    _check_size(uri, about.num_rows, sum(sizes))


def _check_size(uri: str, rows: int, text: int) -> None:
    if rows > MOST_ROWS or text > MOST_TEXT:
        raise SourceError(
            f"{uri} has more than {MOST_ROWS:,} rows or {MOST_TEXT >> 30} GiB of text, the limit "
            "for a list: split it into several",
            code="source.too_large",
        )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class _Columns:
    """The columns of a table by their meaning."""

    def __init__(
        self,
        uri: str,
        names: Sequence[str],
        there: Sequence[str] = (),
        paths: Sequence[str] = PATHS,
    ) -> None:
        self._uri = uri
        self.names = [n.strip() for n in names]
        at = {name.lower(): i for i, name in reversed(list(enumerate(self.names)))}
        found = [at[p] for p in paths if p in at]
        if not found:
            raise SourceError(
                f"{uri} has no text column with paths; allowed: {', '.join(paths)}; it has "
                f"{' '.join(', '.join(there or self.names).split())[:200] or 'none'}"
            )
        self._path = found[0]
        self._label, self._original, self._group = map(at.get, ("label", "original", "group"))
        known = {self._path, self._label, self._original, self._group}
        self._others = [(i, n) for i, n in enumerate(self.names) if n and i not in known]
        self._says = len(known - {None}) > 1 or bool(self._others)

    def row(self, number: int, values: Sequence[Any]) -> _Row:
        """Parse one row. Raises SourceError if its path or label is invalid."""
        with _at(self._uri, number):
            path = _cell(values, self._path)
            if path is None:
                raise ValueError(f"no {self.names[self._path]}")
            return _Row(number, path, self._record(values) if self._says else None)

    def _record(self, values: Sequence[Any]) -> LabelRecord:
        others = {name: cell for i, name in self._others if (cell := _cell(values, i)) is not None}
        return LabelRecord(
            label=None if self._label is None else label_of(values[self._label]),
            labelled=self._label is not None,
            original=_cell(values, self._original),
            group=_cell(values, self._group),
            attributes=shared(others),
        )


def _cell(values: Sequence[Any], at: int | None) -> str | None:
    text = "" if at is None or values[at] is None else str(values[at]).strip()
    return text or None


_READERS: Final[Mapping[str, Callable[[str, bytes], Iterator[_Row]]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
