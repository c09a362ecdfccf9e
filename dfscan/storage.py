"""The only module that opens data: list, read, commit atomically, lock.

A ``uri`` is an absolute path, with ``!/`` before a member of a zip archive:
``/data/dfdc_train_part_00.zip!/dfdc_train_part_0/abc.mp4``. Archives are read in place.

A commit is built whole under a temporary name in the same folder, synced to disk, then renamed,
so that a reader sees the old content or the new, never a part.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dfscan.errors import DfscanError, OutputError, SourceError, VideoError

MEMBER: Final = "!/"
LEASE_S: Final = 60.0
"""A lock whose owner has not renewed it for so many seconds is free."""

_TEMPORARY: Final = ".tmp-"
_PIECE: Final = 8 << 20


# ---------------------------------------------------------------- listing


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a source. ``path`` is relative to the source, ``!/`` before a member."""

    path: str
    uri: str
    bytes: int
    version: str


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at ``path``."""
    return Path(path).exists()


def list_source(source: str | Path) -> list[Entry]:
    """Every file of a source: a folder (recursively), a zip archive, or one file.

    Zip archives inside a folder are looked into. Names that start with a dot are left out.
    Links to folders are followed, each folder once. Sorted by path. Only directories and the
    central directories of zips are read.

    :raises SourceError: nothing is there, or it cannot be read.
    """
    root = Path(os.path.abspath(source))  # noqa: PTH100  ("a/.." is folded, links are kept)
    if not root.exists():
        raise SourceError(
            f"source {str(source)!r} does not exist: give a folder, a .zip or a video"
        )
    if root.is_file():
        return _members(root, "") if _is_zip(root) else [_entry(root, "")]
    entries: list[Entry] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or to a folder listed already
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(d for d in subfolders if not d.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            inside = path.relative_to(root).as_posix()
            if name.startswith(".") or not path.is_file():
                continue
            entries += _members(path, inside) if _is_zip(path) else [_entry(path, inside)]
    return sorted(entries, key=lambda e: e.path)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"cannot list {error.filename}: {error.strerror}") from None


def _entry(path: Path, inside: str) -> Entry:
    stat = path.stat()
    return Entry(inside, str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _members(archive: Path, inside: str) -> list[Entry]:
    try:
        infos = _open_zip(str(archive), archive.stat().st_mtime_ns).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{archive} is not a readable zip archive ({error}): fetch it again or move it away"
        ) from None
    return sorted(
        (
            Entry(
                f"{inside}{MEMBER}{info.filename}",
                f"{archive}{MEMBER}{info.filename}",
                info.file_size,
                f"{info.file_size}-{info.CRC:08x}",
            )
            for info in infos
            if not info.is_dir() and not _is_hidden(info.filename)
        ),
        key=lambda e: e.path,
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


@functools.lru_cache(maxsize=4)
def _open_zip(path: str, mtime_ns: int) -> zipfile.ZipFile:
    """Opened archives are kept: a central directory of thousands is read once a process."""
    del mtime_ns  # part of the key: another archive under the same name is opened anew
    return zipfile.ZipFile(path)


# ---------------------------------------------------------------- reading


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole content at ``uri``.

    :param limit: refuse more than so many bytes, as counted while reading.
    :raises VideoError: ``missing``, ``too_large`` or ``decode_error`` (a damaged archive member).
    """
    path, member = _split(uri)
    try:
        if not member:
            with Path(path).open("rb") as file:
                return _read_at_most(file, limit)
        archive = _open_zip(path, Path(path).stat().st_mtime_ns)
        with archive.open(member) as file:
            return _read_at_most(file, limit)
    except (FileNotFoundError, KeyError):
        raise VideoError("missing", "the file is no longer at the source") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise VideoError("decode_error", f"damaged or encrypted archive member: {error}") from None
    except OSError as error:
        raise VideoError("missing", f"cannot be read: {error.strerror}") from None


def _split(uri: str) -> tuple[str, str]:
    """(file, archive member or ``""``); a folder's name may end in ``!`` too."""
    end = uri.lower().find(f".zip{MEMBER}")
    return (uri, "") if end < 0 else (uri[: end + 4], uri[end + 4 + len(MEMBER) :])


