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

from dfscan.errors import UsageError
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Sampling
from dfscan.schemas.scoring import Aggregation
from dfscan.scoring.aggregation import logit_of, sigmoid

TOP_REALS: Final = 200
"""Scores of reals that a calibration keeps, at most: the highest."""

MIN_PER_CLASS: Final = 8
"""Fewer held-out videos of a class than this say too little about probabilities."""


class Calibration(Strict):
    """``p_fake = sigmoid(scale * score_raw + offset)`` for a video's aggregated logit.

    It holds for one way of sampling and aggregating, and for about as many frames a video: a mean
    over few frames scatters more than one over many. ``frames_median`` is the median number of
    scored faces (one a frame, mostly) of the videos it was fitted on, None in a file that does not
    say; ``reals`` and ``fakes`` say how many videos those were, ``prior`` the share of fakes that
    ``p_fake`` assumes.

    ``people`` times the natural logarithm of the number of people is added inside: the largest of
    several people's scores is high by chance already. ``threshold`` is the operating point on
    ``p_fake`` that was chosen on the same videos, ``top_reals`` are the highest log-likelihood
    ratios of their reals, falling, from which :meth:`at_fpr` takes another.
    """

    scale: float = Field(gt=0)
    offset: float
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    reals: int = Field(ge=1)
    fakes: int = Field(ge=1)
    aggregation: Aggregation = "mean"
    sampling: Sampling
    frames_median: float | None = Field(None, gt=0)
    people: float = 0.0
    threshold: float | None = Field(None, ge=0, le=1)
    top_reals: tuple[float, ...] = ()

    def logit(self, score: float, people: int = 1) -> float:
        """The logit of :meth:`p_fake`."""
        return self.scale * score + self.offset + self.people * math.log(max(1, people))

    def p_fake(self, score: float, people: int = 1) -> float:
        """Probability that a video with this aggregated logit and so many people is fake."""
        return float(expit(self.logit(score, people)))

    def llr(self, score: float, people: int = 1) -> float:
        """Natural log-likelihood ratio, fake against real."""
        return self.logit(score, people) - _log_odds(self.prior)

    def at_prior(self, prior: float) -> "Calibration":
        """The same evidence for another prior share of fakes.

        Bayes' rule in log-odds: posterior = ``llr`` + log(prior / (1 - prior)). So the offset moves
        by the difference of both priors' log-odds, and the threshold with it: ``llr`` and verdicts
        stay as they are.

        :param prior: share of fakes, above 0 and below 1.
        :raises ValueError: it is not.
        """
        if not 0 < prior < 1:
            raise ValueError(f"prior must be above 0 and below 1, got {prior}")
        moved = _log_odds(prior) - _log_odds(self.prior)
        threshold = None if self.threshold is None else sigmoid(logit_of(self.threshold) + moved)
        return self.model_copy(
            update={"offset": self.offset + moved, "prior": prior, "threshold": threshold}
        )

    def at_fpr(self, share: float) -> float:
        """The threshold on ``p_fake`` above which at most this share of the held-out reals lies.

        :raises UsageError: there were too few reals to say, or the file does not hold their scores.
        """
        allowed = int(share * self.reals + 1e-9)
        if not self.top_reals:
            raise UsageError(
                "score.at_fpr: the model does not hold its reals' scores: train again",
                code="evidence.too_few",
            )
        if not 0 < allowed < len(self.top_reals):
            raise UsageError(
                f"score.at_fpr: got {share:g}; {self.reals} held-out reals allow for "
                f"{1 / self.reals:.3g} to {(len(self.top_reals) - 1) / self.reals:.3g}",
                code="evidence.too_few",
            )
        prior = _log_odds(self.prior)
        return math.nextafter(float(expit(self.top_reals[allowed] + prior)), 1)


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def fit(
    scores: npt.NDArray[np.float64],
    fake: npt.NDArray[np.bool_],
    sampling: Sampling,
    min_per_class: int = MIN_PER_CLASS,
    frames: npt.NDArray[np.int64] | None = None,
    aggregation: Aggregation = "mean",
    people: npt.NDArray[np.int64] | None = None,
) -> Calibration | None:
    """Fit on held-out videos.

    :param scores: (N,) aggregated logits. :param fake: (N,) True for fakes.
    :param frames: (N,) how many faces each score is made of, where that is known.
    :param people: (N,) people in each video; given, their number is part of the map, where the
        videos differ in it.
    :returns: None where a class has fewer than ``min_per_class`` videos, or where higher scores
        do not mean fakes (the map must rise).
    """
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if min(fakes, reals) < min_per_class:
        return None
    targets = np.where(fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weights = np.where(fake, 0.5 / fakes, 0.5 / reals)
    spread = float(scores.std()) or 1.0
    columns = [scores / spread, np.ones(len(scores))]
    crowd = np.zeros(len(scores)) if people is None else np.log(np.maximum(people, 1))
    if np.ptp(crowd) > 0:
        columns.append(crowd)
    design = np.stack(columns, axis=1)

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        z = design @ parameters
        return float((weights * (np.logaddexp(0, z) - targets * z)).sum())

    scale, offset, *rest = minimize(loss, np.eye(len(columns))[0], method="BFGS").x
    if scale <= 0:
        return None
    ratios = design[~fake] @ (scale, offset, *rest)  # at even odds the logit is the ratio
    return Calibration(
        scale=float(scale) / spread,
        offset=float(offset),
        reals=reals,
        fakes=fakes,
        sampling=sampling,
        frames_median=None if frames is None else float(np.median(frames)),
        aggregation=aggregation,
        people=float(rest[0]) if rest else 0.0,
        top_reals=tuple(np.sort(ratios)[::-1][:TOP_REALS].tolist()),
    )
