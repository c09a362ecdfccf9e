"""Looking at videos under a condition: each is re-encoded into a temporary file and seen there.

Decoding and encoding a whole clip goes on in a child process of its own for each video, with a
deadline and a limit on its memory, as hostile files ask for.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dfscan import storage
from dfscan.errors import DfscanError, VideoError
from dfscan.recipe import FaceRecipe
from dfscan.records import STATUSES, VideoRef
from dfscan.steps.isolation import TRIES, Limits
from dfscan.steps.look import Looker, Reference, Seen, empty_row
from dfscan.video.altering import CONDITIONS

SLOWER: Final = 5
"""Encoding a whole clip may take so many times as long as looking at its frames."""

ENCODER_BYTES: Final = 1 << 30
"""Memory beside what decoding may take: x264 keeps some sixty frames, 1.3 GB at 4K."""

_MADE: Final = frozenset(("picture", "lost", "content_sha256", "bytes"))


@dataclass(frozen=True)
class Made:
    """An altered file; the ``content_sha256`` and ``bytes`` of the original, and its lost frames."""

    path: Path
    content_sha256: str
    bytes: int
    lost: int


@dataclass(frozen=True)
class AlteredLook:
    """``look`` at what becomes of each video under a condition.

    Rows speak of the original file (``uri``, ``version``, ``content_sha256``, ``bytes``), but for
    width, height, rate and frames, which are those that were looked at. Which frames these are must
    not depend on the content, or conditions would be compared on different moments: the recipe's
    sampling spreads ``frames`` evenly over the clip, without an offset.

    :param condition: a key of :data:`~dfscan.video.altering.CONDITIONS`.
    :param folder: of the run, for temporary files.
    :param decoders: ways to read a clip in the order in which they are tried.
    """

    look: Looker
    condition: str
    folder: Path
    limits: Limits
    max_bytes: int
    decoders: tuple[str, ...]

    @property
    def recipe(self) -> FaceRecipe:
        """See :class:`~dfscan.steps.look.Looker`."""
        return self.look.recipe

    @property
    def device(self) -> str:
        """See :class:`~dfscan.steps.look.Looker`."""
        return self.look.device

    @property
    def lanes(self) -> int:
        """See :class:`~dfscan.steps.look.Looker`."""
        return self.look.lanes

    def abandon(self) -> None:
        """See :class:`~dfscan.steps.look.Looker`."""
        _end_all()
        self.look.abandon()

    def see(
        self, ref: VideoRef, also: Sequence[int] = (), reference: Reference | None = None
    ) -> Seen:
        """See :class:`~dfscan.steps.look.Looker`.

        :raises DfscanError: no child can be started, or nothing can be written.
        """
        started = time.monotonic()
        try:
            with self._altered(ref) as (made, there):
                seen = _as_original(ref, made, self.look.see(there, also, reference))
        except VideoError as failed:
            seen = Seen(empty_row(ref, failed.status, failed.reason), [])
        return replace(seen, row=replace(seen.row, elapsed_s=time.monotonic() - started))

    def survey(self, ref: VideoRef) -> list[int]:
        """See :class:`~dfscan.steps.look.Looker`; indices of the altered clip's frames."""
        with self._altered(ref) as (_, there):
            return self.look.survey(there)

    @contextlib.contextmanager
    def _altered(self, ref: VideoRef) -> Iterator[tuple[Made, VideoRef]]:
        """The altered file, and the video as it lies there; it is gone afterwards.

        :raises VideoError: the video cannot be read or re-encoded.
        """
        stem = self.folder / uuid.uuid4().hex
        try:
            made = self._alter(ref, stem)
            size = storage.size(made.path)
            yield made, replace(ref, uri=str(made.path), bytes=size, version="")
        finally:
            for picture in (False, True):
                storage.remove(self._path(stem, picture))

    def _path(self, stem: Path, picture: bool) -> Path:
        return stem.with_suffix(CONDITIONS[self.condition].suffix(picture))

    def _alter(self, ref: VideoRef, stem: Path) -> Made:
        if ref.bytes > self.max_bytes:
            raise VideoError("too_large", f"{ref.bytes:,} bytes, more than max_bytes")
        answer = _ask(
            {
                "uri": ref.uri,
                "max_bytes": self.max_bytes,
                "condition": self.condition,
                "stem": str(stem),
                "decoders": self.decoders,
                "memory": ENCODER_BYTES + self.limits.memory_limit(ref.bytes),
            },
            SLOWER * self.limits.deadline_s(ref.bytes),
        )
        if "fatal" in answer:
            raise DfscanError(answer["fatal"])
        if "failed" in answer:
            raise VideoError(*answer["failed"])
        return Made(
            path=self._path(stem, bool(answer["picture"])),
            content_sha256=str(answer["content_sha256"]),
            bytes=int(answer["bytes"]),
            lost=int(answer["lost"]),
        )


