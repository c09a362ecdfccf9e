"""What lies at a source."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dfscan.errors import SourceError
from dfscan.storage.archives import MEMBER, is_zip, open_zip


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a source. ``path`` is relative to the source, ``!/`` before a member."""

    path: str
    uri: str
    bytes: int
    version: str


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at ``path``."""
    return Path(path).exists()


def list_source(source: str | Path) -> list[Entry]:
    """Every file of a source: a folder (recursively), a zip archive, or one file.

    Zip archives inside a folder are looked into. Names that start with a dot are left out.
    Links to folders are followed, each folder once. Sorted by path. Only directories and the
    central directories of zips are read.

    :raises SourceError: nothing is there, or it cannot be read.
    """
    root = Path(os.path.abspath(source))  # noqa: PTH100  ("a/.." is folded, links are kept)
    if not root.exists():
        raise SourceError(
            f"source {str(source)!r} does not exist: give a folder, a .zip or a video"
        )
    if root.is_file():
        return _members(root, "") if is_zip(root) else [_entry(root, "")]
    entries: list[Entry] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or to a folder listed already
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(d for d in subfolders if not d.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            inside = path.relative_to(root).as_posix()
            if name.startswith(".") or not path.is_file():
                continue
            entries += _members(path, inside) if is_zip(path) else [_entry(path, inside)]
    return sorted(entries, key=lambda e: e.path)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"cannot list {error.filename}: {error.strerror}") from None


def _entry(path: Path, inside: str) -> Entry:
    stat = path.stat()
    return Entry(inside, str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def _members(archive: Path, inside: str) -> list[Entry]:
    try:
        infos = open_zip(str(archive), archive.stat().st_mtime_ns).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{archive} is not a readable zip archive ({error}): fetch it again or move it away"
        ) from None
    return sorted(
        (
            Entry(
                f"{inside}{MEMBER}{info.filename}",
                f"{archive}{MEMBER}{info.filename}",
                info.file_size,
                f"{info.file_size}-{info.CRC:08x}",
            )
            for info in infos
            if not info.is_dir() and not _is_hidden(info.filename)
        ),
        key=lambda e: e.path,
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)
