import math

import numpy as np
import pytest

from dfscan import calibration
from dfscan.recipe import Sampling

SAMPLING = Sampling(frames=32)


def simulated(reals, fakes, scale=0.5, offset=-1.0, seed=0):
    """Scores whose true log-likelihood ratio is ``scale * score + offset``.

    An evidence z with z ~ N(±2, variance 4) has the log-likelihood ratio z itself.
    """
    rng = np.random.default_rng(seed)
    z = np.concatenate([rng.normal(-2, 2, reals), rng.normal(2, 2, fakes)])
    return (z - offset) / scale, np.arange(reals + fakes) >= reals


def test_a_known_map_is_recovered():
    found = calibration.fit(*simulated(20_000, 20_000), SAMPLING)
    assert found.scale == pytest.approx(0.5, rel=0.05)
    assert found.offset == pytest.approx(-1.0, abs=0.1)
    assert (found.reals, found.fakes, found.prior) == (20_000, 20_000, 0.5)
    assert found.sampling == SAMPLING


def test_both_classes_weigh_the_same_whatever_their_counts():
    found = calibration.fit(*simulated(2_000, 40_000), SAMPLING)
    assert found.scale == pytest.approx(0.5, rel=0.1)
    assert found.offset == pytest.approx(-1.0, abs=0.2)


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e3])
def test_separable_scores_give_a_finite_map(gap):
    scores = np.repeat([-gap, gap], 20) + np.tile(np.linspace(0, gap / 10, 20), 2)
    found = calibration.fit(scores, scores > 0, SAMPLING)
    assert math.isfinite(found.scale)
    assert math.isfinite(found.offset)
    # Platt's targets for 20 of each class: 21/22 and 1/22, not 1 and 0
    assert found.p_fake(gap) == pytest.approx(21 / 22, abs=0.02)
    assert found.p_fake(-gap) == pytest.approx(1 / 22, abs=0.02)


def test_scores_far_from_zero_are_no_obstacle():
    scores, fake = simulated(5_000, 5_000)
    near = calibration.fit(scores, fake, SAMPLING)
    far = calibration.fit(scores + 100, fake, SAMPLING)
    assert far.p_fake(102.0) == pytest.approx(near.p_fake(2.0), abs=0.01)


@pytest.mark.parametrize(("reals", "fakes"), [(7, 100), (100, 7), (0, 0)])
def test_too_few_of_a_class_is_no_calibration(reals, fakes):
    assert calibration.fit(*simulated(reals, fakes), SAMPLING) is None


def test_enough_of_both_classes_is_a_calibration():
    assert calibration.fit(*simulated(8, 8), SAMPLING) is not None


def test_scores_that_fall_with_fakes_are_no_calibration():
    scores, fake = simulated(100, 100)
    assert calibration.fit(-scores, fake, SAMPLING) is None


def test_probability_and_likelihood_ratio_follow_the_formula():
    value = calibration.Calibration(
        scale=2.0, offset=-1.0, prior=0.2, reals=8, fakes=8, sampling=SAMPLING
    )
    assert value.p_fake(0.5) == 0.5
    assert value.p_fake(1.0) == pytest.approx(1 / (1 + math.exp(-1)))
    assert value.llr(1.0) == pytest.approx(1.0 + math.log(4))
    assert value.p_fake(-1e6) == 0.0
