import dataclasses
import json
import math
import time
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from dfscan.errors import ConfigError
from dfscan.evaluation.metrics import (
    DECISION,
    NO_INTERVAL,
    PROBABILITY,
    RANKING,
    SCALARS,
    Intervals,
    Judged,
    Logits,
    Truth,
    _resampled,
    _sum_up,
    binary_metrics,
    bootstrap,
    by_attribute,
    by_video,
    choose_threshold,
    cllr,
    cllr_min,
    collapsed,
    compare,
    groups_by_video,
    intervals,
    log_losses,
    mcnemar,
    measure,
    measured,
    reliability,
    summary_metrics,
)

RESAMPLED = tuple(name for name in SCALARS if name not in NO_INTERVAL)


def simulated(
    rows: int, share: float = 0.3, shift: float = 1.5, seed: int = 0, decimals: int | None = None
) -> tuple[Logits, Truth]:
    """Normal scores, those of fakes higher by ``shift``; ``decimals`` makes ties."""
    rng = np.random.default_rng(seed)
    fake = rng.random(rows) < share
    logits = rng.normal(size=rows) + shift * fake
    return (logits if decimals is None else logits.round(decimals)), fake


def bounds(found: Intervals, name: str) -> tuple[float, float]:
    pair = found.bounds[name]
    assert pair is not None
    return pair


def threshold_of(logits: Logits, fake: Truth, rule: str) -> float:
    threshold = choose_threshold(logits, fake, rule)
    assert threshold is not None
    return threshold


def warned(logits: Logits, threshold: float, fake: Truth) -> str:
    sentence = collapsed(logits, threshold, fake)
    assert sentence is not None
    return sentence


def test_metrics_of_a_hand_worked_example() -> None:
    logits = np.array([-1.0, 0.5, 0.0, 2.0])
    fake = np.array([False, False, True, True])
    found = binary_metrics(logits, fake)
    # fakes 0 and 2 against reals -1 and 0.5: three of the four pairs are in order
    assert found["auc"] == 0.75
    # FAKE from logit 0 on: -1, 0 and 2 are right, 0.5 is called fake
    assert found["accuracy"] == found["balanced_accuracy"] == 0.75
    assert found["confusion"] == {"tn": 1, "fp": 1, "fn": 0, "tp": 2}
    assert (found["precision"], found["recall"], found["f1"]) == (pytest.approx(2 / 3), 1, 0.8)
    # above both reals lies one of the two fakes
    assert found["tpr_at_1pct_fpr"] == 0.5
    # at 0.5: half of each class wrong
    assert found["eer"] == 0.5
    # -ln of the probability of the truth: ln(1 + e^(±logit))
    expected = sum(math.log1p(math.exp(x)) for x in (-1.0, 0.5, 0.0, -2.0)) / 4
    assert found["log_loss"] == pytest.approx(expected)
    assert (found["reals"], found["fakes"]) == (2, 2)
    assert "note" not in found
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("decimals", [None, 1])
def test_metrics_equal_scikit_learn(decimals: int | None) -> None:
    logits, fake = simulated(500, decimals=decimals)
    found = binary_metrics(logits, fake, threshold=0.7)
    called = logits >= 0.7
    assert found["auc"] == pytest.approx(sk.roc_auc_score(fake, logits))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(fake, logits))
    assert found["log_loss"] == pytest.approx(sk.log_loss(fake, expit(logits)))
    assert found["accuracy"] == sk.accuracy_score(fake, called)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(fake, called))
    assert found["f1"] == pytest.approx(sk.f1_score(fake, called))
    c = found["confusion"]
    assert [c["tn"], c["fp"], c["fn"], c["tp"]] == sk.confusion_matrix(
        fake, called
    ).ravel().tolist()
    fpr, tpr, _ = sk.roc_curve(fake, logits)
    crossing = brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1)
    assert found["eer"] == pytest.approx(crossing, abs=1e-9)


