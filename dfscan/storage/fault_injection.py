"""Fault injection for tests.

``DFSCAN_FAULTS="commit.synced=kill;child.look@abc.mp4=sleep"`` makes a process die, hang, fill the
memory or fail at a named point; ``point#3=kill`` acts the third time any process gets there. Each
fault triggers once for all processes that share the folder ``DFSCAN_FAULTS_DIR``, or every time if
that is not set. Without the variable :func:`fault_point` does nothing.

Actions: ``kill`` (SIGKILL to itself), ``killparent``, ``sleep`` (forever), ``spin`` (busy loop that
holds the interpreter), ``eat`` (fill the memory), ``exit`` (status 7), ``raise`` (an unexpected
error).
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
    """Trigger the faults set for ``point`` whose text occurs in ``name``."""
    for action in pending_faults(point, name):
        trigger(action)


def pending_faults(point: str, name: str = "") -> list[str]:
    """The actions due at ``point``, for a process that cannot read the environment itself."""
    text = os.environ.get(VARIABLE)
    return [
        action
        for part, count, action in (_parse(text).get(point, ()) if text else ())
        if part in name and _is_turn(f"{point}@{part}#{count}={action}", count)
    ]


def _is_turn(fault: str, count: int) -> bool:
    """Whether this is the ``count``-th time that any process reaches this fault."""
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
    """Perform an action.

    :raises ValueError: the action is unknown.
    """
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "killparent":
        os.kill(os.getppid(), signal.SIGKILL)
    elif action == "sleep":
        time.sleep(1e9)
    elif action == "spin":
        _busy_loop()
    elif action == "eat":
        _fill_memory()
    elif action == "exit":
        os._exit(7)
    elif action == "raise":
        raise RuntimeError("injected fault")
    else:
        raise ValueError(f"{VARIABLE}: unknown action {action!r}")


def _busy_loop() -> NoReturn:
    while True:
        sum(range(10_000_000))  # each call into C keeps the interpreter lock


def _fill_memory() -> NoReturn:
    eaten = []
    while True:
        eaten.append(b"\1" * (64 << 20))
        time.sleep(0.01)
