"""What all layouts share: a listed source, label records, and groups of related videos."""

import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from dfscan import storage
from dfscan.errors import SourceError, VideoError
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import Label
from dfscan.storage import MEMBER, Entry, is_archive

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
PICTURE_SUFFIXES: Final = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"])
MEDIA_SUFFIXES: Final = VIDEO_SUFFIXES | PICTURE_SUFFIXES

_LABELS: Final[Mapping[str, Label]] = {
    "real": "REAL",
    "fake": "FAKE",
    "0": "REAL",
    "1": "FAKE",
    "0.0": "REAL",  # 0 and 1 in a table column with missing values
    "1.0": "FAKE",
    "false": "REAL",
    "true": "FAKE",
}
LABELS_ALLOWED: Final = "REAL, FAKE, 0, 1 (1 = FAKE)"

LARGEST: Final = 256 << 20
"""Largest list or metadata file in bytes."""


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """The label and relations of one file from a list or sidecar; overrides the layout.

    ``labelled`` is True if the list has a label column, so that an empty label means null and does
    not fall back to the layout's. ``original`` is a path inside the source, as in
    :class:`~dfscan.storage.Entry`.
    """

    label: Label | None = None
    labelled: bool = False
    original: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: NO_ATTRIBUTES)


NO_ATTRIBUTES: Final[Mapping[str, str]] = {}
"""Shared by all records without attributes."""


@dataclass(frozen=True)
class Source:
    """One SOURCE of the command line, listed but not opened.

    ``named`` are the paths that were given individually: they count as media whatever their suffix.
    ``records`` maps a path to its label record from a list.
    """

    name: str
    entries: tuple[Entry, ...]
    named: Collection[str] = frozenset()
    records: Mapping[str, LabelRecord] = field(default_factory=dict)

    def media(self) -> list[Entry]:
        """Videos and pictures by name, files given by name, and archives that are unreadable."""
        return [
            e
            for e in self.entries
            if suffix(e.path) in MEDIA_SUFFIXES or e.path in self.named or is_archive(e.path)
        ]

    def unreadable(self) -> list[Entry]:
        """Archives that could not be read; readable ones are listed as their members."""
        return [e for e in self.entries if is_archive(e.path) and e.version]

    def video_id(self, path: str) -> str:
        """The source's name, then the path inside."""
        if path == "" or path.startswith(MEMBER):
            return self.name + path
        return f"{self.name}/{path}"

    def path_of(self, video_id: str) -> str:
        """The path inside: the inverse of :meth:`video_id`."""
        rest = video_id[len(self.name) :]
        return rest[1:] if rest.startswith("/") else rest


@dataclass(frozen=True)
class Layout:
    """A corpus's layout on disk: whether a source has it, and its labelled videos."""

    name: str
    matches: Callable[[Source], bool]
    read: Callable[[Source], list[VideoRef]]


def is_picture(path: str) -> bool:
    """Whether the suffix is that of a picture."""
    return suffix(path) in PICTURE_SUFFIXES


def suffix(path: str) -> str:
    """``"a/B.MP4"`` → ``".mp4"``."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path, ``!/`` counting as a separator."""
    return tuple(p for p in path.replace(MEMBER, "/").split("/") if p)


def part_of(video_id: str) -> str | None:
    """The folder or archive of a video, taken from its id; None at the top level."""
    return video_id.rpartition("/")[0].rstrip("!/") or None


def parent(path: str) -> str:
    """The folder of a path with the separator at its end; ``""`` at the root of the source."""
    return path[: path.rfind("/") + 1]


def clip_names(names: tuple[str, ...]) -> list[tuple[int, str]]:
    """Candidate clip names of a file, as (index in ``names``, name without suffix).

    A picture is a frame of the clip that its folder is named after, or a clip of its own.
    """
    own = (len(names) - 1, names[-1].rsplit(".", 1)[0])
    if is_picture(names[-1]) and len(names) > 1:
        return [(len(names) - 2, names[-2]), own]
    return [own]


def label_of(value: Any) -> Label | None:
    """Parse REAL, FAKE, 0 or 1 in any spelling; None if empty.

    :raises ValueError: any other value.
    """
    text = "[…]" if isinstance(value, list | dict) else str(value).strip().lower()
    if text in {"", "nan", "null", "none"}:
        return None
    if text not in _LABELS:
        raise ValueError(f"label {brief(value)}; allowed: {LABELS_ALLOWED}")
    return _LABELS[text]


def text_of(value: Any, what: str) -> str | None:
    """A JSON name or number as text; None if empty.

    :param what: the field's name, for the error.
    :raises ValueError: it is a list or an object.
    """
    if value in (None, "", [], {}) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | dict):
        text = f"{what} {brief(value)} is neither a text nor a number"
        raise ValueError(text)  # noqa: TRY004  (what a file says is wrong, not what a caller did)
    return once(str(value))


def brief(value: Any) -> str:
    """A value as one short line for an error message."""
    return _BRIEF.repr(value)


_BRIEF: Final = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def content(uri: str, limit: int = LARGEST) -> bytes:
    """Read a list or metadata file.

    :raises SourceError: it cannot be read, or is larger than ``limit`` bytes.
    """
    try:
        return storage.read_bytes(uri, limit)
    except VideoError as error:
        large = f"is larger than {limit >> 20} MB, the limit for lists and metadata"
        told = f" {large}" if error.status == "too_large" else f": {error.reason}"
        raise SourceError(uri + told) from None


def video_ref(
    source: Source,
    entry: Entry,
    *,
    part: str,
    label: Label | None,
    group: str,
    original: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> VideoRef:
    """A :class:`VideoRef` for one entry. Recurring texts are interned."""
    video_id = source.video_id(entry.path)
    return VideoRef(
        video_id=video_id,
        uri=entry.uri,
        part=once(part),
        label=label,
        original=None if original is None else once(original),
        group=video_id if group == video_id else once(group),
        bytes=entry.bytes,
        version=entry.version,
        attributes=shared(attributes or {}),
    )


def shared(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Intern a mapping of attributes, which many videos share."""
    return _mapping(tuple(attributes.items())) if attributes else NO_ATTRIBUTES


@lru_cache(maxsize=4096)
def once(text: str) -> str:
    """Intern a text (a cache of recent ones).

    A lone surrogate, which JSON allows and Parquet does not, is escaped: ``\\ud800``.
    """
    return text.encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=4096)
def _mapping(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {once(key): once(value) for key, value in items}


def connected(pairs: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Union-find: node → the smallest node of its component, for edges given as tuples."""
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
