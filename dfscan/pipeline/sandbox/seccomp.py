"""What the decoding process gives up once its networks are loaded, before it sees a video.

It is handed the bytes of each video (:mod:`dfscan.pipeline.sandbox.process`), so it needs no file but those of
the installation, no network, no other process and no rights: what a hostile file makes of it can then
lie about the frames it sees, and little else. The means are Linux's: Landlock for files
(landlock(7)), a seccomp filter for system calls (seccomp(2)), capabilities and user for rights.
:func:`lacking` says which of them a machine does not have, SECURITY.md what that means.

``python -m dfscan.pipeline.sandbox.seccomp`` tries what holds on this machine.
"""

import contextlib
import ctypes
import errno
import functools
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from dfscan.pipeline.sandbox.parent_watch import exit_with_parent

NOBODY: Final = 65534
"""Who the process becomes where it would be root: by convention the owner of nothing."""

OPEN_FILES: Final = 256

_SET_KEEPCAPS: Final = 8
_SET_NO_NEW_PRIVS: Final = 38

_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000
_KILL: Final = 0x80000000
_CLONE_THREAD: Final = 0x00010000
_X32: Final = 0x40000000

_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → what seccomp calls it, and its column in the tables of system calls."""

_SECCOMP: Final = (317, 277)
_CAPSET: Final = (126, 91)
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)

_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # the network and every other kind of socket
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # other programs and processes
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    # memory that is not counted as its own
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    # what Landlock does not ask about: modes, owners, times and attributes of its user's files
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "truncate": (76, 45),  # Landlock does, from its third version on
    # parts of the kernel that decoding has no use for
    "open_by_handle_at": (304, 265),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
"""System calls that fail with EPERM, by number; None where a machine has no such call."""

_TO_ITSELF: Final = {"kill": (62, 129), "tgkill": (234, 131)}
"""Allowed where the first argument is the process itself: it may abort."""

_LANDLOCK: Final = (444, 445, 446)
"""``landlock_create_ruleset``, ``_add_rule`` and ``_restrict_self``, on every machine."""

_READ_FILE: Final = 1 << 2
_READ: Final = 1 << 0 | _READ_FILE | 1 << 3
"""Map as a program (libraries are), read, list."""

_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
"""Landlock's version → how many rights over files it knows; 16 in later ones."""

_READ_SEARCH: Final = 1 << 2
"""CAP_DAC_READ_SEARCH: reads files whatever their mode."""


class Unavailable(Exception):  # noqa: N818
    """This machine does not have one of the means; the message says which and why."""


def enter(writes: int, *, keep_files: bool = False) -> list[str]:
    """Give up everything that decoding does not need, for good; files that are open stay so.

    :param writes: bytes to which this process may make a file grow.
    :param keep_files: files and user stay as they are, for a process that has a detector on a GPU,
        whose driver opens devices and asks who it runs for.
    :returns: what could not be given up here, as :func:`lacking`.
    """
    if not sys.platform.startswith("linux"):
        return lacking()
    missing: list[str] = []
    parent = os.getppid()
    _held(), _can_kill()
    _libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for means in (_no_calls,) if keep_files else (_no_files, _no_rights, _no_calls):
        try:
            means()
        except Unavailable as error:
            missing.append(str(error))
    exit_with_parent(parent)  # forgotten where the user changed
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, writes),
    ):
        _lower(kind, most)
    return missing


def lacking() -> list[str]:
    """What :func:`enter` cannot do on this machine, a line each; nothing is given up."""
    if not sys.platform.startswith("linux"):
        return [f"{sys.platform}: files, network and rights of the decoding process stay open"]
    missing = []
    for check in (_landlock_version, _column):
        try:
            check()
        except Unavailable as error:
            missing.append(str(error))
    return missing


def allow_more(seconds: float, memory: int) -> None:
    """The next video's processor time, and twice its memory, counted from now.

    The second is a backstop for what allocates more than the worker notices in time.
    """
    if not sys.platform.startswith("linux"):
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (_held() + 2 * memory, resource.RLIM_INFINITY))


@functools.lru_cache(maxsize=1)
def _held() -> int:
    """Bytes of data that this process had when it first asked; /proc is closed later."""
    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    return int(status.split()[0]) * 1024


