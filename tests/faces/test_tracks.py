from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from dfscan.faces.detectors import load_detector
from dfscan.faces.tracks import FORGET_S, MAX_REACH, MAX_SIZE_RATIO, join
from dfscan.schemas.recipe import Detector
from dfscan.video import open_video


def square(x: float, y: float = 200.0, side: float = 100.0) -> np.ndarray:
    """A box around a centre."""
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)


def frame(*boxes: np.ndarray) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


def test_no_frames_and_frames_without_faces() -> None:
    assert join([], []) == []
    assert join([0.0, 1.0, 2.0], [frame(), frame(square(50)), frame()]) == [[], [0], []]


def test_times_and_frames_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        join([0.0, 1.0], [frame()])


def test_numbers_follow_the_first_appearance() -> None:
    frames = [frame(square(300), square(50)), frame(square(50), square(600), square(300))]
    assert join([0.0, 1.0], frames) == [[0, 1], [1, 2, 0]]


@pytest.mark.parametrize("interval", [0.04, 0.33, 1.0, 3.3])
def test_a_head_that_sways_stays_one_person(interval: float) -> None:
    times = [i * interval for i in range(40)]
    frames = [frame(square(300 + 40 * np.sin(2.1 * t), 200 + 10 * np.cos(3 * t))) for t in times]
    assert join(times, frames) == [[0]] * 40


@pytest.mark.parametrize("interval", [0.04, 1.0, 3.3])
def test_neighbours_keep_their_numbers_whichever_is_larger(interval: float) -> None:
    rng = np.random.default_rng(0)
    times = [i * interval for i in range(60)]
    frames, people = [], []
    for _ in times:
        where = [200 + rng.normal(0, 15), 330 + rng.normal(0, 15), 460 + rng.normal(0, 15)]
        order = list(rng.permutation(3))  # largest first changes who comes first
        frames.append(frame(*(square(where[i]) for i in order)))
        people.append(order)
    names = {person: number for number, person in enumerate(people[0])}
    assert join(times, frames) == [[names[i] for i in order] for order in people]


def test_a_neighbour_does_not_take_the_number_of_one_who_is_missed() -> None:
    both, right = frame(square(200), square(320)), frame(square(318))
    assert join([0.0, 1.0, 2.0], [both, right, both]) == [[0, 1], [1], [0, 1]]


def test_two_doubtful_pairs_do_not_outweigh_a_certain_one() -> None:
    before = frame(square(200), square(330))
    after = frame(square(335), square(470))  # the left one left, somebody came on the right
    assert join([0.0, 1.0], [before, after]) == [[0, 1], [1, 2]]


def test_people_who_cross_are_not_swapped() -> None:
    times = [i * 0.04 for i in range(100)]
    frames, expected = [], []
    for i in range(100):
        front, back = square(100 + 6 * i, 200, 110), square(700 - 6 * i, 190, 90)
        hidden = abs(front[0] - back[0]) < 60
        frames.append(frame(front) if hidden else frame(front, back))
        expected.append([0] if hidden else [0, 1])
    assert join(times, frames) == expected


def test_somebody_elsewhere_is_somebody_else() -> None:
    assert join([0.0, 1.0], [frame(square(100)), frame(square(600))]) == [[0], [1]]


def test_somebody_of_another_size_is_somebody_else() -> None:
    small = square(100, side=100 / (MAX_SIZE_RATIO * 1.1))
    assert join([0.0, 1.0], [frame(square(100)), frame(small)]) == [[0], [1]]


def test_reach_grows_with_time_and_ends() -> None:
    still, moved = frame(square(100)), frame(square(250))
    assert join([0.0, 0.04], [still, moved]) == [[0], [1]]
    assert join([0.0, 1.0], [still, moved]) == [[0], [0]]
    beyond = frame(square(100 + 100 * MAX_REACH * 1.1))
    assert join([0.0, 4.0], [still, beyond]) == [[0], [1]]


def test_a_person_not_seen_for_long_is_gone() -> None:
    still, none = frame(square(100)), frame()
    near, far = FORGET_S - 0.5, FORGET_S + 0.5
    assert join([0, 1, 2, near], [still, none, none, still])[-1] == [0]
    assert join([0, 1, 2, far], [still, none, none, still])[-1] == [1]


def test_with_sparse_frames_a_person_may_be_missed_twice() -> None:
    still, none = frame(square(100)), frame()
    times = [3.337 * i for i in range(6)]
    assert join(times[:4], [still, none, none, still])[-1] == [0]
    assert join(times[:5], [still, none, none, none, still])[-1] == [1]


def test_one_seen_just_now_goes_before_one_who_once_was_here() -> None:
    frames = [
        frame(square(300), square(180)),
        frame(square(180)),
        frame(square(180)),
        frame(square(240)),  # between both places
    ]
    assert join([0.0, 1.0, 2.0, 3.0], frames) == [[0, 1], [1], [1], [1]]


def test_a_whole_picture_is_one_person() -> None:
    whole = np.array([[0, 0, 256, 256]], np.float32)
    assert join([0.0, 1.0, 2.0], [whole, whole, whole]) == [[0], [0], [0]]


def test_odd_boxes_do_no_harm() -> None:
    odd = np.array([[5, 5, 5, 5], [np.nan] * 4, [9, 9, 2, 2]], np.float32)
    assert join([0.0, 0.0, 1.0], [odd, frame(), odd])[0] == [0, 1, 2]


def test_people_of_a_real_clip_keep_their_numbers(samples: Path) -> None:
    """Looked at by eye: frames 0, 30, 60 and 90 of a street scene, the camera in the hand."""
    video = open_video((samples / "clips" / "several_people_1080p.mp4").read_bytes(), "decord")
    frames = [f for batch in video.read(range(0, video.count, 30)) for f in batch]
    min_face = Detector().min_face_px(video.info.width, video.info.height)
    found = load_detector(Detector(), "cpu").detect([f.rgb for f in frames], min_face)
    numbers = join([f.pts_s for f in frames], [d.boxes for d in found])
    centres = defaultdict(list)
    for at, detections, of_frame in zip(frames, found, numbers, strict=True):
        for box, number in zip(detections.boxes, of_frame, strict=True):
            centres[number].append((at.index, round(float(box[0] + box[2]) / 2)))
    people = {
        "lady with white hair": [(0, 308), (30, 290), (60, 236), (90, 251)],
        "young man with red hair": [(0, 704), (30, 666), (60, 565), (90, 490)],
        "boy": [(0, 946), (30, 1012), (60, 954), (90, 831)],
        "man with white hair": [(0, 1102), (60, 1100)],
        "man with glasses": [(60, 1150), (90, 1183)],
    }
    for person, where in people.items():
        of_person = [c for c in centres.values() if near(c[0], where[0])]
        assert len(of_person) == 1, person
        assert len(of_person[0]) == len(where), person
        assert all(near(a, b) for a, b in zip(of_person[0], where, strict=True)), person


def near(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] == b[0] and abs(a[1] - b[1]) < 15