def test_one_false_alarm_in_a_hundred_reals_is_allowed_and_in_99_is_not() -> None:
    reals, fakes = np.append(np.zeros(99), 5.0), np.array([4.0, 6.0])
    logits, fake = np.concatenate([reals, fakes]), np.arange(102) >= 100
    assert binary_metrics(logits, fake)["tpr_at_1pct_fpr"] == 1.0
    assert binary_metrics(logits[1:], fake[1:])["tpr_at_1pct_fpr"] == 0.5


@pytest.mark.parametrize(("fake", "only"), [(True, "FAKE"), (False, "REAL")])
def test_one_class_has_no_auc_and_says_so(fake: Any, only: str) -> None:
    found = binary_metrics(np.array([1.0, -1.0]), np.array([fake, fake]))
    missing = {*RANKING, "cllr", "balanced_accuracy", "precision", "f1"}
    missing |= set() if fake else {"recall"}
    assert {k for k in SCALARS if found[k] is None} == missing
    assert f"only {only}" in found["note"]
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    )
    assert sum(found["confusion"].values()) == 2


def test_nothing_held_out_is_said() -> None:
    found = binary_metrics(np.array([]), np.array([], dtype=bool))
    assert [found[k] for k in SCALARS] == [None] * len(SCALARS)
    assert found["confusion"] == {"tn": 0, "fp": 0, "fn": 0, "tp": 0}
    assert found["note"] == "nothing to measure"


def test_nothing_called_fake_has_no_precision() -> None:
    found = binary_metrics(np.array([-1.0, -2.0, -3.0]), np.array([True, False, False]))
    assert found["precision"] is None
    assert (found["recall"], found["f1"], found["accuracy"]) == (0, 0, pytest.approx(2 / 3))


def test_certain_and_wrong_is_a_large_but_finite_loss() -> None:
    logits, fake = np.array([1000.0, -1000.0]), np.array([False, True])
    found = binary_metrics(logits, fake)
    assert math.isfinite(found["log_loss"])
    assert found["log_loss"] > 10
    resampled = _resampled(
        _sum_up(Judged.from_logits(logits, fake), np.arange(2), 2), np.ones((1, 2))
    )
    assert resampled["log_loss"][0] == pytest.approx(found["log_loss"], rel=1e-6)


def test_faces_are_averaged_by_video_in_the_order_of_ids() -> None:
    ids = ["b", "a", "b", "b"]
    names, means, fake = by_video(
        ids, np.array([1.0, -2.0, 2.0, 3.0]), np.array([True, False, True, True])
    )
    assert names == ["a", "b"]
    assert means.tolist() == [-2.0, 2.0]
    assert fake.tolist() == [False, True]
    assert groups_by_video(ids, ["y", "x", "y", "y"]).tolist() == ["x", "y"]


def test_no_faces_are_no_videos() -> None:
    names, means, fake = by_video([], np.array([]), np.array([], dtype=bool))
    assert (names, len(means), len(fake)) == ([], 0, 0)


@pytest.mark.parametrize("decimals", [None, 1])
def test_rows_counted_often_equal_scikit_learns_sample_weight(decimals: int | None) -> None:
    logits, fake = simulated(400, decimals=decimals)
    weights = np.random.default_rng(1).integers(0, 4, size=(5, 400)).astype(float)
    judged = Judged.from_logits(logits, fake, threshold=0.7)
    found = _resampled(_sum_up(judged, np.arange(400), 400), weights)
    p = expit(logits)
    called = logits >= 0.7
    for draw, weight in enumerate(weights):
        given = {"sample_weight": weight}
        fpr, tpr, _ = sk.roc_curve(fake, logits, drop_intermediate=False, **given)
        expected = {
            "auc": sk.roc_auc_score(fake, logits, **given),
            "average_precision": sk.average_precision_score(fake, logits, **given),
            "tpr_at_1pct_fpr": tpr[fpr <= 0.01].max(),
            "tpr_at_01pct_fpr": tpr[fpr <= 0.001].max(),
            "eer": brentq(lambda x, f=fpr, t=tpr: 1 - x - np.interp(x, f, t), 0, 1),
            "log_loss": sk.log_loss(fake, p, **given),
            "cllr": (
                np.average(np.log2(1 + np.exp(-logits)), weights=weight * fake)
                + np.average(np.log2(1 + np.exp(logits)), weights=weight * ~fake)
            )
            / 2,
            "accuracy": sk.accuracy_score(fake, called, **given),
            "balanced_accuracy": sk.balanced_accuracy_score(fake, called, **given),
            "precision": sk.precision_score(fake, called, **given),
            "recall": sk.recall_score(fake, called, **given),
            "f1": sk.f1_score(fake, called, **given),
        }
        assert {k: found[k][draw] for k in RESAMPLED} == pytest.approx(expected, abs=1e-9)


