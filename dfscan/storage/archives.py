"""Archives that are read in place: ``.zip``, ``.tar``, and one stored within another.

Only directories and headers are read to list an archive. An archive within an archive must be
stored there, not compressed: then it is a piece of the outer file, read by offset.
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

from dfscan.storage import places
from dfscan.storage.blobs import BeforeStartError, Span, Window

MEMBER: Final = "!/"
DEEPEST: Final = 2
"""So many archives may lie within one another."""
COMPRESSED: Final = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    *(".7z", ".rar"),
)
"""Archives that have to be unpacked to be read."""

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
"""No header of a tar is larger: a name, or what pax says of one file."""
_LARGEST: Final = (1 << 63) - 1


class ArchiveError(Exception):
    """A file that is called an archive cannot be read as one; the message says why."""


class CompressedError(ArchiveError):
    """An archive within an archive is compressed there, so it cannot be read in place."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; ``version`` is its size and crc32 (zip) or its size and mtime (tar)."""

    name: str
    bytes: int
    version: str


class Archive(Protocol):
    """An opened archive. Folders, links and hidden names are no members."""

    def members(self) -> Iterator[Member]:
        """In no particular order, each name once."""

    def open(self, name: str) -> AbstractContextManager[Any]:
        """A member's content, to read in pieces. KeyError where there is none of that name."""

    def span(self, name: str) -> Span:
        """Where a member lies. CompressedError where that is not what it contains."""


def is_archive(path: str) -> bool:
    """Whether a file is called an archive that can be read in place."""
    return path[-4:].lower() in _KINDS


def split(uri: str) -> list[str]:
    """``a.zip!/b.zip!/c`` → the file and the members; a folder's name may end in ``!`` too."""
    return _SPLIT.split(uri)


def load(name: str, span: Span) -> Archive:
    """Open an archive.

    :raises ArchiveError: it is none, or damaged.
    :raises OSError: it cannot be read.
    """
    with damaged():
        return _KINDS[name[-4:].lower()](span)


def open_archive(uri: str) -> Archive:
    """An archive by its uri. The last few stay open: a directory is read once a process.

    :raises ArchiveError: it is none, damaged, compressed or too deep.
    :raises KeyError: the outer archive has no such member.
    :raises OSError: it cannot be read.
    """
    outer = split(uri)[0]
    return _open(uri, places.version(outer))


def forget() -> None:
    """Close the archives that are kept open."""
    _open.cache_clear()


@lru_cache(maxsize=8)
def _open(uri: str, version: str) -> Archive:
    del version  # part of the key: another archive under the same name is opened anew
    *outer, name = split(uri)
    if len(outer) >= DEEPEST:
        raise ArchiveError(f"archives lie more than {DEEPEST} deep")
    return load(name, open_archive(MEMBER.join(outer)).span(name) if outer else open_span(name))


def open_span(path: str) -> Span:
    """A file by its path."""
    return places.open_blob(path)


@contextmanager
def damaged() -> Iterator[None]:
    """Turns what the readers of archives raise over bad bytes into ArchiveError."""
    try:
        yield
    except _DAMAGED as error:
        raise ArchiveError(places.one_line(error) or type(error).__name__) from None


class _Zip:
    """A zip archive by its central directory."""

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
    """An uncompressed tar archive by its headers."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._files: dict[str, tuple[int, int, float]] = {}  # → offset, size, mtime
        file = Window(span, _HEADER)
        last = 0
        with tarfile.TarFile(fileobj=file) as tar:
            while (info := tar.next()) is not None:
                if tar.offset <= last:  # a negative size: the same header would come for ever
                    raise tarfile.ReadError(f"the header before byte {last:,} points back")
                last = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # each would be kept
                name = _clean(places.escape(info.name))
                _check_size(name, info.size)
                if info.isreg() and name:
                    offset = -1 if info.issparse() else info.offset_data
                    self._files[name] = (offset, info.size, info.mtime)
            if span.read_at(tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {tar.offset:,}")

    def members(self) -> Iterator[Member]:
        for name, (_, size, mtime) in self._files.items():
            yield Member(name, size, f"{size}-{mtime}")

    def open(self, name: str) -> Window:
        return Window(self.span(name))

    def span(self, name: str) -> Span:
        offset, size, _ = self._files[name]
        if offset < 0:
            raise CompressedError("a sparse file of its tar archive")
        return self._span.piece(offset, size)


_KINDS: Final[dict[str, type[_Zip] | type[_Tar]]] = {".zip": _Zip, ".tar": _Tar}


def _directory(span: Span) -> zipfile.ZipFile:
    """The central directory; zipfile takes whatever keeps it from reading for damage."""
    try:
        return zipfile.ZipFile(Window(span))
    except zipfile.BadZipFile as error:
        why = error.__context__
        if isinstance(why, OSError) and not isinstance(why, BeforeStartError):
            raise why from None
        raise


def _check_end(span: Span, comment: int) -> None:
    """Of an archive that was cut short, zipfile may take the end of an inner one for its own."""
    if span.read_at(max(0, span.size - _END_SIZE - comment), len(_END)) != _END:
        raise zipfile.BadZipFile("other bytes follow its end: cut short, or appended to")


def _check_size(name: str, size: int) -> None:
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"{name[:80]!r} claims a size that no file has")


def _is_file(info: zipfile.ZipInfo) -> bool:
    """Neither a folder nor a link, which a zip keeps as a file holding its target's name."""
    return not info.is_dir() and not modes.S_ISLNK(info.external_attr >> 16)


def _clean(name: str) -> str:
    """Without ``./`` or ``/`` in front; ``""`` for a hidden one."""
    name = _ROOT.sub("", name)
    return "" if places.is_hidden(name) else name
