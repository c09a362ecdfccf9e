"""A unit: the videos that are worked on and committed together."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from dfscan.schemas.fingerprint import json_hash
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import SUCCEEDED


@dataclass(frozen=True)
class Outcome:
    """Counts of a job over videos; ``exit_code`` follows the contract (3: too many failed)."""

    out: str
    videos: int
    status: dict[str, int]
    max_failed: float
    elapsed_s: float

    @property
    def failed(self) -> int:
        """Videos whose status is neither ok, no_face nor partial."""
        return sum(n for status, n in self.status.items() if status not in SUCCEEDED)

    @property
    def exit_code(self) -> int:
        """0, or 3 where more than ``max_failed`` of the videos failed."""
        return 3 if self.failed > self.max_failed * self.videos else 0


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
    """What one unit came to, small enough to travel to the driver.

    ``look_s``: seconds that looking at its healthy videos took, added up; ``faces_s``: those of them
    that decoding stood still, while faces were found, cut out and encoded.
    """

    videos: int
    faces: int
    status: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    look_s: float = 0.0
    faces_s: float = 0.0

    @property
    def failed(self) -> int:
        """Videos whose status is neither ok, no_face nor partial."""
        return sum(n for status, n in self.status.items() if status not in SUCCEEDED)

    def __add__(self, other: "UnitResult") -> "UnitResult":
        return UnitResult(
            self.videos + other.videos,
            self.faces + other.faces,
            self.status + other.status,
            self.frames + other.frames,
            self.look_s + other.look_s,
            self.faces_s + other.faces_s,
        )


NOTHING = UnitResult(0, 0)


class Task(Protocol):
    """Work on a unit: does it, commits it, returns the counts."""

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit."""

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a row with this status for every video, without opening any."""

    def split(self, unit: Unit) -> list[Unit]:
        """Smaller units of the same videos; one or none where it cannot be split."""


def split_per_video(unit: Unit) -> list[Unit]:
    """A unit of its own for each video."""
    return [make_unit([video], unit.name) for video in unit.videos]


def family(video: VideoRef) -> str:
    """What an original and its fakes have in common: the original's ``video_id``."""
    return video.original or video.video_id


def group_by_source(videos: Iterable[VideoRef]) -> Iterator[list[VideoRef]]:
    """Originals with their fakes, the original first; ``videos`` in the order of a unit."""
    for _, members in groupby(videos, key=family):
        yield sorted(members, key=lambda v: (v.original is not None, v.video_id))


def plan_units(
    videos: Iterable[VideoRef], size: int, config_hash: str, whole_families: bool = False
) -> list[Unit]:
    """Cut videos into units of about ``size``, an original and its fakes together.

    A unit's videos come from one part, and fakes that lie in another (FaceForensics++) from there.

    :param whole_families: a family larger than ``size`` is a unit of its own, not several.
    """
    units: list[Unit] = []
    chosen = list(videos)
    homes = {v.video_id: v.part for v in chosen if v.original is None}

    def home(video: VideoRef) -> str:
        return homes.get(family(video), video.part)

    chosen.sort(key=lambda v: (home(v), v.group, family(v), v.video_id))
    for _, part in groupby(chosen, key=home):
        pending: list[VideoRef] = []
        for members in group_by_source(part):
            if pending and len(pending) + len(members) > size:
                units.append(make_unit(pending, config_hash))
                pending = []
            pending += members
            while len(pending) > size and not whole_families:
                units.append(make_unit(pending[:size], config_hash))
                pending = pending[size:]
        if pending:
            units.append(make_unit(pending, config_hash))
    return units


def make_unit(videos: Sequence[VideoRef], config_hash: str) -> Unit:
    """A unit, named by what is in it."""
    inputs = [config_hash, [[v.video_id, v.version] for v in videos]]
    return Unit(json_hash(inputs), tuple(videos))
