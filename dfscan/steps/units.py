"""A unit: the videos that are worked on and committed together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from dfscan.recipe import fingerprint
from dfscan.records import HEALTHY, VideoRef


@dataclass(frozen=True)
class Unit:
    """Some videos of one part, an original and its fakes together.

    ``name`` is a hash of the configuration and of what the videos are, so the same work always
    commits under the same name, whoever does it and however often.
    """

    name: str
    videos: tuple[VideoRef, ...]


@dataclass(frozen=True)
class UnitResult:
    """What one unit came to, small enough to travel to the driver."""

    videos: int
    faces: int
    status: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Videos whose status is neither ok, no_face nor partial."""
        return sum(n for status, n in self.status.items() if status not in HEALTHY)

    def __add__(self, other: "UnitResult") -> "UnitResult":
        return UnitResult(
            self.videos + other.videos, self.faces + other.faces, self.status + other.status
        )


NOTHING = UnitResult(0, 0)


class Step(Protocol):
    """Work on a unit: does it, commits it, returns the counts."""

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit."""

    def give_up(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a row with this status for every video, without opening any."""


def plan_units(videos: Iterable[VideoRef], size: int, config_hash: str) -> list[Unit]:
    """Cut videos into units of about ``size``; a group larger than that has a unit of its own."""
    units: list[Unit] = []
    ordered = sorted(videos, key=lambda v: (v.part, v.group, v.video_id))
    for _, part in groupby(ordered, key=lambda v: v.part):
        pending: list[VideoRef] = []
        for _, group in groupby(part, key=lambda v: v.group):
            members = list(group)
            if pending and len(pending) + len(members) > size:
                units.append(make_unit(pending, config_hash))
                pending = []
            pending += members
        if pending:
            units.append(make_unit(pending, config_hash))
    return units


def make_unit(videos: Sequence[VideoRef], config_hash: str) -> Unit:
    """A unit, named by what is in it."""
    inputs = [config_hash, [[v.video_id, v.version] for v in videos]]
    return Unit(fingerprint(inputs), tuple(videos))
