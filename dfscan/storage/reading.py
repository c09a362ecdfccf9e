"""Reading what is there."""

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
from dfscan.storage import archives, places
from dfscan.storage.archives import MEMBER, ArchiveError
from dfscan.storage.blobs import BeforeStartError
from dfscan.storage.paths import Place, Where, place

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
"""What bz2 raises over damage: an OSError too, and none of a store's."""
_FEW_GROUPS: Final = 8  # as far as a unit's files go; long ones gain by the threads of a scan


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole content at ``uri``.

    :param limit: refuse more than so many bytes, as counted while reading.
    :raises VideoError: ``missing``, ``too_large`` or ``decode_error`` (a damaged archive member).
    """
    return b"".join(read_pieces(uri, limit))


def read_pieces(uri: str, limit: int | None = None) -> Iterator[bytes]:
    """The content at ``uri`` in pieces: one read() sets aside all that it may return, and sizes lie.

    :param limit: as in :func:`read_bytes`.
    :raises VideoError: as in :func:`read_bytes`.
    """
    with _reading(uri) as file:
        yield from _pieces(file, limit)


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """A file to read from its start; whatever goes wrong meanwhile is a :class:`VideoError`."""
    try:
        with _open(uri) as file:
            yield file
    except (FileNotFoundError, KeyError):
        raise VideoError("missing", "the file is no longer at the source") from None
    except BeforeStartError as error:  # an OSError, and none of a store's
        raise VideoError("decode_error", f"damaged archive member: {error}") from None
    except places.STORE_ERRORS as error:
        if error.args == _BZIP2:
            raise VideoError("decode_error", "damaged archive member: its bzip2 data") from None
        raise VideoError("missing", f"cannot be read: {places.one_line(error)}") from None
    except _DAMAGED as error:
        raise VideoError("decode_error", f"damaged or encrypted archive member: {error}") from None


def _open(uri: str) -> AbstractContextManager[Any]:
    *outer, name = archives.split(uri)
    return archives.open_archive(MEMBER.join(outer)).open(name) if outer else places.open_file(name)


def _pieces(file: Any, limit: int | None) -> Iterator[bytes]:
    total = 0
    while piece := file.read(_PIECE):
        total += len(piece)
        if limit is not None and total > limit:
            raise VideoError("too_large", f"more than {limit:,} bytes (max_bytes)")
        yield piece


def content_sha256(uri: str, limit: int | None = None) -> str:
    """Hex SHA-256 of the content at ``uri``, which is never in memory as a whole.

    :param limit: as in :func:`read_bytes`.
    :raises VideoError: as in :func:`read_bytes`.
    """
    digest = hashlib.sha256()
    for piece in read_pieces(uri, limit):
        digest.update(piece)
    return digest.hexdigest()


def read_start(path: Where, count: int) -> bytes:
    """The first ``count`` bytes of a file, fewer if it is shorter.

    :raises OSError: it cannot be read. :raises StoreError: the same of an object store.
    """
    file = str(place(path))
    with places.answering(file):
        return places.open_blob(file).read_at(0, count)


def read_text(path: Where) -> str:
    """A UTF-8 text file of ours or of the user's.

    :raises OSError: it cannot be read. :raises StoreError: the same of an object store.
    :raises UnicodeDecodeError: it is no UTF-8.
    """
    file = str(place(path))

    def read() -> str:
        with places.answering(file), places.open_file(file) as opened:
            return str(opened.read(), "utf-8")

    return places.steady(file, read).replace("\r\n", "\n").replace("\r", "\n")


def sha256(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def read_json(uri: Where, limit: int = 256 << 20) -> Any:
    """The JSON document at ``uri``.

    :raises SourceError: it is not JSON, larger than ``limit`` bytes, or cannot be read.
    """
    try:
        file = str(place(uri))
        return json.loads(places.steady(file, lambda: read_bytes(file, limit)))
    except VideoError as error:
        raise SourceError(f"{uri}: {error.reason}") from None
    except ValueError as error:
        raise SourceError(f"{uri} is not valid JSON: {error}", code="source.unreadable") from None
    except RecursionError:
        raise SourceError(
            f"{uri} is not valid JSON: brackets within brackets, too deep", code="source.unreadable"
        ) from None


def each(do: Callable[[Place], T], paths: Iterable[Place]) -> Iterator[tuple[Place, T]]:
    """(path, what ``do`` gives of it), in order; several at once where they are on an object store.

    A round trip to a store is waiting, not work; on a disk threads would gain nothing.
    """
    with ThreadPoolExecutor(places.THREADS) as pool:
        asked: deque[tuple[Place, Future[T]]] = deque()
        for path in paths:
            if isinstance(path, Path):
                yield path, do(path)
                continue
            asked.append((path, pool.submit(do, path)))
            if len(asked) > places.THREADS:
                before, found = asked.popleft()
                yield before, found.result()
        for before, found in asked:
            yield before, found.result()


def read_tables(
    folder: Where, columns: list[str] | None = None
) -> Iterator[tuple[Place, pa.Table]]:
    """(path, table) of each Parquet file in a folder, by name; temporaries left out.

    :raises OSError: one cannot be read. :raises StoreError: the same of an object store.
    """
    return each(lambda path: read_table(path, columns), parquet_files(folder))


def read_table(path: Where, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file with its own schema: whole, or some columns (``custody.config_hash``).

    :raises OSError: it cannot be read. :raises StoreError: the same of an object store.
    """
    where = place(path)

    def read() -> pa.Table:
        table = _read_few_groups(where, columns) if isinstance(where, Path) else None
        if table is not None:
            return table
        return pq.read_table(parquet_source(where), columns=columns, partitioning=None)

    return places.steady(str(where), read)


