"""The DFDC archive: parts as folders or zips, labels in ``metadata.json`` or ``labels.csv``.

``metadata.json`` beside the clips (or one folder up) maps a file name to
``{"label": "FAKE", "split": "train", "original": "b.mp4"}``; ``original`` is absent or null for
reals. The released test set has ``labels.csv`` with ``filename,label`` (1 or FAKE is fake).
An original and all its fakes are one group; both lie in the same part.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfscan import storage
from dfscan.corpora.base import Layout, Source, parent, parts, video_ref
from dfscan.errors import SourceError
from dfscan.records import Label, VideoRef

_LABELS: Mapping[str, Label] = {"REAL": "REAL", "FAKE": "FAKE", "0": "REAL", "1": "FAKE"}


@dataclass(frozen=True)
class _Truth:
    label: Label | None
    original: str | None


def recognises(source: Source) -> bool:
    """A ``metadata.json`` of DFDC's shape, or a ``labels.csv``, lies in the source."""
    if any(_name(e.path) == "labels.csv" for e in source.entries):
        return True
    for entry in source.entries:
        if _name(entry.path) == "metadata.json" and _is_metadata(_json_or_none(entry.uri)):
            return True
    return False


def _json_or_none(uri: str) -> Any:
    """Another program's ``metadata.json`` need not be JSON: then the corpus is not DFDC."""
    try:
        return storage.read_json(uri)
    except SourceError:
        return None


def read(source: Source) -> list[VideoRef]:
    """Every video with its label, its original's ``video_id`` and its group."""
    truths = {
        parent(e.path): _read_truth(e.uri, _name(e.path))
        for e in source.entries
        if _name(e.path) in {"metadata.json", "labels.csv"}
    }
    refs = []
    for entry in source.videos():
        folder, name = parent(entry.path), _name(entry.path) or source.name
        truth = _find(truths, folder, name)
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


def _find(truths: Mapping[str, Mapping[str, _Truth]], folder: str, name: str) -> _Truth:
    for place in (folder, parent(folder.rstrip("/!"))):
        if name in truths.get(place, {}):
            return truths[place][name]
    return _Truth(None, None)


def _read_truth(uri: str, name: str) -> dict[str, _Truth]:
    if name == "metadata.json":
        content = storage.read_json(uri)
        if not _is_metadata(content):
            raise SourceError(
                f'{uri}: not DFDC metadata; expected {{"a.mp4": {{"label": "FAKE"}}}}'
            )
        return {
            clip: _Truth(_label(uri, clip, info.get("label")), info.get("original") or None)
            for clip, info in content.items()
        }
    text = storage.read_bytes(uri).decode("utf-8-sig")
    rows = csv.DictReader(io.StringIO(text))
    if not {"filename", "label"} <= set(rows.fieldnames or ()):
        raise SourceError(f"{uri}: expected the columns filename,label, got {rows.fieldnames}")
    return {
        r["filename"]: _Truth(_label(uri, r["filename"], r["label"]), r.get("original") or None)
        for r in rows
    }


def _label(uri: str, clip: str, value: Any) -> Label | None:
    if value in (None, ""):
        return None
    label = _LABELS.get(str(value).upper())
    if label is None:
        raise SourceError(f"{uri}: label {value!r} of {clip}; allowed: REAL, FAKE, 0, 1")
    return label


def _is_metadata(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(info, dict) and "label" in info for info in content.values())


def _name(path: str) -> str:
    return parts(path)[-1] if parts(path) else ""


LAYOUT = Layout("dfdc", recognises, read)
