"""Puts what a list or a sidecar says in place of what the layout says."""

from collections.abc import Mapping
from dataclasses import replace

from dfscan.corpora.base import Given, Source, connected, once, shared
from dfscan.schemas.records import VideoRef


def apply_given(source: Source, refs: list[VideoRef], given: Mapping[str, Given]) -> None:
    """Put into the videos, in place, what is given of them by path.

    A fake without a given group joins its given original's.
    """
    for index, ref in enumerate(refs):
        told = given.get(source.path_of(ref.video_id))
        if told is not None:
            refs[index] = _applied(source, ref, told)
    _join(source, refs, given)


def _join(source: Source, refs: list[VideoRef], given: Mapping[str, Given]) -> None:
    groups = {r.video_id: r.group for r in refs} if given else {}
    pairs = []
    for ref in refs if given else ():
        told = given.get(source.path_of(ref.video_id))
        if told and told.original and ref.original and not told.group:
            pairs.append((ref.group, groups.get(ref.original, ref.original)))
    names = _names(connected(pairs), {g.group for g in given.values() if g.group})
    for index, ref in enumerate(refs):
        if names.get(ref.group, ref.group) != ref.group:
            refs[index] = replace(ref, group=names[ref.group])


def _applied(source: Source, ref: VideoRef, given: Given) -> VideoRef:
    label = given.label if given.labelled else ref.label
    original = once(source.video_id(given.original)) if given.original else ref.original
    return replace(
        ref,
        label=label,
        original=None if label != "FAKE" and given.labelled else original,
        group=once(given.group) if given.group else ref.group,
        attributes=shared({**ref.attributes, **given.attributes}),
    )


def _names(joined: Mapping[str, str], given: set[str]) -> dict[str, str]:
    """Joined groups are called as the list calls one of them, where it does."""
    called: dict[str, str] = {}
    for node in sorted(joined.keys() & given):
        called.setdefault(joined[node], node)
    return {node: called.get(root, root) for node, root in joined.items()}
