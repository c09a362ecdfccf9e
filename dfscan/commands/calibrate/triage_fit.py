"""From which score of its key frames on a video has to be looked at in full."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, expit

from dfscan.commands.calibrate.calibration_data import CalibrationData, read_calibration_data
from dfscan.commands.calibrate.calibration_fit import Fit, ThresholdTarget, fit, logits
from dfscan.config.calibrate import CalibrateConfig
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError
from dfscan.models.modelfile import Model, Triage

RECALL: Final = 0.99
"""Of the fakes that the full look flags so many must have it, at least."""

LEVEL: Final = 0.95


def fit_triage(
    config: CalibrateConfig, model: Model, full: CalibrationData, found: Fit
) -> tuple[Triage, str]:
    """The calibration of key frames and ``deep_if``; and a line on what that saves.

    :raises ConfigError: the verdicts of key frames are of other frames, or there are too few fakes.
    """
    assert config.quick is not None
    unsaid = dict.fromkeys(("sampling", *ScoreConfig.exclusive))  # their file says it
    own = {"verdicts": config.quick, "quick": None, **unsaid, "phase": "hash"}
    quick = read_calibration_data(config.model_copy(update=own), model)
    if quick.sampling.mode != "keyframes" or full.sampling.mode == "keyframes":
        raise ConfigError(
            "calibrate.quick: give verdicts of key frames (score --sampling keyframes), beside "
            f"VERDICTS of the full look; got {quick.sampling.mode} and {full.sampling.mode}"
        )
    target = ThresholdTarget("youden", None, True, quick.sampling, prior=config.prevalence)
    fitted = fit(quick.videos, target)
    if fitted is None or fitted.calibration is None:
        raise ConfigError(
            f"{config.quick}: no calibration can be fitted: higher scores of key frames do not mean "
            "fakes here",
            code="calibration.unavailable",
        )
    scores = dict(
        zip(
            quick.ids,
            logits(fitted.calibration, _below(quick.videos.scores), quick.videos.people).tolist(),
            strict=True,
        )
    )
    values = logits(found.calibration, full.videos.scores, full.videos.people)
    flagged = full.videos.fake & (values >= found.logit)
    # A video without a score of its key frames has the full look anyway.
    first = np.array([scores.get(name, math.inf) for name in full.ids])
    border, recall = choose_pass_threshold(first[flagged])
    settled = first[~full.videos.fake] < border
    triage = Triage(
        calibration=fitted.calibration.model_copy(update={"threshold": None}),
        deep_if=float(expit(border)),
        flagged=int(flagged.sum()),
        recall=recall,
    )
    return triage, (
        f"triage: {settled.mean():.1%} of {len(settled):,} reals end at their key frames; of fakes "
        f"that the full look flags at least {recall:.2%} have it (95 % bound, {flagged.sum():,} fakes)"
    )


def _below(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The next float32 below each score: verdict files round to float32."""
    return np.nextafter(scores, np.float32(-np.inf))


def choose_pass_threshold(logits: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The highest logit from which on at least :data:`RECALL` of the fakes lie, and the bound.

    The share of all fakes below the (m + 1)-th lowest of n has the distribution Beta(m + 1, n - m)
    (S. Wilks, Determination of sample sizes for setting tolerance limits, 1941), so the bound holds
    though the border is chosen on the same fakes.

    :param logits: (n,) of the key frames of fakes that the full look flags; infinite: of none.
    :raises ConfigError: there are too few: 299 with none missed.
    """
    count = len(logits)
    bounds = [float(betaincinv(count - m, m + 1, 1 - LEVEL)) for m in range(count)]
    missed = max((m for m, bound in enumerate(bounds) if bound >= RECALL), default=None)
    if missed is None:
        needed = math.ceil(math.log(1 - LEVEL) / math.log(RECALL))
        raise ConfigError(
            f"calibrate.quick: {count:,} fakes that the full look flags cannot show that {RECALL:.0%} "
            f"of them go there: it needs {needed} or more labelled fakes",
            code="evidence.too_few",
        )
    return float(np.sort(logits)[missed]), bounds[missed]
