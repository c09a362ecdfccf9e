"""Verdicts in a folder of files, of which a merge rewrites only those that change.

Each video has one file for good: what supersedes its row goes where that row is, and a new video
goes into a file with room, or into one more. So every step of a merge replaces one file as a whole,
and at no instant does a reader of the folder find a video twice, or miss one that was there. Each
file goes through the steps of :mod:`dfscan.verdicts.files`: its superseded rows go to the history,
then it is replaced; the parts are removed when all are. After a death the same parts come to the
same rows, and files that have them already are left alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.storage import fault_injection as faults
from dfscan.verdicts.files import (
    Merged,
    as_verdicts,
    brief,
    briefs,
    find,
    keep_in_history,
    latest,
    read_brief,
    read_verdicts,
    truth,
    with_gone,
)
from dfscan.verdicts.provenance import records, with_records
from dfscan.verdicts.table import Piece, Places, in_memory, rows_at, verdict_files

ROWS: Final = 50_000
"""Rows of a file, some 32 MB at 32 faces each: few enough to rewrite in a second, and twenty files hold
a million videos. A file with less than half of it takes new videos."""

FACES: Final = 2_000_000
"""Scored faces of a file, where videos have many."""

Counts = npt.NDArray[np.int64]

_NO_ROWS: Final = brief(VERDICT_SCHEMA.empty_table())


@dataclass(frozen=True)
class _Before:
    """The files as they are: :func:`brief` of each, and how many faces each row has."""

    paths: list[storage.StoragePath]
    rows: list[pa.Table]
    faces: list[Counts]

    @classmethod
    def read(cls, out: storage.StoragePath, fresh: bool) -> "_Before":
        """What is there; of what is to be replaced only which videos are where.

        :raises OutputError: a file is no verdict file.
        """
        paths = verdict_files(out)
        if fresh:
            rows = list(map(_read_names, paths))
            return cls(paths, rows, [np.zeros(table.num_rows, np.int64) for table in rows])
        return cls(paths, list(map(read_brief, paths)), list(map(_read_faces, paths)))


@dataclass(frozen=True)
class _New:
    """The parts: :func:`brief` of them, how many faces each row has, and what reads the rows."""

    rows: pa.Table
    faces: Counts
    pieces: list[Piece]

    @classmethod
    def of(cls, parts: Sequence[pa.Table]) -> "_New":
        faces = [np.zeros(0, np.int64), *map(_faces_of, parts)]
        return cls(briefs(parts), np.concatenate(faces), in_memory(parts))

    def take(self, places: Places) -> pa.Table:
        """Some rows whole."""
        return rows_at(places, self.pieces, VERDICT_SCHEMA)


@dataclass(frozen=True)
class _Change:
    """What becomes of a file: places of its own rows that ``stay`` and that are ``lost`` to the
    history, and of the new rows that ``come``."""

    stay: Places
    lost: Places
    come: Places


def merge(
    out: storage.StoragePath,
    parts: Sequence[pa.Table],
    gone: pa.Array,
    fresh: bool,
    made_with: Mapping[str, Any],
    check: Callable[[], None],
) -> Merged:
    """Put the parts into the folder, as :func:`dfscan.verdicts.files.merge` does into the file.

    :raises DfscanError: a file cannot be written, or another run has taken the output over.
    """
    before, new = _Before.read(out, fresh), _New.of(parts)
    lost, changes = _plan(before, new, fresh)
    keep_in_history(out, with_records(new.take(lost), made_with), check)
    rows, faces = [], []
    for number, (path, change) in enumerate(zip(_paths(out, before), changes, strict=False)):
        there = number < len(before.paths) and not fresh
        if there and _is_same(change, before.rows[number], gone):
            rows.append(before.rows[number])
            faces.append(before.faces[number])
            continue
        own, made = VERDICT_SCHEMA.empty_table(), made_with
        if there:
            own, made = read_verdicts(path), {**records(path), **made_with}
            keep_in_history(out, with_records(own.take(pa.array(change.lost)), made), check)
            faults.fault_point("merge.history", path.name)
        table = pa.concat_tables([own.take(pa.array(change.stay)), new.take(change.come)])
        table = with_gone(table.take(pc.sort_indices(table.column("video_id"))), gone)
        if table.num_rows or not number:  # the first says what the folder is, rows or not
            storage.commit_table(path, with_records(table, made), check=check)
        else:
            check()
            storage.remove(path)
        faults.fault_point("merge.file", path.name)
        rows.append(brief(table))
        faces.append(_faces_of(table))
    after = pa.concat_tables(rows)
    order = pc.sort_indices(after.column("video_id"))
    return Merged(after.take(order), pa.chunked_array([np.concatenate(faces)]).take(order))


def _plan(before: _Before, new: _New, fresh: bool) -> tuple[Places, list[_Change]]:
    """Which new rows others of them supersede, and what becomes of each file, further ones last."""
    size = new.rows.num_rows
    old = pa.concat_tables([_NO_ROWS, *before.rows])
    # The new lie above, so that of one verdict met twice the row that is in a file stays there.
    kept, superseded = latest(pa.concat_tables([new.rows, _NO_ROWS if fresh else old]))
    stay, lost = (np.sort(places[places >= size] - size) for places in (kept, superseded))
    come = kept[kept < size]
    ends = np.cumsum([table.num_rows for table in before.rows], dtype=np.int64)
    at = find(new.rows.column("video_id").take(pa.array(come)), old)
    known = truth(pc.is_valid(at))
    home = np.searchsorted(ends, at.drop_null().to_numpy(), side="right")
    changes = []
    for number, end in enumerate(ends.tolist()):
        start = end - before.rows[number].num_rows
        mine = [p[(p >= start) & (p < end)] - start for p in (stay, lost)]
        changes.append(_Change(mine[0], mine[1], come[known][home == number]))
    return superseded[superseded < size], _with_others(changes, before, new, come[~known])


def _with_others(
    changes: Sequence[_Change], before: _Before, new: _New, others: Places
) -> list[_Change]:
    """The same with the videos that no file has yet: in files with room, then in further ones."""
    rows = [len(change.stay) + len(change.come) for change in changes]
    faces = [
        int(own[change.stay].sum() + new.faces[change.come].sum())
        for own, change in zip(before.faces, changes, strict=True)
    ]
    room = [n for n in range(len(rows)) if rows[n] < ROWS // 2 and faces[n] < FACES // 2]
    places: list[list[int]] = [[] for _ in changes]
    for place, own in zip(others.tolist(), new.faces[others].tolist(), strict=True):
        while room and (rows[room[0]] >= ROWS or faces[room[0]] + own > FACES):
            del room[0]
        if not room:
            room = [len(places)]
            for each in (rows, faces):
                each.append(0)
            places.append([])
        places[room[0]].append(place)
        rows[room[0]] += 1
        faces[room[0]] += own
    nothing = np.zeros(0, np.int64)
    all_ = [*changes, *[_Change(nothing, nothing, nothing)] * (len(places) - len(changes))]
    return [
        _Change(change.stay, change.lost, np.append(change.come, np.array(more, np.int64)))
        for change, more in zip(all_, places, strict=True)
    ] or [_Change(nothing, nothing, nothing)]


def _is_same(change: _Change, rows: pa.Table, gone: pa.Array) -> bool:
    """Whether a file has those rows already."""
    if len(change.come) or len(change.lost) or len(change.stay) < rows.num_rows:
        return False
    absent = truth(pc.is_in(rows.column("video_id"), value_set=gone))
    return bool((absent == truth(rows.column("gone"))).all())


def _paths(out: storage.StoragePath, before: _Before) -> Iterator[storage.StoragePath]:
    """The files that are there, then names for further ones."""
    yield from before.paths
    taken = {path.name for path in before.paths}
    for number in count(len(before.paths)):
        name = f"verdicts-{number:05d}.parquet"
        if name not in taken:
            yield out / name


def _read_names(path: storage.StoragePath) -> pa.Table:
    """A file's videos alone, as rows of :func:`brief`."""
    with as_verdicts(path):
        names = storage.read_table(path, ["video_id"]).column("video_id")
        columns = {
            name: pa.nulls(len(names), _NO_ROWS.schema.field(name).type)
            for name in _NO_ROWS.column_names
        }
        return pa.table(columns | {"video_id": names}, _NO_ROWS.schema)


def _read_faces(path: storage.StoragePath) -> Counts:
    return _faces_of(storage.open_parquet(path).read(["frames.list.element.track_id"]))


def _faces_of(table: pa.Table) -> Counts:
    """How many faces of each row were scored."""
    counts: Counts = pc.fill_null(pc.list_value_length(table.column("frames")), 0).to_numpy()
    return counts.astype(np.int64)
