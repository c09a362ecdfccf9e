import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from dfscan.metrics import binary_metrics, by_video


def test_metrics_of_a_hand_worked_example():
    logits = np.array([-1.0, 0.5, 0.0, 2.0])
    fake = np.array([False, False, True, True])
    found = binary_metrics(logits, fake)
    # fakes 0 and 2 against reals -1 and 0.5: three of the four pairs are in order
    assert found["auc"] == 0.75
    # FAKE from logit 0 on: -1, 0 and 2 are right, 0.5 is called fake
    assert found["accuracy"] == 0.75
    # -ln of the probability of the truth: ln(1 + e^(±logit))
    expected = sum(math.log1p(math.exp(x)) for x in (-1.0, 0.5, 0.0, -2.0)) / 4
    assert found["log_loss"] == pytest.approx(expected)
    assert (found["reals"], found["fakes"]) == (2, 2)
    assert "note" not in found


def test_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    fake = rng.random(500) < 0.3
    logits = rng.normal(size=500) + fake
    found = binary_metrics(logits, fake)
    assert found["auc"] == pytest.approx(roc_auc_score(fake, logits))
    assert found["log_loss"] == pytest.approx(log_loss(fake, expit(logits)))
    assert found["accuracy"] == accuracy_score(fake, logits > 0)


@pytest.mark.parametrize(("fake", "only"), [(True, "FAKE"), (False, "REAL")])
def test_one_class_has_no_auc_and_says_so(fake, only):
    found = binary_metrics(np.array([1.0, -1.0]), np.array([fake, fake]))
    assert found["auc"] is None
    assert f"only {only}" in found["note"]
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    )


def test_nothing_held_out_is_said():
    found = binary_metrics(np.array([]), np.array([], dtype=bool))
    assert [found[k] for k in ("auc", "log_loss", "accuracy")] == [None] * 3
    assert found["note"] == "nothing held out"


def test_certain_and_wrong_is_a_large_but_finite_loss():
    found = binary_metrics(np.array([1000.0, -1000.0]), np.array([False, True]))
    assert math.isfinite(found["log_loss"])
    assert found["log_loss"] > 10


def test_faces_are_averaged_by_video_in_the_order_of_ids():
    names, means, fake = by_video(
        ["b", "a", "b", "b"], np.array([1.0, -2.0, 2.0, 3.0]), np.array([True, False, True, True])
    )
    assert names == ["a", "b"]
    assert means.tolist() == [-2.0, 2.0]
    assert fake.tolist() == [False, True]


def test_no_faces_are_no_videos():
    names, means, fake = by_video([], np.array([]), np.array([], dtype=bool))
    assert (names, len(means), len(fake)) == ([], 0, 0)
