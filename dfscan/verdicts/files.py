"""Verdicts on disk: the file, units not merged into it yet, and the history of what it replaced.

A merge is three steps: superseded rows go to the history, the file is replaced, the parts are
removed. A run that died in between left its parts, and with them :func:`undo_history` sees whether
the file was replaced; the next merge then comes to the same rows. A folder of files goes through the
same steps file by file, see :mod:`dfscan.verdicts.folder`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.errors import ConfigError, OutputError
from dfscan.schemas.recipe import fingerprint
from dfscan.schemas.records import VERDICT_SCHEMA
from dfscan.verdicts.provenance import records, with_records
from dfscan.verdicts.table import FILE, Places, is_verdict_folder, verdict_files

_BRIEF: Final = (
    *("video_id", "uri", "label", "content_sha256", "bytes", "version"),
    *("status", "verdict", "p_fake", "scanned_at", "gone"),
)
_KEYS: Final = ["video_id", "scanned_at"]
_HASH: Final = "config_hash"
_NEVER: Final = np.iinfo(np.int64).min

Mask = npt.NDArray[np.bool_]


def output(text: str) -> storage.StoragePath:
    """Where ``--out`` has the verdicts: a name that ends in .parquet is one file, any other a folder.

    :raises ConfigError: it is neither, or what lies there is the other. :raises OutputError: it is a
        folder that holds something else.
    """
    out = storage.as_path(text).absolute()
    says = f"score.out: got {text!r}"
    if out.suffix == FILE:
        if text.endswith("/") or storage.is_folder(out):
            raise ConfigError(
                f"{says}, and one file is what ends in {FILE}: give another name with / at its end "
                "for a folder of files, which is another output"
            )
        return out
    if not text.endswith("/") and not is_verdict_folder(out):
        raise ConfigError(
            f"{says}; must be a file that ends in {FILE}, or a folder of files, with / at its end"
        )
    if out.parent == out:
        raise ConfigError(f"{says}; must be a folder below it, which has neighbours")
    if not storage.is_folder(out):
        if storage.exists(out):
            raise ConfigError(f"{says}, and that is a file: a folder of files is another output")
    elif storage.in_folder(out, "*") and not is_verdict_folder(out):
        raise OutputError(
            f"output folder {text!r} is not empty and holds no verdicts: give another --out",
            code="output.foreign",
        )
    return out


def parts_folder(out: storage.StoragePath) -> storage.StoragePath:
    """Where units commit until the run is finished."""
    return out.with_name(out.name + ".parts")


def history_folder(out: storage.StoragePath) -> storage.StoragePath:
    """Where superseded verdicts are kept; files are added, never changed."""
    return out.with_name(out.name + ".history")


def brief(table: pa.Table) -> pa.Table:
    """What planning needs of verdicts: no frames, and ``config_hash`` as a column of its own."""
    hashes = pc.struct_field(table.column("custody"), _HASH)
    return table.select(_BRIEF).append_column(_HASH, hashes).replace_schema_metadata(None)


def read_brief(path: storage.StoragePath) -> pa.Table:
    """:func:`brief` of verdicts, of a folder's files one below the other; nothing else is read.

    :raises OutputError: a file there is no verdict file.
    """
    empty = brief(VERDICT_SCHEMA.empty_table())
    return pa.concat_tables([empty, *map(_read_brief, verdict_files(path))])


def _read_brief(path: storage.StoragePath) -> pa.Table:
    with as_verdicts(path):
        storage.open_parquet(path).schema_arrow.empty_table().cast(VERDICT_SCHEMA)
        # One nested column comes as a column of its own, under its last name.
        rows = storage.read_table(path, [*_BRIEF, f"custody.{_HASH}"])
        return rows.select([*_BRIEF, _HASH]).replace_schema_metadata(None)


def read_verdicts(path: storage.StoragePath) -> pa.Table:
    """A verdict file whole, with what its metadata says beyond ours.

    :raises OutputError: it is no verdict file.
    """
    with as_verdicts(path):
        table = storage.read_table(path)
        metadata = {**(table.schema.metadata or {}), **VERDICT_SCHEMA.metadata}
        return table.cast(VERDICT_SCHEMA).replace_schema_metadata(metadata)


@contextmanager
def as_verdicts(path: storage.StoragePath) -> Iterator[None]:
    """What a file lacks that is read as verdicts, told of the output.

    :raises OutputError: it is no verdict file.
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise OutputError(
            f"{path} exists and is no verdict file of this dfscan ({detail}): give another --out",
            code="output.foreign",
        ) from None


def read_parts(out: storage.StoragePath, config_hash: str) -> list[pa.Table]:
    """Committed units of this very configuration."""
    tables = []
    for _, table in storage.read_tables(parts_folder(out)):
        hashes = pc.struct_field(table.column("custody"), _HASH)
        tables.append(table.filter(pc.equal(hashes, config_hash)).cast(VERDICT_SCHEMA))
    return [table for table in tables if table.num_rows]


