"""Looking at videos in a child process that can be ended.

A decoder can hang holding the interpreter, crash, leak, or eat memory on a hostile file. The
child has a deadline for each video and limits on its memory and its processor time; it is handed
the video's bytes and can open no file itself (:mod:`dfscan.pipeline.sandbox.seccomp`). Whatever becomes of it
costs that one video its row, and the next video gets a new child. A child that dies of something else (the
machine ran out of memory, someone killed it) is not the video's fault: the video is tried again.
After a crash (a segmentation fault, say) the second try leaves decord out.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from dfscan.errors import DfscanError, VideoError
from dfscan.pipeline.extraction.extractor import (
    ExtractionResult,
    InProcessExtractor,
    ReferenceFaces,
    failed_row,
)
from dfscan.pipeline.sandbox import protocol
from dfscan.pipeline.sandbox.detector_server import (
    INVALID_RESPONSE,
    SharedFrameBuffer,
    serve,
    shared_server,
)
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import VideoRef
from dfscan.storage import fault_injection as faults

TRIES: Final = 3
"""Children that a video may cost before it is given up."""

START_S: Final = 300.0
"""A new child that has not loaded its networks by then will not."""

SLOWEST: Final = 1_000_000
"""Bytes a second that a decoder must at least get through: the deadline grows with the file."""

FRAME_S: Final = 1.0
"""Seconds for each further frame that fakes ask of their original."""

COPIES: Final = 3
"""A file's bytes may lie so often in the child's memory before they count as too much."""

_LOOK_EVERY_S: Final = 0.5

MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
"""For glibc: keep freed blocks of some megabytes, of which every frame needs a hundred.

