"""Where a user's own reals put the threshold, and how sure the rate is. Pure arithmetic, no torch.

The Clopper-Pearson interval: C. Clopper and E. Pearson, The use of confidence or fiducial limits
illustrated in the case of the binomial, Biometrika 1934. The rule of three: J. Hanley and
A. Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 1983.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import betaincinv

from dfscan.errors import ConfigError
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Fraction, Sampling
from dfscan.schemas.scoring import Aggregation

LEVEL: Final = 0.95
RULE_OF_THREE: Final = 3
"""No false alarm among n reals bounds the rate at 3 / n (95 %, one-sided)."""


class OperatingPoint(Strict):
    """How a model's threshold was chosen on a user's own videos.

    ``rule``: ``youden``, ``f1``, ``fpr=0.01`` or the alert budget in words. ``reals`` and ``fakes``
    say on how many videos it was chosen, ``chosen_on`` on which. ``false_positive_rate`` is the
    share of those reals that the threshold calls FAKE, ``false_positive_rate_upper`` the upper end
    of its exact 95 % interval, ``true_positive_rate`` the share of the fakes, null without fakes.
    It holds for videos sampled and aggregated alike. ``scored_by`` is the SHA-256 of the model whose verdicts
    these were.
    """

    rule: str
    reals: int = Field(ge=1)
    fakes: int = Field(ge=0)
    false_positive_rate: Fraction
    false_positive_rate_upper: Fraction
    true_positive_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    sampling: Sampling
    aggregation: Aggregation = "mean"
    scored_by: str
    chosen_on: str


def clopper_pearson(found: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share of which ``found`` of ``of`` independent draws were seen.

    :returns: (low, high), each missed with a probability of at most ``(1 - level) / 2``.
    """
    tail = (1 - level) / 2
    low = float(betaincinv(found, of - found + 1, tail)) if found else 0.0
    high = float(betaincinv(found + 1, of - found, 1 - tail)) if found < of else 1.0
    return low, high


def threshold_at_fpr(above: Sequence[float] | npt.NDArray[np.float64], rate: float) -> float:
    """The smallest logit from which on at most the share ``rate`` of the reals lies.

    :param above: (N,) for each real the smallest logit that it lies below, N at least 1.
    :param rate: 0 to below 1.
    """
    falling = np.sort(np.asarray(above, np.float64))[::-1]
    return float(falling[allowed(len(falling), rate)])


def next_score(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N,) the next float32 above each score.

    Verdict files round scores to float32: whatever was rounded to a score lies below this.
    """
    return np.nextafter(scores.astype(np.float32), np.float32(np.inf)).astype(np.float64)


def allowed(reals: int, rate: float) -> int:
    """How many of so many reals a rate lets be called FAKE; 0.29 of 100 is 29, not 28."""
    return math.floor(rate * reals + 1e-9)


def expected_rate(reals: int, rate: float) -> float:
    """The share of new reals that :func:`threshold_at_fpr` calls FAKE on average, at most.

    One more real, drawn like the ``reals``, is as likely to take any of the N + 1 ranks (V. Vovk,
    A. Gammerman and G. Shafer, Algorithmic learning in a random world, 2005).
    """
    return (allowed(reals, rate) + 1) / (reals + 1)


def check_support(reals: int, rate: float) -> str | None:
    """Whether so many reals can show so small a rate.

    :returns: a warning where fewer than 3 / ``rate`` are there, None where all is well.
    :raises ConfigError: fewer than 1 / ``rate`` are there: not one of them could be called FAKE.
    """
    least, enough = (math.ceil(n / rate - 1e-9) for n in (1, RULE_OF_THREE))
    if reals < least:
        raise ConfigError(
            f"{reals:,} reals cannot show a false-positive rate of {rate:.3g}: it needs at least "
            f"{least:,}, and {enough:,} for an upper bound near it; label more reals or allow a "
            f"higher rate ({1 / max(reals, 1):.2g} or more)",
            code="evidence.too_few",
        )
    if reals < enough:
        return (
            f"{reals:,} reals show a false-positive rate of {rate:.3g} only roughly: with "
            f"{enough:,} or more the bound would be near it"
        )
    return None
