"""Locks: one run at a time per output.

On a file system the lock is exact, because creating a hard link is atomic. pyarrow offers no
conditional put, so two runs that start on an object store within a few seconds can both take the
lock; the later one keeps it, and the other stops when it checks its lease before its next commit.
An upload in progress may still complete. Units are named by their content, so nothing is lost, and
the next run removes duplicates.
"""

import contextlib
import errno
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from dfscan.errors import DfscanError, OutputError, StoreError
from dfscan.storage import backend
from dfscan.storage.committing import TEMPORARY, write_error
from dfscan.storage.paths import ObjectPath, PathLike, StoragePath, as_path
from dfscan.storage.reading import read_text

LEASE_S: Final = 60.0
"""Seconds without renewal after which a lock is free."""

_SETTLE_S: Final = 1.0
"""Seconds to wait after writing a lock to an object store: another run may have started at the same
moment, and leases are cached for a second."""

_UNREADABLE: Final = (*backend.STORE_ERRORS, StoreError, ValueError)
"""Exceptions of reading a lock if the store does not answer or the content is no lock."""


@dataclass(frozen=True)
class Lease:
    """A worker's view of its run's lock, enough to detect that another run took over.

    Workers can outlive a killed driver by seconds; they check before each commit.
    """

    path: StoragePath
    token: str

    def check(self) -> None:
        """Do nothing while this run holds the lock.

        :raises DfscanError: another run holds it, or it was removed.
        """
        try:
            owner = self._owner()
        except FileNotFoundError:
            owner = {}
        except _UNREADABLE:
            return  # no answer says nothing about the owner
        if not owner:
            raise DfscanError(
                f"{self.path} is missing: the lock was removed, or this machine does not see the "
                "output folder; run the same command again to continue",
                code="lock.lost",
            )
        if owner.get("token") != self.token:
            raise DfscanError(
                f"{self.path} is no longer this run's lock (now: host {owner.get('host')}, pid "
                f"{owner.get('pid')}): another run has taken over and this one stops",
                code="lock.lost",
            )

    def _owner(self) -> dict[str, Any]:
        """Cached for a second for objects, because every commit and every result checks."""
        if isinstance(self.path, ObjectPath):
            lately = _read_lately(self.path, int(time.monotonic()))
            if lately.get("token") == self.token:
                return lately
        return _read(self.path)


@functools.lru_cache(maxsize=16)
def _read_lately(path: ObjectPath, second: int) -> dict[str, Any]:
    del second  # part of the key
    return _read(path)


