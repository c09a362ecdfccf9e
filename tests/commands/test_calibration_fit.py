import math
from typing import Any

import numpy as np
import pytest

from dfscan.commands.calibrate.calibration_fit import (
    ThresholdTarget,
    Videos,
    answers,
    fit,
    out_of_fold,
    summary_metrics,
)
from dfscan.evaluation.metrics import reliability
from dfscan.schemas.recipe import Sampling
from dfscan.scoring.calibration import Calibration

SAMPLING = Sampling(frames=32)


def target(rule: str = "youden", rate: float | None = None, **changes: Any) -> ThresholdTarget:
    return ThresholdTarget(
        **({"rule": rule, "rate": rate, "map": True, "sampling": SAMPLING} | changes)
    )


def drawn(reals: int, fakes: int, seed: int = 0, group_size: int = 1) -> Videos:
    """Reals from N(-2, 3²), fakes from N(4, 3²): the log-likelihood ratio is 2/3 score - 2/3."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(-2, 3, reals), rng.normal(4, 3, fakes)])
    groups = np.arange(reals + fakes) // group_size
    fake = np.arange(reals + fakes) >= reals
    return of(scores, fake, groups)


def of(scores: Any, fake: Any, groups: Any) -> Videos:
    ones = np.ones(len(fake), np.int64)
    return Videos(np.asarray(scores, np.float32), np.asarray(fake), groups, 30 * ones, ones)


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_p_fake_is_the_share_of_fakes_at_that_prior(prior: float) -> None:
    found = fit(drawn(2_000, 1_000), target(prior=None if prior == 0.5 else prior))
    assert found is not None
    assert found.calibration is not None
    assert found.calibration.scale == pytest.approx(2 / 3, rel=0.1)
    new = drawn(20_000, 20_000, seed=1)
    said = answers(found.calibration, found.threshold, new)
    bins = reliability(said.p, new.fake, prior=prior)
    error = np.average(np.abs(bins.predicted - bins.observed), weights=bins.counts)
    assert error < 0.02
    true = 2 / 3 * (new.scores.astype(np.float64) - 1)
    assert np.abs(said.llr - true).mean() < 0.3


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_over_many_draws_of_reals_alone_the_true_rate_keeps_to_the_budget(rate: float) -> None:
    true = []
    for seed in range(200):
        found = fit(drawn(round(3 / rate), 0, seed), target("fpr", rate, map=False))
        assert found is not None
        true.append(0.5 * math.erfc((found.logit + 2) / 3 / math.sqrt(2)))
    assert np.mean(true) <= 1.5 * rate


def test_reals_alone_keep_the_calibration_there_is() -> None:
    own = Calibration(scale=0.5, offset=1.0, reals=9, fakes=9, sampling=SAMPLING)
    videos = drawn(100, 0)
    found = fit(videos, target("fpr", 0.05, map=False, kept=own))
    assert found is not None
    assert found.calibration == own.model_copy(update={"threshold": found.threshold})
    assert int(answers(own, found.threshold, videos).called.sum()) == 5
    shifted = fit(videos, target("fpr", 0.05, map=False, kept=own, prior=0.1))
    assert shifted is not None
    assert shifted.calibration is not None
    assert shifted.calibration.offset == own.at_prior(0.1).offset
    assert shifted.logit == pytest.approx(found.logit - math.log(9))
    assert int(answers(shifted.calibration, shifted.threshold, videos).called.sum()) == 5


def test_a_model_that_ranks_fakes_below_reals_has_no_map() -> None:
    videos = drawn(50, 50)
    assert fit(of(-videos.scores, videos.fake, videos.groups), target()) is None


def test_figures_by_hand() -> None:
    videos = of([-1, 1, 1, 3], [False, False, True, True], np.arange(4))
    found = summary_metrics(answers(None, 0.6, videos), videos.fake, prior=0.5)
    p = [1 / (1 + math.exp(-x)) for x in (-1, 1, 1, 3)]
    losses = [-math.log(1 - p[0]), -math.log(1 - p[1]), -math.log(p[2]), -math.log(p[3])]
    assert found["log_loss"] == pytest.approx(sum(losses) / 4)
    assert found["cllr"] == pytest.approx(sum(losses) / 4 / math.log(2))
    assert found["false_positive_rate"]["called"] == 1
    assert found["true_positive_rate"]["rate"] == 1
    rare = summary_metrics(answers(None, 0.6, videos), videos.fake, prior=0.1)
    weighed = 0.9 * (losses[0] + losses[1]) / 2 + 0.1 * (losses[2] + losses[3]) / 2
    assert rare["log_loss"] == pytest.approx(weighed)
    assert rare["cllr"] == found["cllr"]


def test_figures_of_reals_alone_have_no_loss() -> None:
    videos = drawn(20, 0)
    found = summary_metrics(answers(None, 0.5, videos), videos.fake, prior=0.5)
    assert (found["log_loss"], found["cllr"], found["true_positive_rate"]) == (None, None, None)


def test_no_group_is_judged_by_a_fit_that_has_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = drawn(60, 60, group_size=4)
    seen: list[set[Any]] = []

    def spied(rest: Videos, *arguments: Any, **options: Any) -> Any:
        seen.append(set(rest.groups.tolist()))
        return fit(rest, *arguments, **options)

    monkeypatch.setattr("dfscan.commands.calibrate.calibration_fit.fit", spied)
    said, folds = out_of_fold(videos, target())
    assert said is not None
    assert folds == len(seen) == 5
    everything = set(videos.groups.tolist())
    held_out = [everything - rest for rest in seen]
    assert sorted(g for part in held_out for g in part) == sorted(everything)
    assert all(len(part) == 6 for part in held_out)


def test_a_threshold_keeps_its_rate_less_well_on_reals_it_was_not_chosen_on() -> None:
    rng = np.random.default_rng(3)
    videos = of(rng.normal(size=60), rng.random(60) < 0.5, np.arange(60))
    chance = target("fpr", 0.2, map=False)
    found = fit(videos, chance)
    said, _ = out_of_fold(videos, chance)
    assert found is not None
    assert said is not None
    inside = summary_metrics(answers(None, found.threshold, videos), videos.fake, 0.5)
    outside = summary_metrics(said, videos.fake, 0.5)
    assert outside["false_positive_rate"]["rate"] > inside["false_positive_rate"]["rate"]


@pytest.mark.parametrize("groups", [1, 2])
def test_too_few_groups_have_no_figures_out_of_fold(groups: int) -> None:
    videos = drawn(20, 20, group_size=40 // groups)
    assert out_of_fold(videos, target()) == (None, 0)
