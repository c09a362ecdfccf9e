"""Parts: verdicts of one unit of work each, committed by workers until a run merges them."""

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.schemas.records import VERDICT_SCHEMA, Verdict, to_table
from dfscan.storage import Lease
from dfscan.verdicts.summary import HASH
from dfscan.verdicts.table import read_file


def parts_folder(out: storage.StoragePath) -> storage.StoragePath:
    """Where units commit until the run is finished."""
    return out.with_name(out.name + ".parts")


def write_part(
    folder: storage.StoragePath,
    name: str,
    verdicts: Iterable[Verdict] | pa.Table,
    lease: Lease | None,
) -> None:
    """Commit a part; one of the same name is replaced.

    :raises DfscanError: it cannot be written, or another run has taken over.
    """
    table = verdicts if isinstance(verdicts, pa.Table) else to_table(verdicts, VERDICT_SCHEMA)
    storage.commit_table(folder / f"{name}.parquet", table, check=check_of(lease))


def read_matching(files: Iterable[storage.StoragePath], hashes: Iterable[str]) -> list[pa.Table]:
    """Of each verdict file the rows of these configurations, if there are any; to be written again.

    :param hashes: each a ``config_hash``.
    :raises OutputError: a file is no verdict file.
    """
    wanted = pa.array(sorted(hashes), pa.string())
    tables = []
    for _, table in storage.each(read_file, files):
        made_with = pc.struct_field(table.column("custody"), HASH)
        tables.append(table.filter(pc.is_in(made_with, value_set=wanted)))
    return [table for table in tables if table.num_rows]


def check_of(lease: Lease | None) -> Callable[[], None] | None:
    """What a commit asks at the last moment: whether the output is still this run's."""
    return lease.check if lease is not None else None
