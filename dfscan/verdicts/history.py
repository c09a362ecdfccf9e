"""Verdicts that newer ones superseded: files beside the output that are added and never changed."""

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.schemas.fingerprint import json_hash
from dfscan.storage import Lease
from dfscan.verdicts.parts import check_of, parts_folder
from dfscan.verdicts.summary import HASH, KEYS, find_rows, read_summary, summary, times
from dfscan.verdicts.table import read_columns, verdict_files


def history_folder(out: storage.StoragePath) -> storage.StoragePath:
    """Where superseded verdicts are kept."""
    return out.with_name(out.name + ".history")


def add_to_history(out: storage.StoragePath, rows: pa.Table, lease: Lease | None) -> None:
    """Commit superseded rows, in a file named by its content: doing it again writes the same file."""
    if not rows.num_rows:
        return
    short = summary(rows)
    keys = [short.column("video_id"), times(short), short.column(HASH)]
    name = json_hash([column.to_pylist() for column in keys])
    storage.commit_table(history_folder(out) / f"{name}.parquet", rows, check=check_of(lease))


def roll_back_history(out: storage.StoragePath) -> None:
    """Remove what a run added to the history that died before it replaced the file of those rows.

    Only a run that died leaves parts: without parts nothing is read.
    """
    files = storage.parquet_files(history_folder(out))
    if not (files and storage.parquet_files(parts_folder(out)) and verdict_files(out)):
        return
    current = read_summary(out)
    for file in files:
        rows = read_columns(file, KEYS)
        now = times(current).take(find_rows(rows.column("video_id"), current))
        if pc.all(pc.fill_null(pc.equal(now, times(rows)), False)).as_py():
            storage.remove(file)
