"""Read files, archive members, JSON and Parquet."""

import hashlib
import json
import lzma
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan.errors import SourceError, VideoError
from dfscan.storage import archives, backend
from dfscan.storage.archives import MEMBER, ArchiveError
from dfscan.storage.blobs import BeforeStartError
from dfscan.storage.paths import PathLike, StoragePath, as_path

T = TypeVar("T")
_PIECE: Final = 8 << 20
_DAMAGED: Final = (
    ArchiveError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)
_BZIP2: Final = ("Invalid data stream",)
"""bz2 reports damage as a plain OSError, which must not be mistaken for a store's error."""
_FEW_GROUPS: Final = 8  # longer files gain from the threads of a scan


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole content at ``uri``.

    :param limit: largest size in bytes, counted while reading; default: no limit.
    :raises VideoError: ``missing``, ``too_large`` or ``decode_error`` (a damaged archive member).
    """
    return b"".join(read_pieces(uri, limit))


def read_pieces(uri: str, limit: int | None = None) -> Iterator[bytes]:
    """The content at ``uri`` in pieces, since a damaged file may claim any size.

    :param limit: as in :func:`read_bytes`.
    :raises VideoError: as in :func:`read_bytes`.
    """
    with _reading(uri) as file:
        yield from _pieces(file, limit)


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """Open a file; every error while it is read becomes a :class:`VideoError`."""
    try:
        with _open(uri) as file:
            yield file
    except (FileNotFoundError, KeyError):
        raise VideoError("missing", "the file is no longer at the source") from None
    except BeforeStartError as error:  # an OSError, but damage
        raise VideoError("decode_error", f"damaged archive member: {error}") from None
    except backend.STORE_ERRORS as error:
        if error.args == _BZIP2:
            raise VideoError("decode_error", "damaged archive member: its bzip2 data") from None
        raise VideoError("missing", f"cannot be read: {backend.one_line(error)}") from None
    except _DAMAGED as error:
        raise VideoError("decode_error", f"damaged or encrypted archive member: {error}") from None


def _open(uri: str) -> AbstractContextManager[Any]:
    *outer, name = archives.split(uri)
    return (
        archives.open_archive(MEMBER.join(outer)).open(name) if outer else backend.open_file(name)
    )


def _pieces(file: Any, limit: int | None) -> Iterator[bytes]:
    total = 0
    while piece := file.read(_PIECE):
        total += len(piece)
        if limit is not None and total > limit:
            raise VideoError("too_large", f"more than {limit:,} bytes (max_bytes)")
        yield piece


def content_sha256(uri: str, limit: int | None = None) -> str:
    """Hex SHA-256 of the content at ``uri``, read in pieces.

    :param limit: as in :func:`read_bytes`.
    :raises VideoError: as in :func:`read_bytes`.
    """
    digest = hashlib.sha256()
    for piece in read_pieces(uri, limit):
        digest.update(piece)
    return digest.hexdigest()


def read_start(path: PathLike, count: int) -> bytes:
    """The first ``count`` bytes of a file; fewer if it is shorter.

    :raises OSError: it cannot be read.
    :raises StoreError: the store does not answer.
    """
    file = str(as_path(path))
    with backend.store_errors(file):
        return backend.open_blob(file).read_at(0, count)


def read_text(path: PathLike) -> str:
    """Read a UTF-8 text file.

    :raises OSError: it cannot be read. :raises StoreError: the store does not answer.
    :raises UnicodeDecodeError: it is not UTF-8.
    """
    file = str(as_path(path))

    def read() -> str:
        with backend.store_errors(file), backend.open_file(file) as opened:
            return str(opened.read(), "utf-8")

    return backend.read_unchanged(file, read).replace("\r\n", "\n").replace("\r", "\n")


def sha256(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def read_json(uri: PathLike, limit: int = 256 << 20) -> Any:
    """The JSON document at ``uri``.

    :raises SourceError: it is not JSON, larger than ``limit`` bytes, or cannot be read.
    """
    try:
        file = str(as_path(uri))
        return json.loads(backend.read_unchanged(file, lambda: read_bytes(file, limit)))
    except VideoError as error:
        raise SourceError(f"{uri}: {error.reason}") from None
    except ValueError as error:
        raise SourceError(f"{uri} is not valid JSON: {error}", code="source.unreadable") from None
    except RecursionError:
        raise SourceError(
            f"{uri} is not valid JSON: nested too deeply", code="source.unreadable"
        ) from None


def each(
    do: Callable[[StoragePath], T], paths: Iterable[StoragePath]
) -> Iterator[tuple[StoragePath, T]]:
    """Yield (path, ``do(path)``) in order; concurrently for object-store paths, where each call
    waits for the network.

    On a disk threads would gain nothing.
    """
    with ThreadPoolExecutor(backend.THREADS) as pool:
        asked: deque[tuple[StoragePath, Future[T]]] = deque()
        for path in paths:
            if isinstance(path, Path):
                yield path, do(path)
                continue
            asked.append((path, pool.submit(do, path)))
            if len(asked) > backend.THREADS:
                before, found = asked.popleft()
                yield before, found.result()
        for before, found in asked:
            yield before, found.result()


def read_tables(
    folder: PathLike, columns: list[str] | None = None
) -> Iterator[tuple[StoragePath, pa.Table]]:
    """Yield (path, table) for each Parquet file in a folder, sorted by name, without temporaries.

    :raises OSError: one cannot be read. :raises StoreError: the store does not answer.
    """
    return each(lambda path: read_table(path, columns), parquet_files(folder))


def read_table(path: PathLike, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file with its own schema: all columns, or some (``custody.config_hash``).

    :raises OSError: it cannot be read. :raises StoreError: the store does not answer.
    """
    where = as_path(path)

    def read() -> pa.Table:
        table = _read_few_groups(where, columns) if isinstance(where, Path) else None
        if table is not None:
            return table
        return pq.read_table(parquet_source(where), columns=columns, partitioning=None)

    return backend.read_unchanged(str(where), read)


