"""From an aggregated logit to a probability: an affine map, fitted by Platt's method.

Source: J. Platt, Probabilistic outputs for support vector machines, 1999, with the regularised
targets that keep separable data from an infinite slope. Both classes are given equal weight, so
``p_fake`` is for a prior of one half whatever the share of fakes it was fitted on.
"""

import math
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit

from dfscan.recipe import Sampling, Strict

MIN_PER_CLASS: Final = 8
"""Fewer held-out videos of a class than this say too little about probabilities."""


class Calibration(Strict):
    """``p_fake = sigmoid(scale * score_raw + offset)`` for a video's aggregated logit.

    It holds for one way of sampling and aggregating, and for about as many frames a video: a mean
    over few frames scatters more than one over many. ``frames_median`` is the median number of
    scored faces (one a frame, mostly) of the videos it was fitted on, None in a file that does not
    say; ``reals`` and ``fakes`` say how many videos those were, ``prior`` the share of fakes that
    ``p_fake`` assumes.
    """

    scale: float = Field(gt=0)
    offset: float
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    reals: int = Field(ge=1)
    fakes: int = Field(ge=1)
    aggregation: str = "mean"
    sampling: Sampling
    frames_median: float | None = Field(None, gt=0)

    def p_fake(self, score: float) -> float:
        """Probability that a video with this aggregated logit is fake."""
        return float(expit(self.scale * score + self.offset))

    def llr(self, score: float) -> float:
        """Natural log-likelihood ratio, fake against real."""
        return self.scale * score + self.offset - math.log(self.prior / (1 - self.prior))


def fit(
    scores: npt.NDArray[np.float64],
    fake: npt.NDArray[np.bool_],
    sampling: Sampling,
    min_per_class: int = MIN_PER_CLASS,
    frames: npt.NDArray[np.int64] | None = None,
) -> Calibration | None:
    """Fit on held-out videos.

    :param scores: (N,) aggregated logits. :param fake: (N,) True for fakes.
    :param frames: (N,) how many faces each score is the mean of, where that is known.
    :returns: None where a class has fewer than ``min_per_class`` videos, or where higher scores
        do not mean fakes (the map must rise).
    """
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if min(fakes, reals) < min_per_class:
        return None
    targets = np.where(fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weights = np.where(fake, 0.5 / fakes, 0.5 / reals)
    spread = float(scores.std()) or 1.0

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        z = parameters[0] * scores / spread + parameters[1]
        return float((weights * (np.logaddexp(0, z) - targets * z)).sum())

    scale, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    if scale <= 0:
        return None
    return Calibration(
        scale=float(scale) / spread,
        offset=float(offset),
        reals=reals,
        fakes=fakes,
        sampling=sampling,
        frames_median=None if frames is None else float(np.median(frames)),
    )
