import numpy as np
import pytest

from dfscan.rendering.overlay import COLOURS, Artist, Mark, label_of, results

BOX = (200.0, 150.0, 280.0, 250.0)


def mark(verdict="FAKE", box=BOX, number=0, now=0.5, label=None, threshold=0.5):
    return Mark(number, box, verdict, label or label_of(verdict, 0.93, True), now, threshold)


def frame(width=640, height=480):
    return np.full((height, width, 3), 90, np.uint8)


def share(pixels, colour):
    return (pixels == np.array(colour)).all(-1).mean()


def draw(rgb, *marks):
    Artist(rgb.shape[1], rgb.shape[0]).draw(rgb, marks)
    return rgb


def where(rgb):
    """x0, y0, x1, y1 of what is no background any more."""
    ys, xs = np.nonzero((rgb != 90).any(-1))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


@pytest.mark.parametrize(
    ("verdict", "least", "most"), [("FAKE", 1.0, 1.0), ("REAL", 0.4, 0.6), ("UNCERTAIN", 0.4, 0.7)]
)
def test_the_line_and_its_colour_say_the_verdict(verdict, least, most):
    rgb = draw(frame(), mark(verdict))
    side = rgb[150:252, 280]
    assert least <= share(side, COLOURS[verdict]) <= most
    others = [c for name, c in COLOURS.items() if name != verdict]
    assert all(share(side, colour) == 0 for colour in others)


def test_verdicts_differ_in_lightness_too():
    light = {name: np.dot(colour, (0.299, 0.587, 0.114)) for name, colour in COLOURS.items()}
    assert light["REAL"] - light["FAKE"] > 60


def test_nothing_but_the_box_and_its_label_is_touched():
    rgb = draw(frame(), mark())
    assert (rgb[160:240, 210:270] == 90).all()
    x0, y0, x1, y1 = where(rgb)
    assert x0 >= 195
    assert x1 <= 330
    assert y1 <= 257
    assert y0 > 90


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (320, 568), (128, 96), (16, 9), (1, 1)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_label_stays_in_the_frame(size, corner):
    width, height = size
    x, y = corner[0] * width, corner[1] * height
    box = (x - width / 6, y - height / 6, x + width / 6, y + height / 6)
    rgb = draw(frame(width, height), mark(box=box, label="#12 UNCERTAIN\nuncalibrated 0.93"))
    whole = draw(frame(width, height), mark(box=(width / 3, height / 2, width / 2, height * 0.9),
                 label="#12 UNCERTAIN\nuncalibrated 0.93"))  # fmt: skip
    if min(size) >= 96:
        ink = [share(drawn, (255, 255, 255)) for drawn in (rgb, whole)]
        assert ink[0] == pytest.approx(ink[1], rel=0.02)


def test_letters_grow_with_the_frame():
    heights = []
    for width, height in ((640, 480), (1920, 1440)):
        rgb = frame(width, height)
        Artist(width, height).caption(rgb, "no face found")
        _, y0, _, y1 = where(rgb)
        heights.append((y1 - y0) / height)
    assert heights[0] == pytest.approx(heights[1], rel=0.1)
    assert heights[0] > 0.03


def test_the_bar_says_how_fake_the_moment_is():
    def white(now):
        rgb = draw(frame(), mark("REAL", now=now, threshold=None))
        return int((rgb == 255).all(-1).sum())

    none, half, full = white(0.0), white(0.5), white(1.0)
    assert none == 0
    assert half == pytest.approx(full / 2, rel=0.05)
    assert white(2.0) == full


def test_labels_of_neighbours_do_not_hide_each_other():
    marks = [mark("REAL", (100, 200, 150, 260), 0), mark("FAKE", (160, 200, 210, 260), 1)]
    alone = [share(draw(frame(), m), COLOURS[m.verdict]) for m in marks]
    both = draw(frame(), *marks)
    for one, before in zip(marks, alone, strict=True):
        assert share(both, COLOURS[one.verdict]) == pytest.approx(before, rel=0.03)


def test_a_label_does_not_jump_for_a_pixel():
    artist = Artist(640, 480)
    tops = []
    for shift in (0, 1, 0, 1, 2, 1):
        rgb = frame()
        artist.draw(rgb, [mark(box=(200.0, 44.0 - shift, 280.0, 150.0))])
        tops.append(where(rgb)[1])
    assert max(tops) - min(tops) <= 2


def test_labels_say_whose_and_how_sure():
    assert label_of("FAKE", 0.934, True) == "FAKE\np_fake 0.93"
    assert label_of("UNCERTAIN", 0.5, False, 2) == "#2 UNCERTAIN\nuncalibrated 0.50"


def test_a_picture_s_sheet_shows_the_original_the_verdict_and_what_the_network_saw():
    original = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    seen = np.full((64, 64, 3), (10, 20, 250), np.uint8)
    marks = [mark("FAKE"), mark("REAL", (20, 100, 90, 190), 1)]
    sheet = np.asarray(results(original, marks, [seen, seen], "FAKE, p_fake 0.93"))
    left = sheet[:, 16:516]
    rows = [y for y in range(200) if (left[y] == original[0]).all()]
    assert rows, "the original is not there as it was"
    top = rows[0]
    assert (left[top : top + 400] == original).all()
    judged = sheet[top : top + 400, 532:1032]
    changed = (judged != original).any(-1)
    assert 0.01 < changed.mean() < 0.2
    below = sheet[top + 400 :]
    assert share(below, (10, 20, 250)) * below[..., 0].size == pytest.approx(
        2 * 192 * 192, rel=0.01
    )
    assert share(below, COLOURS["REAL"]) > 0
    assert share(below, COLOURS["FAKE"]) > 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (3000, 4000, 3), (50, 900, 3)])
def test_a_picture_without_a_face_has_a_sheet_too(shape):
    sheet = results(np.zeros(shape, np.uint8), [], [], "no face found")
    assert max(sheet.size) < 2100
