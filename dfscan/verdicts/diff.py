"""What a run changed: its verdicts against those of before."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan.schemas.status import SUCCEEDED
from dfscan.verdicts.summary import Mask, find_rows, latest_per_video, same, to_mask

Kind = Literal["new", "changed", "gone", "came_back"]
KINDS: Final[tuple[Kind, ...]] = ("changed", "new", "came_back", "gone")
"""In the order in which they are told."""


@dataclass(frozen=True)
class Change:
    """One video that is not as it was; ``before`` and ``after`` are verdicts, null for none."""

    video_id: str
    change: Kind
    before: str | None
    after: str | None


def changes(before: pa.Table, after: pa.Table) -> list[Change]:
    """Everything that changed, by kind and ``video_id``.

    :param before: a :func:`~dfscan.verdicts.summary.summary`, one row per video; so is ``after``.
    """
    at = find_rows(after.column("video_id"), before)
    known = to_mask(pc.is_valid(at))
    verdict = before.column("verdict").take(at)
    was_gone, is_gone = to_mask(before.column("gone").take(at)), to_mask(after.column("gone"))
    masks: dict[Kind, Mask] = {
        "changed": known & ~same(after.column("verdict"), verdict),
        "new": ~known,
        "came_back": was_gone & ~is_gone,
        "gone": known & is_gone & ~was_gone,
    }
    told = pa.table(
        {
            "video_id": after.column("video_id"),
            "before": verdict,
            "after": after.column("verdict"),
        }
    )
    return [
        Change(row["video_id"], kind, row["before"], row["after"])
        for kind in KINDS
        for row in told.filter(pa.array(masks[kind])).to_pylist()
    ]


def new_outcomes(before: pa.Table, written: pa.Table) -> pa.Table:
    """Of the verdicts that a run wrote, those that say what the file did not say before.

    A file that was only touched keeps its verdict, and that is no news.
    """
    rows = written.take(pa.array(latest_per_video(written)[0]))
    at = find_rows(rows.column("video_id"), before)
    told = to_mask(pc.is_valid(at))
    for name in ("content_sha256", "config_hash", "status", "verdict"):
        told &= same(rows.column(name), before.column(name).take(at))
    return rows.filter(pa.array(~told))


def count_matching(rows: pa.Table, outcomes: Iterable[str]) -> int:
    """Rows that ``--fail-on`` names: ``fake``, ``uncertain``, ``failed``."""
    wanted = frozenset(outcomes)
    verdicts = pa.array([v for v in ("FAKE", "UNCERTAIN") if v.lower() in wanted], pa.string())
    match = to_mask(pc.is_in(rows.column("verdict"), value_set=verdicts))
    if "failed" in wanted:
        healthy = pa.array(sorted(SUCCEEDED), pa.string())
        match |= ~to_mask(pc.is_in(rows.column("status"), value_set=healthy))
    return int(np.count_nonzero(match))
