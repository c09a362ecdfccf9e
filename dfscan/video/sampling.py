"""Which frames of a video are sampled: pure arithmetic."""

import math
from typing import Final

from dfscan.schemas.recipe import Sampling

SPARSEST_S: Final = 2.0
"""``frames`` spreads evenly, but never sparser than one frame per this many seconds."""


def frame_indices(
    sampling: Sampling, *, frames: int, fps: float | None, label: str | None, content_sha256: str
) -> list[int]:
    """Indices of the frames to sample, ascending, in presentation order.

    :param frames: number of frames in the video; if it is ≥ 1, at least one index is returned.
    :param fps: average frames per second if known; needed by ``every_s``.
    :param label: selects the stride.
    :param content_sha256: hex; ``phase="hash"`` derives the offset from it, so a clip keeps its
        frames when it is moved or renamed.
    """
    if frames <= 0:
        return []
    if sampling.frames is not None:
        return _spread(sampling.frames, frames, fps)
    if sampling.stride is not None:
        stride = sampling.stride.of(label)
    else:
        assert sampling.every_s is not None
        stride = max(1, round(sampling.every_s * (fps or 25.0)))
    offset = int(content_sha256[:12], 16) if sampling.phase == "hash" else sampling.phase
    return list(range(offset % min(stride, frames), frames, stride))


def _spread(count: int, frames: int, fps: float | None) -> list[int]:
    """The middles of ``count`` equal intervals."""
    if fps:
        count = max(count, math.ceil(frames / fps / SPARSEST_S))
    count = min(count, frames)
    return [int((i + 0.5) * frames / count) for i in range(count)]