def _as_original(ref: VideoRef, made: Made, seen: Seen) -> Seen:
    """What was seen of the altered file, as of the video that it was made of."""
    row = replace(
        seen.row,
        uri=ref.uri,
        bytes=made.bytes,
        version=ref.version,
        content_sha256=made.content_sha256,
    )
    if made.lost and row.status in ("ok", "no_face"):
        row = replace(row, status="partial", reason=f"{made.lost} frame(s) lost before re-encoding")
    return replace(seen, row=row, faces=[replace(face, uri=ref.uri) for face in seen.faces])


# ---------------------------------------------------------------- the child

_LOCK: Final = threading.Lock()
_RUNNING: Final[set["subprocess.Popen[bytes]"]] = set()
"""The children of this process; one that is given up is taken out before it is killed."""


def _ask(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """Have a child alter a video. One that is killed from outside is tried again.

    :raises VideoError: it took too long or died of the video.
    """
    for _ in range(TRIES):
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "dfscan.steps.altering_child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,
        )
        with _LOCK:
            _RUNNING.add(child)
        try:
            said, complaints = child.communicate(json.dumps(request).encode(), deadline_s)
        except subprocess.TimeoutExpired:
            raise VideoError("timeout", f"not re-encoded after {deadline_s:.0f} s") from None
        finally:
            wanted = _end(child)
        if child.returncode == 0:
            return _read(said)
        if not wanted:
            raise VideoError("crashed", "given up")
        how = _death(child.returncode, complaints)
    raise VideoError("crashed", f"re-encoding ended by {how} on this video, {TRIES} times")


def _read(said: bytes) -> dict[str, Any]:
    """A child's answer.

    :raises VideoError: it makes no sense, as from a child that a hostile file took over.
    """
    try:
        answer = json.loads(said)
        if "failed" in answer:
            status, reason = answer["failed"]
            known = status in STATUSES and isinstance(reason, str)
        else:
            known = "fatal" in answer or answer.keys() == _MADE
        if known:
            return dict(answer)
    except (ValueError, TypeError, AttributeError):
        pass
    raise VideoError("crashed", "the answer of the re-encoding process makes no sense")


def _death(code: int, complaints: bytes) -> str:
    if code < 0:
        return signal.Signals(-code).name
    lines = complaints[-2000:].decode(errors="replace").strip().splitlines()
    return f"exit status {code}" + (f" ({lines[-1][:160]})" if lines else "")


def _end(child: "subprocess.Popen[bytes]") -> bool:
    """Make sure that it is gone; whether it was still wanted."""
    with _LOCK:
        wanted = child in _RUNNING
        _RUNNING.discard(child)
    if child.poll() is None:
        child.kill()
        child.communicate()
    return wanted


def _end_all() -> None:
    """Give up what other threads wait for."""
    with _LOCK:
        for child in _RUNNING:
            child.kill()
        _RUNNING.clear()
