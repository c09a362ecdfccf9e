"""Writing so that a reader sees the old content or the new, never a part.

A commit is built whole under a temporary name in the same folder, synced to disk, then renamed.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan.errors import DfscanError, OutputError

TEMPORARY: Final = ".tmp-"


def commit_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that it is there whole or not at all, even after a crash.

    :raises DfscanError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        hint = (
            "; free space, then run the same command again" if error.errno == errno.ENOSPC else ""
        )
        raise DfscanError(f"cannot write {target}: {error.strerror}{hint}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # gone already where the commit succeeded


def commit_table(path: str | Path, table: pa.Table, row_group_rows: int = 512) -> None:
    """Write a Parquet file atomically; it is serialised in memory first, then put once."""
    sink = pa.BufferOutputStream()
    image_columns = [f.name for f in table.schema if f.name == "image"]
    compressed = [n for n in table.schema.names if n not in image_columns]
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_rows,
        compression="zstd",
        use_dictionary=compressed,
    )
    commit_bytes(path, sink.getvalue().to_pybytes())


def commit_json(path: str | Path, value: Any) -> None:
    """Write a JSON document atomically, indented, with a newline at its end."""
    commit_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str | Path) -> None:
    """Remove a file or a folder of ours; nothing happens where there is none."""
    target = Path(path)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def check_output_folder(
    path: str | Path, marker: str, overwrite: bool, parts: tuple[str, ...]
) -> None:
    """Make ``path`` ready to be written to.

    :param marker: the file by which a folder shows that dfscan made it.
    :param parts: what ``overwrite`` removes; nothing else in the folder is touched.
    :raises OutputError: there is a file, or a folder that dfscan did not make.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output {str(path)!r} is a file: give a folder")
    ours = (folder / marker).exists()
    if folder.is_dir() and not ours and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise OutputError(
            f"output folder {str(path)!r} is not empty and holds no {marker}: give another --out"
        )
    if ours and overwrite:
        for name in parts:
            remove(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make output folder {str(path)!r}: {error.strerror}") from None
