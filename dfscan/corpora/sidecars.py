"""Label sidecars of a WebDataset: ``KEY.cls`` or ``KEY.json`` beside the clip in the same tar.

``KEY.cls`` holds 0, 1, REAL or FAKE (1 = FAKE). ``KEY.json`` may have ``label`` (the same) and,
with it, ``original`` (the name of a clip in the same folder, with or without suffix) and ``group``.
KEY is the clip's name without its last suffix, or up to its first dot.
"""

from collections.abc import Collection, Iterator
from typing import Any, Final

from dfscan import storage
from dfscan.corpora.base import LabelRecord, Source, content, label_of, parent, suffix, text_of
from dfscan.errors import SourceError
from dfscan.storage import MEMBER, Entry

_KINDS: Final = frozenset([".cls", ".json"])
_LARGEST: Final = 16 << 20


def read(source: Source) -> dict[str, LabelRecord]:
    """Read sidecars in tars: path of the clip → label record.

    :raises SourceError: a sidecar has an invalid label, original or group.
    """
    there = {e.path: e for e in source.entries if suffix(e.path) in _KINDS and _in_tar(e)}
    if not there:
        return {}
    paths = {e.path for e in source.entries}
    found = ((e, _record(e, there, paths)) for e in source.media())
    return {entry.path: record for entry, record in found if record}


def _in_tar(entry: Entry) -> bool:
    return entry.uri.rpartition(MEMBER)[0].lower().endswith(".tar")


def _keys(path: str) -> Iterator[str]:
    folder = parent(path)
    name = path[len(folder) :]
    yield folder + name.rpartition(".")[0]
    yield folder + name.partition(".")[0]


def _record(clip: Entry, there: dict[str, Entry], paths: Collection[str]) -> LabelRecord | None:
    for key in _keys(clip.path):
        fields = _json(there[f"{key}.json"].uri) if f"{key}.json" in there else {}
        if f"{key}.cls" in there:
            fields["label"] = content(there[f"{key}.cls"].uri, _LARGEST).decode("utf-8", "replace")
            return _from(fields, there[f"{key}.cls"].uri, clip, paths)
        if "label" in fields:
            return _from(fields, there[f"{key}.json"].uri, clip, paths)
    return None


def _from(fields: dict[str, Any], uri: str, clip: Entry, paths: Collection[str]) -> LabelRecord:
    try:
        label = label_of(fields["label"])
        original = text_of(fields.get("original") or None, "original")
        group = text_of(fields.get("group"), "group")
    except ValueError as error:
        raise SourceError(f"{uri}: {error}; --layout flat ignores sidecars") from None
    return LabelRecord(
        label=label,
        labelled=True,
        original=_beside(clip.path, original, paths) if original else None,
        group=group,
    )


def _beside(clip: str, name: str, paths: Collection[str]) -> str:
    path = parent(clip) + name
    return path if path in paths else path + suffix(clip)


def _json(uri: str) -> dict[str, Any]:
    """A sidecar's JSON object; {} for anything else, such as a caption."""
    try:
        fields = storage.read_json(uri, _LARGEST)
    except SourceError:
        return {}
    return fields if isinstance(fields, dict) else {}
