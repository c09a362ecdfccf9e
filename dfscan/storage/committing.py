"""Atomic writes: a reader sees the old content or the new, never a part.

On disk, content is written under a temporary name in the same folder, synced, then renamed. On an
object store it is built in full first and put once: stores publish complete objects only. A reader
that has an object open while it is replaced may read parts of both
(:func:`dfscan.storage.backend.read_unchanged`); on a disk that cannot happen.
"""

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan.errors import DfscanError, OutputError
from dfscan.storage import backend
from dfscan.storage import fault_injection as faults
from dfscan.storage.paths import ObjectPath, PathLike, as_path
from dfscan.storage.reading import parquet_source

TEMPORARY: Final = ".tmp-"
STALE_S: Final = 3600.0
"""Seconds after which a temporary file is considered abandoned."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def commit_bytes(
    path: PathLike, data: bytes | pa.Buffer, check: Callable[[], None] | None = None
) -> None:
    """Write ``data`` to ``path`` in full or not at all, even after a crash.

    :param check: called just before the commit; if it raises, the old content stays.
    :raises DfscanError: the disk is full, or the folder or store is not writable.
    """
    target = as_path(path)
    if isinstance(target, ObjectPath):
        _put(target, data, check)
        return

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)

    commit_file(target, write, check)


def _put(target: ObjectPath, data: bytes | pa.Buffer, check: Callable[[], None] | None) -> None:
    folder = target.parent.name
    for point in ("begun", "written", "synced"):
        faults.fault_point(f"commit.{point}", folder)
    if check is not None:
        check()
    try:
        backend.put(str(target), data)
    except backend.STORE_ERRORS as error:
        raise write_error(target, error) from None
    faults.fault_point("commit.renamed", folder)


def commit_file(
    target: Path, write: Callable[[Path], None], check: Callable[[], None] | None = None
) -> None:
    """Commit the file that ``write`` produces, in full or not at all, even after a crash.

    :param write: writes the temporary file it receives; if it raises, the old content stays.
    :param check: as in :func:`commit_bytes`.
    :raises DfscanError: as in :func:`commit_bytes`, or the target is not a regular file.
    """
    temporary = target.with_name(f".{target.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_special(target)
        faults.fault_point("commit.begun", target.parent.name)
        write(temporary)
        faults.fault_point("commit.written", target.parent.name)
        _sync(temporary)
        faults.fault_point("commit.synced", target.parent.name)
        if check is not None:
            check()
        temporary.replace(target)
        faults.fault_point("commit.renamed", target.parent.name)
        _sync(target.parent)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # already renamed if the commit succeeded


def _refuse_special(target: Path) -> None:
    """Refuse devices and pipes, which a commit would replace by a file.

    :raises OutputError: it is a device or a pipe.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OutputError(
            f"output {str(target)!r} is a device or a pipe: give a file", code="output.wrong_kind"
        )


@contextlib.contextmanager
def as_folder(path: PathLike) -> Iterator[Path]:
    """A local folder for a library that writes files itself: the folder itself, or, for an object
    store, a temporary one whose files are uploaded at the end.

    :raises DfscanError: the store refuses them, or the temporary disk is full.
    """
    target = as_path(path)
    if isinstance(target, Path):
        yield target
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="dfscan-")
    except OSError as error:
        raise write_error(tempfile.gettempdir(), error) from None
    with temporary as name:
        folder = Path(name)
        yield folder
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            commit_bytes(target / file.relative_to(folder).as_posix(), file.read_bytes())


class Opened:
    """A new file, opened for writing and reading before a process gives up its right to open files.

    :raises DfscanError: it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._written = path.open("wb")
            self._read = path.open("rb")  # its own descriptor, hence its own position
        except OSError as error:
            raise write_error(path, error) from None

    def begin(self) -> BinaryIO:
        """Truncate the file and return it for writing from the start."""
        self._written.seek(0)
        self._written.truncate()
        return self._written

    def again(self) -> BinaryIO:
        """Return the content for reading from the start; closing it leaves the file open."""
        self.flush()
        copied = os.fdopen(os.dup(self._read.fileno()), "rb")
        copied.seek(0)
        return copied

    def flush(self) -> None:
        """Flush buffers to the operating system.

        :raises OSError: the write fails.
        """
        self._written.flush()


def write_error(target: PathLike, error: OSError | pa.ArrowException) -> DfscanError:
    """A one-line error for a failed write, with a remedy if the disk is full."""
    full = getattr(error, "errno", None) in _NO_SPACE
    hint = "; free space, then run the same command again" if full else ""
    return DfscanError(
        f"cannot write {target}: {backend.one_line(error)}{hint}", code="output.unwritable"
    )


def commit_table(
    path: PathLike,
    table: pa.Table,
    row_group_rows: int = 512,
    check: Callable[[], None] | None = None,
) -> None:
    """Write a Parquet file atomically; it is serialised in memory first.

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


