import numpy as np
import pytest

from dfscan.rendering.interpolation import Path, in_shots
from dfscan.video import Frame

ALWAYS = (-np.inf, np.inf)


def path(times, lefts, scores=None, every_s=0.2):
    boxes = [(left, 0.0, left + 10.0, 10.0) for left in lefts]
    return Path(times, boxes, scores or [0.0] * len(times), every_s)


def left(placed):
    return None if placed is None else placed.box[0]


def test_a_box_moves_in_a_straight_line_between_two_looks_and_so_does_the_score():
    own = path([0.0, 0.2], [100.0, 140.0], [-1.0, 3.0])
    placed = own.at(0.05, *ALWAYS)
    assert placed.box == pytest.approx((110.0, 0.0, 120.0, 10.0))
    assert placed.score_raw == pytest.approx(0.0)
    assert left(own.at(0.2, *ALWAYS)) == 140.0


def test_a_face_missed_in_one_look_stays_and_one_gone_for_longer_does_not():
    assert left(path([0.0, 0.4], [0.0, 40.0]).at(0.2, *ALWAYS)) == pytest.approx(20.0)
    gone = path([0.0, 1.0], [0.0, 40.0])
    assert left(gone.at(0.09, *ALWAYS)) == 0.0
    assert gone.at(0.5, *ALWAYS) is None
    assert left(gone.at(0.91, *ALWAYS)) == 40.0


def test_a_box_stays_half_an_interval_at_its_ends():
    own = path([1.0, 1.2], [0.0, 0.0])
    shown = [own.at(when, *ALWAYS) is not None for when in (0.88, 0.92, 1.29, 1.31)]
    assert shown == [False, True, True, False]


def test_nothing_moves_across_a_cut():
    own = path([1.0, 1.2], [0.0, 300.0])
    assert left(own.at(1.09, 0.0, 1.1)) == 0.0
    assert left(own.at(1.1, 1.1, 9.0)) == 300.0


def test_up_to_a_cut_a_box_stays_for_the_whole_interval():
    own = path([1.0], [0.0])
    assert own.at(1.17, 0.0, 1.19) is not None
    assert own.at(1.17, 0.0, 9.0) is None
    assert own.at(0.83, 0.81, 9.0) is not None


def frames(levels, fps=10.0, size=(60, 80)):
    return [
        Frame(i, i / fps, i == 0, np.full((*size, 3), level, np.uint8))
        for i, level in enumerate(levels)
    ]


def test_shots_end_where_the_picture_changes_at_once():
    shown = list(in_shots(frames([10, 12, 20, 200, 190, 90]), ahead_s=10.0))
    assert [s.frame.index for s in shown] == list(range(6))
    assert [s.begins_s for s in shown] == [-np.inf] * 3 + [0.3, 0.3, 0.5]
    assert [s.ends_s for s in shown] == pytest.approx([0.3, 0.3, 0.3, 0.5, 0.5, 0.5])
    assert shown[-1].ends_s > shown[-1].frame.pts_s


def test_a_cut_is_seen_no_further_ahead_than_asked():
    shown = list(in_shots(frames([10, 10, 10, 200]), ahead_s=0.15))
    assert [s.ends_s for s in shown] == pytest.approx([np.inf, 0.3, 0.3, 0.3])


def test_a_box_stays_to_the_end_of_the_video():
    own = path([0.0, 0.2], [0.0, 0.0])
    *_, last = in_shots(frames([10] * 5, fps=12.0), ahead_s=0.2)
    assert own.at(last.frame.pts_s, -np.inf, np.inf) is None
    assert own.at(last.frame.pts_s, last.begins_s, last.ends_s) is not None


def test_frames_are_handed_on_before_the_last_is_read():
    taken = []

    def reading():
        for frame in frames([10] * 20):
            taken.append(frame.index)
            yield frame

    first = next(in_shots(reading(), ahead_s=0.25))
    assert (first.frame.index, taken[-1]) == (0, 3)


def test_large_frames_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setattr("dfscan.rendering.interpolation.AHEAD_BYTES", 1000)
    assert len(list(in_shots(frames([10] * 5), ahead_s=9.0))) == 5
