"""Writing so that a reader sees the old content or the new, never a part.

A commit is built whole under a temporary name in the same folder, synced to disk, then renamed. On an
object store it is built whole first and put once: stores show an object when all of it is there. Who has
one open while it is replaced may read some of both (:func:`dfscan.storage.places.steady`), as nobody
does on a disk.
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
from dfscan.storage import fault_injection as faults
from dfscan.storage import places
from dfscan.storage.paths import ObjectPath, Where, place
from dfscan.storage.reading import parquet_source

TEMPORARY: Final = ".tmp-"
STALE_S: Final = 3600.0
"""A temporary file older than this belongs to no run that is still writing it."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def commit_bytes(
    path: Where, data: bytes | pa.Buffer, check: Callable[[], None] | None = None
) -> None:
    """Write ``data`` to ``path`` so that it is there whole or not at all, even after a crash.

    :param check: called at the last moment, before an upload begins; what it raises leaves the old
        content in place.
    :raises DfscanError: the disk is full, or the folder or the store cannot be written.
    """
    target = place(path)
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
        places.put(str(target), data)
    except places.STORE_ERRORS as error:
        raise write_error(target, error) from None
    faults.fault_point("commit.renamed", folder)


def commit_file(
    target: Path, write: Callable[[Path], None], check: Callable[[], None] | None = None
) -> None:
    """Put at a path what ``write`` writes, whole or not at all, even after a crash.

    :param write: writes the file it is given; what it raises leaves the old content in place.
    :param check: as in :func:`commit_bytes`.
    :raises DfscanError: as in :func:`commit_bytes`, or something else than a file is there.
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
            temporary.unlink()  # gone already where the commit succeeded


def _refuse_special(target: Path) -> None:
    """Devices and pipes: a commit would put a file in their place.

    :raises OutputError: it is one.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OutputError(
            f"output {str(target)!r} is a device or a pipe: give a file", code="output.wrong_kind"
        )


@contextlib.contextmanager
def as_folder(path: Where) -> Iterator[Path]:
    """A folder for a library that writes files itself: the place itself, or, for an object store, a
    temporary one whose files are put there at the end.

    :raises DfscanError: the store does not take them, or there is no room for them meanwhile.
    """
    target = place(path)
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
    """A new file for a process that will soon be able to open none: to write, and to read again.

    :raises DfscanError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._written = path.open("wb")
            self._read = path.open("rb")  # a descriptor that shares no position with the other
        except OSError as error:
            raise write_error(path, error) from None

    def begin(self) -> BinaryIO:
        """To be written from the start: what was in it is gone."""
        self._written.seek(0)
        self._written.truncate()
        return self._written

    def again(self) -> BinaryIO:
        """What was written, to be read from the start; closing it leaves the file open."""
        self.flush()
        copied = os.fdopen(os.dup(self._read.fileno()), "rb")
        copied.seek(0)
        return copied

    def flush(self) -> None:
        """Hand all that was written to the system.

        :raises OSError: it does not take it.
        """
        self._written.flush()


def write_error(target: Where, error: OSError | pa.ArrowException) -> DfscanError:
    """One line for a write that failed."""
    full = getattr(error, "errno", None) in _NO_SPACE
    hint = "; free space, then run the same command again" if full else ""
    return DfscanError(
        f"cannot write {target}: {places.one_line(error)}{hint}", code="output.unwritable"
    )


def commit_table(
    path: Where,
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


def commit_json(path: Where, value: Any, check: Callable[[], None] | None = None) -> None:
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


def size(path: Where) -> int:
    """Bytes of a file of ours; 0 where there is none.

    :raises OSError: it cannot be told. :raises StoreError: the same of an object store.
    """
    found = _stat(path)
    return found.bytes if found is not None else 0


def is_folder(path: Where) -> bool:
    """Whether there is a folder, or objects whose names begin so.

    :raises OSError: it cannot be told. :raises StoreError: the same of an object store.
    """
    found = _stat(path)
    return found is not None and found.is_folder


def is_file(path: Where) -> bool:
    """Whether there is a file or an object.

    :raises OSError: it cannot be told. :raises StoreError: the same of an object store.
    """
    found = _stat(path)
    return found is not None and not found.is_folder


def _stat(path: Where) -> places.Stat | None:
    file = str(place(path))
    with places.answering(file):
        return places.stat(file)


def row_count(path: Where) -> int:
    """Rows of a Parquet file of ours; 0 where there is none."""
    try:
        return int(pq.read_metadata(parquet_source(path)).num_rows)
    except FileNotFoundError:
        return 0


def remove(path: Where) -> None:
    """Remove a file or a folder of ours; nothing happens where there is none.

    :raises DfscanError: an object store does not do it.
    """
    target = place(path)
    if isinstance(target, ObjectPath):
        try:
            places.delete(str(target))
        except places.STORE_ERRORS as error:
            raise DfscanError(
                f"cannot remove {target}: {places.one_line(error)}", code="output.unwritable"
            ) from None
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sweep(folder: Where, now: float, age_s: float = STALE_S, name: str | None = None) -> None:
    """Remove what runs left behind that died while writing; fresh temporaries are someone's.

    :param now: the time by the clock of the folder's file system or store, seconds since the epoch.
    :param age_s: younger ones stay.
    :param name: only those of this file.
    :raises DfscanError: an object store does not answer.
    """
    where = place(folder)
    of = "*" if name is None else glob.escape(name)
    if isinstance(where, ObjectPath):
        with places.answering(str(where)):
            names = places.children(str(where), hidden=True)
            for left in (n for n in names if fnmatchcase(n, f".{of}{TEMPORARY}*")):
                with contextlib.suppress(FileNotFoundError):
                    if now - places.modified_s(str(where / left)) > age_s:
                        places.delete(str(where / left))
        return
    for path in where.glob(f".{of}{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > age_s:
                path.unlink()


def local(path: str, what: str) -> Path:
    """The path of an output that only a file system can hold.

    :param what: such outputs, for the message.
    :raises OutputError: it is a URI.
    """
    where = place(path)
    if isinstance(where, ObjectPath):
        raise OutputError(
            f"{path!r} is on object storage: {what} go to file systems; give a path",
            code="output.wrong_kind",
        )
    return where


def check_output_folder(path: Where, marker: str, overwrite: bool, parts: tuple[str, ...]) -> None:
    """Make ``path`` ready to be written to.

    :param marker: the file by which a folder shows that dfscan made it.
    :param parts: what ``overwrite`` removes; nothing else in the folder is touched.
    :raises OutputError: there is a file, or a folder that dfscan did not make, or it cannot be told.
    """
    folder = place(path)
    try:
        found = places.stat(str(folder))
        if found is not None and not found.is_folder:
            raise OutputError(
                f"output {str(path)!r} is a file: give a folder", code="output.wrong_kind"
            )
        ours = places.stat(str(folder / marker)) is not None
        if not ours and places.children(str(folder)):
            raise OutputError(
                f"output folder {str(path)!r} is not empty and holds no {marker}: give another --out",
                code="output.foreign",
            )
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
    except places.STORE_ERRORS as error:
        what = places.one_line(error)
        raise OutputError(
            f"cannot make output folder {str(path)!r}: {what}", code="output.unwritable"
        ) from None
    if ours and overwrite:
        for name in parts:
            remove(folder / name)