def test_intervals_equal_a_bootstrap_that_copies_rows() -> None:
    logits, fake = simulated(300, seed=3)
    groups = np.arange(300) // 6
    found = bootstrap(logits, fake, groups, threshold=0.5, resamples=2000, seed=1)
    rng = np.random.default_rng(99)
    members = [np.flatnonzero(groups == g) for g in range(50)]
    copies = []
    for _ in range(500):
        rows = np.concatenate([members[g] for g in rng.integers(50, size=50)])
        copies.append(binary_metrics(logits[rows], fake[rows], 0.5))
    for name in RESAMPLED:
        low, high = np.quantile([c[name] for c in copies], [0.025, 0.975])
        # 500 copies know the ends of an interval to about a tenth of its width
        assert found.bounds[name] == pytest.approx((low, high), abs=0.2 * (high - low)), name
    assert (found.groups, found.resamples, found.left_out) == (50, 2000, 0)


def test_groups_are_drawn_whole() -> None:
    logits, fake = simulated(100, share=0.5, seed=5)
    alone = bootstrap(np.repeat(logits, 20), np.repeat(fake, 20), np.arange(2000))
    together = bootstrap(np.repeat(logits, 20), np.repeat(fake, 20), np.repeat(np.arange(100), 20))
    once = bootstrap(logits, fake, np.arange(100))
    assert together.bounds["auc"] == pytest.approx(once.bounds["auc"])
    widths = [high - low for low, high in (bounds(alone, "auc"), bounds(together, "auc"))]
    assert widths[1] > 3 * widths[0]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    # AUC of N(0, 1) against N(1, 1) is Φ(1 / √2) = 0.7602
    inside = 0
    for seed in range(150):
        logits, fake = simulated(200, share=0.5, shift=1.0, seed=seed)
        low, high = bounds(bootstrap(logits, fake, np.arange(200), resamples=300), "auc")
        inside += low <= 0.7602 <= high
    assert 0.88 <= inside / 150 <= 0.99


def test_intervals_depend_on_the_seed_alone() -> None:
    logits, fake = simulated(200)
    groups = np.array([f"g{i // 4}" for i in range(200)])
    found = bootstrap(logits, fake, groups, seed=7, resamples=200)
    order = np.random.default_rng(0).permutation(200)
    again = bootstrap(logits[order], fake[order], groups[order].tolist(), seed=7, resamples=200)
    for name in RESAMPLED:
        assert again.bounds[name] == pytest.approx(found.bounds[name])
    assert bootstrap(logits, fake, groups, seed=8, resamples=200).bounds != found.bounds


def test_resamples_that_lack_a_class_are_left_out_and_counted() -> None:
    logits, fake = simulated(12, share=0.5, seed=2)
    fake[:] = np.arange(12) >= 10  # two of twelve groups are fake
    found = bootstrap(logits, fake, np.arange(12), resamples=4000)
    # no fake in twelve draws: (10/12)^12 = 0.112
    assert found.left_out / 4000 == pytest.approx((10 / 12) ** 12, abs=0.02)
    assert all(math.isfinite(v) for pair in found.bounds.values() if pair for v in pair)


@pytest.mark.parametrize("fake", [[True] * 4, [False, True, True, True], []])
def test_a_class_in_fewer_than_two_groups_has_no_interval(fake: Any) -> None:
    found = bootstrap(
        np.arange(float(len(fake))), np.array(fake, dtype=bool), list("abcd")[: len(fake)]
    )
    assert set(found.bounds.values()) == {None}
    assert found.note is not None
    assert "at least 2 are needed" in found.note