def commit_json(path: PathLike, value: Any, check: Callable[[], None] | None = None) -> None:
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


def size(path: PathLike) -> int:
    """Size of a file in bytes; 0 if it does not exist.

    :raises OSError: the path cannot be inspected. :raises StoreError: the store does not answer.
    """
    found = _stat(path)
    return found.bytes if found is not None else 0


def is_folder(path: PathLike) -> bool:
    """Whether the path is a folder, or a prefix of objects.

    :raises OSError: the path cannot be inspected. :raises StoreError: the store does not answer.
    """
    found = _stat(path)
    return found is not None and found.is_folder


def is_file(path: PathLike) -> bool:
    """Whether the path is a file or an object.

    :raises OSError: the path cannot be inspected. :raises StoreError: the store does not answer.
    """
    found = _stat(path)
    return found is not None and not found.is_folder


def _stat(path: PathLike) -> backend.Stat | None:
    file = str(as_path(path))
    with backend.store_errors(file):
        return backend.stat(file)


def row_count(path: PathLike) -> int:
    """Number of rows of a Parquet file; 0 if it does not exist."""
    try:
        return int(pq.read_metadata(parquet_source(path)).num_rows)
    except FileNotFoundError:
        return 0


def remove(path: PathLike) -> None:
    """Remove a file or a folder; a missing one is no error.

    :raises DfscanError: an object store refuses.
    """
    target = as_path(path)
    if isinstance(target, ObjectPath):
        try:
            backend.delete(str(target))
        except backend.STORE_ERRORS as error:
            raise DfscanError(
                f"cannot remove {target}: {backend.one_line(error)}", code="output.unwritable"
            ) from None
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sweep(folder: PathLike, now: float, age_s: float = STALE_S, name: str | None = None) -> None:
    """Remove temporary files of dead runs; recent ones may belong to a running one.

    :param now: the time by the clock of the folder's file system or store, seconds since the epoch.
    :param age_s: minimum age in seconds.
    :param name: remove only temporaries of this file; default: all.
    :raises DfscanError: the object store does not answer.
    """
    where = as_path(folder)
    of = "*" if name is None else glob.escape(name)
    if isinstance(where, ObjectPath):
        with backend.store_errors(str(where)):
            names = backend.children(str(where), hidden=True)
            for left in (n for n in names if fnmatchcase(n, f".{of}{TEMPORARY}*")):
                with contextlib.suppress(FileNotFoundError):
                    if now - backend.modified_s(str(where / left)) > age_s:
                        backend.delete(str(where / left))
        return
    for path in where.glob(f".{of}{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > age_s:
                path.unlink()


def local(path: str, what: str) -> Path:
    """Check that an output path is on a file system.

    :param what: the kind of output, for the message.
    :raises OutputError: it is a URI.
    """
    where = as_path(path)
    if isinstance(where, ObjectPath):
        raise OutputError(
            f"{path!r} is on object storage, but {what} must be on a file system: give a path",
            code="output.wrong_kind",
        )
    return where


def check_output_folder(
    path: PathLike, marker: str, overwrite: bool, parts: tuple[str, ...]
) -> None:
    """Prepare an output folder.

    :param marker: the file that marks a folder as made by dfscan.
    :param parts: the entries that ``overwrite`` removes; others stay.
    :raises OutputError: the path is a file, a folder not made by dfscan, or cannot be inspected.
    """
    folder = as_path(path)
    try:
        found = backend.stat(str(folder))
        if found is not None and not found.is_folder:
            raise OutputError(
                f"output {str(path)!r} is a file: give a folder", code="output.wrong_kind"
            )
        ours = backend.stat(str(folder / marker)) is not None
        if not ours and backend.children(str(folder)):
            raise OutputError(
                f"output folder {str(path)!r} is not empty and holds no {marker}: give another --out",
                code="output.foreign",
            )
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
    except backend.STORE_ERRORS as error:
        what = backend.one_line(error)
        raise OutputError(
            f"cannot make output folder {str(path)!r}: {what}", code="output.unwritable"
        ) from None
    if ours and overwrite:
        for name in parts:
            remove(folder / name)
