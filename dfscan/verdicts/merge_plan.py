"""Which rows each file of an output holds after a merge: arithmetic over summaries, no data.

Each video stays in its file: what supersedes its row goes there too, and a new video goes into a file
with room, or into one more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dfscan.verdicts.summary import EMPTY, find_rows, latest_per_video, to_mask
from dfscan.verdicts.table import RowIndices

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows of a file or of all parts: their :func:`~dfscan.verdicts.summary.summary`, and the number
    of scored faces of each."""

    summary: pa.Table
    faces: Counts


@dataclass(frozen=True)
class FileChange:
    """What becomes of a file: which of its own rows ``stay`` and which are ``lost`` to the history,
    and which of the new rows ``come``."""

    stay: RowIndices
    lost: RowIndices
    come: RowIndices

    def keeps(self, rows: pa.Table, missing: pa.Array) -> bool:
        """Whether the file holds exactly these rows already.

        :param rows: the summary of the file as it is.
        """
        if len(self.come) or len(self.lost) or len(self.stay) < rows.num_rows:
            return False
        absent = to_mask(pc.is_in(rows.column("video_id"), value_set=missing))
        return bool((absent == to_mask(rows.column("gone"))).all())


@dataclass(frozen=True)
class Limits:
    """What a file holds at most; one with less than half of it takes new videos."""

    rows: int
    faces: int


def plan_merge(
    before: Sequence[Rows], new: Rows, replace: bool, limits: Limits
) -> tuple[RowIndices, list[FileChange]]:
    """Which new rows others of them supersede, and what becomes of each file, further ones last.

    :param replace: the files' own rows are dropped.
    """
    size = new.summary.num_rows
    old = pa.concat_tables([EMPTY, *(rows.summary for rows in before)])
    # The new lie above, so that of one verdict met twice the row that is in a file stays there.
    both = pa.concat_tables([new.summary, EMPTY if replace else old])
    kept, superseded = latest_per_video(both)
    stay, lost = (np.sort(rows[rows >= size] - size) for rows in (kept, superseded))
    come = kept[kept < size]
    ends = np.cumsum([rows.summary.num_rows for rows in before], dtype=np.int64)
    at = find_rows(new.summary.column("video_id").take(pa.array(come)), old)
    known = to_mask(pc.is_valid(at))
    home = np.searchsorted(ends, at.drop_null().to_numpy(), side="right")
    changes = []
    for number, end in enumerate(ends.tolist()):
        start = end - before[number].summary.num_rows
        mine = [rows[(rows >= start) & (rows < end)] - start for rows in (stay, lost)]
        changes.append(FileChange(mine[0], mine[1], come[known][home == number]))
    changes = _with_new_videos(changes, before, new, come[~known], limits)
    return superseded[superseded < size], changes


def _with_new_videos(
    changes: Sequence[FileChange],
    before: Sequence[Rows],
    new: Rows,
    videos: RowIndices,
    limits: Limits,
) -> list[FileChange]:
    """The same with the videos that no file has yet: in files with room, then in further ones."""
    rows = [len(change.stay) + len(change.come) for change in changes]
    faces = [
        int(own.faces[change.stay].sum() + new.faces[change.come].sum())
        for own, change in zip(before, changes, strict=True)
    ]
    room = [
        n for n in range(len(rows)) if rows[n] < limits.rows // 2 and faces[n] < limits.faces // 2
    ]
    taken: list[list[int]] = [[] for _ in changes]
    for row, own in zip(videos.tolist(), new.faces[videos].tolist(), strict=True):
        while room and (rows[room[0]] >= limits.rows or faces[room[0]] + own > limits.faces):
            del room[0]
        if not room:
            room = [len(taken)]
            for each in (rows, faces):
                each.append(0)
            taken.append([])
        taken[room[0]].append(row)
        rows[room[0]] += 1
        faces[room[0]] += own
    nothing = np.zeros(0, np.int64)
    further = FileChange(nothing, nothing, nothing)
    every = [*changes, *[further] * (len(taken) - len(changes))]
    return [
        FileChange(change.stay, change.lost, np.append(change.come, np.array(more, np.int64)))
        for change, more in zip(every, taken, strict=True)
    ] or [further]
