"""What every layout shares: a listed source, and groups that must not be torn apart."""

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
    "0.0": "REAL",  # what a table makes of 0 and 1 where others are missing
    "1.0": "FAKE",
    "false": "REAL",
    "true": "FAKE",
}
LABELS_ALLOWED: Final = "REAL, FAKE, 0, 1 (1 = FAKE)"

LARGEST: Final = 256 << 20
"""Bytes of a list or of a corpus's metadata; what claims more fills the memory."""


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """What a list or a sidecar says of one file; it wins over what the layout says.

    ``labelled`` is True where a label was asked for, so that an empty one is null and not the
    layout's. ``original`` is a path inside the source, as in :class:`~dfscan.storage.Entry`.
    """

    label: Label | None = None
    labelled: bool = False
    original: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: NO_ATTRIBUTES)


NO_ATTRIBUTES: Final[Mapping[str, str]] = {}
"""One for all that have none."""


@dataclass(frozen=True)
class Source:
    """One SOURCE of the command line, listed but not opened.

    ``named`` are the paths that were given one by one: they count as media whatever they are
    called. ``records`` holds what a list says of a path.
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
        """Archives that could not be looked into; the readable ones are listed as their members."""
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
    """How a corpus lies on disk: whether a source is one, and its videos with their labels."""

    name: str
    matches: Callable[[Source], bool]
    read: Callable[[Source], list[VideoRef]]


def is_picture(path: str) -> bool:
    """Whether a file is called a picture."""
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
    """The folder or archive that a video lies in, as its id says; None at the top."""
    return video_id.rpartition("/")[0].rstrip("!/") or None


def parent(path: str) -> str:
    """The folder of a path with the separator at its end; ``""`` at the root of the source."""
    return path[: path.rfind("/") + 1]


def clip_names(names: tuple[str, ...]) -> list[tuple[int, str]]:
    """What may name the clip that a file shows: (index in ``names``, name without suffix).

    A picture is a frame of the clip that its folder is called after, or shows it by itself.
    """
    own = (len(names) - 1, names[-1].rsplit(".", 1)[0])
    if is_picture(names[-1]) and len(names) > 1:
        return [(len(names) - 2, names[-2]), own]
    return [own]


def label_of(value: Any) -> Label | None:
    """REAL, FAKE, 0 or 1 in any spelling; None for nothing.

    :raises ValueError: it is anything else.
    """
    text = "[…]" if isinstance(value, list | dict) else str(value).strip().lower()
    if text in {"", "nan", "null", "none"}:
        return None
    if text not in _LABELS:
        raise ValueError(f"label {brief(value)}; allowed: {LABELS_ALLOWED}")
    return _LABELS[text]


def text_of(value: Any, what: str) -> str | None:
    """A name or a number out of JSON as a text that can be written; None for nothing.

    :param what: what it is, for the error.
    :raises ValueError: it is a list or an object.
    """
    if value in (None, "", [], {}) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | dict):
        text = f"{what} {brief(value)} is neither a text nor a number"
        raise ValueError(text)  # noqa: TRY004  (what a file says is wrong, not what a caller did)
    return once(str(value))


def brief(value: Any) -> str:
    """What a file says, for an error: one short line, whatever it is."""
    return _BRIEF.repr(value)


_BRIEF: Final = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def content(uri: str, limit: int = LARGEST) -> bytes:
    """The whole of a list or of metadata.

    :raises SourceError: it cannot be read, or has more than ``limit`` bytes.
    """
    try:
        return storage.read_bytes(uri, limit)
    except VideoError as error:
        large = f"is larger than {limit >> 20} MB, which is more than lists and metadata may have"
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
    """A :class:`VideoRef` for one entry. Texts that recur are kept once."""
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
    """The same attributes, as one mapping for all videos that have them, in texts of :func:`once`."""
    return _mapping(tuple(attributes.items())) if attributes else NO_ATTRIBUTES


@lru_cache(maxsize=4096)
def once(text: str) -> str:
    """The same text, as the one object that was met before where that was lately.

    Half of a surrogate pair, which JSON can hold and no file of ours, is spelt out: ``\\ud800``.
    """
    return text.encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=4096)
def _mapping(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {once(key): once(value) for key, value in items}


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
