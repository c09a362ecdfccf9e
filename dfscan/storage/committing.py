"""Writing so that a reader sees the old content or the new, never a part.

A commit is built whole under a temporary name in the same folder, synced to disk, then renamed.
"""

import contextlib
import errno
import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan import faults
from dfscan.errors import DfscanError, OutputError

TEMPORARY: Final = ".tmp-"
STALE_S: Final = 3600.0
"""A temporary file older than this belongs to no run that is still writing it."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def commit_bytes(
    path: str | Path, data: bytes | pa.Buffer, check: Callable[[], None] | None = None
) -> None:
    """Write ``data`` to ``path`` so that it is there whole or not at all, even after a crash.

    :param check: called at the last moment; what it raises leaves the old content in place.
    :raises DfscanError: the disk is full or the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)

    commit_file(path, write, check)


def commit_file(
    path: str | Path, write: Callable[[Path], None], check: Callable[[], None] | None = None
) -> None:
    """Put at ``path`` what ``write`` writes, whole or not at all, even after a crash.

    :param write: writes the file it is given; what it raises leaves the old content in place.
    :param check: as in :func:`commit_bytes`.
    :raises DfscanError: as in :func:`commit_bytes`.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        faults.reach("commit.begun", target.parent.name)
        write(temporary)
        faults.reach("commit.written", target.parent.name)
        _sync(temporary)
        faults.reach("commit.synced", target.parent.name)
        if check is not None:
            check()
        temporary.replace(target)
        faults.reach("commit.renamed", target.parent.name)
        _sync(target.parent)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # gone already where the commit succeeded


def write_error(target: str | Path, error: OSError) -> DfscanError:
    """One line for a write that failed."""
    hint = "; free space, then run the same command again" if error.errno in _NO_SPACE else ""
    return DfscanError(f"cannot write {target}: {error.strerror}{hint}")


def commit_table(
    path: str | Path,
    table: pa.Table,
    row_group_rows: int = 512,
    check: Callable[[], None] | None = None,
) -> None:
    """Write a Parquet file atomically; it is serialised in memory first, then put once.

    :param check: as in :func:`commit_bytes`.
    :raises DfscanError: as in :func:`commit_bytes`.
    """
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
    commit_bytes(path, sink.getvalue(), check)


def commit_json(path: str | Path, value: Any, check: Callable[[], None] | None = None) -> None:
    """Write a JSON document atomically, indented, with a newline at its end."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    commit_bytes(path, text.encode(errors="backslashreplace"), check)


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(path: str | Path) -> int:
    """Bytes of a file of ours; 0 where there is none."""
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def row_count(path: str | Path) -> int:
    """Rows of a Parquet file of ours; 0 where there is none."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        return 0


def remove(path: str | Path) -> None:
    """Remove a file or a folder of ours; nothing happens where there is none."""
    target = Path(path)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sweep(folder: str | Path, now: float, age_s: float = STALE_S, name: str | None = None) -> None:
    """Remove what runs left behind that died while writing; fresh temporaries are someone's.

    :param now: the time by the clock of the folder's file system, seconds since the epoch.
    :param age_s: younger ones stay.
    :param name: only those of this file.
    """
    of = "*" if name is None else glob.escape(name)
    for path in Path(folder).glob(f".{of}{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > age_s:
                path.unlink()


def check_is_local(path: str | Path) -> None:
    """Refuse an output that is no path of a file system.

    :raises OutputError: it is a URI.
    """
    if "://" in str(path):
        raise OutputError(
            f"output {str(path)!r} is on object storage: outputs are written to file systems (a "
            "local or shared one); give a path"
        )


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
