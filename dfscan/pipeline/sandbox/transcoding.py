"""One file made of another, in a process of its own that knows no other: re-encoded, or drawn on.

A whole clip is decoded there, so the process is as closed as the one that looks at videos
(:mod:`dfscan.pipeline.sandbox.seccomp`): it is handed the file's bytes, and may write to one file that it opened
before. A deadline and a limit on its memory hold for it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, Final, TypeVar

from dfscan.errors import DfscanError, VideoError
from dfscan.pipeline.sandbox.process import TRIES, environment
from dfscan.schemas.status import STATUSES

SLOWER: Final = 5
"""Encoding a whole clip may take so many times as long as looking at its frames."""

ENCODER_BYTES: Final = 1 << 30
"""Memory beside what decoding may take: x264 keeps some sixty frames, 1.3 GB at 4K."""

_LONGEST: Final = 1 << 16
"""No line that a child says has more bytes."""

_MOST: Final = 1 << 31
"""No clip has more frames."""

Made = TypeVar("Made")

_CHILD: Final = ("-P", "-m", "dfscan.pipeline.sandbox.transcoding_worker")


@dataclass(frozen=True)
class Work:
    """What is done to a file, in the words of its errors; ``point`` is that of its faults."""

    doing: str
    done: str
    point: str


TRANSFORMING: Final = Work("re-encoding", "re-encoded", "child.alter")
DRAWING: Final = Work("drawing", "drawn", "child.draw")


def transcode(
    work: Work,
    request: dict[str, Any],
    pieces: Callable[[], Iterable[bytes]],
    deadline_s: float,
    read: Callable[[Any], Made],
    watch: Callable[[int, int], None] = lambda done, frames: None,
) -> Made:
    """Have a child make a file. One that is killed from outside is tried again.

    :param request: see :mod:`dfscan.pipeline.sandbox.transcoding_worker`. :param pieces: the original's bytes.
    :param read: makes sense of what the child says of the file. What lies there is its word, too.
    :param watch: is told how many frames are done, and of how many.
    :raises VideoError: it took too long or died of the video, or the video cannot be used or read.
    :raises DfscanError: nothing can be written, or no file could be.
    """
    for _ in range(TRIES):
        began = time.monotonic()
        child = _start()
        late = threading.Timer(deadline_s, child.kill)
        late.daemon = True
        late.start()
        complaints = _Complaints(child.stderr)
        try:
            taken = _hand_over(child, request | {"point": work.point}, pieces())
            answer = _hear(child, watch, work)
            if "made" in answer and not taken:
                raise _no_sense(work)  # of a file that it has not seen to the end
            code = 0 if answer else child.wait()
        finally:
            late.cancel()
            wanted = _end(child)
            last_words = complaints.end()
        if answer:
            return _made(answer, read, work)
        if not wanted:
            raise VideoError("crashed", "given up")
        if time.monotonic() - began >= deadline_s:
            raise VideoError("timeout", f"not {work.done} after {deadline_s:.0f} s")
        if code == 0:
            raise _no_sense(work)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}{last_words}"
    raise VideoError("crashed", f"{work.doing} ended by {how} on this video, {TRIES} times")


def _hand_over(
    child: "subprocess.Popen[bytes]", request: dict[str, Any], pieces: Iterable[bytes]
) -> bool:
    """Send the request and the file; whether the child took them to the end."""
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        for piece in pieces:
            child.stdin.write(piece)
        child.stdin.close()
    except BrokenPipeError:
        return False
    return True


def _hear(
    child: "subprocess.Popen[bytes]", watch: Callable[[int, int], None], work: Work
) -> dict[str, Any]:
    """The answer, {} where there is none.

    :raises VideoError: it makes no sense, as from a child that a hostile file took over.
    """
    assert child.stdout is not None
    last = -1
    while line := child.stdout.readline(_LONGEST):
        try:
            said = dict(json.loads(line))
            if "at" not in said:
                return said
            done, frames = (int(number) for number in said["at"])
            if not last < done <= _MOST or not 0 <= frames <= _MOST:
                raise ValueError("it counts as nobody does")
        except (ValueError, TypeError, RecursionError):
            if line.endswith(b"\n"):
                raise _no_sense(work) from None
            continue  # it died in the middle of it
        last = done
        watch(done, frames)
    return {}


def _made(answer: dict[str, Any], read: Callable[[Any], Made], work: Work) -> Made:
    """What became of the file.

    :raises VideoError: as in :func:`transcode`; likewise the others.
    """
    try:
        if "fatal" in answer:
            raise DfscanError(one_line(answer["fatal"]))
        if "failed" in answer:
            status, reason = answer["failed"]
            if status in STATUSES:
                raise VideoError(status, one_line(reason))
        return read(answer["made"])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise _no_sense(work) from None


def one_line(said: object) -> str:
    """What a child says, as a line that can be shown.

    :raises TypeError: it is no text.
    """
    if not isinstance(said, str):
        raise TypeError("no text")
    return "".join(c if c.isprintable() else "?" for c in said[:1000])


def _no_sense(work: Work) -> VideoError:
    return VideoError("crashed", f"the answer of the {work.doing} process makes no sense")


# ---------------------------------------------------------------- processes

_LOCK: Final = threading.Lock()
_RUNNING: Final[set["subprocess.Popen[bytes]"]] = set()
"""The children of this process; one that is given up is taken out before it is killed."""


def _start() -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, *_CHILD, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    with _LOCK:
        _RUNNING.add(child)
    return child


class _Complaints:
    """The last that a child wrote to stderr, read so that it never waits for a reader."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream, self._last = stream, b""
        self._thread = threading.Thread(target=self._read, name="complaints", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self._stream.fileno(), 1 << 16):
            self._last = (self._last + piece)[-2000:]

    def end(self) -> str:
        """The last line in brackets, "" where there is none; the child has ended."""
        self._thread.join()
        self._stream.close()
        lines = self._last.decode(errors="replace").strip().splitlines()
        return f" ({one_line(lines[-1][:160])})" if lines else ""


def _end(child: "subprocess.Popen[bytes]") -> bool:
    """Make sure that it is gone; whether it was still wanted."""
    with _LOCK:
        wanted = child in _RUNNING
        _RUNNING.discard(child)
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()
    return wanted


def end_all() -> None:
    """Give up what other threads wait for."""
    with _LOCK:
        for child in _RUNNING:
            child.kill()
        _RUNNING.clear()
