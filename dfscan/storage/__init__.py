"""The only floor that opens data: list, read, commit atomically, lock.

A ``uri`` is an absolute path, with ``!/`` before a member of a zip archive:
``/data/dfdc_train_part_00.zip!/dfdc_train_part_0/abc.mp4``. Archives are read in place.
"""

from dfscan.storage.archives import MEMBER
from dfscan.storage.committing import (
    check_output_folder,
    commit_bytes,
    commit_json,
    commit_table,
    remove,
)
from dfscan.storage.listing import Entry, exists, list_source
from dfscan.storage.locking import Lock
from dfscan.storage.reading import (
    open_parquet,
    parquet_files,
    read_bytes,
    read_json,
    read_start,
    read_table,
    read_tables,
    read_text,
    sha256,
)

__all__ = [
    "MEMBER",
    "Entry",
    "Lock",
    "check_output_folder",
    "commit_bytes",
    "commit_json",
    "commit_table",
    "exists",
    "list_source",
    "open_parquet",
    "parquet_files",
    "read_bytes",
    "read_json",
    "read_start",
    "read_table",
    "read_tables",
    "read_text",
    "remove",
    "sha256",
]
