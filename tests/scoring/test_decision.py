import math

import pytest

from dfscan.schemas.recipe import Sampling
from dfscan.schemas.records import FrameScore
from dfscan.schemas.scoring import Evidence
from dfscan.schemas.status import STATUSES, SUCCEEDED
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.decision import (
    TOP_FRAMES,
    Decision,
    DecisionRule,
    decide,
    fuse_calibrations,
    fuse_scores,
)

CALIBRATION = Calibration(scale=2.0, offset=-1.0, reals=8, fakes=8, sampling=Sampling(frames=32))
CALIBRATED = DecisionRule(CALIBRATION, threshold=0.5)
UNCALIBRATED = DecisionRule(None, threshold=0.5)


def frames(*scores):
    return [
        FrameScore(pts_s=i / 2, frame_index=15 * i, track_id=None, box=(0, 0, 1, 1), score_raw=s)
        for i, s in enumerate(scores)
    ]


def nothing_decided(decision):
    return decision == Decision(None, decision.reason) and bool(decision.reason)


@pytest.mark.parametrize("status", sorted(set(STATUSES) - SUCCEEDED))
def test_a_failed_video_is_null_with_its_reason_and_never_a_score(status):
    decision = decide(status, "moov atom not found", frames(3.0), CALIBRATED)
    assert nothing_decided(decision)
    assert decision.reason == "moov atom not found"
    assert decide(status, None, [], CALIBRATED).reason == status


@pytest.mark.parametrize(
    "rule", [CALIBRATED, UNCALIBRATED, DecisionRule(None, 0.5, explicit_threshold=True)]
)
def test_no_face_is_null(rule):
    decision = decide("no_face", None, [], rule)
    assert nothing_decided(decision)
    assert decision.reason == "no_face"


def test_too_few_frames_are_null_and_two_faces_in_one_frame_count_once():
    rule = DecisionRule(CALIBRATION, threshold=0.5, min_frames=2)
    twice = frames(1.0) * 2
    decision = decide("ok", None, twice, rule)
    assert nothing_decided(decision)
    assert decision.reason == "too_few_frames (1 of 2 with a face)"
    assert decide("ok", None, frames(1.0, 1.0), rule).verdict == "FAKE"


def test_a_calibrated_score_is_the_mean_through_the_map():
    decision = decide("ok", None, frames(0.0, 2.0), CALIBRATED)
    assert decision.score_raw == 1.0
    assert decision.p_fake == pytest.approx(1 / (1 + math.exp(-1)))
    assert decision.llr == pytest.approx(1.0)
    assert (decision.verdict, decision.reason) == ("FAKE", None)
    assert (decision.calibrated, decision.threshold) == (True, 0.5)


def test_at_the_threshold_a_video_is_fake_and_below_it_real():
    assert decide("ok", None, frames(0.5), CALIBRATED).verdict == "FAKE"
    assert decide("ok", None, frames(0.49), CALIBRATED).verdict == "REAL"
    assert decide("ok", None, frames(0.6), DecisionRule(CALIBRATION, 0.9)).verdict == "REAL"


def test_a_partial_video_is_judged_on_what_there_is():
    assert decide("partial", "12 frames lost", frames(3.0), CALIBRATED).verdict == "FAKE"


def test_a_model_without_calibration_is_uncertain_but_gives_its_score():
    decision = decide("ok", None, frames(3.0), UNCALIBRATED)
    assert (decision.verdict, decision.reason) == ("UNCERTAIN", "model_uncalibrated")
    assert decision.score_raw == 3.0
    assert decision.p_fake == pytest.approx(1 / (1 + math.exp(-3)))
    assert (decision.calibrated, decision.llr, decision.threshold) == (False, None, None)


@pytest.mark.parametrize(("score", "verdict"), [(3.0, "FAKE"), (1.0, "REAL")])
def test_a_threshold_given_by_the_user_lets_an_uncalibrated_model_judge(score, verdict):
    decision = decide(
        "ok", None, frames(score), DecisionRule(None, threshold=0.9, explicit_threshold=True)
    )
    assert (decision.verdict, decision.reason) == (verdict, None)
    assert (decision.calibrated, decision.threshold) == (False, 0.9)


def test_huge_scores_do_not_overflow():
    for score, p in ((1e4, 1.0), (-1e4, 0.0)):
        assert decide("ok", None, frames(score), UNCALIBRATED).p_fake == p


def test_top_frames_are_the_most_fake_ones_each_moment_once():
    two_faces = [*frames(1.0, 5.0, 3.0), *frames(2.0, 4.0)]
    assert decide("ok", None, two_faces, CALIBRATED).top_frames_s == (0.5, 1.0, 0.0)
    many = decide("ok", None, frames(*range(20)), CALIBRATED).top_frames_s
    assert many == (9.5, 9.0, 8.5, 8.0, 7.5)
    assert len(many) == TOP_FRAMES


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_null(score):
    decision = decide("ok", None, frames(0.5, score), CALIBRATED)
    assert nothing_decided(decision)
    assert "no finite score" in decision.reason


# ---------------------------------------------------------------- thin evidence


