"""Read archives in place: ``.zip``, ``.tar``, and archives stored within them.

Listing reads only directories and headers. An inner archive must be stored uncompressed: it is then
a byte range of the outer file.
"""

import re
import stat as modes
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, Final, Protocol

from dfscan.storage import backend
from dfscan.storage.blobs import BeforeStartError, RangeReader, Span

MEMBER: Final = "!/"
DEEPEST: Final = 2
"""Deepest nesting of archives."""
COMPRESSED: Final = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    *(".7z", ".rar"),
)
"""Suffixes of archives that must be unpacked first."""

_SPLIT: Final = re.compile(r"(?<=\.zip)!/|(?<=\.tar)!/", re.IGNORECASE)
_ROOT: Final = re.compile(r"^(\.?/)+")
_END: Final = b"PK\x05\x06"
_END_SIZE: Final = 22
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_DAMAGED: Final = (
    BeforeStartError,
    zipfile.BadZipFile,
    tarfile.TarError,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    IndexError,  # tarfile: a sparse header cut short
    RecursionError,  # tarfile: a header that describes a header that describes …
)
_HEADER: Final = 1 << 20
"""Largest tar header in bytes: a name, or one file's pax records."""
_LARGEST: Final = (1 << 63) - 1


class ArchiveError(Exception):
    """A file with an archive's suffix cannot be read as one; the message says why."""


class CompressedError(ArchiveError):
    """An inner archive is compressed, so it cannot be read in place."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; ``version`` is its size and crc32 (zip) or its size and mtime (tar)."""

    name: str
    bytes: int
    version: str


class Archive(Protocol):
    """An open archive. Folders, links and hidden names are not members."""

    def members(self) -> Iterator[Member]:
        """In no particular order, each name once."""

    def open(self, name: str) -> AbstractContextManager[Any]:
        """Open a member for reading. Raises KeyError if there is no such member."""

    def span(self, name: str) -> Span:
        """The byte range of a member. Raises CompressedError if it is not stored as it is."""


def is_archive(path: str) -> bool:
    """Whether the suffix is that of an archive that can be read in place."""
    return path[-4:].lower() in _KINDS


def split(uri: str) -> list[str]:
    """Split ``a.zip!/b.zip!/c`` into the file and the members; folder names may end in ``!``
    too."""
    return _SPLIT.split(uri)


def load(name: str, span: Span) -> Archive:
    """Open an archive.

    :raises ArchiveError: it is not an archive, or damaged.
    :raises OSError: it cannot be read.
    """
    with damaged():
        return _KINDS[name[-4:].lower()](span)


def open_archive(uri: str) -> Archive:
    """Open an archive by URI. The last few stay open, so a directory is read once per process.

    :raises ArchiveError: it is not an archive, damaged, compressed or nested too deeply.
    :raises KeyError: the outer archive has no such member.
    :raises OSError: it cannot be read.
    """
    outer = split(uri)[0]
    return _open(uri, backend.version(outer))


def forget() -> None:
    """Close the archives kept open by :func:`open_archive`."""
    _open.cache_clear()


@lru_cache(maxsize=8)
def _open(uri: str, version: str) -> Archive:
    del version  # part of the key: another archive under the same name is opened anew
    *outer, name = split(uri)
    if len(outer) >= DEEPEST:
        raise ArchiveError(f"archives lie more than {DEEPEST} deep")
    return load(name, open_archive(MEMBER.join(outer)).span(name) if outer else open_span(name))


def open_span(path: str) -> Span:
    """Open a file by its path."""
    return backend.open_blob(path)


@contextmanager
def damaged() -> Iterator[None]:
    """Turn the exceptions of the archive readers for damaged data into ArchiveError."""
    try:
        yield
    except _DAMAGED as error:
        raise ArchiveError(backend.one_line(error) or type(error).__name__) from None


class _Zip:
    """A zip archive, read through its central directory."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._zip = _directory(span)
        _check_end(span, len(self._zip.comment))
        named = ((_clean(i.filename), i) for i in self._zip.infolist() if _is_file(i))
        self._infos = {name: info for name, info in named if name}
        for name, info in self._infos.items():
            _check_size(name, info.file_size)

    def members(self) -> Iterator[Member]:
        for name, info in self._infos.items():
            yield Member(name, info.file_size, f"{info.file_size}-{info.CRC:08x}")

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(self._infos[name])

    def span(self, name: str) -> Span:
        info = self._infos[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CompressedError("compressed or encrypted in the archive that holds it")
        with damaged():
            header = self._span.read_at(info.header_offset, _LOCAL_HEADER.size)
            magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
            if magic != b"PK\x03\x04":
                raise zipfile.BadZipFile("no member where the directory says")
        start = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        return self._span.piece(start, info.file_size)


class _Tar:
    """An uncompressed tar archive, read through its headers."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._files: dict[str, tuple[int, int, float]] = {}  # → offset, size, mtime
        file = RangeReader(span, _HEADER)
        last = 0
        with tarfile.TarFile(fileobj=file) as tar:
            while (info := tar.next()) is not None:
                if tar.offset <= last:  # a negative size would cause an endless loop
                    raise tarfile.ReadError(f"the header before byte {last:,} points back")
                last = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # each would be kept
                name = _clean(backend.escape(info.name))
                _check_size(name, info.size)
                if info.isreg() and name:
                    offset = -1 if info.issparse() else info.offset_data
                    self._files[name] = (offset, info.size, info.mtime)
            if span.read_at(tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {tar.offset:,}")

    def members(self) -> Iterator[Member]:
        for name, (_, size, mtime) in self._files.items():
            yield Member(name, size, f"{size}-{mtime}")

    def open(self, name: str) -> RangeReader:
        return RangeReader(self.span(name))

    def span(self, name: str) -> Span:
        offset, size, _ = self._files[name]
        if offset < 0:
            raise CompressedError("a sparse file of its tar archive")
        return self._span.piece(offset, size)


_KINDS: Final[dict[str, type[_Zip] | type[_Tar]]] = {".zip": _Zip, ".tar": _Tar}


def _directory(span: Span) -> zipfile.ZipFile:
    """Read the central directory; zipfile reports every read error as damage, so undo that."""
    try:
        return zipfile.ZipFile(RangeReader(span))
    except zipfile.BadZipFile as error:
        why = error.__context__
        if isinstance(why, OSError) and not isinstance(why, BeforeStartError):
            raise why from None
        raise


def _check_end(span: Span, comment: int) -> None:
    """Refuse a truncated archive, for which zipfile may use the end record of an inner one."""
    if span.read_at(max(0, span.size - _END_SIZE - comment), len(_END)) != _END:
        raise zipfile.BadZipFile("other bytes follow its end: cut short, or appended to")


def _check_size(name: str, size: int) -> None:
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"{name[:80]!r} claims a size that no file has")


def _is_file(info: zipfile.ZipInfo) -> bool:
    """Neither a folder nor a link (a zip stores links as files that hold the target)."""
    return not info.is_dir() and not modes.S_ISLNK(info.external_attr >> 16)


def _clean(name: str) -> str:
    """The name without a leading ``./`` or ``/``; ``""`` if it is hidden."""
    name = _ROOT.sub("", name)
    return "" if backend.is_hidden(name) else name