class Lock:
    """An exclusive lock on an output, a file with a lease: ``with Lock(path, output): …``

    A thread renews the lease. A lock is taken over if its process on this machine is dead, or if it
    was not renewed for :data:`LEASE_S` seconds.

    :raises OutputError: another run holds it; the message names its host and process.
    """

    def __init__(self, path: PathLike, what: PathLike) -> None:
        self._path, self._what = as_path(path), what
        self._file = _file(self._path)
        self._tokens = [uuid.uuid4().hex]
        self.lease = Lease(self._path, self._tokens[0])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="dfscan-lock")

    def __enter__(self) -> "Lock":
        try:
            self._file.make_folder()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise write_error(self._path.parent, error) from None
            raise OutputError(
                f"cannot make {self._path.parent}: {error.strerror}", code="output.unwritable"
            ) from None
        for _ in range(2):
            if self._take():
                self._thread.start()
                return self
            with self._one_line():
                self._free_if_dead()
        owner = self._owner()
        raise OutputError(
            f"{self._what} is in use by another dfscan run (host {owner.get('host')}, "
            f"pid {owner.get('pid')}): wait for it, or give another --out",
            code="output.locked",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._owner().get("token") in self._tokens:
            with contextlib.suppress(*backend.STORE_ERRORS):  # the lease expires anyway
                self._file.delete()

    def fence(self) -> Lease:
        """Issue a new lease and invalidate the old one.

        This stops lost workers (a paused node) from committing after their work was repeated
        elsewhere. On an object store, an upload in progress may still complete.

        :raises DfscanError: another run has taken over.
        """
        self.lease.check()
        token = uuid.uuid4().hex
        self._tokens.append(token)
        try:
            self._file.replace(_content(token))
        except backend.STORE_ERRORS as error:
            raise write_error(self._path, error) from None
        self.lease = Lease(self._path, token)
        return self.lease

    def _take(self) -> bool:
        with self._one_line():
            return self._file.create(_content(self._tokens[0]))

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except backend.STORE_ERRORS as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise write_error(self._path, error) from None
            raise OutputError(
                f"cannot lock {self._what}: {backend.one_line(error)}", code="output.unwritable"
            ) from None

    @property
    def now(self) -> float:
        """The time at which the lock was taken, by the clock of its file system."""
        return self._file.now

    def _owner(self) -> dict[str, Any]:
        return _read_object(self._path)

    def _free_if_dead(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            owner = self._owner()
            age = self.now - self._file.renewed()
            here = (owner.get("host"), owner.get("space")) == (_machine(), _pid_space())
            dead_here = here and not _alive(owner.get("pid"))
            if dead_here or age > LEASE_S:
                self._file.free(owner.get("token"))

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            token = self._owner().get("token")
            if token is None:
                continue  # removed or unreadable: do not recreate it
            if token not in self._tokens:
                return  # taken over by another run
            with contextlib.suppress(*backend.STORE_ERRORS):
                self._file.renew()


class _File(Protocol):
    """The lock as a file.

    ``now`` is the time of the last :meth:`create`, by the clock of its store.
    """

    now: float

    def make_folder(self) -> None: ...
    def create(self, content: str) -> bool:
        """Create it with this content; return whether it did not exist before."""

    def replace(self, content: str) -> None: ...
    def renewed(self) -> float:
        """Time of the last renewal. Raises FileNotFoundError if it is gone."""

    def renew(self) -> None: ...
    def free(self, token: str | None) -> None:
        """Remove it if it still has this token."""

    def delete(self) -> None: ...


def _file(path: StoragePath) -> _File:
    return _InStore(path) if isinstance(path, ObjectPath) else _OnDisk(path)


class _OnDisk:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = 0.0

    def make_folder(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def create(self, content: str) -> bool:
        ready = self._temporary()
        try:
            ready.write_text(content)
            os.link(ready, self._path)  # atomic: fails if the lock exists
        except FileExistsError:
            return False
        finally:
            self.now = _mtime(ready)
            ready.unlink(missing_ok=True)
        return True

    def replace(self, content: str) -> None:
        ready = self._temporary()
        ready.write_text(content)
        ready.replace(self._path)

    def renewed(self) -> float:
        return self._path.stat().st_mtime

    def renew(self) -> None:
        os.utime(self._path)

    def free(self, token: str | None) -> None:
        """Move it aside; restore it if another run had just renewed it."""
        aside = self._temporary()
        self._path.rename(aside)
        if _read_object(aside).get("token") != token:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
        aside.unlink()

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self._path.with_name(f"{self._path.name}{TEMPORARY}{uuid.uuid4().hex}")


class _InStore:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self.now = 0.0
        self._content = b""
        self._putting = threading.Lock()  # a renewal must not restore a replaced lock

    def make_folder(self) -> None:
        """Do nothing: object stores have no folders."""

    def create(self, content: str) -> bool:
        self.now = self._clock()
        if backend.stat(str(self._path)) is not None:
            return False
        self.replace(content)
        return bool(_read_object(self._path) == json.loads(content))

    def _clock(self) -> float:
        """The store's clock."""
        probe = str(self._path.with_name(f"{self._path.name}{TEMPORARY}{uuid.uuid4().hex}"))
        backend.put(probe, b"")
        now = backend.modified_s(probe)
        backend.delete(probe)
        return now

    def replace(self, content: str) -> None:
        with self._putting:
            self._content = content.encode()
            backend.put(str(self._path), self._content)
        time.sleep(_SETTLE_S)

    def renewed(self) -> float:
        return backend.modified_s(str(self._path))

    def renew(self) -> None:
        with self._putting:
            backend.put(str(self._path), self._content)

    def free(self, token: str | None) -> None:
        if _read_object(self._path).get("token") == token:
            self.delete()

    def delete(self) -> None:
        backend.delete(str(self._path))


def _content(token: str) -> str:
    owner = {"host": _machine(), "pid": os.getpid(), "token": token, "space": _pid_space()}
    return json.dumps(owner)


def _machine() -> str:
    return socket.gethostname()


def _pid_space() -> str:
    """The PID namespace: two containers with the same host name each have a process 7."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _mtime(path: Path) -> float:
    """Modification time by the file system's clock, which may differ from this machine's."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _read(path: StoragePath) -> dict[str, Any]:
    """Read a small JSON object.

    :raises FileNotFoundError: it does not exist.
    :raises OSError: it cannot be read.
    :raises ValueError: it is not a JSON object.
    """
    content = json.loads(read_text(path))
    return content if isinstance(content, dict) else {}


def _read_object(path: StoragePath) -> dict[str, Any]:
    """Read a small JSON object; {} if it does not exist."""
    try:
        return _read(path)
    except _UNREADABLE:
        return {}


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