def seen(*scores, track=0, side=100.0, at=0):
    box = (10.0, 20.0, 10.0 + side, 20.0 + side)
    return [
        FrameScore(
            pts_s=(at + i) / 2, frame_index=15 * (at + i), track_id=track, box=box, score_raw=s
        )
        for i, s in enumerate(scores)
    ]


CAREFUL = DecisionRule(CALIBRATION, threshold=0.5, evidence=Evidence())


def said(found, **more):
    decision = decide("ok", None, found, CAREFUL, **more)
    return decision.verdict, decision.reason


def test_enough_large_sharp_and_agreeing_faces_are_judged():
    assert said(seen(3.0, 3.1, 2.9, 3.0), sampled=32, sharpness=0.05) == ("FAKE", None)


def test_few_frames_are_uncertain_unless_there_were_no_more():
    assert said(seen(3.0, 3.0), sampled=32) == ("UNCERTAIN", "few_frames (2 of 32 with a face)")
    assert said(seen(3.0), sampled=1) == ("FAKE", None)  # a picture
    assert decide("ok", None, seen(3.0), CAREFUL, sampled=32).p_fake is not None


def test_tiny_and_blurred_faces_are_uncertain():
    found = seen(3.0, 3.0, 3.0, 3.0, side=20.0)
    assert said(found, sampled=32) == ("UNCERTAIN", "small_faces (20 pixels)")
    assert said(found, sampled=32, sharpness=0.001) == (
        "UNCERTAIN", "small_faces (20 pixels); blurred_faces (sharpness 0.0010)",
    )  # fmt: skip


def test_frames_that_disagree_are_uncertain_only_near_the_threshold():
    # p_fake = sigmoid(2 s - 1): FAKE from 0.5 on; these have a standard error of 1
    apart = [2.0, -2.0, 2.0, -2.0]
    error = 2 * math.sqrt(4 / 3) / 2
    near = [s + 0.5 + 1.9 * error / 2 for s in apart]
    far = [s + 0.5 + 2.1 * error for s in apart]
    assert said(seen(*near), sampled=4) == ("UNCERTAIN", "frames_disagree")
    assert said(seen(*far), sampled=4) == ("FAKE", None)


def test_each_demand_can_be_waived():
    rule = DecisionRule(
        CALIBRATION, 0.5, evidence=Evidence(frames=0, face_px=0, sharpness=0, errors=0)
    )
    found = seen(0.6, 0.4, side=3.0)
    assert decide("ok", None, found, rule, sampled=32, sharpness=0.0).verdict == "FAKE"


# ---------------------------------------------------------------- people


def test_every_person_has_a_row():
    two = seen(1.0, 2.0, 3.0, track=7) + seen(-1.0, -1.0, track=2, side=50.0, at=10)
    decision = decide("ok", None, two, CALIBRATED)
    assert [t["track_id"] for t in decision.tracks] == [2, 7]
    first, second = decision.tracks
    assert (first["first_s"], first["last_s"], first["faces"]) == (5.0, 5.5, 2)
    assert first["box"] == (10.0, 20.0, 60.0, 70.0)
    assert second["score_raw"] == 2.0
    assert second["p_fake"] == pytest.approx(1 / (1 + math.exp(-3)))


def test_the_most_fake_person_decides_and_a_crowd_counts():
    crowd = CALIBRATION.model_copy(update={"people": -0.5, "aggregation": "max_track"})
    rule = DecisionRule(crowd, 0.5, aggregation="max_track")
    one, other = seen(*[2.0] * 5, track=0), seen(*[-4.0] * 5, track=1, at=9)
    alone, both = decide("ok", None, one, rule), decide("ok", None, one + other, rule)
    assert alone.score_raw == both.score_raw == 2.0
    assert alone.llr - both.llr == pytest.approx(0.5 * math.log(2))
    short = decide("ok", None, seen(2.0, 2.0), rule)
    assert nothing_decided(short)
    assert short.reason.startswith("no_track")


# ---------------------------------------------------------------- several models


def test_calibrated_models_are_averaged_as_log_odds():
    other = CALIBRATION.model_copy(update={"scale": 0.5, "offset": 3.0, "reals": 5})
    logits = [[1.0, 2.0], [4.0, -2.0]]
    assert fuse_scores(logits, [CALIBRATION, other]) == [
        (2 * 1 - 1 + 0.5 * 4 + 3) / 2, (2 * 2 - 1 + 0.5 * -2 + 3) / 2,
    ]  # fmt: skip
    both = fuse_calibrations([CALIBRATION, other])
    assert both is not None
    assert both.p_fake(1.5) == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert both.reals == 5


def test_a_model_without_calibration_leaves_an_ensemble_without():
    assert fuse_calibrations([CALIBRATION, None]) is None
    assert fuse_scores([[1.0], [4.0]], [CALIBRATION, None]) == [2.5]


def test_one_model_is_itself():
    assert fuse_scores([[1.0, 2.0]], [CALIBRATION]) == [1.0, 2.0]
    assert fuse_calibrations([CALIBRATION]) is CALIBRATION
