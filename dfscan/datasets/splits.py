"""Splits by group: an original and all its fakes are always on one side.

A group's side follows from a hash of its name, so videos added later do not move existing groups.
"""

import hashlib
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from dfscan.corpora.base import clip_names, connected, parts
from dfscan.errors import ConfigError, UsageError
from dfscan.schemas.status import LABELS

PER_FILE: Final = "file"
"""The value of ``--group-by`` that makes every file its own group."""

_PAIRS: Final = (
    ("ffpp:", re.compile(r"(\d+)_(\d+)")),
    ("ffpp:actor-", re.compile(r"(\d+)_(\d+)__.+__\w+")),
    ("celebdf:", re.compile(r"(id\d+)_(id\d+)_\d+")),
)
"""Prefix of a corpus's groups, and the pattern of target and source in its fakes' names."""

SIDES: Final = ("train", "validation", "test")
"""Names of the sides 0, 1 and 2: the fields of :class:`Splits`."""

_Ranked = list[tuple[float, str]]
"""Groups with their positions in [0, 1), ascending."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The groups of each side."""

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A video's relations to others."""

    video_id: str
    group: str
    original: str | None
    attributes: Mapping[str, str]


def groups_of(rows: Iterable[GroupFacts]) -> list[str]:
    """The group of each video after joining connected groups, named after the smallest.

    A layout groups the videos of one source. If a fake and its original, or the clip of its face,
    come from different sources or datasets, their groups are joined here: by ``original``, and in
    FaceForensics++ and Celeb-DF by both people in a fake's name (``033_097``: target 033, source
    097). Other groups keep their names.
    """
    facts = list(rows)
    home = {row.video_id: row.group for row in facts}
    links = [(row.group, person) for row in facts for person in _people(row)]
    for row in facts:
        if row.original is not None:
            links.append((row.group, home.setdefault(row.original, row.group)))
    return connected_groups([row.group for row in facts], links)


def _people(row: GroupFacts) -> tuple[str, ...]:
    """The groups of the two people in a fake's name."""
    if "origin" in row.attributes:
        return ()  # an original of FaceForensics++
    for begin, pair in _PAIRS:
        if row.group.startswith(begin):
            for _, name in clip_names(parts(row.video_id)):
                if match := pair.fullmatch(name):
                    return tuple(begin + person for person in match.groups())
    return ()


def connected_groups(names: Sequence[str], links: Iterable[tuple[str, str]]) -> list[str]:
    """For each name, the smallest name of its connected component.

    Links may pass through names that are not among ``names``. Takes nearly linear time.
    """
    smallest = connected(links)
    return [smallest.get(name, name) for name in names]


def regroup(video_ids: Sequence[str], pattern: str) -> list[str]:
    """The group of each video by its ``video_id``.

    :param pattern: a regular expression, searched for anywhere in the id: the first capture group,
        or else the whole match, is the group's name. ``file``: each file is its own group. :raises
        ConfigError: it does not compile, or does not match some ids.
    """
    if pattern == PER_FILE:
        return list(video_ids)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"train.group_by: {pattern!r} is no regular expression ({error}); allowed: a pattern "
            rf"such as '([^/_]+)_\d+\.png$', or {PER_FILE}"
        ) from None
    first = min(compiled.groups, 1)
    found = [match[first] if (match := compiled.search(i)) else None for i in video_ids]
    missing = [i for i, name in zip(video_ids, found, strict=True) if not name]
    if missing:
        raise ConfigError(
            f"train.group_by: {pattern!r} names no group for {len(missing)} of {len(video_ids)} "
            f"videos, the first: {missing[0]!r}; it must match every video_id"
        )
    return [name for name in found if name]


def split_groups(
    members: Iterable[tuple[str, str]], validation: float, test: float, seed: int
) -> Splits:
    """Divide groups into training, validation and test.

    The hash of its name gives each group a position: the lowest validate, the highest test. If a
    side would lack a kind of group (only reals, only fakes, both), the group nearest to the border
    changes sides, which happens in small corpora only. So each side has every kind with enough
    groups; of two groups, training gets the first and validation the second. ``test`` does not
    depend on ``validation``, and is empty if no kind has three groups.

    :param members: (group, label) of every labelled video or face.
    :param validation: share of the groups for validation, above 0. :param test: share of the groups
        for testing; 0: no test side. :raises UsageError: there are fewer than two groups, or the
        shares leave nothing to train on.
    """
    if validation + test >= 1:
        raise UsageError(
            f"shares of {validation} for validation and {test} for testing leave nothing to train on: "
            "together they must be below 1"
        )
    kinds = _kinds(members, seed)
    tested: set[str] = set()
    held: _Ranked = []
    train: _Ranked = []
    for ranked in kinds.values():
        rest = ranked[: len(ranked) - _tests(ranked, test)]
        tested.update(g for _, g in ranked[len(rest) :])
        count = _below(rest, validation)
        if len(rest) > 1:
            count = min(max(count, 1), len(rest) - 1)
        elif test:
            count = 0
        held += rest[:count]
        train += rest[count:]
    if not held:
        held.append(min(train))
        train.remove(held[0])
    elif not train:
        train.append(max(held))
        held.remove(train[0])
    return Splits(frozenset(g for _, g in train), frozenset(g for _, g in held), frozenset(tested))


