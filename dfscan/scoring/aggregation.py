"""Logits of a video's faces → one score. Pure functions; sums do not depend on the order of faces."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from dfscan.schemas.scoring import Aggregation

TRACK_FACES: Final = 5
"""Faces that a track needs to speak for a person: the largest mean of short tracks is noise."""

TRIMMED: Final = 0.1
"""The share of the faces that ``trimmed`` leaves out at each end."""

_SURELY_FAKE: Final = 0.8
_SURELY_REAL: Final = 0.2
_MANY: Final = 11
_LIMIT: Final = 1e-7
"""A mean of probabilities is taken back to a logit no further out than this from 0 and 1."""


def aggregate(
    how: Aggregation, logits: Sequence[float], tracks: Sequence[int | None]
) -> float | None:
    """One score for a video, on the scale of its faces' logits.

    - ``mean``: of all faces.
    - ``confident``: the strategy of the system that won DFDC (Seferbekov,
      github.com/selimsef/dfdc_deepfake_challenge, ``confident_strategy``), on probabilities: where
      more than 1 in 2.5 faces and more than 11 are above 0.8, their mean; where more than 9 in 10
      are below 0.2, theirs; else that of all. Back to a logit, within ±16.1.
    - ``max_track``: the largest of the means of tracks with at least :data:`TRACK_FACES` faces: a
      video is as fake as its most fake person.
    - ``trimmed``: of the faces without the :data:`TRIMMED` highest and lowest.

    :param logits: (N,), N ≥ 1. :param tracks: each face's track, None: of none.
    :returns: None where ``max_track`` has no track that is long enough.
    """
    if how == "max_track":
        return max((_mean(own) for own in long_tracks(logits, tracks).values()), default=None)
    if how == "confident":
        return _confident(logits)
    if how == "trimmed":
        out = int(TRIMMED * len(logits))
        return _mean(sorted(logits)[out : len(logits) - out])
    return _mean(logits)


def long_tracks(
    logits: Sequence[float], tracks: Sequence[int | None]
) -> dict[int, Sequence[float]]:
    """The logits of each track with at least :data:`TRACK_FACES` faces."""
    found: dict[int, list[float]] = defaultdict(list)
    for logit, track in zip(logits, tracks, strict=True):
        if track is not None:
            found[track].append(logit)
    return {track: own for track, own in found.items() if len(own) >= TRACK_FACES}


def _confident(logits: Sequence[float]) -> float:
    shares = [sigmoid(logit) for logit in logits]
    fakes = [share for share in shares if share > _SURELY_FAKE]
    reals = [share for share in shares if share < _SURELY_REAL]
    if len(fakes) > len(shares) // 2.5 and len(fakes) > _MANY:
        chosen = fakes
    elif len(reals) > 0.9 * len(shares):
        chosen = reals
    else:
        chosen = shares
    return logit_of(min(max(_mean(chosen), _LIMIT), 1 - _LIMIT))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), for any x."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit_of(share: float) -> float:
    """The logit of a probability; infinite for 0 and 1."""
    if share <= 0 or share >= 1:
        return math.inf if share >= 1 else -math.inf
    return math.log(share) - math.log1p(-share)
