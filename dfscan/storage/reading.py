"""Reading what is there."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan.errors import SourceError, VideoError
from dfscan.storage.archives import MEMBER, open_zip

_PIECE: Final = 8 << 20


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole content at ``uri``.

    :param limit: refuse more than so many bytes, as counted while reading.
    :raises VideoError: ``missing``, ``too_large`` or ``decode_error`` (a damaged archive member).
    """
    path, member = _split(uri)
    try:
        if not member:
            with Path(path).open("rb") as file:
                return _read_at_most(file, limit)
        archive = open_zip(path, Path(path).stat().st_mtime_ns)
        with archive.open(member) as file:
            return _read_at_most(file, limit)
    except (FileNotFoundError, KeyError):
        raise VideoError("missing", "the file is no longer at the source") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise VideoError("decode_error", f"damaged or encrypted archive member: {error}") from None
    except OSError as error:
        raise VideoError("missing", f"cannot be read: {error.strerror}") from None


def _split(uri: str) -> tuple[str, str]:
    """(file, archive member or ``""``); a folder's name may end in ``!`` too."""
    end = uri.lower().find(f".zip{MEMBER}")
    return (uri, "") if end < 0 else (uri[: end + 4], uri[end + 4 + len(MEMBER) :])


def _read_at_most(file: Any, limit: int | None) -> bytes:
    """Everything, in pieces: one read() sets aside all that it may return, and sizes can lie."""
    pieces: list[bytes] = []
    total = 0
    while piece := file.read(_PIECE):
        total += len(piece)
        if limit is not None and total > limit:
            raise VideoError("too_large", f"more than {limit:,} bytes (max_bytes)")
        pieces.append(piece)
    return b"".join(pieces)


def read_start(path: str | Path, count: int) -> bytes:
    """The first ``count`` bytes of a file, fewer if it is shorter."""
    with Path(path).open("rb") as file:
        return file.read(min(count, os.fstat(file.fileno()).st_size))


def read_text(path: str | Path) -> str:
    """A UTF-8 text file of ours or of the user's."""
    return Path(path).read_text(encoding="utf-8")


def sha256(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def read_json(uri: str, limit: int = 256 << 20) -> Any:
    """The JSON document at ``uri``.

    :raises SourceError: it is not JSON.
    """
    try:
        return json.loads(read_bytes(uri, limit))
    except VideoError as error:
        raise SourceError(f"{uri}: {error.reason}") from None
    except ValueError as error:
        raise SourceError(f"{uri} is not valid JSON: {error}") from None


def read_tables(
    folder: str | Path, columns: list[str] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """(path, table) of each Parquet file in a folder, by name; temporaries left out."""
    for path in parquet_files(folder):
        yield str(path), pq.read_table(path, columns=columns, partitioning=None)


def read_table(path: str | Path) -> pa.Table:
    """One Parquet file whole, with its own schema."""
    return pq.read_table(path, partitioning=None)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """One Parquet file, to read its row groups singly."""
    return pq.ParquetFile(path)


def parquet_files(folder: str | Path) -> list[Path]:
    """The committed Parquet files of a folder, by name."""
    return sorted(p for p in Path(folder).glob("*.parquet") if not p.name.startswith("."))
