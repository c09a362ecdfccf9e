"""Draw boxes, labels and verdicts into pictures.

A verdict is shown in three ways, so that colour is not needed: by its word, by its colour (green
REAL, red FAKE, grey UNCERTAIN) and by its line (corners, full frame, dashes).
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Rgb = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are exclusive."""

COLOURS: Final[Mapping[str, Colour]] = {
    "REAL": (70, 210, 130),
    "FAKE": (215, 25, 45),
    "UNCERTAIN": (170, 170, 170),
}
"""Light green and dark red, which differ without colour."""

NO_FACE: Final = "no face found"

_DARK: Final = (20, 20, 20)
_LIGHT: Final = (255, 255, 255)
_INK: Final[Mapping[str, Colour]] = {"REAL": _DARK, "FAKE": _LIGHT, "UNCERTAIN": _DARK}
_LEAST_TEXT: Final = 10
_TEXT_SHARE: Final = 1 / 30
"""Text height as a share of the frame's shorter side."""

_LABELS_FIRST: Final = 3.0
"""Cost of covering a label, relative to covering a face."""

_RESTLESS: Final = 0.25
"""A label moves to another side if that covers less, by this share of its area."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one face: its ``verdict``, the ``label`` beside it, and ``now``.

    ``now`` is this frame's probability of FAKE, 0 to 1, drawn as a bar with the ``threshold``.
    ``number`` identifies a person across frames.
    """

    number: int
    box: Box
    verdict: str
    label: str
    now: float
    threshold: float | None = None


def label_of(verdict: str, p_fake: float, calibrated: bool, number: int | None = None) -> str:
    """``"#2 FAKE"`` and, on a second line, ``"p_fake 0.93"`` or ``"uncalibrated 0.93"``.

    :param number: the person's number, counted from 1; None if there is only one.
    """
    who = "" if number is None else f"#{number} "
    return f"{who}{verdict}\n{'p_fake' if calibrated else 'uncalibrated'} {p_fake:.2f}"


