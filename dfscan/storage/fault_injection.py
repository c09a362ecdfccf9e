"""Faults on demand, for tests that break a run on purpose.

``DFSCAN_FAULTS="commit.synced=kill;child.look@abc.mp4=sleep"`` makes a process die, hang, eat memory
or stop at a named point; ``point#3=kill`` at the third time any process gets there. Each fault
strikes once for all processes that share the folder ``DFSCAN_FAULTS_DIR``, or every time where
that is not set. Without the variable :func:`fault_point` does nothing.

Actions: ``kill`` (SIGKILL to itself), ``killparent``, ``sleep`` (for ever), ``spin`` (holding the
interpreter), ``eat`` (memory, without end), ``exit`` (status 7), ``raise`` (an unexpected error).
"""

import functools
import os
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Final, NoReturn

VARIABLE: Final = "DFSCAN_FAULTS"
FOLDER: Final = "DFSCAN_FAULTS_DIR"


@functools.lru_cache(maxsize=8)
def _parse(text: str) -> dict[str, list[tuple[str, int, str]]]:
    """point → (text that the name must contain, which time, action)."""
    faults: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for fault in filter(None, text.split(";")):
        where, _, action = fault.rpartition("=")
        where, _, count = where.partition("#")
        point, _, name = where.partition("@")
        faults[point].append((name, int(count or 1), action))
    return faults


def fault_point(point: str, name: str = "") -> None:
    """Say that this process is at ``point`` with ``name``; strikes if a fault is set there."""
    for action in pending_faults(point, name):
        trigger(action)


def pending_faults(point: str, name: str = "") -> list[str]:
    """What is to strike at ``point``, for a process that cannot look for itself."""
    text = os.environ.get(VARIABLE)
    return [
        action
        for part, count, action in (_parse(text).get(point, ()) if text else ())
        if part in name and _is_turn(f"{point}@{part}#{count}={action}", count)
    ]


def _is_turn(fault: str, count: int) -> bool:
    """Whether this is the ``count``-th time that any process gets to this fault."""
    if FOLDER not in os.environ:
        return True
    folder = Path(os.environ[FOLDER])
    safe = "".join(c if c.isalnum() else "_" for c in fault)
    for turn in range(1, count + 1):
        try:
            (folder / f"{safe}.{turn}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return turn == count
    return False


def trigger(action: str) -> None:
    """Do what a fault does.

    :raises ValueError: there is no such action.
    """
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "killparent":
        os.kill(os.getppid(), signal.SIGKILL)
    elif action == "sleep":
        time.sleep(1e9)
    elif action == "spin":
        _spin()
    elif action == "eat":
        _eat()
    elif action == "exit":
        os._exit(7)
    elif action == "raise":
        raise RuntimeError("a fault that was asked for")
    else:
        raise ValueError(f"{VARIABLE}: unknown action {action!r}")


def _spin() -> NoReturn:
    while True:
        sum(range(10_000_000))  # one call into C at a time, the interpreter is never given up


def _eat() -> NoReturn:
    eaten = []
    while True:
        eaten.append(b"\1" * (64 << 20))
        time.sleep(0.01)
