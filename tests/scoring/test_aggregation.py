import math

import numpy as np
import pytest

from dfscan.schemas.scoring import AGGREGATIONS
from dfscan.scoring.aggregation import aggregate, logit_of, long_tracks, sigmoid


def published(shares: list[float]) -> float:
    """What the confident strategy gives, written as its authors do."""
    pred = np.array(shares)
    fakes = np.count_nonzero(pred > 0.8)
    if fakes > len(pred) // 2.5 and fakes > 11:
        return float(np.mean(pred[pred > 0.8]))
    if np.count_nonzero(pred < 0.2) > 0.9 * len(pred):
        return float(np.mean(pred[pred < 0.2]))
    return float(np.mean(pred))


@pytest.mark.parametrize(
    "shares",
    [
        [0.9] * 12 + [0.1] * 18,  # 12 of 30: more than 11, but not more than 30 // 2.5
        [0.9] * 13 + [0.1] * 17,
        [0.95] * 11 + [0.3] * 4,
        [0.05] * 28 + [0.9] * 2,
        [0.05] * 9 + [0.9],
        [0.4, 0.6, 0.5],
        [0.79] * 20,
        [0.97],
    ],
)
def test_confident_is_the_published_strategy(shares: list[float]) -> None:
    logits = [logit_of(share) for share in shares]
    found = aggregate("confident", logits, [None] * len(logits))
    assert found is not None
    assert sigmoid(found) == pytest.approx(published(shares), abs=1e-9)


def test_confident_stays_finite() -> None:
    assert aggregate("confident", [800.0] * 20, [0] * 20) == pytest.approx(16.118, abs=0.01)
    assert aggregate("confident", [-800.0] * 20, [0] * 20) == pytest.approx(-16.118, abs=0.01)


def test_a_video_is_as_fake_as_its_most_fake_person() -> None:
    logits = [1.0] * 5 + [3.0] * 5 + [9.0] * 4 + [20.0]
    tracks = [0] * 5 + [1] * 5 + [2] * 4 + [None]
    assert aggregate("max_track", logits, tracks) == 3.0  # four faces are too few for a person
    assert set(long_tracks(logits, tracks)) == {0, 1}
    assert aggregate("max_track", logits[10:], tracks[10:]) is None


def test_trimmed_leaves_a_tenth_out_at_each_end() -> None:
    logits = [1000.0, *range(1, 9), -1000.0]
    assert aggregate("trimmed", logits, [None] * 10) == np.mean(range(1, 9))
    assert aggregate("trimmed", [5.0, 7.0], [None] * 2) == 6.0


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_the_order_of_faces_does_not_matter(how: str) -> None:
    random = np.random.default_rng(1)
    logits = (random.normal(0, 3, 60) * 10.0 ** random.integers(-8, 2, 60)).tolist()
    tracks = random.integers(0, 3, 60).tolist()
    found = set()
    for _ in range(20):
        order = random.permutation(60)
        found.add(aggregate(how, [logits[i] for i in order], [tracks[i] for i in order]))
    assert len(found) == 1


@pytest.mark.parametrize("x", [-700.0, -3.0, 0.0, 2.5, 20.0])
def test_logit_and_sigmoid_undo_each_other(x: float) -> None:
    assert logit_of(sigmoid(x)) == pytest.approx(x, abs=1e-6)
    assert logit_of(0.0) == -math.inf
    assert logit_of(1.0) == math.inf
