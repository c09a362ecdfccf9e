"""Interpolate boxes from the sampled frames to every frame of a video.

Between two samples a box moves linearly. It is not interpolated across a cut or a gap in which the
face was not detected.
"""

import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan.faces.crops import Box
from dfscan.video import Frame

MISSED: Final = 2.5
"""Largest gap in samples that is interpolated: a face may be missed once."""

CUT: Final = 30.0
"""Mean difference of grey levels between two frames that indicates a cut."""

AHEAD_BYTES: Final = 128 << 20
"""Bytes of frames buffered while looking ahead for a cut."""

_SAMPLES: Final = 48
"""Rows and columns at which two frames are compared."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A face's position in a frame: ``box`` in pixels, and its score, a logit."""

    box: Box
    score_raw: float


@dataclass(frozen=True, slots=True)
class InShot:
    """A frame with the start and end of its shot in seconds; infinite if no cut is near."""

    frame: Frame
    begins_s: float
    ends_s: float


class Path:
    """One person's boxes over time.

    :param times: seconds, ascending, of the samples with this person. :param boxes: (N, 4) pixels,
        x0, y0, x1, y1. :param scores: (N,) logits.
    :param every_s: seconds between two samples of the video.
    """

    def __init__(
        self, times: Sequence[float], boxes: Any, scores: Sequence[float], every_s: float
    ) -> None:
        self._times = list(times)
        self._values = np.column_stack([np.asarray(boxes, np.float64), scores])
        self._every_s = every_s

    def at(self, when_s: float, begins_s: float, ends_s: float) -> Placed | None:
        """The person's position; None if absent or unknown.

        Before the first sample and after the last, the box stays for half a sampling interval, or
        for a full one if a cut ends it.

        :param begins_s: start of the shot that contains ``when_s``; ``ends_s`` is its end.
        """
        place = bisect.bisect_right(self._times, when_s)
        before = place - 1 if place and self._times[place - 1] >= begins_s else None
        after = place if place < len(self._times) and self._times[place] < ends_s else None
        if before is not None and after is not None:
            gap = self._times[after] - self._times[before]
            if gap <= MISSED * self._every_s:
                share = (when_s - self._times[before]) / gap
                values = self._values
                return _placed(values[before] * (1 - share) + values[after] * share)
        if before is not None and self._reaches(when_s - self._times[before], ends_s - when_s):
            return _placed(self._values[before])
        if after is not None and self._reaches(self._times[after] - when_s, when_s - begins_s):
            return _placed(self._values[after])
        return None

    def _reaches(self, from_look_s: float, to_cut_s: float) -> bool:
        """Whether a sample applies at this distance: half an interval, or a full one up to a
        cut."""
        near_cut = from_look_s + to_cut_s <= self._every_s
        return from_look_s <= self._every_s * (1.0 if near_cut else 0.5)


def _placed(values: npt.NDArray[np.float64]) -> Placed:
    x0, y0, x1, y1, score = (float(v) for v in values)
    return Placed((x0, y0, x1, y1), score)


def in_shots(frames: Iterable[Frame], ahead_s: float) -> Iterator[InShot]:
    """Yield each frame with its shot's bounds, looking ahead ``ahead_s`` seconds if memory allows.

    The last shot ends just after the last frame.
    """
    waiting: deque[Frame] = deque()
    cuts: deque[float] = deque()
    begins_s, held, last = -np.inf, 0, None

    def passed() -> InShot:
        nonlocal begins_s, held
        frame = waiting.popleft()
        held -= frame.rgb.nbytes
        while cuts and cuts[0] <= frame.pts_s:
            begins_s = cuts.popleft()
        return InShot(frame, begins_s, cuts[0] if cuts else np.inf)

    for frame in frames:
        sample = _sample(frame.rgb)
        if last is not None and _differ(last, sample):
            cuts.append(frame.pts_s)
        last = sample
        waiting.append(frame)
        held += frame.rgb.nbytes
        while frame.pts_s - waiting[0].pts_s > ahead_s or held > AHEAD_BYTES:
            yield passed()
            if not waiting:
                break
    if waiting:
        cuts.append(float(np.nextafter(waiting[-1].pts_s, np.inf)))
    while waiting:
        yield passed()


def _sample(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    rows, columns = (max(1, side // _SAMPLES) for side in rgb.shape[:2])
    grey: npt.NDArray[np.float32] = rgb[::rows, ::columns].mean(axis=2, dtype=np.float32)
    return grey


def _differ(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    return one.shape != other.shape or float(np.abs(one - other).mean()) > CUT