def _read_at_most(file: Any, limit: int | None) -> bytes:
    """Everything, in pieces: one read() sets aside all that it may return, and sizes can lie."""
    pieces: list[bytes] = []
    total = 0
    while piece := file.read(_PIECE):
        total += len(piece)
        if limit is not None and total > limit:
            raise VideoError("too_large", f"more than {limit:,} bytes (max_bytes)")
        pieces.append(piece)
    return b"".join(pieces)


def read_start(path: str | Path, count: int) -> bytes:
    """The first ``count`` bytes of a file, fewer if it is shorter."""
    with Path(path).open("rb") as file:
        return file.read(min(count, os.fstat(file.fileno()).st_size))


def read_text(path: str | Path) -> str:
    """A UTF-8 text file of ours or of the user's."""
    return Path(path).read_text(encoding="utf-8")


def sha256(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def read_json(uri: str, limit: int = 256 << 20) -> Any:
    """The JSON document at ``uri``.

    :raises SourceError: it is not JSON.
    """
    try:
        return json.loads(read_bytes(uri, limit))
    except VideoError as error:
        raise SourceError(f"{uri}: {error.reason}") from None
    except ValueError as error:
        raise SourceError(f"{uri} is not valid JSON: {error}") from None


def read_tables(
    folder: str | Path, columns: list[str] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """(path, table) of each Parquet file in a folder, by name; temporaries left out."""
    for path in parquet_files(folder):
        yield str(path), pq.read_table(path, columns=columns, partitioning=None)


def read_table(path: str | Path) -> pa.Table:
    """One Parquet file whole, with its own schema."""
    return pq.read_table(path, partitioning=None)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """One Parquet file, to read its row groups singly."""
    return pq.ParquetFile(path)


def parquet_files(folder: str | Path) -> list[Path]:
    """The committed Parquet files of a folder, by name."""
    return sorted(p for p in Path(folder).glob("*.parquet") if not p.name.startswith("."))


# ---------------------------------------------------------------- committing


def commit_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that it is there whole or not at all, even after a crash.

    :raises DfscanError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{uuid.uuid4().hex}")
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


# ---------------------------------------------------------------- locking


class Lock:
    """One run at a time on an output, as a file with a lease: ``with Lock(path, output): …``

    A thread renews the lease; a lock of a dead process on this machine, or one not renewed for
    :data:`LEASE_S` seconds, is taken over.

    :raises OutputError: another run holds it; the message names its host and process.
    """

    def __init__(self, path: str | Path, what: str | Path) -> None:
        self._path, self._what = Path(path), what
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="dfscan-lock")

    def __enter__(self) -> "Lock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {self._path.parent}: {error.strerror}") from None
        for _ in range(2):
            if self._take():
                self._thread.start()
                return self
            self._free_if_dead()
        owner = self._owner()
        raise OutputError(
            f"{self._what} is in use by another dfscan run (host {owner.get('host')}, "
            f"pid {owner.get('pid')}): wait for it, or give another --out"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._owner().get("token") == self._token:
            self._path.unlink(missing_ok=True)

    def _take(self) -> bool:
        content = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        ready = self._path.with_name(f"{self._path.name}{_TEMPORARY}{self._token}")
        try:
            ready.write_text(json.dumps(content))
            os.link(ready, self._path)  # fails if it exists: whole content or no lock
        except FileExistsError:
            return False
        except OSError as error:
            raise OutputError(f"cannot lock {self._what}: {error.strerror}") from None
        finally:
            ready.unlink(missing_ok=True)
        return True

    def _owner(self) -> dict[str, Any]:
        return _read_object(self._path)

    def _free_if_dead(self) -> None:
        """Move a dead lock aside; if a living one was caught meanwhile, put it back."""
        aside = self._path.with_name(f"{self._path.name}{_TEMPORARY}{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            owner = self._owner()
            age = time.time() - self._path.stat().st_mtime
            dead_here = owner.get("host") == socket.gethostname() and not _alive(owner.get("pid"))
            if not dead_here and age <= LEASE_S:
                return
            self._path.rename(aside)
            if _read_object(aside).get("token") != owner.get("token"):
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._path)
            aside.unlink()

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            if self._owner().get("token") != self._token:
                return  # taken over by another run: the lease is not ours to renew
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _read_object(path: Path) -> dict[str, Any]:
    """A small JSON object; {} where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
