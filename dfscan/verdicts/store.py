"""Verdicts on disk, one file or a folder of files: the only writer of them.

A merge takes the parts of a run into the files, of which it rewrites only those that change: a file's
superseded rows go to the history, then it is replaced; when all are, the parts are removed. So every
step replaces one file as a whole, and at no instant does a reader find a video twice, or miss one
that was there. A run that died in between left its parts, and with them
:func:`~dfscan.verdicts.history.roll_back_history` sees which files were replaced; the next merge comes
to the same rows, and leaves files alone that have them already. One file is a folder of one, without
limits of size.

Files of an older schema are upgraded by the first merge or removal, all of a folder in the same one.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.errors import ConfigError, OutputError
from dfscan.schemas.evolution import concat, conform, read_version, union
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.storage import Lease
from dfscan.storage import fault_injection as faults
from dfscan.verdicts.history import add_to_history, history_folder, roll_back_history
from dfscan.verdicts.merge_plan import Counts, FileChange, Limits, Rows, plan_merge
from dfscan.verdicts.parts import check_of, parts_folder, read_matching, write_part
from dfscan.verdicts.provenance import records, with_records
from dfscan.verdicts.summary import COLUMNS, EMPTY, read_summary, summaries, summary
from dfscan.verdicts.table import (
    FILE,
    VerdictTable,
    in_memory,
    is_verdict_folder,
    open_verdicts,
    read_columns,
    read_file,
    take_rows,
    verdict_files,
)

ROWS: Final = 50_000
"""Rows per file, some 32 MB at 32 faces each: few enough to rewrite in a second, and twenty files hold
a million videos."""

FACES: Final = 2_000_000
"""Scored faces per file, where videos have many."""


@dataclass(frozen=True)
class MergeResult:
    """Summaries of what an output holds after a merge, and of the parts that were merged.

    ``faces`` is the number of scored faces of each of ``rows``.
    """

    rows: pa.Table
    faces: pa.ChunkedArray
    written: pa.Table


@dataclass(frozen=True)
class VerdictStore:
    """The verdicts at a path: one file if its name ends in .parquet, else a folder of files.

    Beside them lie the parts of a run that is not finished and the history. Who writes holds
    :meth:`lock`.
    """

    path: storage.StoragePath

    @classmethod
    def open(cls, where: storage.PathLike, create: bool = False) -> "VerdictStore":
        """Verdicts that are there.

        :param create: or can be made there, as an ``--out``.
        :raises SourceError: there are none. :raises ConfigError: none can be made there, or what is
            there is the other of file and folder. :raises OutputError: a folder with something else.
        """
        path = storage.as_path(where).absolute()
        if create:
            _check_output(path, str(where))
        else:
            open_verdicts(path)
        return cls(path)

    @property
    def is_file(self) -> bool:
        """Whether it is one file."""
        return self.path.suffix == FILE

    @property
    def parts_folder(self) -> storage.StoragePath:
        """Where units commit until they are merged."""
        return parts_folder(self.path)

    def files(self) -> list[storage.StoragePath]:
        """The committed files."""
        return verdict_files(self.path)

    def lock(self) -> storage.Lock:
        """The lock to hold while writing."""
        return storage.Lock(self.path.with_name(f".{self.path.name}.lock"), self.path)

    def table(self) -> VerdictTable:
        """The verdicts, opened for reading.

        :raises SourceError: there are none.
        """
        return open_verdicts(self.path)

    def read(
        self, columns: Sequence[str] | None = None, rows: Sequence[int] | None = None
    ) -> pa.Table:
        """The verdicts; a folder's in the order of ``video_id``.

        :param columns: some columns, see :meth:`VerdictTable.read`. :param rows: some rows.
        :raises SourceError: there are none.
        """
        if rows is None:
            return self.table().read(columns)
        found = self.table().take(rows)
        return found if columns is None else found.select(list(columns))

    def summary(self) -> pa.Table:
        """All verdicts without their frames; an empty table if there are none.

        :raises OutputError: a file is no verdict file.
        """
        return read_summary(self.path)

    def provenance(self) -> dict[str, Any]:
        """How they were made, by ``config_hash``: see :mod:`dfscan.verdicts.provenance`."""
        return records(self.path)

    def history(self) -> pa.Table:
        """The verdicts that newer ones superseded, in no particular order."""
        files = storage.parquet_files(history_folder(self.path))
        return concat((read_file(file) for file in files), VERDICT_SCHEMA)

    def add_part(self, name: str, table: pa.Table, lease: Lease | None) -> None:
        """Commit verdicts of one unit of work, for :meth:`merge`; a part of that name is replaced."""
        write_part(self.parts_folder, name, table, lease)

    def parts(self, hashes: Collection[str]) -> list[pa.Table]:
        """The parts that are not merged yet, of these ``config_hash``."""
        return read_matching(storage.parquet_files(self.parts_folder), hashes)

    def discard_parts(self) -> None:
        """Remove the parts."""
        storage.remove(self.parts_folder)

    def roll_back_history(self) -> None:
        """Undo the additions to the history of a run that died before its files were replaced."""
        roll_back_history(self.path)

    def sweep(self, now: float) -> None:
        """Remove temporary files of runs that died; the caller holds the lock.

        :param now: when it was taken.
        """
        path = self.path
        storage.sweep(path.parent, now, age_s=0, name=path.name)
        # Of the lock's only old ones: another run may be about to ask for it.
        storage.sweep(path.parent, now, name=f"{path.name}.lock")
        inside = [] if self.is_file else [path]
        for folder in (*inside, self.parts_folder, history_folder(path)):
            storage.sweep(folder, now, age_s=0)

    def needs_merge(self) -> bool:
        """Whether a run left parts, nothing is there yet, or an upgrade of the files was cut short."""
        files = self.files()
        if not files or storage.is_folder(self.parts_folder):
            return True
        schemas = [schema for _, schema in storage.each(_schema_of, files)]
        return not all(_alike(schema, schemas[0], files[0]) for schema in schemas)

    def merge(
        self,
        missing: pa.Array,
        provenance: Mapping[str, Any],
        lease: Lease | None,
        replace: bool = False,
    ) -> MergeResult:
        """Take the parts into the files, and remove them.

        :param missing: every ``video_id`` that is not at the source.
        :param provenance: how the parts were made, by ``config_hash``; parts of others are dropped.
        :param replace: drop the verdicts that are there, without a trace in the history.
        :raises DfscanError: a file cannot be written, or another run has taken the output over.
        """
        parts = self.parts(provenance)
        merge = _Merge(
            self, _read_states(self.path, replace), parts, missing, provenance, lease, replace
        )
        result = merge.run()
        self.discard_parts()
        return result

    def write(self, table: pa.Table, provenance: Mapping[str, Any], lease: Lease | None) -> None:
        """Put a table in the place of the one file, without parts and history."""
        storage.commit_table(self.path, with_records(table, provenance), check=check_of(lease))

    def remove(self, video_ids: Collection[str], lease: Lease | None) -> Counter[str]:
        """Remove every row of videos, in parts and history too; returns the number per video.

        Files are rewritten one by one; after a death the same call goes on.

        :raises OutputError: a file is no verdict file.
        """
        found: Counter[str] = Counter()
        names = pa.array(sorted(video_ids), pa.string())
        others = (self.parts_folder, history_folder(self.path))
        for files in (self.files(), *([f] for where in others for f in verdict_files(where))):
            found += _remove(files, names, lease)
        return found


def _check_output(path: storage.StoragePath, text: str) -> None:
    """Whether verdicts can be written there.

    :raises ConfigError: it is neither name, or what is there is the other. :raises OutputError: it is
        a folder that holds something else.
    """
    says = f"score.out: got {text!r}"
    if path.suffix == FILE:
        if text.endswith("/") or storage.is_folder(path):
            raise ConfigError(
                f"{says}, and one file is what ends in {FILE}: give another name with / at its end "
                "for a folder of files, which is another output"
            )
        return
    if not text.endswith("/") and not is_verdict_folder(path):
        raise ConfigError(
            f"{says}; must be a file that ends in {FILE}, or a folder of files, with / at its end"
        )
    if path.parent == path:
        raise ConfigError(f"{says}; must be a folder below it, which has neighbours")
    if not storage.is_folder(path):
        if storage.exists(path):
            raise ConfigError(f"{says}, and that is a file: a folder of files is another output")
    elif storage.in_folder(path, "*") and not is_verdict_folder(path):
        raise OutputError(
            f"output folder {text!r} is not empty and holds no verdicts: give another --out",
            code="output.foreign",
        )


# ---------------------------------------------------------------- merging


@dataclass(frozen=True)
class _State(Rows):
    """A file as it is before a merge; its rows are not read."""

    path: storage.StoragePath
    schema: pa.Schema


def _read_states(out: storage.StoragePath, replace: bool) -> list[_State]:
    """The files; of files to be replaced only which videos are where, so that they stay there.

    :raises OutputError: a file is no verdict file.
    """
    if not replace:
        return [_read_state(file) for file in verdict_files(out)]
    if out.suffix == FILE:
        return []
    return [_read_names(file) for file in verdict_files(out)]


def _read_state(path: storage.StoragePath) -> _State:
    table = read_columns(path, (*COLUMNS, "frames.track_id"))
    return _State(summary(table), _faces_of(table), path, _schema_of(path))


def _read_names(path: storage.StoragePath) -> _State:
    table = conform(read_columns(path, ["video_id"]), EMPTY.schema)
    return _State(table, np.zeros(table.num_rows, np.int64), path, VERDICT_SCHEMA)


def _faces_of(table: pa.Table) -> Counts:
    """How many faces of each row were scored."""
    counts: Counts = pc.fill_null(pc.list_value_length(table.column("frames")), 0).to_numpy()
    return counts.astype(np.int64)


@dataclass(frozen=True)
class _Merge:
    """One merge, see :meth:`VerdictStore.merge`."""

    store: VerdictStore
    before: list[_State]
    parts: list[pa.Table]
    missing: pa.Array
    provenance: Mapping[str, Any]
    lease: Lease | None
    replace: bool

    def run(self) -> MergeResult:
        """Plan it, then replace the files that change."""
        faces = np.concatenate([np.zeros(0, np.int64), *map(_faces_of, self.parts)])
        new = Rows(summaries(self.parts), faces)
        single = Limits(sys.maxsize, sys.maxsize)
        limits = single if self.store.is_file else Limits(ROWS, FACES)
        superseded, changes = plan_merge(self.before, new, self.replace, limits)
        self._keep(self._new(superseded), self.provenance)
        after = [
            self._apply(number, path, change)
            for number, (path, change) in enumerate(zip(self._paths(), changes, strict=False))
        ]
        rows = pa.concat_tables([each.summary for each in after])
        order = pc.sort_indices(rows.column("video_id"))
        counts = pa.chunked_array([np.concatenate([each.faces for each in after])])
        return MergeResult(rows.take(order), counts.take(order), new.summary)

    def _apply(self, number: int, path: storage.StoragePath, change: FileChange) -> Rows:
        """Replace one file, if it changes; returns its rows."""
        state = self.before[number] if number < len(self.before) and not self.replace else None
        if state and not self._upgrades and change.keeps(state.summary, self.missing):
            return state
        own, made_with = self._schema.empty_table(), self.provenance
        if state:
            own = conform(read_file(path), self._schema)
            made_with = {**records(path), **made_with}
            self._keep(own.take(pa.array(change.lost)), made_with)
            faults.fault_point("merge.history", path.name)
        table = pa.concat_tables([own.take(pa.array(change.stay)), self._new(change.come)])
        table = table.take(pc.sort_indices(table.column("video_id")))
        table = _with_missing(table, self.missing)
        check = check_of(self.lease)
        if table.num_rows or not number:  # the first says what the folder is, rows or not
            storage.commit_table(path, with_records(table, made_with), check=check)
        else:
            if check:
                check()
            storage.remove(path)
        faults.fault_point("merge.file", path.name)
        return Rows(summary(table), _faces_of(table))

    def _keep(self, rows: pa.Table, made_with: Mapping[str, Any]) -> None:
        add_to_history(self.store.path, with_records(rows, made_with), self.lease)

    def _new(self, rows: Any) -> pa.Table:
        return take_rows(rows, in_memory(self.parts), self._schema)

    @cached_property
    def _schema(self) -> pa.Schema:
        """The columns of every file afterwards: ours, and those that any of them has."""
        return _united([*(s.schema for s in self.before), *(p.schema for p in self.parts)])

    @cached_property
    def _upgrades(self) -> bool:
        return not all(_alike(s.schema, self._schema, s.path) for s in self.before)

    def _paths(self) -> Iterator[storage.StoragePath]:
        """The files that are there, then names for further ones."""
        yield from (state.path for state in self.before)
        if self.store.is_file:
            yield self.store.path
        taken = {state.path.name for state in self.before}
        for number in count(len(self.before)):
            name = f"verdicts-{number:05d}.parquet"
            if name not in taken:
                yield self.store.path / name


def _schema_of(path: storage.StoragePath) -> pa.Schema:
    return storage.open_parquet(path).schema_arrow


def _united(schemas: Sequence[pa.Schema]) -> pa.Schema:
    united = VERDICT_SCHEMA
    for schema in schemas:
        united = union(united, schema)
    return united


def _alike(one: pa.Schema, other: pa.Schema, path: storage.StoragePath) -> bool:
    """Whether two schemas have the same columns and are of the same version."""
    versions = [read_version(schema.metadata, path) for schema in (one, other)]
    return versions[0] == versions[1] and bool(one.equals(other))


def _with_missing(table: pa.Table, missing: pa.Array) -> pa.Table:
    """Rows that say which of them are not at the source."""
    column = table.schema.get_field_index("gone")
    absent = pc.is_in(table.column("video_id"), value_set=missing)
    return table.set_column(column, table.schema.field(column), absent)


def _remove(
    files: Sequence[storage.StoragePath], names: pa.Array, lease: Lease | None
) -> Counter[str]:
    """Remove rows from files that are upgraded together."""
    holds = {file: read_columns(file, ["video_id"]).column("video_id") for file in files}
    found: Counter[str] = Counter()
    for column in holds.values():
        found.update(column.filter(pc.is_in(column, value_set=names)).to_pylist())
    if not found:
        return found
    stored = {file: _schema_of(file) for file in files}
    schema = _united(list(stored.values()))
    upgrade = not all(_alike(each, schema, file) for file, each in stored.items())
    for file, column in holds.items():
        mine = pc.is_in(column, value_set=names)
        if upgrade or pc.any(mine).as_py():
            kept = conform(read_file(file), schema).filter(pc.invert(mine))
            storage.commit_table(file, kept, check=check_of(lease))
    return found