def fold_groups(
    members: Iterable[tuple[str, str]], folds: int, fold: int, seed: int, test: float
) -> Splits:
    """One fold of a cross-validation: every group outside the test side validates exactly once.

    Folds are equal ranges of the positions of :func:`split_groups`, separately for each kind of
    group; a group at a border changes folds if one would have none of its kind. All folds share the
    test side of :func:`split_groups`. Each fold has both labels.

    :param members: (group, label) of every labelled video or face.
    :param fold: counted from 0.
    :param test: share of the groups for testing; 0: no test side. :raises ConfigError: there is no
        such fold.
    :raises UsageError: outside the test side, a label has fewer groups than there are folds.
    """
    if not 0 <= fold < folds:
        raise ConfigError(f"train.fold: got {fold}; allowed: 0 to {folds - 1} ({folds} folds)")
    kinds = _kinds(members, seed)
    rest = {kind: ranked[: len(ranked) - _tests(ranked, test)] for kind, ranked in kinds.items()}
    _check_enough(rest, folds)
    fold_of = _folds(rest, folds, 1 - test)
    everything = {g for ranked in kinds.values() for _, g in ranked}
    held = {g for g, number in fold_of.items() if number == fold}
    return Splits(
        frozenset(fold_of.keys() - held), frozenset(held), frozenset(everything - fold_of.keys())
    )


def _kinds(members: Iterable[tuple[str, str]], seed: int) -> dict[frozenset[str], _Ranked]:
    """The groups by their set of labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for group, label in members:
        labels[group].add(label)
    if len(labels) < 2:
        raise UsageError(
            f"cannot hold anything out: {len(labels)} group(s) of related videos, at least 2 are "
            "needed (an original and its fakes are one group)"
        )
    kinds: dict[frozenset[str], _Ranked] = defaultdict(list)
    for group, found in labels.items():
        kinds[frozenset(found)].append((_place(group, seed), group))
    return {kind: sorted(ranked) for kind, ranked in kinds.items()}


def _place(group: str, seed: int) -> float:
    """A group's fixed position in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _below(ranked: _Ranked, place: float) -> int:
    """Number of groups below a position."""
    return bisect_left(ranked, place, key=itemgetter(0))


def _tests(ranked: _Ranked, test: float) -> int:
    """Number of test groups of a kind; leaves at least two for training and validation."""
    if not test or len(ranked) < 3:
        return 0
    count = len(ranked) - _below(ranked, 1 - test)
    return min(max(count, 1), len(ranked) - 2)


def _check_enough(kinds: Mapping[frozenset[str], _Ranked], folds: int) -> None:
    counts = {label: sum(len(r) for k, r in kinds.items() if label in k) for label in LABELS}
    rarer = min(LABELS, key=lambda label: counts[label])
    if counts[rarer] < folds:
        raise UsageError(
            f"cannot make {folds} folds: outside the test side {counts[rarer]} group(s) of related "
            f"videos have {rarer} faces, and every fold needs one: use fewer --folds, or more videos"
        )


def _folds(kinds: Mapping[frozenset[str], _Ranked], folds: int, end: float) -> dict[str, int]:
    """Group → fold. Rare kinds are assigned last, first to folds that lack one of their labels."""
    fold_of: dict[str, int] = {}
    labels: list[set[str]] = [set() for _ in range(folds)]
    for kind in sorted(kinds, key=lambda k: (len(kinds[k]) < folds, -len(k), sorted(k))):
        ranked = kinds[kind]
        if len(ranked) >= folds:
            numbers = _stretches(ranked, folds, end)
        else:
            lacking = [number for number in range(folds) if not kind <= labels[number]]
            by_place = [min(int(place / end * folds), folds - 1) for place, _ in ranked]
            numbers = lacking[: len(ranked)] + by_place[len(lacking) :]
        for (_, group), number in zip(ranked, numbers, strict=True):
            fold_of[group] = number
            labels[number] |= kind
    return fold_of


def _stretches(ranked: _Ranked, folds: int, end: float) -> list[int]:
    """The fold of each group: equal ranges of [0, end), none of them empty."""
    cuts = [0]
    for number in range(1, folds):
        cut = _below(ranked, end * number / folds)
        cuts.append(min(max(cut, cuts[-1] + 1), len(ranked) - folds + number))
    sizes = [b - a for a, b in zip(cuts, [*cuts[1:], len(ranked)], strict=True)]
    return [number for number, size in enumerate(sizes) for _ in range(size)]