@functools.lru_cache(maxsize=1)
def _can_kill() -> bool:
    """Whether this process, and so its parent, has CAP_KILL; asked before /proc is closed."""
    status = Path("/proc/self/status").read_text().split("CapEff:")[1]
    return bool(int(status.split()[0], 16) & 1 << 5)


def _lower(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    """A system call; the error is what :class:`OSError` says."""
    result = int(_libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# ---------------------------------------------------------------- files


def _no_files() -> None:
    """Leave the installation's files to read, and nothing to write, create or remove."""
    version = _landlock_version()
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0  # to bind and to connect over TCP
    others = 3 if version >= 6 else 0  # abstract sockets of others, signals to others
    what = struct.pack("<QQQ", rights, network, others)
    what = what[: 8 if version < 4 else 16 if version < 6 else 24]
    create, add, restrict = _LANDLOCK
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    try:
        rules = _call(create, what, ctypes.c_size_t(len(what)), 0)
        try:
            for path in _installation():
                _allow_below(add, rules, path)
            _call(restrict, rules, 0)
        finally:
            os.close(rules)
    except OSError as error:
        raise Unavailable(f"Landlock does not work here: {error.strerror}") from None
    if threads > 1:
        raise Unavailable(f"Landlock does not hold for {threads - 1} thread(s) that ran before")


def _allow_below(add: int, rules: int, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = _READ if Path(path).is_dir() else _READ_FILE
            _call(add, rules, 1, struct.pack("<Qi", allowed, place), 0)
        finally:
            os.close(place)


def _landlock_version() -> int:
    try:
        return _call(_LANDLOCK[0], None, ctypes.c_size_t(0), 1)
    except OSError as error:
        raise Unavailable(
            f"no Landlock (Linux 5.13, switched on): {error.strerror}; the decoding process can open "
            "the files that its user can"
        ) from None


def _installation() -> Iterator[str]:
    """Folders of Python, its packages and the system's libraries, and what says which CPU this is."""
    folders = {sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64"}
    folders |= {p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p}
    yield from folders
    yield from ("/sys/devices/system", "/proc/cpuinfo", "/etc/ld.so.cache")
    packages = {str(Path(m).resolve().parent) for m in _top_level()}
    yield from {p for p in packages if not any(_is_below(p, f) for f in folders)}


def _top_level() -> Iterator[str]:
    """Files of the packages that are loaded; modules that lie loose in a folder are left out."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file and hasattr(module, "__path__"):
            yield file


def _is_below(path: str, folder: str) -> bool:
    real = str(Path(folder).resolve())
    return path == real or path.startswith(f"{real}/")


# ---------------------------------------------------------------- rights


def _no_rights() -> None:
    """Be nobody instead of root, and have no capability.

    One stays where Landlock leaves the installation alone to be read: Python may lie in root's home.
    """
    if os.geteuid():
        return
    confined = not _can_open("/etc/passwd")
    if not _can_kill():
        _keep_capabilities(_READ_SEARCH if confined else 0)
        raise Unavailable(
            "no CAP_KILL, so the worker could not end a process of another user: the decoding "
            "process stays root, without its capabilities"
        )
    if not confined and not _readable_to_all():
        _keep_capabilities(0)
        raise Unavailable(
            f"{sys.base_prefix} cannot be read by others: the decoding process stays root, without "
            "its capabilities"
        )
    _libc().prctl(_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:  # user 65534 is not known in this container, say
        raise Unavailable(
            f"the decoding process stays root, without its capabilities: {error.strerror}"
        ) from None
    finally:
        _keep_capabilities(_READ_SEARCH if confined else 0)


def _can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    return True


def _readable_to_all() -> bool:
    """Whether nobody can read where Python and dfscan lie."""
    for folder in (sys.prefix, sys.base_prefix, str(Path(__file__).parent)):
        real = Path(folder).resolve()
        if any(not p.stat().st_mode & 0o001 for p in (real, *real.parents)):
            return False
        if not real.stat().st_mode & 0o004:
            return False
    return True


def _keep_capabilities(which: int) -> None:
    with contextlib.suppress(OSError, Unavailable):  # it has fewer already
        head = struct.pack("<Ii", 0x20080522, 0)
        _call(_CAPSET[_column()], head, struct.pack("<6I", which, which, 0, 0, 0, 0))


# ---------------------------------------------------------------- system calls


def _no_calls() -> None:
    """Refuse sockets, other processes and what else :data:`_REFUSED` names, in every thread."""
    column = _column()
    program = _program(column)
    code = ctypes.create_string_buffer(b"".join(program))
    # struct sock_fprog: how many, where
    filter_ = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    try:
        _call(_SECCOMP[column], 1, 1, filter_)  # SET_MODE_FILTER, for all threads
    except OSError as error:
        raise Unavailable(
            f"no seccomp filter: {error.strerror}; the decoding process can use the network"
        ) from None


def _column() -> int:
    """Which column of the tables is this machine's."""
    machine = platform.machine()
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        raise Unavailable(
            f"no seccomp filter for {machine}, only for {' and '.join(_MACHINES)}: the decoding "
            "process can use the network"
        )
    return _MACHINES[machine][1]


def _program(column: int) -> list[bytes]:
    """The filter, in classic BPF: a table of what is refused, everything else goes through."""
    architecture = next(a for a, c in _MACHINES.values() if c == column)
    refuse, allow = _return(_REFUSE | errno.EPERM), _return(_ALLOW)
    code = [_load(4), _if_equal(architecture, 1, 0), _return(_KILL), _load(0)]
    code += [_if_at_least(_X32, 0, 1), refuse]  # the same calls under other numbers
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += [_if_equal(number, 0, 1), refuse]
    for numbers in _TO_ITSELF.values():
        to_itself = _if_equal(os.getpid(), 1, 0)
        code += [_if_equal(numbers[column], 0, 4), _load(16), to_itself, refuse, allow]
    a_thread = _if_any_of(_CLONE_THREAD, 1, 0)
    code += [_if_equal(_CLONE[column], 0, 4), _load(16), a_thread, refuse, allow]
    # its flags lie in memory, where a filter cannot look; without it glibc takes clone
    code += [_if_equal(_CLONE3[column], 0, 1), _return(_REFUSE | errno.ENOSYS)]
    return [*code, allow]


def _load(offset: int) -> bytes:
    """A word of ``struct seccomp_data``: the call at 0, the machine at 4, arguments from 16."""
    return struct.pack("<HBBI", 0x20, 0, 0, offset)


def _return(what: int) -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, what)


def _if_equal(value: int, then: int, otherwise: int) -> bytes:
    """So many instructions further, if it is and if it is not."""
    return struct.pack("<HBBI", 0x15, then, otherwise, value)


def _if_at_least(value: int, then: int, otherwise: int) -> bytes:
    return struct.pack("<HBBI", 0x35, then, otherwise, value)


def _if_any_of(bits: int, then: int, otherwise: int) -> bytes:
    return struct.pack("<HBBI", 0x45, then, otherwise, bits)


# ---------------------------------------------------------------- what holds here


def _attempts() -> dict[str, Callable[[], object]]:
    """What a process that has entered must not be able to do."""
    return {
        "open a file outside the installation": Path("/etc/passwd").read_bytes,
        "list the root folder": lambda: os.listdir("/"),  # noqa: PTH208
        "write a file": lambda: Path("/tmp/dfscan-sandbox").touch(),
        "make a socket": socket.socket,
        "start a program": lambda: os.execv("/nowhere", ["nowhere"]),
        "become two processes": lambda: os.fork() or os._exit(0),
        "signal another process": lambda: os.kill(os.getppid(), 0),
        "be root": lambda: os.setuid(0) if os.getuid() else None,
    }


def refused(attempts: Collection[str] | None = None) -> dict[str, bool]:
    """What is tried in this process → whether the kernel refused it."""
    held = {}
    for name, attempt in _attempts().items():
        if attempts is None or name in attempts:
            try:
                attempt()
                held[name] = False
            except OSError as error:
                held[name] = error.errno in (errno.EPERM, errno.EACCES)
    return held


def main() -> None:
    """Enter, and say what is refused."""
    missing = enter(1 << 20)
    for name, held in refused().items():
        print(f"{'refused' if held else 'POSSIBLE':9} {name}", flush=True)
    print("lacking:", "; ".join(missing) or "nothing")


if __name__ == "__main__":
    main()
