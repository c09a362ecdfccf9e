"""One run at a time on an output."""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from dfscan.errors import DfscanError, OutputError
from dfscan.storage.committing import TEMPORARY, write_error

LEASE_S: Final = 60.0
"""A lock whose owner has not renewed it for so many seconds is free."""


@dataclass(frozen=True)
class Lease:
    """What a run's workers know of its lock: enough to see that another run has taken over.

    Workers can outlive a killed driver by seconds; they check before each commit.
    """

    path: Path
    token: str

    def check(self) -> None:
        """Nothing happens while the lock is this run's.

        :raises DfscanError: it is another's by now, or was removed.
        """
        try:
            owner = json.loads(self.path.read_text())
        except FileNotFoundError:
            owner = {}
        except (OSError, ValueError):
            return  # the file system does not answer: that says nothing about the owner
        if not owner:
            raise DfscanError(
                f"{self.path} is not there: the lock was removed, or this machine does not see the "
                "output folder; the same command continues"
            )
        if owner.get("token") != self.token:
            raise DfscanError(
                f"{self.path} is no longer this run's lock (now: host {owner.get('host')}, pid "
                f"{owner.get('pid')}): another run has taken over, this one stops"
            )


class Lock:
    """One run at a time on an output, as a file with a lease: ``with Lock(path, output): …``

    A thread renews the lease; a lock of a dead process on this machine, or one not renewed for
    :data:`LEASE_S` seconds, is taken over.

    :raises OutputError: another run holds it; the message names its host and process.
    """

    def __init__(self, path: str | Path, what: str | Path) -> None:
        self._path, self._what = Path(path), what
        self._tokens = [uuid.uuid4().hex]
        self.lease = Lease(self._path, self._tokens[0])
        self._stop = threading.Event()
        self._now = 0.0
        self._thread = threading.Thread(target=self._renew, daemon=True, name="dfscan-lock")

    def __enter__(self) -> "Lock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise write_error(self._path.parent, error) from None
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
        if self._owner().get("token") in self._tokens:
            self._path.unlink(missing_ok=True)

    def fence(self) -> Lease:
        """A new lease; from now on nothing is committed under the old one.

        Workers that a run has lost sight of (a paused node) could still commit after their work
        was done again elsewhere.

        :raises DfscanError: another run has taken over.
        """
        self.lease.check()
        token = uuid.uuid4().hex
        self._tokens.append(token)
        ready = self._path.with_name(f"{self._path.name}{TEMPORARY}{token}")
        try:
            ready.write_text(json.dumps(self._content(token)))
            ready.replace(self._path)
        except OSError as error:
            raise write_error(self._path, error) from None
        self.lease = Lease(self._path, token)
        return self.lease

    @staticmethod
    def _content(token: str) -> dict[str, Any]:
        return {"host": _machine(), "pid": os.getpid(), "token": token, "space": _pid_space()}

    def _take(self) -> bool:
        token = self._tokens[0]
        ready = self._path.with_name(f"{self._path.name}{TEMPORARY}{token}")
        try:
            ready.write_text(json.dumps(self._content(token)))
            os.link(ready, self._path)  # fails if it exists: whole content or no lock
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise write_error(self._path, error) from None
            raise OutputError(f"cannot lock {self._what}: {error.strerror}") from None
        finally:
            self._now = _mtime(ready)
            ready.unlink(missing_ok=True)
        return True

    @property
    def now(self) -> float:
        """The time at which the lock was taken, by the clock of its file system."""
        return self._now

    def _owner(self) -> dict[str, Any]:
        return _read_object(self._path)

    def _free_if_dead(self) -> None:
        """Move a dead lock aside; if a living one was caught meanwhile, put it back."""
        aside = self._path.with_name(f"{self._path.name}{TEMPORARY}{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            owner = self._owner()
            age = self._now - self._path.stat().st_mtime
            here = (owner.get("host"), owner.get("space")) == (_machine(), _pid_space())
            dead_here = here and not _alive(owner.get("pid"))
            if not dead_here and age <= LEASE_S:
                return
            self._path.rename(aside)
            if _read_object(aside).get("token") != owner.get("token"):
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._path)
            aside.unlink()

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            token = self._owner().get("token")
            if token is not None and token not in self._tokens:
                return  # taken over by another run: the lease is not ours to renew
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _machine() -> str:
    return socket.gethostname()


def _pid_space() -> str:
    """What process ids are counted in: two containers of one name each have a process 7."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _mtime(path: Path) -> float:
    """When a file was written, by the clock of its file system, which need not be ours."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


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
