"""The only layer that opens data: list, read, commit atomically, lock.

A ``uri`` is an absolute path or an object-store URI, with ``!/`` before each archive member:
``/data/all.zip!/dfdc_train_part_00.zip!/dfdc_train_part_0/abc.mp4``, ``s3://bucket/x.tar!/a.mp4``.
Archives are read in place.
"""

from dfscan.storage.archives import MEMBER, forget, is_archive
from dfscan.storage.archives import split as split_uri
from dfscan.storage.backend import absolute, is_uri
from dfscan.storage.committing import (
    STALE_S,
    Opened,
    as_folder,
    check_output_folder,
    commit_bytes,
    commit_file,
    commit_json,
    commit_table,
    is_file,
    is_folder,
    local,
    remove,
    row_count,
    size,
    sweep,
)
from dfscan.storage.listing import Entry, exists, list_paths, list_source, modified_s
from dfscan.storage.locking import Lease, Lock
from dfscan.storage.paths import ObjectPath, PathLike, StoragePath, as_path
from dfscan.storage.reading import (
    content_sha256,
    each,
    filesystem,
    in_folder,
    open_parquet,
    parquet_files,
    read_bytes,
    read_columns,
    read_json,
    read_pieces,
    read_row_group,
    read_start,
    read_table,
    read_tables,
    read_text,
    sha256,
)

__all__ = [
    "MEMBER",
    "STALE_S",
    "Entry",
    "Lease",
    "Lock",
    "ObjectPath",
    "Opened",
    "PathLike",
    "StoragePath",
    "absolute",
    "as_folder",
    "as_path",
    "check_output_folder",
    "commit_bytes",
    "commit_file",
    "commit_json",
    "commit_table",
    "content_sha256",
    "each",
    "exists",
    "filesystem",
    "forget",
    "in_folder",
    "is_archive",
    "is_file",
    "is_folder",
    "is_uri",
    "list_paths",
    "list_source",
    "local",
    "modified_s",
    "open_parquet",
    "parquet_files",
    "read_bytes",
    "read_columns",
    "read_json",
    "read_pieces",
    "read_row_group",
    "read_start",
    "read_table",
    "read_tables",
    "read_text",
    "remove",
    "row_count",
    "sha256",
    "size",
    "split_uri",
    "sweep",
]
