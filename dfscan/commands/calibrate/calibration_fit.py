"""Fitting a calibration and a threshold to videos, and what the fit is worth. Pure functions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from dfscan.evaluation.metrics import choose_threshold, cllr
from dfscan.schemas.recipe import Sampling
from dfscan.schemas.scoring import Aggregation
from dfscan.scoring import calibration
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.operating_point import clopper_pearson, next_score, threshold_at_fpr

FOLDS: Final = 5
_SMALLEST: Final = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1, as scikit-learn does in log_loss."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Videos:
    """(N,) each: aggregated logits as stored, truth, group, faces a score is made of, and people.

    ``people`` are those of :meth:`~dfscan.scoring.calibration.Calibration.logit`, 1 where they do not count.
    """

    scores: npt.NDArray[np.float32]
    fake: Flags
    groups: npt.NDArray[Any]
    frames: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]

    def part(self, rows: Flags) -> "Videos":
        """Some of them."""
        return Videos(
            self.scores[rows],
            self.fake[rows],
            self.groups[rows],
            self.frames[rows],
            self.people[rows],
        )

    @property
    def reals(self) -> int:
        """How many are real."""
        return int((~self.fake).sum())

    @property
    def fakes(self) -> int:
        """How many are fake."""
        return int(self.fake.sum())


@dataclass(frozen=True)
class ThresholdTarget:
    """What is to be fitted.

    ``rule`` as of :func:`~dfscan.evaluation.metrics.choose_threshold`; where ``rate`` is given, it is the
    share of the reals that may be called FAKE instead. Without ``map`` only the threshold is
    fitted, and ``kept`` stays: the calibration there is for such scores, None for none. ``prior`` as of
    :class:`~dfscan.scoring.calibration.Calibration`; None leaves it as it is.
    """

    rule: str
    rate: float | None
    map: bool
    sampling: Sampling
    aggregation: Aggregation = "mean"
    kept: Calibration | None = None
    prior: float | None = None


@dataclass(frozen=True)
class Fit:
    """A calibration, None where there is none, and from where on a video is FAKE.

    ``logit`` is that of ``p_fake``; the calibration has the same as its ``threshold``.
    """

    calibration: Calibration | None
    logit: float

    @property
    def threshold(self) -> float:
        """The same on ``p_fake``."""
        return float(expit(self.logit))


def _fit(found: Calibration | None, logit: float) -> Fit:
    """A threshold of a calibration's own wins over the model's: so it must have this one."""
    if found is not None:
        found = found.model_copy(update={"threshold": float(expit(logit))})
    return Fit(found, logit)


def fit(
    videos: Videos, target: ThresholdTarget, min_per_class: int = calibration.MIN_PER_CLASS
) -> Fit | None:
    """Fit to all of the videos; None where no rising map can be fitted."""
    found = target.kept
    if target.map:
        found = calibration.fit(
            videos.scores.astype(np.float64),
            videos.fake,
            target.sampling,
            min_per_class,
            videos.frames,
            target.aggregation,
            videos.people if target.aggregation == "max_track" else None,
        )
        if found is None:
            return None
    if found is not None and target.prior is not None:
        found = found.at_prior(target.prior)
    if target.rate is not None:
        reals = videos.part(~videos.fake)
        above = logits(found, next_score(reals.scores), reals.people)
        return _fit(found, threshold_at_fpr(above, target.rate))
    values = logits(found, videos.scores, videos.people)
    logit = choose_threshold(values, videos.fake, target.rule)
    return None if logit is None else _fit(found, logit)


def logits(
    found: Calibration | None, scores: npt.NDArray[Any], people: npt.NDArray[np.int64]
) -> Floats:
    """The logits of ``p_fake``, (N,), as a verdict has it."""
    wide = scores.astype(np.float64)
    if found is None:
        return wide
    return found.scale * wide + found.offset + found.people * np.log(np.maximum(people, 1))


@dataclass(frozen=True)
class Answers:
    """(N,) each: ``p_fake``, log-likelihood ratio, and whether a video is called FAKE.

    Without a calibration the scores stand for ratios.
    """

    p: Floats
    llr: Floats
    called: Flags


def answers(found: Calibration | None, threshold: float, videos: Videos) -> Answers:
    """What a model with this calibration and this threshold on ``p_fake`` says."""
    values = logits(found, videos.scores, videos.people)
    p = expit(values)
    prior = 0.0 if found is None else math.log(found.prior / (1 - found.prior))
    return Answers(p, values - prior, p >= threshold)


def out_of_fold(
    videos: Videos, target: ThresholdTarget, folds: int = FOLDS
) -> tuple[Answers | None, int]:
    """What fits say that have not seen a video's group; groups never lie on two sides.

    :returns: the answers, and the number of folds (fewer than ``folds`` where there are fewer
        groups). None and 0 where there are not two groups, or where a fold cannot be fitted.
    """
    said = Answers(
        np.zeros(len(videos.fake)),
        np.zeros(len(videos.fake)),
        np.zeros(len(videos.fake), bool),
    )
    count = 0
    for held_out in _folds(videos, folds):
        rest = videos.part(~held_out)
        found = fit(rest, target, min_per_class=1) if rest.reals else None
        if found is None:
            return None, 0
        one = answers(found.calibration, found.threshold, videos.part(held_out))
        said.p[held_out], said.llr[held_out], said.called[held_out] = one.p, one.llr, one.called
        count += 1
    return (said, count) if count else (None, 0)


def _folds(videos: Videos, folds: int) -> Iterator[Flags]:
    """The videos held out by each fold; groups with fakes, with reals and with both dealt out alike."""
    names, group = np.unique(videos.groups.astype(str), return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        return
    kind = np.zeros(len(names), np.int64)
    np.bitwise_or.at(kind, group, np.where(videos.fake, 2, 1))
    order = np.lexsort((np.random.default_rng(0).permutation(len(names)), kind))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % folds
    for number in range(folds):
        yield fold[group] == number


def summary_metrics(said: Answers, fake: Flags, prior: float) -> dict[str, Any]:
    """What answers are worth.

    ``log_loss`` (nats) of ``p_fake``, reals and fakes weighed so that the fakes have the share
    ``prior``; ``cllr`` in bits, see :func:`~dfscan.evaluation.metrics.cllr`. Both are None with a class
    missing. ``false_positive_rate`` and ``true_positive_rate``: ``called`` FAKE ``of`` so many
    videos of the class, the ``rate`` and its exact 95 % ``interval``; None where it has no videos.
    """
    p = np.clip(said.p, _SMALLEST, 1 - _SMALLEST)
    result: dict[str, Any] = {"log_loss": None, "cllr": None}
    if fake.any() and not fake.all():
        losses = -np.log(p[fake]).mean(), -np.log1p(-p[~fake]).mean()
        result["log_loss"] = float(prior * losses[0] + (1 - prior) * losses[1])
        result["cllr"] = cllr(said.llr, fake)
    return result | {
        "false_positive_rate": _share(said.called[~fake]),
        "true_positive_rate": _share(said.called[fake]),
    }


def _share(called: Flags) -> dict[str, Any] | None:
    if not len(called):
        return None
    found, of = int(called.sum()), len(called)
    return {
        "called": found,
        "of": of,
        "rate": found / of,
        "interval": list(clopper_pearson(found, of)),
    }
