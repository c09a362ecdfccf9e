import math

import numpy as np
import pytest

from dfscan.errors import ConfigError
from dfscan.scoring.operating_point import (
    allowed,
    check_support,
    clopper_pearson,
    expected_rate,
    next_score,
    threshold_at_fpr,
)


def test_the_interval_is_the_exact_one() -> None:
    # With nothing found the upper end solves (1 - p) ** n = 0.025.
    low, high = clopper_pearson(0, 100)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert clopper_pearson(100, 100) == pytest.approx((0.025 ** (1 / 100), 1))
    # 3 of 10, as tables have it
    assert clopper_pearson(3, 10) == pytest.approx((0.06674, 0.65245), abs=1e-5)


def test_the_ends_are_those_at_which_what_was_found_is_just_unlikely() -> None:
    def at_least(found: int, of: int, p: float) -> float:
        return sum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(found, of + 1))

    low, high = clopper_pearson(4, 50)
    assert at_least(4, 50, low) == pytest.approx(0.025)
    assert 1 - at_least(5, 50, high) == pytest.approx(0.025)


@pytest.mark.parametrize(("rate", "called"), [(0.0, 0), (0.009, 0), (0.01, 1), (0.29, 29)])
def test_the_threshold_is_the_smallest_that_keeps_the_rate(rate: float, called: int) -> None:
    reals = np.random.default_rng(0).normal(size=100).astype(np.float32)
    at = threshold_at_fpr(next_score(reals), rate)
    assert allowed(100, rate) == called
    assert int((reals >= at).sum()) == called
    lower = np.nextafter(np.float32(at), np.float32(-np.inf))
    assert int((reals >= lower).sum()) == called + 1


def test_equal_scores_are_called_all_or_none() -> None:
    reals = np.array([3, 2, 2, 2, 1, 0, 0, 0, 0, 0], np.float32)
    assert int((reals >= threshold_at_fpr(next_score(reals), 0.3)).sum()) == 1
    assert int((reals >= threshold_at_fpr(next_score(reals), 0.4)).sum()) == 4


def test_a_score_that_was_rounded_to_float32_stays_on_its_side() -> None:
    exact = 1.0000000001
    reals = np.array([exact, 0.0], np.float32)
    assert exact < threshold_at_fpr(next_score(reals), 0.0)


@pytest.mark.parametrize("rate", [0.005, 0.01, 0.05])
def test_over_many_draws_the_true_rate_keeps_to_the_budget(rate: float) -> None:
    """Reals from a standard normal, as many as the rule of three asks for."""
    rng = np.random.default_rng(1)
    reals = round(3 / rate)
    true = []
    for _ in range(200):
        at = threshold_at_fpr(next_score(rng.normal(size=reals).astype(np.float32)), rate)
        true.append(0.5 * math.erfc(at / math.sqrt(2)))
    assert np.mean(true) <= 1.5 * rate
    assert np.mean(true) == pytest.approx(expected_rate(reals, rate), rel=0.15)


def test_too_few_reals_are_refused_with_the_number_needed() -> None:
    with pytest.raises(
        ConfigError, match=r"99 reals cannot show .* 0\.01: .*at least 100, and 300"
    ):
        check_support(99, 0.01)
    assert "with 300 or more" in (check_support(100, 0.01) or "")
    assert "with 300 or more" in (check_support(299, 0.01) or "")
    assert check_support(300, 0.01) is None