def briefs(tables: Iterable[pa.Table]) -> pa.Table:
    """:func:`brief` of several, one below the other."""
    return pa.concat_tables([brief(VERDICT_SCHEMA.empty_table()), *map(brief, tables)])


def latest(rows: pa.Table) -> tuple[Places, Places]:
    """Of rows with ``video_id`` and ``scanned_at``: those that count, and those they supersede.

    One row a video counts, the one scanned last, of equals the one further down; in the order of
    ``video_id``. The same verdict met twice supersedes nothing.
    """
    count = rows.num_rows
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    columns = [rows.column("video_id"), _times(rows), pa.array(np.arange(count))]
    keys = pa.table(columns, ["video_id", "time", "place"])
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    names, times = (keys.column(i).take(order) for i in (0, 1))
    again = truth(pc.equal(names.slice(1), names.slice(0, count - 1)))
    last, when = np.append(~again, True), times.to_numpy()
    group = np.cumsum(np.append(0, ~again))
    superseded = ~last & (when != when[last][group])
    places: Places = order.to_numpy().astype(np.int64)
    return places[last], places[superseded]


def _times(rows: pa.Table) -> pa.ChunkedArray:
    return rows.column("scanned_at").cast(pa.int64()).fill_null(_NEVER)


def find(names: Any, rows: pa.Table) -> pa.Array:
    """The place of each ``video_id`` in rows that have each once; null where it is not there."""
    found = pc.index_in(names, value_set=rows.column("video_id"))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def truth(values: pa.Array | pa.ChunkedArray) -> Mask:
    """Booleans as numpy has them; null is false."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def same(left: Any, right: Any) -> Mask:
    """Where two columns of text agree; null equals null."""
    both = pc.and_(pc.is_null(left), pc.is_null(right))
    return truth(pc.or_(pc.fill_null(pc.equal(left, right), False), both))


@dataclass(frozen=True)
class Merged:
    """What an output holds after a merge: :func:`brief` of it, and each row's number of scored faces."""

    rows: pa.Table
    faces: pa.ChunkedArray


def merge(
    out: storage.StoragePath,
    parts: Sequence[pa.Table],
    gone: pa.Array,
    fresh: bool,
    made_with: Mapping[str, Any],
    check: Callable[[], None],
) -> Merged:
    """Put the parts into the file; what they supersede goes to the history first.

    :param gone: every ``video_id`` that is not at the source.
    :param fresh: leave out what the file holds.
    :param made_with: how the parts were made, see :mod:`dfscan.verdicts.provenance`.
    :return: what the file holds now.
    :raises DfscanError: it cannot be written, or another run has taken the output over.
    """
    old = VERDICT_SCHEMA.empty_table()
    if storage.exists(out) and not fresh:
        old = read_verdicts(out)
        made_with = {**records(out), **made_with}
    table = pa.concat_tables([old, *parts])
    kept, superseded = latest(table.select(_KEYS))
    keep_in_history(out, with_records(table.take(superseded), made_with), check)
    table = with_gone(table.take(kept), gone).replace_schema_metadata(old.schema.metadata)
    storage.commit_table(out, with_records(table, made_with), check=check)
    return Merged(brief(table), pc.list_value_length(table.column("frames")))


def with_gone(table: pa.Table, gone: pa.Array) -> pa.Table:
    """Rows that say which of them are not at the source."""
    place = table.schema.get_field_index("gone")
    absent = pc.is_in(table.column("video_id"), value_set=gone)
    return table.set_column(place, VERDICT_SCHEMA.field("gone"), absent)


def keep_in_history(out: storage.StoragePath, rows: pa.Table, check: Callable[[], None]) -> None:
    """Commit superseded rows, under a name by what is in it, so that doing it again writes the same file."""
    if not rows.num_rows:
        return
    short = brief(rows)
    keys = [short.column("video_id"), _times(short), short.column(_HASH)]
    name = fingerprint([column.to_pylist() for column in keys])
    storage.commit_table(history_folder(out) / f"{name}.parquet", rows, check=check)


def sweep(out: storage.StoragePath, now: float) -> None:
    """Remove what runs left behind that died while writing; the caller holds the lock.

    :param now: when it was taken.
    """
    storage.sweep(out.parent, now, age_s=0, name=out.name)
    storage.sweep(out.parent, now, name=f"{out.name}.lock")  # somebody may be about to ask for it
    inside = [] if out.suffix == FILE else [out]
    for folder in (*inside, parts_folder(out), history_folder(out)):
        storage.sweep(folder, now, age_s=0)


def undo_history(out: storage.StoragePath) -> None:
    """Take back what a run put into the history that died before it replaced the file of those rows.

    Only a run that died leaves parts, so nothing is looked at without.
    """
    files = storage.parquet_files(history_folder(out))
    if not (files and storage.parquet_files(parts_folder(out)) and verdict_files(out)):
        return
    current = read_brief(out)
    for file in files:
        rows = storage.read_table(file, _KEYS)
        now = _times(current).take(find(rows.column("video_id"), current))
        if pc.all(pc.fill_null(pc.equal(now, _times(rows)), False)).as_py():
            storage.remove(file)
