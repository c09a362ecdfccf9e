import copy
import math
from typing import Any

import pytest

from dfscan.commands.verify.reproducibility import Tolerance, changed_since, compare

TOLERANCE = Tolerance(1e-3, scale=2.0)


def frame(index: int, score: float) -> dict[str, Any]:
    return {
        "pts_s": index / 25,
        "frame_index": index,
        "track_id": 0,
        "box": [10.0, 10.0, 50.0, 60.0],
        "score_raw": score,
    }


@pytest.fixture
def row() -> dict[str, Any]:
    return {
        "video_id": "a",
        "uri": "/a",
        "content_sha256": "1",
        "bytes": 5,
        "status": "ok",
        "verdict": "FAKE",
        "reason": None,
        "score_raw": 1.0,
        "p_fake": 0.9,
        "llr": 2.0,
        "tracks": [{"track_id": 0, "score_raw": 1.0, "box": [10.0, 10.0, 50.0, 60.0]}],
        "frames": [frame(0, 1.5), frame(5, 1.4995), frame(9, 0.5)],
        "top_frames_s": [0.0, 0.2, 0.36],
        "scanned_at": 1,
        "custody": {
            "dfscan": "0.1.0",
            "recipe_hash": "r",
            "models": ["m"],
            "decoder": "av 16.0",
            "device": "cpu",
            "precision": "float32",
            "libraries": [{"key": "torch", "value": "2.9"}, {"key": "timm", "value": "1.0"}],
        },
    }


def test_what_is_of_the_run_or_within_the_tolerance_agrees(row: dict[str, Any]) -> None:
    other = copy.deepcopy(row)
    other |= {"video_id": "b", "uri": "/b", "scanned_at": 2, "score_raw": 1.0009, "llr": 2.0019}
    other["p_fake"] += 0.0004  # a logit off by 0.001 moves it by half of that at most, slope 2 / 4
    other["frames"][0]["box"][0] += 0.09
    assert compare(row, other, TOLERANCE) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("score_raw", 1.002), ("llr", 2.003), ("p_fake", 0.9006), ("score_raw", None)],
)
def test_beyond_the_tolerance_it_differs(row: dict[str, Any], column: str, value: Any) -> None:
    (difference,) = compare(row, row | {column: value}, TOLERANCE)
    assert (difference.what, difference.found) == (column, value)


def test_half_precision_is_rounded_more() -> None:
    assert TOLERANCE.within("float32", "float32") == TOLERANCE
    assert TOLERANCE.within("bfloat16", "bfloat16") == Tolerance(0.25, 2.0)
    assert TOLERANCE.within("float16", "float32").score == 0.1
    assert Tolerance(3.0).within("float16", "float16").score == 3.0


def test_a_leaf_is_named_by_its_path(row: dict[str, Any]) -> None:
    other = copy.deepcopy(row)
    other["frames"][1]["pts_s"] += 0.001
    other["tracks"][0]["box"][2] = 51.0
    what = {d.what for d in compare(row, other, TOLERANCE)}
    assert what == {"frames[1].pts_s", "tracks[0].box"}


def test_other_frames_are_one_difference(row: dict[str, Any]) -> None:
    other = row | {"frames": row["frames"][:2]}
    (difference,) = compare(row, other, TOLERANCE)
    assert (difference.what, difference.found) == ("frames.frame_index", [0, 5])


def test_frames_of_one_score_may_change_places_at_the_top(row: dict[str, Any]) -> None:
    assert compare(row, row | {"top_frames_s": [0.2, 0.0, 0.36]}, TOLERANCE) == []
    for other in ([0.36, 0.2, 0.0], [0.0, 0.2], [0.0, 0.0, 0.36], [0.0, 0.2, 7.0], None):
        (difference,) = compare(row | {"top_frames_s": other}, row, TOLERANCE)
        assert difference.what == "top_frames_s"


def test_of_another_file_nothing_else_is_told(row: dict[str, Any]) -> None:
    other = row | {"content_sha256": "2", "verdict": "REAL", "frames": []}
    assert [d.what for d in compare(row, other, TOLERANCE)] == ["content_sha256"]


def test_no_number_equals_no_number_alone(row: dict[str, Any]) -> None:
    nothing = row | {"llr": math.nan}
    assert compare(nothing, nothing, TOLERANCE) == []
    assert [d.what for d in compare(row, nothing, TOLERANCE)] == ["llr"]


def test_a_column_of_another_dfscan_is_not_compared(row: dict[str, Any]) -> None:
    assert compare(row, row | {"new": 1}, TOLERANCE) == []
    assert compare(row | {"old": 1}, row, TOLERANCE) == []


def test_the_reason_of_a_failed_video_is_the_decoders(row: dict[str, Any]) -> None:
    other = row | {"reason": "frames_disagree"}
    assert [d.what for d in compare(row, other, TOLERANCE)] == ["reason"]
    failed = row | {"status": "decode_error"}
    assert compare(failed, failed | {"reason": "moov atom not found"}, TOLERANCE) == []


def test_what_runs_now_is_told(row: dict[str, Any]) -> None:
    other = copy.deepcopy(row)
    assert changed_since(row, other) == []
    other["custody"] |= {"decoder": "av 17.0", "libraries": [{"key": "torch", "value": "3.0"}]}
    told = ["decoder av 16.0 → av 17.0", "timm 1.0 → none", "torch 2.9 → 3.0"]
    assert changed_since(row, other) == told
