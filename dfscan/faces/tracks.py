"""Tracking: boxes of one video → one number per person.

Sampled frames are far apart (a second or more), so motion is not predicted: each new box is
compared with the last box of every recently seen person. Only boxes are compared, not faces: people
who swap positions between sampled frames swap numbers, a person who moves fast gets several, and
after a cut a person in somebody else's position takes over that number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Boxes = npt.NDArray[np.float32]
_Matrix = npt.NDArray[np.float64]

MIN_IOU: Final = 0.2
"""Smallest IoU of boxes of one person: equal boxes two thirds of a side apart."""

REACH: Final = 0.5
"""Largest movement of the centre between frames, in mean sides of the two boxes."""

REACH_A_SECOND: Final = 2.0
"""Additional movement per second: a head that turns or leans, or a hand-held camera."""

MAX_REACH: Final = 2.0
"""Upper limit of the movement: people side by side are further apart."""

MAX_SIZE_RATIO: Final = 2.0
"""Largest ratio of sides: a face rarely doubles in size between frames."""

MAX_SIZE_RATIO_APART: Final = 1.5
"""The same for boxes with a smaller IoU, where a second difference suffices to reject."""

FORGET_S: Final = 5.0
"""Seconds after which an unseen person is forgotten."""

FORGET_INTERVALS: Final = 3.0
"""Minimum in frame intervals: with sparse frames, a person may be missed in two of them."""

HALF_LIFE_S: Final = 1.0
"""Seconds after which a box counts half, so that recently seen people take precedence."""


@dataclass(slots=True)
class _Track:
    """One person: the last box (4,), x0 y0 x1 y1 in pixels, and when it was seen, in seconds."""

    number: int
    box: Boxes
    seen: float


def join(times: Sequence[float], boxes: Sequence[Boxes]) -> list[list[int]]:
    """Number the people of one video: 0, 1, 2, … in order of appearance.

    In each frame, boxes are assigned to tracks so that the sum of similarities is largest (the
    Hungarian method, Kuhn 1955), which keeps neighbours apart; an unmatched box starts a new track.

    :param times: seconds, ascending, one per frame.
    :param boxes: (N, 4) float32 each: x0, y0, x1, y1 in pixels; N may be 0.
    :returns: for each frame the number of each of its boxes.
    :raises ValueError: ``times`` and ``boxes`` differ in length.
    """
    forget = _forget_after(times)
    live: list[_Track] = []
    born = 0
    joined = []
    for time, found in zip(times, boxes, strict=True):
        live = [track for track in live if time - track.seen <= forget]
        numbers = []
        for box, track in zip(found, _match(live, time, found), strict=True):
            if track is None:
                live.append(_Track(born, box, time))
                numbers.append(born)
                born += 1
            else:
                track.box, track.seen = box, time
                numbers.append(track.number)
        joined.append(numbers)
    return joined


def _forget_after(times: Sequence[float]) -> float:
    """Seconds after which an unseen person is forgotten."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return max(FORGET_S, FORGET_INTERVALS * interval * 1.01)  # 1.01: time stamps are rounded


def _match(tracks: Sequence[_Track], time: float, found: Boxes) -> list[_Track | None]:
    """The track of each box, None for a new person."""
    matched: list[_Track | None] = [None] * len(found)
    if not tracks or not len(found):
        return matched
    last = np.stack([track.box for track in tracks])
    gaps = np.array([[max(0.0, time - track.seen)] for track in tracks])
    like = _likeness(last, found, gaps) / (1 + gaps / HALF_LIFE_S)
    for row, column in zip(*linear_sum_assignment(like, maximize=True), strict=True):
        if like[row, column] > 0:
            matched[column] = tracks[row]
    return matched


def _likeness(last: Boxes, found: Boxes, gaps: _Matrix) -> _Matrix:
    """Similarity of each track and box: (T, N), 0 (impossible) to 1 (same box).

    The mean of IoU and centre proximity, times the ratio of the sizes. Impossible pairs count 0, so
    two doubtful pairs do not outweigh a certain one.

    :param last: (T, 4), the last box of each track.
    :param found: (N, 4), the boxes of this frame.
    :param gaps: (T, 1), seconds since each track was seen.
    """
    old, new = last.astype(np.float64)[:, None], found.astype(np.float64)[None]
    side_old, side_new = _side(old), _side(new)
    overlap = _iou(old, new)
    moved = np.linalg.norm(_centre(old) - _centre(new), axis=2) / ((side_old + side_new) / 2)
    ratio = np.minimum(side_old, side_new) / np.maximum(side_old, side_new)
    reach = np.minimum(REACH + REACH_A_SECOND * gaps, MAX_REACH)
    overlaps = (overlap >= MIN_IOU) & (ratio >= 1 / MAX_SIZE_RATIO)
    near = (moved <= reach) & (ratio >= 1 / MAX_SIZE_RATIO_APART)
    nearness = np.clip(1 - moved / (MAX_REACH + REACH), 0, 1)
    return np.where(overlaps | near, (overlap + nearness) / 2 * ratio, 0.0)


def _side(boxes: _Matrix) -> _Matrix:
    """The side of the square of the same area, in pixels."""
    extent = np.maximum(boxes[..., 2:] - boxes[..., :2], 1e-6)
    side: _Matrix = np.sqrt(extent[..., 0] * extent[..., 1])
    return side


def _centre(boxes: _Matrix) -> _Matrix:
    centre: _Matrix = (boxes[..., :2] + boxes[..., 2:]) / 2
    return centre


def _iou(a: _Matrix, b: _Matrix) -> _Matrix:
    """Intersection over union."""
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.maximum(shared, 0).prod(axis=-1)
    union = _side(a) ** 2 + _side(b) ** 2 - both
    iou: _Matrix = both / np.maximum(union, 1e-12)
    return iou
