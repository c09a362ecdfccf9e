"""Thread-safe random-access bytes: files, objects and ranges of them."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa

_BLOCK: Final = 64 << 10
"""Objects are read in blocks: a round trip costs as much as several hundred kilobytes."""
_MOST: Final = 1 << 30
"""Largest archive directory in bytes; one that claims more is damaged."""
_PAUSES: Final = (0.5, 2.0)
_LASTING: Final = ("ACCESS_DENIED", "NO_SUCH_", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")

T = TypeVar("T")


class Blob(Protocol):
    """Bytes of known size that support random access."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Read ``count`` bytes from ``offset``; fewer only at the end of the blob."""


class LocalBlob:
    """A file on disk."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read_at(self, offset: int, count: int) -> bytes:
        """See :class:`Blob`."""
        data = os.pread(self._file, count, offset)
        while data and len(data) < count:
            more = os.pread(self._file, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class RemoteBlob:
    """An object in a store. Keeps the last block, since headers are often close together."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size: int = file.size()
        self._last: tuple[int, bytes] = (0, b"")

    def read_at(self, offset: int, count: int) -> bytes:
        """See :class:`Blob`.

        :raises OSError: the store could not be reached after several attempts.
        """
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        start, block = self._last
        if start <= offset and end <= start + len(block):
            return block[offset - start : end - start]
        if count >= _BLOCK:
            return self._fetch(offset, end)
        start = offset // _BLOCK * _BLOCK
        block = self._fetch(start, min(self.size, -(-end // _BLOCK) * _BLOCK))
        self._last = (start, block)
        return block[offset - start : end - start]

    def _fetch(self, start: int, end: int) -> bytes:
        data: bytes = retrying(lambda: self._file.read_at(end - start, start))
        return data


def retrying(call: Callable[[], T]) -> T:
    """Call an object store and retry after transient errors.

    :raises OSError: the last error, or the first one that a retry cannot fix.
    """
    for pause in _PAUSES:
        try:
            return call()
        except (FileNotFoundError, pa.ArrowInvalid):  # not transient
            raise
        except (OSError, pa.ArrowException) as error:
            if any(word in str(error) for word in _LASTING):
                raise
            time.sleep(pause)
    return call()


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a blob, itself a blob: a file, or an archive stored within another."""

    blob: Blob
    start: int
    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """See :class:`Blob`."""
        if offset < 0:
            raise ValueError(f"points {-offset:,} bytes before its start")
        count = min(count, self.size - offset)
        return self.blob.read_at(self.start + offset, count) if count > 0 else b""

    def piece(self, offset: int, size: int) -> "Span":
        """The sub-range of ``size`` bytes from ``offset``; reading past this span's end raises
        EOFError."""
        return Span(self.blob, self.start + offset, size)


class BeforeStartError(OSError):
    """A seek before the start of a file, caused by damage; zipfile expects an OSError."""


class RangeReader(io.RawIOBase):
    """A blob as a seekable binary file.

    :param most: largest single read in bytes.
    :raises EOFError: on reading, if the blob is shorter than its size.
    :raises ValueError: on reading more than ``most`` at once.
    """

    def __init__(self, blob: Blob, most: int = _MOST) -> None:
        self._blob = blob
        self._most = most
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """See :meth:`io.IOBase.seek`; raises BeforeStartError for a negative position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._blob.size}[whence]
        if base + offset < 0:
            raise BeforeStartError("seek before the start")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes; the rest if negative."""
        left = max(0, self._blob.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if count > self._most:
            raise ValueError(f"claims a directory of {count:,} bytes")
        data = self._blob.read_at(self._at, count)
        if len(data) < count:
            raise EOFError(f"ends {count - len(data):,} bytes early")
        self._at += len(data)
        return data