def _read_few_groups(path: Path, columns: list[str] | None) -> pa.Table | None:
    """A file of few row groups without pyarrow's scan, which takes a unit's file twice the CPU.

    None: the scan has to read it, or to say what is wrong with it: it names the file.
    """
    try:
        file = pq.ParquetFile(path)
    except places.STORE_ERRORS:
        return None
    with file:
        groups = range(file.num_row_groups)
        if not 0 < len(groups) <= _FEW_GROUPS:
            return None
        if columns is not None and not set(columns) <= set(file.schema_arrow.names):
            return None  # it would leave such a column out and say nothing
        read = [file.read_row_group(i, columns, use_threads=False) for i in groups]
    table = pa.concat_tables(read)
    return table if columns is None else table.select(columns)  # the file's order is another


def read_row_group(path: Where, number: int, columns: list[str]) -> pa.Table:
    """Some columns of one row group of a Parquet file.

    :raises OSError: it cannot be read. :raises StoreError: the same of an object store.
    """
    return open_parquet(path).read_row_group(number, columns=columns)


def open_parquet(path: Where) -> pq.ParquetFile:
    """One Parquet file, to read its row groups singly.

    :raises OSError: it cannot be opened. :raises StoreError: the same of an object store; also later,
        on reading.
    """
    source = parquet_source(path)
    return pq.ParquetFile(source, pre_buffer=not isinstance(source, str))


def parquet_source(path: Where) -> str | places.ObjectFile:
    """What pyarrow's readers take for a file.

    :raises OSError: an object cannot be opened. :raises StoreError: its store does not answer.
    """
    where = place(path)
    if isinstance(where, Path):
        return str(where)
    with places.answering(str(where)):
        return places.ObjectFile(str(where))


def filesystem(where: Place) -> tuple[Any, str]:
    """The file system of pyarrow's that a library is to use for a place (None: the machine's), and the
    place's name in it."""
    return (None, str(where)) if isinstance(where, Path) else places.filesystem(str(where))


def parquet_files(folder: Where) -> list[Place]:
    """The committed Parquet files of a folder, by name.

    :raises SourceError: it cannot be listed. :raises StoreError: its store does not answer.
    """
    return in_folder(folder, "*.parquet")


def in_folder(folder: Where, pattern: str) -> list[Place]:
    """What lies in a folder under names of a shell pattern, by name; hidden ones left out.

    :raises SourceError: it cannot be listed. :raises StoreError: its store does not answer.
    """
    where = place(folder)
    try:
        with places.answering(str(where)):
            names = places.children(str(where))
    except OSError as error:
        raise SourceError(
            f"cannot list {where}: {places.one_line(error)}", code="source.unreadable"
        ) from None
    return [where / name for name in names if fnmatchcase(name, pattern)]