def test_a_measurement_is_figures_and_intervals_as_json() -> None:
    logits, fake = simulated(100)
    found = measure(logits, fake, np.arange(100), threshold=0.5, resamples=100)
    assert {k: found[k] for k in SCALARS} == {
        k: binary_metrics(logits, fake, 0.5)[k] for k in SCALARS
    }
    assert json.loads(json.dumps(found)) == found
    assert set(found["intervals"]) == set(SCALARS)
    for name in RESAMPLED:
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    assert found["bootstrap"]["groups"] == 100
    plain = bootstrap(logits, fake, np.arange(100), threshold=0.5, resamples=100)
    assert dataclasses.asdict(plain)["left_out"] == found["bootstrap"]["left_out"]


def test_a_thousand_resamples_of_ten_thousand_rows_take_seconds() -> None:
    logits, fake = simulated(10_000)
    started = time.monotonic()
    bootstrap(logits, fake, np.arange(10_000) // 10)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 1])
def test_the_f1_threshold_is_the_best_of_the_precision_recall_curve(
    seed: int, decimals: int | None
) -> None:
    logits, fake = simulated(200, seed=seed, decimals=decimals)
    precision, recall, _ = sk.precision_recall_curve(fake, logits)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    threshold = threshold_of(logits, fake, "f1")
    assert sk.f1_score(fake, logits >= threshold) == pytest.approx(best)
    assert threshold not in logits


@pytest.mark.parametrize("seed", range(5))
def test_youdens_threshold_is_the_best_of_the_roc_curve(seed: int) -> None:
    logits, fake = simulated(200, seed=seed, decimals=1)
    fpr, tpr, _ = sk.roc_curve(fake, logits, drop_intermediate=False)
    found = binary_metrics(logits, fake, threshold_of(logits, fake, "youden"))
    assert 2 * found["balanced_accuracy"] - 1 == pytest.approx(np.max(tpr - fpr))


@pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.2])
def test_a_false_positive_rate_is_kept_and_used_up(share: float) -> None:
    logits, fake = simulated(1000, decimals=1)
    fpr, tpr, _ = sk.roc_curve(fake, logits, drop_intermediate=False)
    called = logits >= threshold_of(logits, fake, f"fpr={share}")
    assert called[~fake].mean() <= share
    assert called[fake].mean() == pytest.approx(tpr[fpr <= share].max())


def test_a_threshold_lies_halfway_between_neighbouring_scores() -> None:
    logits, fake = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False])
    for rule in ("f1", "youden", "fpr=0.01"):
        assert choose_threshold(logits, fake, rule) == 1.5
    close = np.array([np.nextafter(1.0, 2.0), 1.0])
    assert choose_threshold(close, np.array([True, False]), "youden") == close[0]


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    logits = np.array([4.0, 3.0, 2.0, 1.0])
    fake = np.array([True, False, True, False])  # J is 1/2 after 4 and after 2
    assert choose_threshold(logits, fake, "youden") == 3.5


def test_where_no_real_may_be_called_fake_and_the_highest_is_real_nothing_is() -> None:
    logits, fake = np.array([4.0, 3.0]), np.array([False, True])
    threshold = threshold_of(logits, fake, "fpr=0.01")
    assert not (logits >= threshold).any()
    assert choose_threshold(logits, fake, "f1") == 3.0


@pytest.mark.parametrize("rule", ["f1", "youden", "fpr=0.01"])
@pytest.mark.parametrize("fake", [[True, True], [False, False], []])
def test_one_class_has_no_threshold(rule: str, fake: Any) -> None:
    assert choose_threshold(np.arange(float(len(fake))), np.array(fake, dtype=bool), rule) is None