class Artist:
    """Draws marks into the frames of one video; changes only the marks' pixels.

    Labels stay on the same side of their box while there is room, so they do not jump between
    frames.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        short = min(width, height)
        self._text = max(_LEAST_TEXT, round(short * _TEXT_SHARE))
        self._line = max(2, 2 * round(short / 480))
        self._sides: dict[int, int] = {}

    def draw(self, rgb: Rgb, marks: Iterable[Mark]) -> None:
        """Draw into a frame, (H, W, 3) uint8; labels last, so that lines do not cross them."""
        ordered = sorted(marks, key=lambda mark: mark.number)
        for mark in ordered:
            _draw_box(rgb, mark.box, mark.verdict, self._line)
        taken: list[Area] = []
        boxes = [_whole(mark.box) for mark in ordered]
        for mark in ordered:
            plate = self._plate(mark)
            area = self._place(mark, plate, taken, boxes)
            taken.append(area)
            _paste(rgb, plate, area[0], area[1])

    def caption(self, rgb: Rgb, text: str) -> None:
        """Write a line on a grey label in the lower left corner."""
        plate = _text_plate(text, "UNCERTAIN", self._fitting(text))
        gap = self._line * 2
        _paste(rgb, plate, gap, max(0, self._height - plate.shape[0] - gap))

    def _plate(self, mark: Mark) -> Rgb:
        """Render a label with its bar below: (h, w, 3) uint8."""
        size = self._fitting(mark.label)
        words = _text_plate(mark.label, mark.verdict, size)
        bar = max(3, size // 4)
        plate = np.empty((words.shape[0] + bar, words.shape[1], 3), np.uint8)
        plate[:-bar] = words
        plate[-bar:] = _DARK
        width = plate.shape[1]
        plate[-bar:, : round(min(max(mark.now, 0.0), 1.0) * width)] = _LIGHT
        if mark.threshold is not None:
            tick = min(width - 1, round(mark.threshold * width))
            half = max(1, self._line // 2)
            plate[-bar:, max(0, tick - half) : tick + half] = COLOURS["FAKE"]
        return plate

    def _fitting(self, text: str) -> int:
        """The largest text size that fits the frame's width."""
        width = _text_plate(text, "UNCERTAIN", self._text).shape[1]
        if width <= self._width:
            return self._text
        return max(_LEAST_TEXT, int(self._text * self._width // width))

    def _place(self, mark: Mark, plate: Rgb, taken: Sequence[Area], boxes: Sequence[Area]) -> Area:
        """The position beside or in the box that covers least; the previous side is preferred."""
        height, width = plate.shape[:2]
        x0, y0, x1, y1 = _whole(mark.box)
        line = 2 * self._line
        left = min(max(0, x0), max(0, self._width - width))
        corners = (
            (left, y0 - height - line),
            (left, y1 + line),
            (x1 + line, y0),
            (x0 - width - line, y0),
            (left, y0),
            (left, y1 - height),
        )
        costs: dict[int, float] = {}
        areas = [(x, y, x + width, y + height) for x, y in corners]
        for side, area in enumerate(areas):
            inside = (0, 0, self._width, self._height)
            if _shared(area, inside) == width * height:
                hidden = sum(_shared(area, box) for box in boxes)
                costs[side] = hidden + _LABELS_FIRST * sum(_shared(area, a) for a in taken)
        if not costs:
            top = min(max(0, y0 - height - line), max(0, self._height - height))
            return left, top, left + width, top + height
        best = min(costs, key=lambda side: costs[side])
        last = self._sides.get(mark.number, best)
        if costs.get(last, np.inf) <= costs[best] + _RESTLESS * width * height:
            best = last
        self._sides[mark.number] = best
        return areas[best]


def results(
    original: Rgb,
    marks: Sequence[Mark],
    inputs: Sequence[Rgb],
    heading: str,
    seen_by: str = "the network",
) -> Image.Image:
    """The original beside the annotated picture, and below them the network's input for each face.

    :param original: (H, W, 3) uint8.
    :param marks: one per face.
    :param inputs: (S, S, 3) uint8 each, in the order of ``marks``.
    :param heading: the line on top; without marks, also in the annotated picture.
    :param seen_by: the name of the model that gets ``inputs``.
    """
    scale = _panel_scale(*original.shape[:2])
    shown = _resized(original, scale)
    judged = shown.copy()
    height, width = judged.shape[:2]
    artist = Artist(width, height)
    moved = [
        Mark(m.number, _times(m.box, scale), m.verdict, m.label, m.now, m.threshold) for m in marks
    ]
    if moved:
        artist.draw(judged, moved)
    else:
        artist.caption(judged, heading)
    cards = [_card(mark, seen) for mark, seen in zip(marks, inputs, strict=True)]
    return _sheet(heading, shown, judged, cards, f"input of {seen_by} for each face")


# ---------------------------------------------------------------- boxes


def _draw_box(rgb: Rgb, box: Box, verdict: str, line: int) -> None:
    """A dark edge, and on it corners (REAL), a full frame (FAKE) or dashes (UNCERTAIN)."""
    x0, y0, x1, y1 = _whole(box)
    thick = line * 2 if verdict == "FAKE" else line
    for start, end in _stretches(verdict, x0, x1, line):
        for y in (y0, y1):
            _fill(rgb, (start - 1, y - 1, end + 1, y + thick + 1), _DARK)
    for start, end in _stretches(verdict, y0, y1, line):
        for x in (x0, x1):
            _fill(rgb, (x - 1, start - 1, x + thick + 1, end + 1), _DARK)
    for start, end in _stretches(verdict, x0, x1, line):
        for y in (y0, y1):
            _fill(rgb, (start, y, end, y + thick), COLOURS[verdict])
    for start, end in _stretches(verdict, y0, y1, line):
        for x in (x0, x1):
            _fill(rgb, (x, start, x + thick, end), COLOURS[verdict])


def _stretches(verdict: str, start: int, end: int, line: int) -> list[tuple[int, int]]:
    """The drawn segments of one side, including the thickness of the far line."""
    thick = line * 2 if verdict == "FAKE" else line
    end += thick
    length = end - start
    if verdict == "FAKE" or length < 4 * line:
        return [(start, end)]
    if verdict == "REAL":
        corner = max(2 * line, length // 4)
        return [(start, start + corner), (end - corner, end)]
    dash = max(2 * line, length // 11)
    return [(at, min(end, at + dash)) for at in range(start, end, 2 * dash)]


def _fill(rgb: Rgb, area: Area, colour: Colour) -> None:
    x0, y0, x1, y1 = (max(0, v) for v in area)
    rgb[y0:y1, x0:x1] = colour


def _paste(rgb: Rgb, plate: Rgb, left: int, top: int) -> None:
    """Copy a label into a frame, clipped to it."""
    room = rgb[top : top + plate.shape[0], left : left + plate.shape[1]]
    room[:] = plate[: room.shape[0], : room.shape[1]]


def _shared(one: Area, other: Area) -> int:
    """Number of pixels in both areas."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, across) * max(0, down)


def _whole(box: Box) -> Area:
    """Round to even pixels, because video stores chroma for 2 × 2 pixels."""
    x0, y0, x1, y1 = (2 * round(v / 2) for v in box)
    return x0, y0, x1, y1


# ---------------------------------------------------------------- text


@functools.lru_cache(maxsize=256)
def _text_plate(text: str, verdict: str, size: int) -> Rgb:
    """Text on the verdict's colour, (h, w, 3) uint8, read-only; lines after the first are
    smaller."""
    gap = max(1, size // 4)
    lines = []
    for number, words in enumerate(text.split("\n")):
        own = size if number == 0 else max(_LEAST_TEXT, round(size * 0.8))
        lines.append((words, own, ImageFont.load_default(own)))
    height = sum(own + gap for _, own, _ in lines) + gap
    width = max(round(font.getlength(words)) for words, _, font in lines) + 2 * gap
    plate = Image.new("RGB", (width, height), COLOURS[verdict])
    draw, top = ImageDraw.Draw(plate), gap // 2
    for words, own, font in lines:
        draw.text((gap, top), words, font=font, fill=_INK[verdict])
        top += own + gap
    pixels = np.asarray(plate)
    pixels.setflags(write=False)
    return pixels


# ---------------------------------------------------------------- the sheet of a picture

_PAPER: Final = (250, 250, 250)
_QUIET: Final = (110, 110, 110)
_PANEL: Final = (384, 960)
"""Smallest and largest longer side of a picture on the sheet, in pixels."""

_FACE: Final = 192
_GAP: Final = 16
_WORDS: Final = 20


def _panel_scale(height: int, width: int) -> float:
    longer = max(height, width)
    return min(max(longer, _PANEL[0]), _PANEL[1]) / longer


def _resized(rgb: Rgb, scale: float) -> Rgb:
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    if (height, width) == rgb.shape[:2]:
        return rgb.copy()
    return np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def _times(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = box
    return x0 * scale, y0 * scale, x1 * scale, y1 * scale


def _card(mark: Mark, seen: Rgb) -> Image.Image:
    """The network's input for a face, with its verdict."""
    words = _text_plate(mark.label, mark.verdict, _WORDS)
    width = max(_FACE, words.shape[1])
    card = Image.new("RGB", (width, _FACE + words.shape[0]), COLOURS[mark.verdict])
    card.paste(Image.fromarray(seen).resize((_FACE, _FACE), Image.Resampling.LANCZOS), (0, 0))
    card.paste(Image.fromarray(words), (0, _FACE))
    return card


def _sheet(
    heading: str, original: Rgb, judged: Rgb, cards: Sequence[Image.Image], over_cards: str
) -> Image.Image:
    font = ImageFont.load_default(_WORDS)
    height, width = original.shape[:2]
    full = max(2 * width + 3 * _GAP, round(font.getlength(heading)) + 2 * _GAP)
    full = max([full, *(card.width + 2 * _GAP for card in cards)])
    rows: list[list[Image.Image]] = [[]]
    for card in cards:
        used = sum(c.width + _GAP for c in rows[-1])
        if rows[-1] and used + card.width + 2 * _GAP > full:
            rows.append([])
        rows[-1].append(card)
    line = round(1.6 * _WORDS)
    tall = sum(max(c.height for c in row) + _GAP for row in rows if row)
    sheet = Image.new(
        "RGB", (full, _GAP + 2 * line + height + _GAP + (line + tall if cards else 0)), _PAPER
    )
    draw, top = ImageDraw.Draw(sheet), _GAP // 2
    draw.text((_GAP, top), heading, font=font, fill=_DARK)
    top += line
    draw.text((_GAP, top), "original", font=font, fill=_QUIET)
    draw.text((width + 2 * _GAP, top), "judged", font=font, fill=_QUIET)
    top += line
    sheet.paste(Image.fromarray(original), (_GAP, top))
    sheet.paste(Image.fromarray(judged), (width + 2 * _GAP, top))
    top += height + _GAP // 2
    if cards:
        draw.text((_GAP, top), over_cards, font=font, fill=_QUIET)
        top += line
    for row in rows:
        left = _GAP
        for card in row:
            sheet.paste(card, (left, top))
            left += card.width + _GAP
        top += max((c.height for c in row), default=0) + _GAP
    return sheet
