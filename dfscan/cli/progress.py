"""Progress on stderr: a live bar on a terminal, one plain line now and then otherwise."""

import sys
import time
from collections import Counter
from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichBars,
)

from dfscan.cli.console import TextConsole, as_shown
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.work_units import UnitResult
from dfscan.schemas.status import SUCCEEDED

EVERY_S: Final = 15.0
"""Seconds between plain lines."""


def pick_progress(*, quiet: bool, plain: bool) -> Progress:
    """What suits stderr: nothing, plain lines, or a live bar."""
    if quiet:
        return Progress()
    if plain or not sys.stderr.isatty():
        return PlainProgress()
    return LiveProgress()


class PlainProgress(Progress):
    """Lines on stderr, for logs and pipes."""

    def __init__(self) -> None:
        self._what, self._unit, self._total, self._done = "", "", 0, 0
        self._faces, self._status = 0, Counter[str]()
        self._started = self._told = 0.0

    def start(self, what: str, total: int, unit: str) -> None:
        """See :class:`Progress`."""
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._faces, self._status = 0, Counter()
        self._started = self._told = time.monotonic()
        self.message(f"{what}: {total} {unit}")

    def advance(self, by: int, result: UnitResult | None = None) -> None:
        """See :class:`Progress`."""
        self._done += by
        if result is not None:
            self._faces += result.faces
            self._status += result.status
        now = time.monotonic()
        if result is not None and (now - self._told >= EVERY_S or self._done == self._total):
            self._told = now
            rate = self._done / max(now - self._started, 1e-9)
            self.message(
                f"{self._what}: {self._done}/{self._total} {self._unit}, {_tail(self._faces, self._status)}, "
                f"{rate:.2f} {self._unit}/s"
            )

    def message(self, message: str) -> None:
        """See :class:`Progress`."""
        print(as_shown(message), file=sys.stderr, flush=True)


class LiveProgress(Progress):
    """A bar that redraws itself, notes above it."""

    live = True

    def __init__(self) -> None:
        self._console = TextConsole(stderr=True)
        self._bars: RichBars | None = None
        self._task: TaskID | None = None
        self._faces, self._status = 0, Counter[str]()

    def start(self, what: str, total: int, unit: str) -> None:
        """See :class:`Progress`."""
        self.stop()
        self._faces, self._status = 0, Counter()
        if unit == "epochs":
            return  # the loop draws the steps of each epoch itself, with tqdm
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tail]}"),
            console=self._console,
        )
        self._task = self._bars.add_task(what, total=total, tail="")
        self._bars.start()

    def advance(self, by: int, result: UnitResult | None = None) -> None:
        """See :class:`Progress`."""
        if self._bars is None or self._task is None:
            return
        if result is not None:
            self._faces += result.faces
            self._status += result.status
        tail = _tail(self._faces, self._status) if self._status else ""
        self._bars.update(self._task, advance=by, tail=tail)

    def message(self, message: str) -> None:
        """See :class:`Progress`."""
        self._console.print(message, highlight=False, markup=False)

    def stop(self) -> None:
        """See :class:`Progress`."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _tail(faces: int, status: Counter[str]) -> str:
    failed = sum(n for name, n in status.items() if name not in SUCCEEDED)
    return f"{faces} faces" + (f", {failed} failed" if failed else "")