@pytest.mark.parametrize("rule", ["F1", "fpr", "fpr=1", "fpr=-0.1", "fpr=x", "fpr=nan", "tpr=0.9"])
def test_an_unknown_rule_is_refused_by_name(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{rule}'; must be f1, youden"):
        choose_threshold(np.zeros(2), np.array([True, False]), rule)


def test_a_good_model_of_few_fakes_has_not_collapsed() -> None:
    rng = np.random.default_rng(0)
    fake = np.arange(5000) < 50
    logits = np.where(fake, 3.0, -3.0) + rng.normal(size=5000)
    assert (logits >= 0).mean() < 0.02
    assert collapsed(logits, 0.0, fake) is None
    sure = np.where(fake, 8.0, -8.0) + rng.normal(0, 0.001, 5000)
    assert collapsed(sure, 0.0, fake) is None
    assert collapsed(-logits, 0.0, ~fake) is None


@pytest.mark.parametrize(("shift", "verdict"), [(-4, "REAL"), (4, "FAKE")])
def test_one_verdict_for_everything_is_warned_of(shift: float, verdict: str) -> None:
    logits, fake = simulated(1000, shift=0.0)
    sentence = warned(logits + shift, 0.0, fake)
    assert f"nearly everything is called {verdict}: 100.0 % of the reals" in sentence
    assert "collapsed or learned little" in sentence


def test_a_threshold_in_the_wrong_place_is_told_from_a_collapse() -> None:
    logits, fake = simulated(1000, shift=3.0)
    sentence = warned(logits - 8, 0.0, fake)
    assert "rank fakes above reals, so choose another threshold" in sentence
    assert collapsed(logits - 8, threshold_of(logits - 8, fake, "youden"), fake) is None


def test_scores_that_barely_vary_are_warned_of() -> None:
    logits, fake = simulated(1000)
    assert "barely vary" in warned(logits / 1000, 0.0, fake)
    assert "collapsed or learned little" in warned(np.zeros(1000), 0.0, fake)
    assert collapsed(logits, 0.5, fake) is None


def test_too_few_of_a_class_say_nothing_of_a_collapse() -> None:
    assert collapsed(np.zeros(1007), 0.0, np.arange(1007) >= 1000) is None
    assert collapsed(np.zeros(1008), 0.0, np.arange(1008) >= 1000) is not None


def test_each_manipulation_stands_against_all_reals() -> None:
    logits, fake = simulated(300, share=0.5)
    kinds = [("easy", "hard")[i % 2] if f else None for i, f in enumerate(fake)]
    logits = logits + np.array([3.0 if k == "easy" else 0.0 for k in kinds])
    found = by_attribute(kinds, logits, fake, threshold=1.0)
    assert list(found) == ["easy", "hard"]
    for kind, each in found.items():
        rows = np.array([k == kind for k in kinds]) | ~fake
        assert each["auc"] == pytest.approx(sk.roc_auc_score(fake[rows], logits[rows]))
        assert each["reals"] == (~fake).sum()
        assert each["against"] == "all reals"
    assert found["easy"]["auc"] > found["hard"]["auc"] + 0.05
    assert found["easy"]["recall"] > 0.99


def test_what_reals_have_too_is_compared_with_the_same_reals() -> None:
    logits, fake = simulated(400, share=0.5)
    compression = ["c23" if i % 2 else "c40" for i in range(400)]
    found = by_attribute(compression, logits, fake, groups=np.arange(400))
    rows = np.array([c == "c40" for c in compression])
    assert found["c40"]["auc"] == pytest.approx(sk.roc_auc_score(fake[rows], logits[rows]))
    assert found["c40"]["against"] == "reals of c40"
    low, high = found["c40"]["intervals"]["auc"]
    assert low < found["c40"]["auc"] < high
    assert by_attribute([None] * 400, logits, fake) == {}


@pytest.mark.parametrize("decimals", [None, 1])
def test_reliability_equals_scikit_learns_curve(decimals: int | None) -> None:
    logits, fake = simulated(1000)
    p_fake = expit(logits) if decimals is None else expit(logits).round(decimals)
    observed, predicted = calibration_curve(fake, p_fake, n_bins=10, strategy="quantile")
    found = reliability(p_fake, fake)
    assert found.observed == pytest.approx(observed)
    assert found.predicted == pytest.approx(predicted)
    assert found.counts.sum() == 1000
    if decimals is None:
        assert set(found.counts) == {100}


def test_reliability_at_another_share_of_fakes() -> None:
    # log-likelihood ratios of N(±1, variance 2): right at a share of one half, whatever is there
    rng = np.random.default_rng(0)
    fake = np.arange(60_000) < 3_000
    ratio = rng.normal(np.where(fake, 1.0, -1.0), 2**0.5)
    weighted = reliability(expit(ratio), fake, bins=5, prior=0.5)
    assert weighted.observed == pytest.approx(weighted.predicted, abs=0.03)
    as_it_is = reliability(expit(ratio), fake, bins=5)
    assert as_it_is.observed[-1] < weighted.observed[-1] / 2


def grouped(seed: int, groups: int = 60, size: int = 5) -> tuple[Logits, Truth, Any]:
    """Groups of one class each, whose rows are alike: half of the variance is theirs."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    fake = group < groups // 2
    together = rng.normal(size=groups)[group]
    return (together + rng.normal(size=len(group))) / 2**0.5 + fake - 0.5, fake, group


def test_intervals_of_grouped_rows_hold_the_truth_as_often_as_they_say() -> None:
    # Scores are N(±0.5, 1): AUC is Φ(1 / √2), log loss and Cllr are an integral.
    auc = 0.7602
    x = np.linspace(-8, 8, 4001)
    density = np.exp(-((x - 0.5) ** 2) / 2) / (2 * np.pi) ** 0.5
    loss = float(np.trapezoid(density * np.logaddexp(0, -x), x))
    truths = {"auc": auc, "log_loss": loss, "cllr": loss / math.log(2)}
    inside = dict.fromkeys((*truths, "auc, ungrouped"), 0)
    for seed in range(150):
        logits, fake, group = grouped(seed)
        found = bootstrap(logits, fake, group, resamples=300)
        for name, truth in truths.items():
            low, high = bounds(found, name)
            inside[name] += low <= truth <= high
        low, high = bounds(bootstrap(logits, fake, np.arange(300), resamples=100), "auc")
        inside["auc, ungrouped"] += low <= auc <= high
    for name in truths:
        assert 0.88 <= inside[name] / 150 <= 0.99, name
    assert inside["auc, ungrouped"] / 150 < 0.85  # what rows alone would claim


def test_the_calibration_error_has_no_interval_since_resampling_adds_to_it() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, 400)
    fake = rng.random(400) < expit(log_odds)  # calibrated: the true error is 0
    judged = Judged.from_logits(log_odds, fake)
    found = measured(judged, np.arange(400), resamples=100)
    assert found["ece"] > 0
    assert found["intervals"]["ece"] is None
    against = compare(judged, Judged.from_logits(2 * log_odds, fake), np.arange(400), resamples=100)
    assert against["ece"] < 0
    assert against["intervals"]["ece"] is None
    assert set(found["intervals"]) == set(SCALARS)


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    # A second model hears the first with as much noise again: AUC Φ(1 / √2) against Φ(1 / 2).
    inside, widths = 0, []
    for seed in range(80):
        logits, fake, group = grouped(seed)
        noise = np.random.default_rng(1000 + seed).normal(size=len(fake))
        first, second = (Judged.from_logits(s, fake) for s in (logits, logits + noise))
        found = compare(first, second, group, resamples=300)
        low, high = found["intervals"]["auc"]
        inside += low <= 0.7602 - 0.6915 <= high
        alone = [bounds(intervals(side, group, 300), "auc") for side in (first, second)]
        widths.append((high - low) / sum(b[1] - b[0] for b in alone))
    assert 0.88 <= inside / 80 <= 0.99
    assert np.mean(widths) < 0.5  # what is hard for both cancels out


def test_a_model_against_itself_differs_by_nothing() -> None:
    judged = Judged.from_logits(*simulated(200))
    found = compare(judged, judged, np.arange(200), resamples=100)
    assert {found[name] for name in (*SCALARS, "cllr_min")} == {0.0}
    assert all(found["intervals"][name] == [0.0, 0.0] for name in RESAMPLED)
    assert found["mcnemar"] == {"rows": 200, "only_first": 0, "only_second": 0, "p": 1.0}


def test_mcnemar_equals_the_binomial_by_hand() -> None:
    first = np.array([True] * 9 + [False] * 1 + [True] * 5)
    second = np.array([False] * 9 + [True] * 1 + [True] * 5)
    found = mcnemar(first, second)
    assert (found["rows"], found["only_first"], found["only_second"]) == (15, 9, 1)
    assert found["p"] == pytest.approx(2 * (1 + 10) / 2**10)


def test_the_competitions_clip() -> None:
    certain = log_losses(np.array([100.0, -100.0, 100.0]), np.array([False, True, True]))
    assert certain == pytest.approx([-math.log(1e-15)] * 2 + [0.0])
    p = np.array([0.0, 1.0])
    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    expected = -(math.log(clipped[0]) + math.log1p(-clipped[1])) / 2
    assert certain[:2].mean() == pytest.approx(expected, rel=1e-3)


def test_cllr_is_one_without_information_and_more_when_misled() -> None:
    fake = np.arange(10) < 3
    assert cllr(np.zeros(10), fake) == pytest.approx(1)
    assert cllr(np.where(fake, 50.0, -50.0), fake) == pytest.approx(0)
    assert cllr(np.where(fake, -5.0, 5.0), fake) > 1


@pytest.mark.parametrize("decimals", [None, 1])
def test_cllr_at_best_does_not_depend_on_the_scale(decimals: int | None) -> None:
    logits, fake = simulated(500, decimals=decimals)
    best = cllr_min(logits, fake)
    assert cllr_min(logits**3 * 7, fake) == pytest.approx(best)
    assert best <= min(cllr(a * logits + b, fake) for a in (0.5, 1, 2) for b in (-2, -1, 0, 1))
    assert cllr_min(np.where(fake, 1.0, 0.0), fake) == 0
    assert cllr_min(np.zeros(500), fake) == pytest.approx(1)


def test_undecided_rows_are_ranked_but_not_called() -> None:
    logits, fake = np.array([3.0, 2.0, 1.0, -1.0]), np.array([True, False, True, False])
    whole = Judged.from_logits(logits, fake)
    some = dataclasses.replace(whole, decided=np.array([True, False, False, True]))
    found = summary_metrics(some)
    assert found["undecided"] == 2
    assert found["confusion"] == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}
    assert (found["accuracy"], found["precision"]) == (1, 1)
    assert found["auc"] == summary_metrics(whole)["auc"] == 0.75
    nothing = summary_metrics(dataclasses.replace(whole, decided=np.zeros(4, bool)))
    assert [nothing[k] for k in DECISION] == [None] * len(DECISION)


def test_without_probabilities_ranks_are_left() -> None:
    logits, fake = simulated(100)
    blank = np.full(100, np.nan)
    judged = dataclasses.replace(Judged.from_logits(logits, fake), log_odds=blank, llr=blank)
    found = measured(judged, np.arange(100), resamples=100)
    assert [found[k] for k in PROBABILITY] == [None] * 3
    assert [found["intervals"][k] for k in PROBABILITY] == [None] * 3
    assert found["auc"] == pytest.approx(sk.roc_auc_score(fake, logits))
    assert found["intervals"]["auc"] is not None


def test_very_many_scores_are_thinned_without_moving_an_interval() -> None:
    logits, fake = simulated(60_000, shift=2.5, seed=4)
    group = np.arange(60_000) // 100
    counts = np.random.default_rng(0).integers(0, 4, size=(8, 600)).astype(float)
    judged = Judged.from_logits(logits, fake)
    summed = _sum_up(judged, group, 600)
    assert summed.fakes.shape[0] < 13_000
    found = _resampled(summed, counts)
    for draw, weight in enumerate(counts[:, group]):
        fpr, tpr, _ = sk.roc_curve(fake, logits, drop_intermediate=False, sample_weight=weight)
        assert found["auc"][draw] == pytest.approx(
            sk.roc_auc_score(fake, logits, sample_weight=weight), abs=1e-5
        )
        for name, limit in (("tpr_at_1pct_fpr", 0.01), ("tpr_at_01pct_fpr", 0.001)):
            assert found[name][draw] == pytest.approx(tpr[fpr <= limit].max(), abs=2e-3)
        average = sk.average_precision_score(fake, logits, sample_weight=weight)
        assert found["average_precision"][draw] == pytest.approx(average, abs=1e-4)
