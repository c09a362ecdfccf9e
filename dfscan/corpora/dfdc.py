"""The DFDC archive: parts as folders or zips, labels in ``metadata.json`` or ``labels.csv``.

``metadata.json`` beside the clips (or one folder up) maps a file name to
``{"label": "FAKE", "split": "train", "original": "b.mp4"}``; ``original`` is absent or null for
reals. The released test set has ``labels.csv`` with ``filename,label`` (1 or FAKE is fake), or
``{"is_fake": 1}`` in its ``metadata.json``. An original and all its fakes are one group; both lie
in the same part.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from dfscan import storage
from dfscan.corpora.base import (
    LARGEST,
    Layout,
    Source,
    brief,
    content,
    label_of,
    parent,
    parts,
    text_of,
    video_ref,
)
from dfscan.errors import SourceError
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import Label
from dfscan.storage import Entry

_TRUTHS: Final = frozenset(["labels.csv", "metadata.json"])


@dataclass(frozen=True, slots=True)
class Truth:
    """One clip's metadata; ``original`` is a file name in the same folder."""

    label: Label | None
    original: str | None


_UNKNOWN: Final = Truth(None, None)


def matches(source: Source) -> bool:
    """Whether the source has a ``metadata.json`` or ``labels.csv`` in DFDC's format."""
    found = [e for e in source.entries if _name(e.path) in _TRUTHS]
    return any(_looks_right(e) for e in found)


def _looks_right(entry: Entry) -> bool:
    """Whether a file has DFDC's format; an unreadable ``metadata.json`` of another program does
    not."""
    try:
        if _name(entry.path) == "labels.csv":
            return _is_table(entry.uri, _rows(entry.uri))
        return _is_metadata(storage.read_json(entry.uri, LARGEST))
    except SourceError:
        return False


def read(source: Source) -> list[VideoRef]:
    """Every video with its label, its original's ``video_id`` and its group."""
    truth_of = _finder(source)
    refs = []
    for entry in source.media():
        folder, name = parent(entry.path), _name(entry.path) or source.name
        truth = truth_of(folder, name)
        original = truth.original
        folders = parts(folder)
        refs.append(
            video_ref(
                source,
                entry,
                part=folders[-1] if folders else source.name,
                label=truth.label,
                group=f"dfdc:{(original or name).rsplit('.', 1)[0]}",
                original=source.video_id(folder + original) if original else None,
            )
        )
    return refs


def _finder(source: Source) -> Callable[[str, str], Truth]:
    """Find a clip in the metadata of its folder or the parent; caches a few metadata files."""
    places: dict[str, list[Entry]] = defaultdict(list)
    for entry in source.entries:
        if _name(entry.path) in _TRUTHS:
            places[parent(entry.path)].append(entry)

    @lru_cache(maxsize=8)
    def truths(place: str) -> dict[str, Truth]:
        found: dict[str, Truth] = {}
        for entry in places.get(place, ()):
            found |= _read_truth(entry.uri, _name(entry.path))
        return found

    def find(folder: str, name: str) -> Truth:
        for place in (folder, parent(folder.rstrip("/!"))):
            if name in truths(place):
                return truths(place)[name]
        return _UNKNOWN

    return find


def _read_truth(uri: str, name: str) -> dict[str, Truth]:
    if name == "metadata.json":
        return read_metadata(uri)
    rows = _rows(uri)
    if not _is_table(uri, rows):
        got = brief(rows.fieldnames)
        raise SourceError(f"{uri}: expected the columns filename,label, got {got}")
    with _table(uri):
        return {
            r["filename"]: _truth(uri, r["filename"], r["label"], r.get("original")) for r in rows
        }


def read_metadata(uri: str) -> dict[str, Truth]:
    """Read a ``metadata.json``: file name → clip metadata.

    :raises SourceError: it is not in DFDC's format, or contains an invalid label.
    """
    clips = storage.read_json(uri, LARGEST)
    if not _is_metadata(clips):
        raise SourceError(f'{uri}: not DFDC metadata; expected {{"a.mp4": {{"label": "FAKE"}}}}')
    return {
        clip: _truth(uri, clip, info.get("label", info.get("is_fake")), info.get("original"))
        for clip, info in clips.items()
    }


def _rows(uri: str) -> "csv.DictReader[str]":
    try:
        text = content(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{uri} is not UTF-8 text (byte {error.start:,})", code="source.unreadable"
        ) from None
    return csv.DictReader(io.StringIO(text))


def _is_table(uri: str, rows: "csv.DictReader[str]") -> bool:
    with _table(uri):
        return {"filename", "label"} <= set(rows.fieldnames or ())


@contextmanager
def _table(uri: str) -> Iterator[None]:
    """Add the file's name to errors of a table."""
    try:
        yield
    except csv.Error as error:
        raise SourceError(
            f"{uri} is not a readable table: {error}", code="source.unreadable"
        ) from None


def _truth(uri: str, clip: str, label: Any, original: Any) -> Truth:
    try:
        return Truth(label_of(label), text_of(original or None, "original"))
    except ValueError as error:
        raise SourceError(f"{uri}: {brief(clip)}: {error}") from None


def _is_metadata(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(
        isinstance(info, dict) and ("label" in info or "is_fake" in info)
        for info in content.values()
    )


def _name(path: str) -> str:
    return path[len(parent(path)) :]


LAYOUT = Layout("dfdc", matches, read)
