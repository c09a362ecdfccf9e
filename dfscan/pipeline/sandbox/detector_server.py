"""One detector for several decoding processes: they put frames into memory that both sides map.

On a GPU the detector needs large batches and its networks once. Each worker therefore keeps it, and
its decoding children, which load neither torch nor CUDA, hand their frames over: the pixels lie in a
file without a name, in memory; what is in it travels over the pipe. Frames of one size that wait at
the same time pass the detector together, whichever videos they are from.
"""

import fcntl
import math
import mmap
import os
import queue
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan.errors import DfscanError, VideoError
from dfscan.faces.base import Detections, FaceDetector
from dfscan.faces.detectors import load_detector
from dfscan.schemas.recipe import Detector

Frames = Sequence[npt.NDArray[np.uint8]]

CELL: Final = 12
"""No detector looks for smaller faces."""

LONGEST_S: Final = 600.0
"""A detector that takes longer for some frames hangs."""

_MOST: Final = 1 << 15
"""Frames in a batch, and pixels along a side, are no more than that."""

LARGEST: Final = 1 << 30
"""No batch takes more bytes: two frames of 16K."""

INVALID_RESPONSE: Final = "the decoder's answer makes no sense"

_F_ADD_SEALS: Final = 1033
_F_SEAL_SHRINK: Final = 2


class SharedFrameBuffer:
    """Memory for the frames of one child; the child's process inherits the file descriptor."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _memory() if descriptor is None else descriptor

    def write(self, frames: Frames) -> dict[str, Any]:
        """Put frames of one size there, and say what lies there now."""
        size = sum(frame.nbytes for frame in frames)
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        with mmap.mmap(self.descriptor, size) as memory:
            taken = 0
            for frame in frames:
                memory[taken : taken + frame.nbytes] = frame.tobytes()
                taken += frame.nbytes
        return {"count": len(frames), "shape": list(frames[0].shape)}

    def read(self, said: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
        """The frames that :meth:`write` put there, without copying them.

        :raises VideoError: what the child says of them cannot be.
        """
        shape = [said.get("count"), *(said.get("shape") or ())]
        whole = len(shape) == 4 and all(isinstance(n, int) and 0 < n <= _MOST for n in shape)
        size = math.prod(shape) if whole else 0
        there = min(os.fstat(self.descriptor).st_size, LARGEST)
        if not 0 < size <= there or shape[3] != 3:
            raise VideoError("crashed", INVALID_RESPONSE)
        memory = mmap.mmap(self.descriptor, size, access=mmap.ACCESS_COPY)
        return list(np.frombuffer(memory, np.uint8).reshape(shape))

    def held(self) -> int:
        """Bytes of memory that it takes."""
        return os.fstat(self.descriptor).st_blocks * 512

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)


def _memory() -> int:
    """A file in memory; on Linux no child can cut it short while this process reads it."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    descriptor = os.memfd_create("dfscan-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK)
    return descriptor


class RemoteDetector(FaceDetector):
    """The detector of another process, as a decoding child sees it.

    :param ask: sends a request to the worker and returns its answer.
    """

    def __init__(self, frames: SharedFrameBuffer, ask: Callable[[dict[str, Any]], Any]) -> None:
        self._frames, self._ask = frames, ask

    def detect(self, frames: Frames, min_face: int) -> list[Detections]:
        """See :meth:`FaceDetector.detect`."""
        said = self._frames.write(frames) | {"min_face": min_face}
        return [
            Detections(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(points, np.float32).reshape(-1, 5, 2),
                np.array(scores, np.float32),
            )
            for boxes, points, scores in self._ask(said)
        ]


class DetectorServer:
    """The worker's detector: takes frames from any thread, looks at them in batches."""

    def __init__(self, recipe: Detector, device: str) -> None:
        self._detector = load_detector(recipe, device)
        self._waiting: queue.SimpleQueue[tuple[Frames, int, Future[list[Detections]]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, name="detector", daemon=True).start()

    def detect(self, frames: Frames, min_face: int, timeout_s: float) -> list[Detections]:
        """As :meth:`FaceDetector.detect`; blocks until this call's frames have been looked at.

        :raises TimeoutError: they have not been after so many seconds.
        """
        result: Future[list[Detections]] = Future()
        self._waiting.put((frames, min_face, result))
        return result.result(timeout_s)

    def _run(self) -> None:
        while True:
            requests = [self._waiting.get()]
            while not self._waiting.empty():  # this thread alone takes from it
                requests.append(self._waiting.get())
            together = defaultdict(list)
            for frames, min_face, result in requests:
                together[frames[0].shape, min_face].append((frames, result))
            for (_, min_face), same in together.items():
                if not self._detect(min_face, same) and len(same) > 1:
                    for one in same:  # those who share a batch do not share its failure
                        self._detect(min_face, [one])

    def _detect(
        self, min_face: int, requests: Sequence[tuple[Frames, Future[list[Detections]]]]
    ) -> bool:
        """Answer requests over frames of one size; False where several failed together."""
        try:
            found = self._detector.detect([f for frames, _ in requests for f in frames], min_face)
        except Exception as error:  # noqa: BLE001  (it belongs to those who wait for the answer)
            if len(requests) == 1:
                requests[0][1].set_exception(error)
            return False
        start = 0
        for frames, result in requests:
            result.set_result(found[start : start + len(frames)])
            start += len(frames)
        return True


_LOCK: Final = threading.Lock()
_SERVERS: Final[dict[tuple[Detector, str], DetectorServer]] = {}


def shared_server(recipe: Detector, device: str) -> DetectorServer:
    """The one detector of this process for this recipe, whichever thread asks first.

    :raises DfscanError: its networks cannot be loaded there.
    """
    with _LOCK:
        if (recipe, device) not in _SERVERS:
            try:
                _SERVERS[recipe, device] = DetectorServer(recipe, device)
            except RuntimeError as error:
                raise DfscanError(
                    f"the detector cannot be loaded on {device}: {_first_line(error)}",
                    code="device.unavailable",
                ) from None
        return _SERVERS[recipe, device]


def serve(frames: SharedFrameBuffer, server: DetectorServer, said: dict[str, Any]) -> list[Any]:
    """Answer a child's :class:`RemoteDetector`.

    :raises VideoError: the child asks for what cannot be, or its frames are too much.
    :raises DfscanError: the detector fails or hangs, which no video is to blame for.
    """
    min_face = said.get("min_face")
    if (
        not isinstance(min_face, int)
        or not isinstance(said.get("shape"), list)
        or not CELL <= min_face <= _MOST
    ):
        raise VideoError("crashed", INVALID_RESPONSE)
    try:
        found = server.detect(frames.read(said), min_face, LONGEST_S)
    except TimeoutError:
        raise DfscanError(
            f"the detector has not answered for {LONGEST_S:.0f} s", code="device.unavailable"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
            raise VideoError("crashed", f"the detector: {_first_line(error)}") from None
        raise DfscanError(
            f"the detector failed: {_first_line(error)}", code="device.unavailable"
        ) from None
    return [[d.boxes.tolist(), d.landmarks.tolist(), d.scores.tolist()] for d in found]


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:160] if lines else type(error).__name__
