"""Override a layout's labels by those of a list or of sidecars."""

from collections.abc import Mapping
from dataclasses import replace

from dfscan.corpora.base import LabelRecord, Source, connected, once, shared
from dfscan.schemas.records import VideoRef


def apply_label_records(
    source: Source, refs: list[VideoRef], records: Mapping[str, LabelRecord]
) -> None:
    """Apply label records, keyed by path, to the videos in place.

    A fake without a group of its own joins its original's.
    """
    for index, ref in enumerate(refs):
        record = records.get(source.path_of(ref.video_id))
        if record is not None:
            refs[index] = _applied(source, ref, record)
    _join(source, refs, records)


def _join(source: Source, refs: list[VideoRef], records: Mapping[str, LabelRecord]) -> None:
    groups = {r.video_id: r.group for r in refs} if records else {}
    pairs = []
    for ref in refs if records else ():
        record = records.get(source.path_of(ref.video_id))
        if record and record.original and ref.original and not record.group:
            pairs.append((ref.group, groups.get(ref.original, ref.original)))
    names = _names(connected(pairs), {g.group for g in records.values() if g.group})
    for index, ref in enumerate(refs):
        if names.get(ref.group, ref.group) != ref.group:
            refs[index] = replace(ref, group=names[ref.group])


def _applied(source: Source, ref: VideoRef, record: LabelRecord) -> VideoRef:
    label = record.label if record.labelled else ref.label
    original = once(source.video_id(record.original)) if record.original else ref.original
    return replace(
        ref,
        label=label,
        original=None if label != "FAKE" and record.labelled else original,
        group=once(record.group) if record.group else ref.group,
        attributes=shared({**ref.attributes, **record.attributes}),
    )


def _names(joined: Mapping[str, str], records: set[str]) -> dict[str, str]:
    """Name each joined group: by a group named in the list if there is one."""
    called: dict[str, str] = {}
    for node in sorted(joined.keys() & records):
        called.setdefault(joined[node], node)
    return {node: called.get(root, root) for node, root in joined.items()}
