"""List the files of a source."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from dfscan.errors import SourceError
from dfscan.storage import archives, backend
from dfscan.storage.archives import MEMBER, Archive, ArchiveError, CompressedError, is_archive
from dfscan.storage.paths import PathLike, as_path

_AT_ONCE: Final = 10_000
"""Number of listed files that are inspected in one batch."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a source. ``path`` is relative to the source, ``!/`` before a member.

    ``version`` is the size and mtime_ns of a file or object, the size and crc32 of a zip member, or
    the size and mtime of a tar member. For a listed file that does not exist, ``bytes`` is 0 and
    ``version`` is ``""``. An entry with an archive's suffix is an archive that could not be read;
    if it is sound but cannot be read in place, ``closed`` gives the reason and remedy.
    """

    path: str
    root: str
    bytes: int
    version: str
    closed: str = ""

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.root + self.path


def modified_s(uri: str, version: str) -> float | None:
    """When an :class:`Entry` was last changed, in seconds since the epoch; None if unknown: for zip
    members, which have a checksum instead, and for listed files that do not exist.
    """
    stamp = version.rpartition("-")[2]
    if not stamp:
        return None
    *archive, _ = archives.split(uri)
    if not archive:
        return int(stamp) / 1e9
    return float(stamp) if archive[-1].lower().endswith(".tar") else None


def exists(path: PathLike) -> bool:
    """Whether a file or folder exists at a path or object-store URI.

    :raises OSError: the path cannot be inspected. :raises StoreError: the store does not answer.
    """
    file = str(as_path(path))
    with backend.store_errors(file):
        return backend.stat(file) is not None


def list_source(source: str | Path) -> list[Entry]:
    """List every file of a source: a folder (recursively), an archive, one file, or a member.

    Archives in folders and archives are expanded. Names that start with a dot are skipped. Links to
    folders are followed, each folder once; links in archives are not. The result is sorted by path,
    each path once. Only directories are read.

    :raises SourceError: the source is missing, unreadable, or an archive that is damaged or cannot
        be read in place. Inside a source, such an archive is returned as an entry.
    """
    return _sorted(_list(backend.absolute(source), str(source)))


def list_paths(wanted: Iterable[tuple[str, str]]) -> Iterator[list[Entry]]:
    """List many paths, each given as the (root, path) of an :class:`Entry`.

    A file gives one entry, an archive those of its members. A missing file gives one entry with
    ``bytes`` 0 and ``version`` ``""``.

    :raises SourceError: a path is a folder, or cannot be inspected.
    """
    lookup = _Lookup()
    places_left = iter(wanted)
    while some := list(islice(places_left, _AT_ONCE)):
        yield from _list_some(some, lookup)


def _list_some(wanted: list[tuple[str, str]], lookup: "_Lookup") -> Iterator[list[Entry]]:
    files = [archives.split(root + path)[0] for root, path in wanted]
    try:
        stats = backend.stat_all(files)
    except backend.STORE_ERRORS as error:
        raise SourceError(
            f"a listed file cannot be read: {backend.one_line(error)}",
            code="source.unreadable",
        ) from None
    for (root, path), file, found in zip(wanted, files, stats, strict=True):
        if found is None:
            yield [Entry(path, root, 0, "")]
        elif found.is_folder:
            raise SourceError(
                f"{root}{path} is a folder: list its files, or give it as a SOURCE",
                code="source.wrong_kind",
            )
        elif file == root + path:
            yield _sorted(_expand(Entry(path, root, found.bytes, found.version)))
        else:
            yield lookup.find(file, root, path)


class _Lookup:
    """Finds archive members by URI; keeps the listing of the last archive."""

    def __init__(self) -> None:
        self._file = ""
        self._entries: dict[str, Entry] = {}

    def find(self, file: str, root: str, path: str) -> list[Entry]:
        if file != self._file:
            self._file = file
            self._entries = {e.uri: e for e in _expand(Entry("", file, 0, ""))}
        uri = root + path
        found = [self._entries[uri]] if uri in self._entries else []
        if is_archive(uri):
            found += (e for u, e in self._entries.items() if u.startswith(uri + MEMBER))
        here = [replace(e, path=e.uri.removeprefix(root), root=root) for e in found]
        return _sorted(here) or [Entry(path, root, 0, "")]


def _list(uri: str, text: str) -> Iterator[Entry]:
    outer, *inner = archives.split(uri)
    found = _stat(outer, text)
    if inner:
        yield from _list_within(uri)
    elif found.is_folder:
        root = uri if uri.endswith("/") else f"{uri}/"
        files = [Entry(f.path, root, f.stat.bytes, f.stat.version) for f in backend.walk(uri)]
        yield from _expand_all(files)
    elif is_archive(uri):
        with _source_errors(uri):
            archive = archives.load(uri, backend.open_blob(uri))
            yield from _members(archive, Entry("", uri, 0, ""), 1)
    else:
        _refuse_compressed(uri)
        yield Entry("", uri, found.bytes, found.version)


def _list_within(uri: str) -> Iterator[Entry]:
    """List a source inside an archive: an inner archive, or one member."""
    *outer, name = archives.split(uri)
    with _source_errors(uri):
        archive = archives.open_archive(MEMBER.join(outer))
        if is_archive(name):
            yield from _nested(archive, name, Entry("", uri, 0, ""), len(outer), by_name=True)
            return
        member = next((m for m in archive.members() if m.name == name), None)
        if member is None:
            raise KeyError(name)
        yield Entry("", uri, member.bytes, member.version)


def _expand_all(files: list[Entry]) -> Iterator[Entry]:
    """Replace the archives among the files by their members."""
    yield from (f for f in files if not is_archive(f.path))
    closed = [f for f in files if is_archive(f.path)]
    if not closed or not backend.is_remote(closed[0].uri):
        for file in closed:
            yield from _expand(file)
        return
    with ThreadPoolExecutor(backend.THREADS) as pool:
        for entries in pool.map(_expand, closed):
            yield from entries


def _expand(file: Entry) -> list[Entry]:
    """The members of an archive; the file itself if it is not a readable archive."""
    if not is_archive(file.uri):
        return [file]
    try:
        archive = archives.load(file.uri, backend.open_blob(file.uri))
        return list(_members(archive, file, 1))
    except (ArchiveError, PermissionError, FileNotFoundError):
        return [file]
    except backend.STORE_ERRORS as error:
        raise SourceError(
            f"{file.uri} cannot be read: {backend.one_line(error)}", code="source.unreadable"
        ) from None


def _members(archive: Archive, of: Entry, depth: int) -> Iterator[Entry]:
    for member in archive.members():
        path = f"{of.path}{MEMBER}{member.name}"
        entry = Entry(path, of.root, member.bytes, member.version)
        if is_archive(member.name):
            yield from _nested(archive, member.name, entry, depth)
        else:
            yield entry


def _nested(
    archive: Archive, name: str, entry: Entry, depth: int, by_name: bool = False
) -> Iterator[Entry]:
    """The members of an inner archive; the archive itself if it cannot be read in place."""
    closed = ""
    if depth == archives.DEEPEST:
        closed = (
            f"{entry.uri}: archives can be nested {archives.DEEPEST} deep at most: unpack "
            f"{archives.split(entry.uri)[0]}"
        )
    else:
        try:
            inner = archives.load(name, archive.span(name))
        except CompressedError as error:
            closed = (
                f"{entry.uri} is {error}, so it cannot be read in place: store it there without "
                f"compression (zip -0), or unpack the outer archive"
            )
        except ArchiveError:
            if by_name:
                raise
        else:
            yield from _members(inner, entry, depth + 1)
            return
    if by_name:
        raise SourceError(closed)
    yield replace(entry, closed=closed)


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: e.path)


def _stat(path: str, text: str) -> backend.Stat:
    try:
        found = backend.stat(path)
    except backend.STORE_ERRORS as error:
        raise SourceError(
            f"source {text!r} cannot be read: {backend.one_line(error)}", code="source.unreadable"
        ) from None
    if found is None:
        raise SourceError(
            f"source {text!r} does not exist: give a folder, a .zip or a video (or a picture, a "
            f".tar, a list .txt .csv .parquet, or any of these at s3://…)",
            code="source.missing",
        )
    return found


def _refuse_compressed(path: str) -> None:
    end = next((c for c in archives.COMPRESSED if path.lower().endswith(c)), None)
    if end:
        raise SourceError(
            f"{path}: {end} archives cannot be read in place; unpack it, or make it a .tar or .zip",
            code="source.wrong_kind",
        )


@contextmanager
def _source_errors(uri: str) -> Iterator[None]:
    """Turn errors of an archive that is itself the source into SourceError."""
    try:
        yield
    except KeyError:
        raise SourceError(
            f"source {uri!r} does not exist: no such member in the archive", code="source.missing"
        ) from None
    except (ArchiveError, *backend.STORE_ERRORS) as error:
        kind = "tar" if ".tar" in uri[-4:].lower() else "zip"
        raise SourceError(
            f"{uri} is not a readable {kind} archive ({backend.one_line(error)}): fetch it again "
            f"or move it away",
            code="source.unreadable",
        ) from None