Given back to the system and asked for again, their pages cost the detector half its time.
"""

_PASSED_ON: Final = (
    *("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "LD_", "PYTHON", "DFSCAN_", "VIRTUAL_ENV"),
    *("CUDA_", "NVIDIA_", "TORCH_", "PYTORCH_", "XDG_CACHE_HOME", "GLIBC_", "ROCR_", "HIP_"),
)
"""How the environment variables begin that a child gets: no credentials of an object store."""

_CRASHES: Final = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
)
"""What a decoder dies of; SIGKILL comes from outside."""


@dataclass(frozen=True)
class Limits:
    """What one video may cost: seconds, bytes of memory; and videos before a child is replaced."""

    timeout_s: float
    memory_bytes: int | None = None
    recycle: int = 500

    def deadline_s(self, file_bytes: int, more_frames: int = 0) -> float:
        """Seconds for a file of this size, with frames to look at besides those of the recipe."""
        return self.timeout_s + file_bytes / SLOWEST + more_frames * FRAME_S

    def processor_s(self, deadline_s: float) -> float:
        """Seconds of processor time: one thread decodes, so more is a decoder run wild."""
        return deadline_s + 10

    def memory_limit(self, file_bytes: int) -> int:
        """Bytes of private memory for a file of this size, on this machine."""
        return (self.memory_bytes or _share_of_memory()) + COPIES * file_bytes


@dataclass(frozen=True)
class SandboxedExtractor:
    """:class:`~dfscan.pipeline.extraction.extractor.InProcessExtractor`, in a child of this process.

    With ``decoders`` the faces are found in this process, for so many children at once.
    """

    extractor: InProcessExtractor
    limits: Limits
    decoders: int = 0

    @property
    def max_concurrent(self) -> int:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return max(1, self.decoders)

    def abandon(self) -> None:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        end_child()

    @property
    def recipe(self) -> FaceRecipe:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return self.extractor.recipe

    @property
    def device(self) -> str:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return self.extractor.device

    def extract(
        self,
        ref: VideoRef,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`.

        :raises DfscanError: no child can be started, or dfscan is not installed as it should be.
        """
        header: dict[str, Any] = {
            "kind": "extract",
            "ref": asdict(ref),
            "extra_frames": list(extra_frames),
        }
        header["reference"] = protocol.reference_header(reference)
        started = time.monotonic()
        try:
            deadline = self.limits.deadline_s(ref.bytes, len(extra_frames))
            read = _Read(self.extractor, ref)
            answer = self._ask(read, header, deadline, reference)
            with _sense():
                return _of(read, protocol.read_result(*answer))
        except VideoError as failed:
            row = failed_row(ref, failed.status, failed.reason)
            return ExtractionResult(replace(row, elapsed_s=time.monotonic() - started), [])

    def sample_frames(self, ref: VideoRef) -> list[int]:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`.

        :raises DfscanError: as in :meth:`extract`.
        """
        header = {"kind": "sample_frames", "ref": asdict(ref)}
        deadline = self.limits.deadline_s(ref.bytes)
        answer, _ = self._ask(_Read(self.extractor, ref), header, deadline, None)
        with _sense():
            return [int(index) for index in answer["indices"]]

    def _ask(
        self,
        read: "_Read",
        header: dict[str, Any],
        deadline: float,
        reference: ReferenceFaces | None,
    ) -> tuple[dict[str, Any], bytes]:
        extractor, fed = self.extractor, bool(self.decoders)
        memory = self.limits.memory_limit(read.ref.bytes)
        header |= {"memory": memory, "seconds": self.limits.processor_s(deadline)}
        for attempt in range(1, TRIES + 1):
            header["extractor"] = _extractor_text(extractor, fed)
            header["faults"] = faults.pending_faults("child.look", read.ref.video_id)
            request = protocol.message(header, reference.faces if reference else ())
            child = _take_child(extractor, self.limits.recycle, fed)
            try:
                answer, table = child.ask(request, deadline, memory, read)
            except _Died as died:
                if died.signal == signal.SIGXCPU:
                    how = f"used more than {header['seconds']:.0f} s of processor time"
                    raise VideoError("timeout", how) from None
                if attempt == TRIES or child.dismissed:
                    how = f"the decoder ended by {died} on this video, {attempt} times"
                    raise VideoError("crashed", how) from None
                if died.signal in _CRASHES:
                    extractor = replace(extractor, decoders=extractor.decoders[-1:])
                continue
            finally:
                _put_back(child)
            if "fatal" in answer:
                raise DfscanError(answer["fatal"])
            if "failed" in answer:
                raise VideoError(*answer["failed"])
            return answer, table
        raise AssertionError("unreachable")


class _Read:
    """A video's bytes on their way to a child, and what they were, for which its word is not taken."""

    def __init__(self, extractor: InProcessExtractor, ref: VideoRef) -> None:
        self.ref, self._extractor = ref, extractor
        self.bytes, self.sha256 = 0, ""

    def pieces(self) -> Iterator[bytes]:
        """All of them, as :mod:`~dfscan.pipeline.sandbox.protocol` has it.

        :raises VideoError: they cannot be read.
        """
        digest = hashlib.sha256()
        self.bytes = 0
        for piece in self._extractor.pieces(self.ref):
            digest.update(piece)
            self.bytes += len(piece)
            yield protocol.PIECE.pack(len(piece))
            yield piece
        self.sha256 = digest.hexdigest()
        yield protocol.PIECE.pack(0) + digest.digest()


@contextlib.contextmanager
def _sense() -> Iterator[None]:
    """What a child answers may be anything, once a video has taken it over."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        raise VideoError("crashed", INVALID_RESPONSE) from None


def _of(read: _Read, result: ExtractionResult) -> ExtractionResult:
    """What was seen, as this video's: a child that was taken over cannot speak of another."""
    mine = asdict(read.ref) | {"bytes": read.bytes}
    row = replace(result.row, **mine, content_sha256=read.sha256)
    del mine["version"], mine["bytes"]
    return replace(result, row=row, faces=[replace(face, **mine) for face in result.faces])


class _Died(Exception):  # noqa: N818
    """The child ended by itself; the message says of what."""

    def __init__(self, how: str, signal_: int | None) -> None:
        super().__init__(how)
        self.signal = signal_


def environment() -> dict[str, str]:
    """The environment variables of a process that decodes what may be hostile."""
    passed_on = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    return passed_on | {
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # it would be outside the sandbox
        "OMP_NUM_THREADS": "1",  # one thread a worker
        "MKL_NUM_THREADS": "1",
        **MALLOC,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, extractor: InProcessExtractor, fed: bool) -> None:
        self.detector = _detector(extractor, fed)
        self.server = shared_server(extractor.recipe.detector, extractor.device) if fed else None
        self.frames = SharedFrameBuffer() if fed else None
        self.alive, self.dismissed = True, False
        self.videos = 0
        self.ready: set[str] = set()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (as long-lived as the child)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "dfscan.pipeline.sandbox.extraction_worker",
                *self._arguments(),
            ],
            pass_fds=[self.frames.descriptor] if self.frames else [],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        os.set_blocking(self._requests.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._ready_for_more = select.poll()
        self._ready_for_more.register(self._requests, select.POLLOUT)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _arguments(self) -> list[str]:
        descriptor = [str(self.frames.descriptor)] if self.frames else []
        return [str(os.getpid()), *descriptor]

    def ask(
        self, request: bytes, deadline_s: float, memory: int, read: _Read | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and the bytes it is about, and wait for its answer.

        A child that fails is ended. Meanwhile faces are found for it, where it is fed.

        :raises _Died: it ended by itself.
        :raises VideoError: it took too long, or too much memory, or the bytes cannot be read.
        """
        until = time.monotonic() + deadline_s
        try:
            self._send(request, until, deadline_s)
            unread = self._hand_over(read, until, deadline_s) if read else None
        except BrokenPipeError:
            raise self._death() from None
        except BaseException:
            self.end()
            raise
        if unread:
            raise unread
        return self._answer(until, deadline_s, memory)

    def _hand_over(self, read: _Read, until: float, deadline_s: float) -> VideoError | None:
        """Send a video's bytes; what is wrong with them is no fault of the child's."""
        pieces = read.pieces()
        while True:
            try:
                piece = next(pieces, None)
            except VideoError as error:
                self._send(protocol.PIECE.pack(protocol.GIVEN_UP), until, deadline_s)
                return error
            if piece is None:
                return None
            self._send(piece, until, deadline_s)

    def _send(self, data: bytes, until: float, deadline_s: float) -> None:
        """To a child that takes it; one that was taken over might not.

        :raises BrokenPipeError: it has ended.
        :raises VideoError: it takes too long.
        """
        left = memoryview(data)
        while left:
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise VideoError("timeout", f"not done after {deadline_s:.0f} s")
            if self._ready_for_more.poll(1000 * remaining):
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._requests.fileno(), left) :]

    def _answer(self, until: float, deadline_s: float, memory: int) -> tuple[dict[str, Any], bytes]:
        try:
            while True:
                answer, table = self._receive(until, deadline_s, memory)
                if "detect" not in answer or self.frames is None or self.server is None:
                    return answer, table
                began = time.monotonic()
                found = serve(self.frames, self.server, answer["detect"])
                until += time.monotonic() - began  # the others' frames are not this video's time
                self._send(protocol.message({"found": found}), until, deadline_s)
        except BrokenPipeError:
            raise self._death() from None
        except BaseException:
            self.end()
            raise

    def _receive(
        self, until: float, deadline_s: float, memory: int
    ) -> tuple[dict[str, Any], bytes]:
        buffer = bytearray()
        size = protocol.PREFIX.size
        look_at = time.monotonic() + _LOOK_EVERY_S
        while len(buffer) < size:
            now = time.monotonic()
            if now >= until:
                raise VideoError("timeout", f"not done after {deadline_s:.0f} s")
            if now >= look_at:
                look_at = now + _LOOK_EVERY_S
                held = self.frames.held() if self.frames else 0
                if _private_memory(self.pid, memory - held) > memory - held:
                    raise VideoError(*protocol.too_much(memory))
            self._poll.poll(1000 * min(_LOOK_EVERY_S, until - now))
            piece = self._answers.read(1 << 20)
            if piece == b"":
                raise self._death()
            buffer += piece or b""
            if size == protocol.PREFIX.size and len(buffer) >= size:
                size = self._length(buffer, memory)
        text, _ = protocol.PREFIX.unpack(buffer[: protocol.PREFIX.size])
        middle = protocol.PREFIX.size + text
        with _sense():
            header = json.loads(buffer[protocol.PREFIX.size : middle])
            return dict(header), bytes(buffer[middle:])

    def _length(self, buffer: bytearray, memory: int) -> int:
        length = protocol.PREFIX.size + sum(protocol.PREFIX.unpack(buffer[: protocol.PREFIX.size]))
        if length > min(protocol.LIMIT, memory):
            raise VideoError("crashed", INVALID_RESPONSE)
        return int(length)

    def serves(self, extractor: InProcessExtractor, recycle: int, fed: bool) -> bool:
        """Whether it runs, is not too old, and has the networks that ``look`` needs.

        It is not given others: decord is loaded by then, and torch must come before it.
        """
        fresh = self.videos < recycle and not self.dismissed and self._process.poll() is None
        return fresh and self.detector == _detector(extractor, fed)

    def _death(self) -> _Died:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # it has closed its pipe, so it is about to be gone
        self._process.kill()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        last = self._last_words() if code > 0 else ""
        self.end()
        return _Died(how + (f" ({last})" if last else ""), -code if code < 0 else None)

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:160] if lines else ""

    def dismiss(self) -> None:
        """Kill it while another thread waits for its answer; that thread ends it."""
        self.dismissed = True
        self._process.kill()

    def end(self) -> None:
        """End it and wait until it is gone."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        if self.frames:
            self.frames.close()
            self.frames = None
        for stream in (self._requests, self._answers, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _detector(extractor: InProcessExtractor, fed: bool) -> tuple[object, ...]:
    return extractor.recipe.detector, extractor.device, fed


_LOCK: Final = threading.Lock()
_IDLE: Final[list[_Child]] = []
_BUSY: Final[set[_Child]] = set()
"""The children of this process: as many as videos are looked at at once."""


def _take_child(extractor: InProcessExtractor, recycle: int, fed: bool) -> _Child:
    """A child, alive, with the networks of ``look`` loaded; a new one every so many videos.

    :raises DfscanError: it cannot be started.
    """
    for attempt in range(1, TRIES + 1):
        child = _idle(extractor, recycle, fed) or _Child(extractor, fed)
        with _LOCK:
            _BUSY.add(child)
        try:
            _warm(child, _extractor_text(extractor, fed))
        except (_Died, VideoError) as error:
            _put_back(child)
            if attempt == TRIES or child.dismissed:
                raise DfscanError(f"the decoding process does not start: {error}") from None
            continue
        except BaseException:
            child.dismiss()
            _put_back(child)
            raise
        child.videos += 1
        return child
    raise AssertionError("unreachable")


def _idle(extractor: InProcessExtractor, recycle: int, fed: bool) -> _Child | None:
    """One that waits; those that do not suit are ended."""
    with _LOCK:
        while _IDLE:
            child = _IDLE.pop()
            if child.serves(extractor, recycle, fed):
                return child
            child.end()
    return None


def _put_back(child: _Child) -> None:
    with _LOCK:
        _BUSY.discard(child)
        if child.alive and child.dismissed:
            child.end()
        elif child.alive:
            _IDLE.append(child)


def _warm(child: _Child, extractor: str) -> None:
    """Have the networks loaded before the first video's time runs."""
    if extractor in child.ready:
        return
    answer, _ = child.ask(
        protocol.message({"kind": "warm", "extractor": extractor}), START_S, sys.maxsize
    )
    if "lacking" not in answer:
        raise DfscanError(answer.get("fatal") or answer["failed"][1])
    child.ready.add(extractor)


def end_child() -> None:
    """End the children of this process; the next video starts another."""
    with _LOCK:
        for child in _BUSY:
            child.dismiss()
        while _IDLE:
            _IDLE.pop().end()


atexit.register(end_child)


@functools.lru_cache(maxsize=8)
def _extractor_text(extractor: InProcessExtractor, fed: bool) -> str:
    values = {
        "recipe": extractor.recipe.model_dump(mode="json"),
        "device": extractor.device,
        "fed": fed,
    }
    return json.dumps(values | {"max_bytes": extractor.max_bytes, "decoders": extractor.decoders})


@functools.lru_cache(maxsize=1)
def _share_of_memory() -> int:
    """Three quarters of this machine's (or container's) memory, shared by its CPUs; 2 to 8 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(max(total * 3 // 4 // (os.cpu_count() or 1), 2 << 30), 8 << 30)


def _private_memory(pid: int, limit: int) -> int:
    """Bytes of memory that a process alone holds; the exact figure only where it may pass ``limit``.

    Shared pages (libraries, files) would count against every child alike: torch and decord map
    some 4.6 GB.
    """
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        rough, shared = (int(n) * os.sysconf("SC_PAGE_SIZE") for n in pages[1:3])
        if rough <= limit:
            return rough
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:  # it has become nobody, and root here may not look into it
        return rough - shared
    except (OSError, IndexError, ValueError):
        return 0  # it has ended, or this is not Linux
    sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines[1:])}
    return 1024 * (sizes.get("Pss_Anon", sizes.get("Pss", 0)) + sizes.get("Pss_Shmem", 0))
