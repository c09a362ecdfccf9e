"""What every layout shares: a listed source, and groups that must not be torn apart."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dfscan.records import Label, VideoRef
from dfscan.storage import MEMBER, Entry

VIDEO_SUFFIXES: Final = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".flv",
        ".3gp",
        ".3g2",
        ".ogv",
        ".wmv",
        ".asf",
        ".gif",
    ]
)


@dataclass(frozen=True)
class Source:
    """One SOURCE of the command line, listed but not opened."""

    name: str
    entries: tuple[Entry, ...]
    is_file: bool

    def videos(self) -> list[Entry]:
        """Files that are called videos; a file given by itself counts whatever its name."""
        if self.is_file and len(self.entries) == 1 and self.entries[0].path == "":
            return list(self.entries)
        return [e for e in self.entries if suffix(e.path) in VIDEO_SUFFIXES]

    def video_id(self, path: str) -> str:
        """The source's name, then the path inside."""
        if path == "" or path.startswith(MEMBER):
            return self.name + path
        return f"{self.name}/{path}"


@dataclass(frozen=True)
class Layout:
    """How a corpus lies on disk: whether a source is one, and its videos with their labels."""

    name: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], list[VideoRef]]


def suffix(path: str) -> str:
    """``"a/B.MP4"`` → ``".mp4"``."""
    return PurePosixPath(path).suffix.lower()


def parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path, ``!/`` counting as a separator."""
    return tuple(p for p in path.replace(MEMBER, "/").split("/") if p)


def parent(path: str) -> str:
    """The folder of a path with the separator at its end; ``""`` at the root of the source."""
    name = parts(path)[-1] if parts(path) else ""
    return path[: len(path) - len(name)]


def video_ref(
    source: Source,
    entry: Entry,
    *,
    part: str,
    label: Label | None,
    group: str,
    original: str | None = None,
    attributes: dict[str, str] | None = None,
) -> VideoRef:
    """A :class:`VideoRef` for one entry."""
    return VideoRef(
        video_id=source.video_id(entry.path),
        uri=entry.uri,
        part=part,
        label=label,
        original=original,
        group=group,
        bytes=entry.bytes,
        version=entry.version,
        attributes=attributes or {},
    )


def connected(pairs: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Union-find: node → the smallest node it is connected with, over all given tuples."""
    root: dict[str, str] = {}

    def find(node: str) -> str:
        root.setdefault(node, node)
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for pair in pairs:
        first = find(pair[0])
        for other in pair[1:]:
            second = find(other)
            first, second = min(first, second), max(first, second)
            root[second] = first
    return {node: find(node) for node in root}
