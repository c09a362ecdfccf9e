import math

import pytest

from dfscan.calibration import Calibration
from dfscan.recipe import Sampling
from dfscan.records import HEALTHY, STATUSES, FrameScore
from dfscan.verdicts import TOP_FRAMES, Judgement, Rule, judge

CALIBRATION = Calibration(scale=2.0, offset=-1.0, reals=8, fakes=8, sampling=Sampling(frames=32))
CALIBRATED = Rule(CALIBRATION, threshold=0.5)
UNCALIBRATED = Rule(None, threshold=0.5)


def frames(*scores):
    return [
        FrameScore(pts_s=i / 2, frame_index=15 * i, track_id=None, box=(0, 0, 1, 1), score_raw=s)
        for i, s in enumerate(scores)
    ]


def nothing_judged(judgement):
    return judgement == Judgement(None, judgement.reason) and bool(judgement.reason)


@pytest.mark.parametrize("status", sorted(set(STATUSES) - HEALTHY))
def test_a_failed_video_is_null_with_its_reason_and_never_a_score(status):
    judgement = judge(status, "moov atom not found", frames(3.0), CALIBRATED)
    assert nothing_judged(judgement)
    assert judgement.reason == "moov atom not found"
    assert judge(status, None, [], CALIBRATED).reason == status


@pytest.mark.parametrize("rule", [CALIBRATED, UNCALIBRATED, Rule(None, 0.5, forced=True)])
def test_no_face_is_null(rule):
    judgement = judge("no_face", None, [], rule)
    assert nothing_judged(judgement)
    assert judgement.reason == "no_face"


def test_too_few_frames_are_null_and_two_faces_in_one_frame_count_once():
    rule = Rule(CALIBRATION, threshold=0.5, min_frames=2)
    twice = frames(1.0) * 2
    judgement = judge("ok", None, twice, rule)
    assert nothing_judged(judgement)
    assert judgement.reason == "too_few_frames (1 of 2 with a face)"
    assert judge("ok", None, frames(1.0, 1.0), rule).verdict == "FAKE"


def test_a_calibrated_score_is_the_mean_through_the_map():
    judgement = judge("ok", None, frames(0.0, 2.0), CALIBRATED)
    assert judgement.score_raw == 1.0
    assert judgement.p_fake == pytest.approx(1 / (1 + math.exp(-1)))
    assert judgement.llr == pytest.approx(1.0)
    assert (judgement.verdict, judgement.reason) == ("FAKE", None)
    assert (judgement.calibrated, judgement.threshold) == (True, 0.5)


def test_at_the_threshold_a_video_is_fake_and_below_it_real():
    assert judge("ok", None, frames(0.5), CALIBRATED).verdict == "FAKE"
    assert judge("ok", None, frames(0.49), CALIBRATED).verdict == "REAL"
    assert judge("ok", None, frames(0.6), Rule(CALIBRATION, 0.9)).verdict == "REAL"


def test_a_partial_video_is_judged_on_what_there_is():
    assert judge("partial", "12 frames lost", frames(3.0), CALIBRATED).verdict == "FAKE"


def test_a_model_without_calibration_is_uncertain_but_gives_its_score():
    judgement = judge("ok", None, frames(3.0), UNCALIBRATED)
    assert (judgement.verdict, judgement.reason) == ("UNCERTAIN", "model_uncalibrated")
    assert judgement.score_raw == 3.0
    assert judgement.p_fake == pytest.approx(1 / (1 + math.exp(-3)))
    assert (judgement.calibrated, judgement.llr, judgement.threshold) == (False, None, None)


@pytest.mark.parametrize(("score", "verdict"), [(3.0, "FAKE"), (1.0, "REAL")])
def test_a_threshold_given_by_the_user_lets_an_uncalibrated_model_judge(score, verdict):
    judgement = judge("ok", None, frames(score), Rule(None, threshold=0.9, forced=True))
    assert (judgement.verdict, judgement.reason) == (verdict, None)
    assert (judgement.calibrated, judgement.threshold) == (False, 0.9)


def test_huge_scores_do_not_overflow():
    for score, p in ((1e4, 1.0), (-1e4, 0.0)):
        assert judge("ok", None, frames(score), UNCALIBRATED).p_fake == p


def test_top_frames_are_the_most_fake_ones_each_moment_once():
    two_faces = [*frames(1.0, 5.0, 3.0), *frames(2.0, 4.0)]
    assert judge("ok", None, two_faces, CALIBRATED).top_frames_s == (0.5, 1.0, 0.0)
    many = judge("ok", None, frames(*range(20)), CALIBRATED).top_frames_s
    assert many == (9.5, 9.0, 8.5, 8.0, 7.5)
    assert len(many) == TOP_FRAMES


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_null(score):
    judgement = judge("ok", None, frames(0.5, score), CALIBRATED)
    assert nothing_judged(judgement)
    assert "no finite score" in judgement.reason