def _read_few_groups(path: Path, columns: list[str] | None) -> pa.Table | None:
    """Read a file of few row groups without pyarrow's scan, which doubles the CPU time for small
    files.

    Returns None if the scan must read it, or must report the error (the scan names the file).
    """
    try:
        file = pq.ParquetFile(path)
    except backend.STORE_ERRORS:
        return None
    with file:
        groups = range(file.num_row_groups)
        if not 0 < len(groups) <= _FEW_GROUPS:
            return None
        if columns is not None and not set(columns) <= set(file.schema_arrow.names):
            return None  # it would silently omit a missing column
        read = [file.read_row_group(i, columns, use_threads=False) for i in groups]
    table = pa.concat_tables(read)
    return table if columns is None else table.select(columns)  # in the order requested


def read_columns(path: PathLike, choose: Callable[[pa.Schema], list[str]]) -> pa.Table:
    """Some columns of one Parquet file, chosen by its own schema; fields stay in their structs.

    :raises OSError: it cannot be read. :raises StoreError: the same of an object store.
    """
    where = as_path(path)

    def read() -> pa.Table:
        with open_parquet(where) as file:
            return file.read(columns=choose(file.schema_arrow))

    return backend.read_unchanged(str(where), read)


def read_row_group(path: PathLike, number: int, columns: list[str]) -> pa.Table:
    """Read some columns of one row group of a Parquet file.

    :raises OSError: it cannot be read. :raises StoreError: the store does not answer.
    """
    return open_parquet(path).read_row_group(number, columns=columns)


def open_parquet(path: PathLike) -> pq.ParquetFile:
    """Open a Parquet file to read its row groups one by one.

    :raises OSError: it cannot be opened.
    :raises StoreError: the store does not answer, now or on reading.
    """
    source = parquet_source(path)
    return pq.ParquetFile(source, pre_buffer=not isinstance(source, str))


def parquet_source(path: PathLike) -> str | backend.ObjectFile:
    """The source argument for pyarrow's Parquet readers.

    :raises OSError: an object cannot be opened.
    :raises StoreError: its store does not answer.
    """
    where = as_path(path)
    if isinstance(where, Path):
        return str(where)
    with backend.store_errors(str(where)):
        return backend.ObjectFile(str(where))


def filesystem(where: StoragePath) -> tuple[Any, str]:
    """The pyarrow file system for a path (None: the local one), and the path in it."""
    return (None, str(where)) if isinstance(where, Path) else backend.filesystem(str(where))


def parquet_files(folder: PathLike) -> list[StoragePath]:
    """The committed Parquet files of a folder, sorted by name.

    :raises SourceError: it cannot be listed. :raises StoreError: its store does not answer.
    """
    return in_folder(folder, "*.parquet")


def in_folder(folder: PathLike, pattern: str) -> list[StoragePath]:
    """The entries of a folder that match a shell pattern, sorted by name, without hidden ones.

    :raises SourceError: it cannot be listed. :raises StoreError: its store does not answer.
    """
    where = as_path(folder)
    try:
        with backend.store_errors(str(where)):
            names = backend.children(str(where))
    except OSError as error:
        raise SourceError(
            f"cannot list {where}: {backend.one_line(error)}", code="source.unreadable"
        ) from None
    return [where / name for name in names if fnmatchcase(name, pattern)]
