"""Splits by group: an original and all its fakes always lie on one side."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from dfscan.errors import UsageError


def split_groups(
    members: Iterable[tuple[str, str]], val_fraction: float, seed: int
) -> tuple[frozenset[str], frozenset[str]]:
    """(training groups, validation groups).

    A group goes by a hash of its name alone, so that videos added later move none of the old
    ones. Where that leaves a side without a kind of group (only reals, only fakes, both) that
    has at least two members, the group nearest to the border changes sides: this happens in
    small corpora only, and keeps both classes on both sides wherever each kind has two groups.

    :param members: (group, label) of every labelled video or face.
    :raises UsageError: there are fewer than two groups.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for group, label in members:
        labels[group].add(label)
    if len(labels) < 2:
        raise UsageError(
            f"cannot hold anything out: {len(labels)} group(s) of related videos, at least 2 are "
            "needed (an original and its fakes are one group)"
        )
    place = {g: _place(g, seed) for g in labels}
    val = {g for g in labels if place[g] < val_fraction}
    kinds: dict[frozenset[str], list[str]] = defaultdict(list)
    for group in sorted(labels, key=lambda g: (place[g], g)):
        kinds[frozenset(labels[group])].append(group)
    for ranked in kinds.values():
        if len(ranked) < 2:
            continue
        if not val.intersection(ranked):
            val.add(ranked[0])
        if val.issuperset(ranked):
            val.remove(ranked[-1])
    if not val:
        val = {min(place, key=lambda g: place[g])}
    elif len(val) == len(labels):
        val.remove(max(val, key=lambda g: place[g]))
    return frozenset(labels) - val, frozenset(val)


def _place(group: str, seed: int) -> float:
    """A fixed place in [0, 1) for a group."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
