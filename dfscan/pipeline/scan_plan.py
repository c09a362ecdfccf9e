"""What scoring has to do: new, changed and stale videos, and those that are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError, OutputError
from dfscan.pipeline.inputs import GONE_LIMIT
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import RETRIED
from dfscan.verdicts.store import VerdictStore
from dfscan.verdicts.summary import (
    EMPTY,
    Mask,
    find_rows,
    latest_per_video,
    same,
    summaries,
    to_mask,
)

_MISSING: Final = "missing"


@dataclass(frozen=True)
class ExistingVerdicts:
    """Verdicts of earlier runs, without their frames.

    ``before`` is what is finished, ``left`` what a run left that did not finish; ``rows`` is one a
    video of both, ``places`` where each of those lies in the two, one below the other.
    """

    before: pa.Table
    left: pa.Table
    rows: pa.Table
    places: pa.Array

    @classmethod
    def read(cls, store: VerdictStore, config_hash: str, fresh: bool) -> "ExistingVerdicts":
        """What is there.

        :param fresh: leave out whatever is there.
        :raises OutputError: there is something else.
        """
        before = EMPTY if fresh else store.summary()
        left = EMPTY if fresh else summaries(store.parts([config_hash]))
        both = pa.concat_tables([before, left])
        kept, _ = latest_per_video(both)
        return cls(before, left, both.take(kept).combine_chunks(), pa.array(kept))


@dataclass(frozen=True)
class Plan:
    """What is left to do, in the order in which it is done: ``new`` (or changed), then ``stale``.

    ``gone`` are the known videos that are not at the source. ``older`` counts the videos that
    ``since`` leaves out, ``kept`` the stale ones whose verdicts stay.
    """

    new: list[VideoRef]
    stale: list[VideoRef]
    gone: pa.Array
    older: int = 0
    kept: int = 0

    def again(self, known: ExistingVerdicts) -> int:
        """How many of ``new`` have a verdict: their file was changed, or they are tried again."""
        names = pa.array([v.video_id for v in self.new], pa.string())
        return int(to_mask(pc.is_in(names, value_set=known.rows.column("video_id"))).sum())

    @property
    def todo(self) -> list[VideoRef]:
        """Everything that is left to do."""
        return [*self.new, *self.stale]

    def without(self, names: frozenset[str]) -> "Plan":
        """The same with less to do."""
        left = [[v for v in some if v.video_id not in names] for some in (self.new, self.stale)]
        return replace(self, new=left[0], stale=left[1])

    def changes_gone(self, rows: pa.Table) -> bool:
        """Whether others are gone than rows of a finished file say."""
        now = to_mask(pc.is_in(rows.column("video_id"), value_set=self.gone))
        return bool((now != to_mask(rows.column("gone"))).any())


def make_plan(
    known: pa.Table, videos: Sequence[VideoRef], config: ScoreConfig, config_hash: str
) -> Plan:
    """Compare what is there with what is known; no file is opened.

    :param known: a :func:`~dfscan.verdicts.summary.summary`, one row per video.
    :raises ConfigError: ``since`` is asked for where nothing tells when a video was changed.
    """
    names = pa.array([v.video_id for v in videos], pa.string())
    versions = pa.array([v.version for v in videos], pa.string())
    at = find_rows(names, known)
    status = known.column("status").take(at)
    # A listed file that is not there keeps the verdict that it has from when it was.
    kept = to_mask(pc.equal(versions, "")) & ~to_mask(
        pc.fill_null(pc.equal(status, _MISSING), True)
    )
    labels = pa.array([v.label for v in videos], pa.string())
    unchanged = same(versions, known.column("version").take(at))
    unchanged &= same(labels, known.column("label").take(at))
    again = unchanged & to_mask(pc.is_in(status, value_set=_texts(config.retry or RETRIED)))
    new = again if config.retry else ~unchanged | again
    stale = (
        unchanged & ~again & ~same(_constant(config_hash, at), known.column("config_hash").take(at))
    )
    stale &= ~kept
    keeps = config.stale == "keep" or bool(config.retry)
    if config.since is not None:
        _check_times(videos)
    gone = known.column("video_id").filter(
        pc.invert(pc.is_in(known.column("video_id"), value_set=names.filter(pa.array(~kept))))
    )
    chosen = [_pick(videos, new & ~kept), [] if keeps else _pick(videos, stale)]
    recent = [_since(some, config) for some in chosen]
    older = sum(map(len, chosen)) - sum(map(len, recent))
    count = int(np.count_nonzero(stale)) if keeps else 0
    return Plan(recent[0], recent[1], gone.combine_chunks(), older, count)


def count_stale(rows: pa.Table, config_hash: str) -> int:
    """Verdicts of another model or configuration, of videos that are at the source."""
    other = ~to_mask(pc.equal(rows.column("config_hash"), config_hash))
    return int(np.count_nonzero(other & ~to_mask(rows.column("gone"))))


def check_gone(plan: Plan, known: ExistingVerdicts, parts: pa.Table, config: ScoreConfig) -> None:
    """Refuse to mark many verdicts as gone at once; a file that was moved is not gone.

    :param parts: verdicts that are not in the file yet, those of recognised files among them.
    :raises OutputError: unless told to go on.
    """
    here = pc.invert(known.rows.column("gone"))
    newly = known.rows.filter(
        pc.and_(here, pc.is_in(known.rows.column("video_id"), value_set=plan.gone))
    )
    moved = pc.is_in(
        newly.column("content_sha256"),
        value_set=parts.column("content_sha256").drop_null(),
    )
    count = newly.num_rows - (pc.sum(moved).as_py() or 0)
    present = pc.sum(here).as_py() or 0
    if not config.allow_gone and count > GONE_LIMIT * present:
        raise OutputError(
            f"{count} of the {present} videos in {config.out} are not at the source: is "
            "a disk unmounted, or is this another source? Give another --out, or --allow-gone",
            code="source.many_missing",
        )


def _check_times(videos: Sequence[VideoRef]) -> None:
    for video in videos:
        if video.version and storage.modified_s(video.uri, video.version) is None:
            raise ConfigError(
                f"score.since: nothing tells when {video.uri} was changed (a zip keeps a checksum "
                "in place of the time): leave --since out, or unpack the archive"
            )


def _since(videos: list[VideoRef], config: ScoreConfig) -> list[VideoRef]:
    """Those that were changed since then; a listed file that is not there was not."""
    if config.since is None:
        return videos
    times = [storage.modified_s(v.uri, v.version) for v in videos]
    return [v for v, at in zip(videos, times, strict=True) if at is not None and at >= config.since]


def _pick(videos: Sequence[VideoRef], mask: Mask) -> list[VideoRef]:
    return [videos[place] for place in np.flatnonzero(mask).tolist()]


def _texts(values: tuple[str, ...] | frozenset[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _constant(text: str, like: pa.Array) -> pa.Array:
    return pa.repeat(text, len(like))
