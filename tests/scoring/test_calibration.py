import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dfscan.errors import UsageError
from dfscan.schemas.recipe import Sampling
from dfscan.scoring import calibration

SAMPLING = Sampling(frames=32)


def simulated(
    reals: int, fakes: int, scale: float = 0.5, offset: float = -1.0, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scores whose true log-likelihood ratio is ``scale * score + offset``.

    An evidence z with z ~ N(±2, variance 4) has the log-likelihood ratio z itself.
    """
    rng = np.random.default_rng(seed)
    z = np.concatenate([rng.normal(-2, 2, reals), rng.normal(2, 2, fakes)])
    return (z - offset) / scale, np.arange(reals + fakes) >= reals


def fitted(
    scores: npt.NDArray[np.float64], fake: npt.NDArray[np.bool_], **options: Any
) -> calibration.Calibration:
    found = calibration.fit(scores, fake, SAMPLING, **options)
    assert found is not None
    return found


def test_a_known_map_is_recovered() -> None:
    found = fitted(*simulated(20_000, 20_000))
    assert found.scale == pytest.approx(0.5, rel=0.05)
    assert found.offset == pytest.approx(-1.0, abs=0.1)
    assert (found.reals, found.fakes, found.prior) == (20_000, 20_000, 0.5)
    assert found.sampling == SAMPLING


def test_both_classes_weigh_the_same_whatever_their_counts() -> None:
    found = fitted(*simulated(2_000, 40_000))
    assert found.scale == pytest.approx(0.5, rel=0.1)
    assert found.offset == pytest.approx(-1.0, abs=0.2)


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e3])
def test_separable_scores_give_a_finite_map(gap: float) -> None:
    scores = np.repeat([-gap, gap], 20) + np.tile(np.linspace(0, gap / 10, 20), 2)
    found = fitted(scores, scores > 0)
    assert math.isfinite(found.scale)
    assert math.isfinite(found.offset)
    # Platt's targets for 20 of each class: 21/22 and 1/22, not 1 and 0
    assert found.p_fake(gap) == pytest.approx(21 / 22, abs=0.02)
    assert found.p_fake(-gap) == pytest.approx(1 / 22, abs=0.02)


def test_scores_far_from_zero_are_no_obstacle() -> None:
    scores, fake = simulated(5_000, 5_000)
    near = fitted(scores, fake)
    far = fitted(scores + 100, fake)
    assert far.p_fake(102.0) == pytest.approx(near.p_fake(2.0), abs=0.01)


@pytest.mark.parametrize(("reals", "fakes"), [(7, 100), (100, 7), (0, 0)])
def test_too_few_of_a_class_is_no_calibration(reals: int, fakes: int) -> None:
    scores, fake = simulated(reals, fakes)
    assert calibration.fit(scores, fake, SAMPLING) is None


def test_enough_of_both_classes_is_a_calibration() -> None:
    assert fitted(*simulated(8, 8)).fakes == 8


def test_scores_that_fall_with_fakes_are_no_calibration() -> None:
    scores, fake = simulated(100, 100)
    assert calibration.fit(-scores, fake, SAMPLING) is None


def test_probability_and_likelihood_ratio_follow_the_formula() -> None:
    value = calibration.Calibration(
        scale=2.0, offset=-1.0, prior=0.2, reals=8, fakes=8, sampling=SAMPLING
    )
    assert value.p_fake(0.5) == 0.5
    assert value.p_fake(1.0) == pytest.approx(1 / (1 + math.exp(-1)))
    assert value.llr(1.0) == pytest.approx(1.0 + math.log(4))
    assert value.p_fake(-1e6) == 0.0


def test_the_number_of_frames_it_was_fitted_on_is_kept() -> None:
    scores, fake = simulated(8, 8)
    frames = np.array([10] * 7 + [32] * 9)
    assert fitted(scores, fake, frames=frames).frames_median == 32
    assert fitted(scores, fake).frames_median is None


def test_a_calibration_of_an_older_file_is_still_read() -> None:
    written = {"scale": 2.0, "offset": -1.0, "reals": 9, "fakes": 8, "sampling": {"frames": 32}}
    found = calibration.Calibration.model_validate(written)
    assert found.frames_median is None
    assert found.sampling == SAMPLING


def test_the_number_of_people_is_part_of_the_map() -> None:
    rng = np.random.default_rng(3)
    fake = np.arange(6000) >= 3000
    people = rng.integers(1, 7, 6000)
    rest = np.array([rng.normal(0, 1, n).max() for n in people])  # the largest of so many reals
    scores = np.where(fake, np.maximum(rest, rng.normal(2, 1, 6000)), rest)
    found = fitted(scores, fake, people=people, aggregation="max_track")
    assert found.aggregation == "max_track"
    assert found.people < -0.3  # of many people a high score says less
    for crowd in (1, 6):
        mine = people == crowd
        said = np.array([found.p_fake(s, crowd) for s in scores[mine]])
        assert said.mean() == pytest.approx(fake[mine].mean(), abs=0.05)
    alike = fitted(scores, fake, people=np.full(6000, 3))
    assert alike.people == 0.0


def test_a_threshold_for_a_false_positive_rate() -> None:
    scores, fake = simulated(150, 100)
    found = fitted(scores, fake)
    for share in (0.01, 0.05, 0.3):
        threshold = found.at_fpr(share)
        called = np.array([found.p_fake(s) >= threshold for s in scores])
        assert called[~fake].sum() == int(share * 150)
    with pytest.raises(UsageError, match=r"150 held-out reals allow for 0\.00667 to 0\.993"):
        found.at_fpr(0.001)


def test_another_prior_moves_the_offset_by_its_log_odds() -> None:
    value = calibration.Calibration(scale=2.0, offset=-1.0, reals=8, fakes=8, sampling=SAMPLING)
    rare = value.at_prior(0.1)
    assert rare.prior == 0.1
    assert rare.offset == pytest.approx(-1.0 - math.log(9))
    # Odds of 1 at the prior one half are odds of 1/9 at one in ten.
    assert value.p_fake(0.5) == 0.5
    assert rare.p_fake(0.5) == pytest.approx(0.1)
    for score in (-3.0, 0.0, 0.5, 4.0):
        assert rare.llr(score) == pytest.approx(value.llr(score))
    assert rare.at_prior(0.5).offset == pytest.approx(-1.0)
    assert rare.threshold is None


def test_a_threshold_moves_with_the_prior_and_so_no_verdict() -> None:
    value = calibration.Calibration(
        scale=2.0, offset=-1.0, reals=8, fakes=8, sampling=SAMPLING, people=-0.5, threshold=0.5
    )
    rare = value.at_prior(0.1)
    assert rare.threshold == pytest.approx(0.1)
    assert rare.llr(1.0, people=3) == pytest.approx(value.llr(1.0, people=3))
    for end in (0.0, 1.0):
        assert value.model_copy(update={"threshold": end}).at_prior(0.1).threshold == end


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, math.nan])
def test_a_prior_that_is_no_share_is_refused(prior: float) -> None:
    value = calibration.Calibration(scale=2.0, offset=-1.0, reals=8, fakes=8, sampling=SAMPLING)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        value.at_prior(prior)
