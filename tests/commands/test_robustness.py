"""Figures of a condition against the originals, worked by hand."""

import pytest

from dfscan.commands.stress.robustness import Outcome, Truth, failures, stress_rows
from dfscan.video.transforms import NOT_APPLICABLE


def ok(verdict: str | None, score: float | None, seconds: float = 1.0) -> Outcome:
    return Outcome("ok" if verdict else "no_face", None, verdict, score, seconds)


ORIGINAL = {
    "a": ok("REAL", -2.0),
    "b": ok("REAL", -1.0),
    "c": ok("FAKE", 1.0),
    "d": ok("FAKE", 2.0),
    "e": ok("UNCERTAIN", 0.0),
    "f": ok(None, None),
    "g": ok("REAL", -3.0),
}
HARSH = {
    "a": ok("FAKE", 1.5),
    "b": ok("REAL", -1.5, 3.0),
    "c": ok("REAL", -2.0),
    "d": ok("UNCERTAIN", 0.5),
    "e": ok("FAKE", 1.0),
    "f": ok("REAL", -1.0),
    "g": Outcome("timeout", "too long", None, None, None),
}
TRUTH = {
    "a": Truth("REAL", "1"),
    "b": Truth("REAL", "2"),
    "c": Truth("FAKE", "1"),
    "d": Truth("FAKE", "2"),
    "e": Truth(None, "3"),
    "f": Truth("REAL", "4"),
    "g": Truth("REAL", "5"),
}


def test_a_hand_worked_table() -> None:
    before, after = stress_rows({"original": ORIGINAL, "crf40": HARSH}, TRUTH)
    assert before["condition"] == "original"
    assert after["does"] == "H.264 at CRF 40"
    moved = {
        "compared": 7,
        "flipped": 2,
        "real_to_fake": 1,  # a
        "fake_to_real": 1,  # c
        "to_uncertain": 1,  # d
        "to_none": 1,  # g
        "from_uncertain": 1,  # e
        "from_none": 1,  # f
    }
    assert {k: after[k] for k in moved} == moved
    assert after["flipped_videos"] == ["a", "c"]
    assert {k: before[k] for k in moved} == dict.fromkeys(moved, 0) | {"compared": 7}
    # changes: a +3.5, b −0.5, c −3.0, d −1.5, e +1.0
    assert after["score_change_mean"] == pytest.approx(-0.1)
    assert after["score_change_median"] == pytest.approx(-0.5)
    assert before["score_change_mean"] == 0
    assert (after["videos"], after["failed"], after["no_verdict"]) == (7, 1, 1)
    assert (before["failed"], before["no_verdict"]) == (0, 1)
    assert after["seconds_a_video"] == pytest.approx(8 / 6)


def test_auc_is_of_labelled_videos_with_a_score() -> None:
    before, after = stress_rows({"original": ORIGINAL, "crf40": HARSH}, TRUTH)
    assert (before["auc"], before["auc_videos"]) == (1.0, 5)
    # reals 1.5, −1.5, −1.0 against fakes −2.0, 0.5: 2 of 6 pairs in order
    assert after["auc"] == pytest.approx(2 / 6)
    assert after["auc_videos"] == 5
    assert before["auc_change"] == 0
    assert before["auc_change_interval"] == [0, 0]
    # on a, b, c, d alone, which have a score both times: 1 of 4 pairs in order, against 4 of 4
    assert after["auc_change"] == pytest.approx(1 / 4 - 1)
    low, high = after["auc_interval"]
    assert 0 <= low <= after["auc"] <= high <= 1
    # decided and labelled: a wrong, b right, c wrong, f right
    assert (after["accuracy"], after["decided"]) == (0.5, 4)


def test_without_labels_flips_still_count() -> None:
    unknown = {video: Truth(None, video) for video in TRUTH}
    _, after = stress_rows({"original": ORIGINAL, "crf40": HARSH}, unknown)
    assert after["auc"] is after["auc_interval"] is after["accuracy"] is None
    assert (after["auc_videos"], after["decided"]) == (0, 0)
    assert after["flipped"] == 2
    one_class = {video: Truth("REAL", video) for video in TRUTH}
    _, after = stress_rows({"original": ORIGINAL, "crf40": HARSH}, one_class)
    assert after["auc"] is after["auc_change"] is None
    assert after["accuracy"] == pytest.approx(3 / 5)


def test_a_condition_that_does_not_apply_is_counted_and_compared_with_nothing() -> None:
    pictures = {"a": Outcome("unsupported", NOT_APPLICABLE, None, None, 0.1)}
    _, row = stress_rows({"original": {"a": ORIGINAL["a"]}, "fps15": pictures}, TRUTH)
    assert (row["videos"], row["not_applicable"], row["failed"], row["compared"]) == (0, 1, 0, 0)
    assert row["to_none"] == row["no_verdict"] == 0
    assert row["seconds_a_video"] is row["score_change_median"] is None
    assert failures(pictures) == 0
