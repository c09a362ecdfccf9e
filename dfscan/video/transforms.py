"""Transforms that videos undergo in distribution, as a table of conditions.

Each condition decodes a whole clip and encodes it again, because the effect of inter-frame
compression on a face cannot be reproduced from single frames. Sound is dropped.
"""

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dfscan.errors import VideoError
from dfscan.storage import Opened
from dfscan.video.reading import Frame, Video, in_order
from dfscan.video.writing import VideoWriter

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

ORIGINAL: Final = "original"
"""The unchanged condition, the baseline of the others."""

JPEG_QUALITY: Final = 75
"""libjpeg's default quality (1 to 100), with 4:2:0 chroma."""

JPEG_STEP: Final = "3"
"""FFmpeg's quantiser scale (2 to 31) equivalent to libjpeg's quality 75."""

BORDER: Final = (0.14, 0.12, 0.08, 0.12)
"""Canvas above, right, below and left of a picture, as shares of its height and width."""

NOT_APPLICABLE: Final = "not_applicable: a picture, and this condition is for videos"
"""The reason in a picture's row if the condition is for videos only."""

_PAGE, _BAR, _DOT = (244, 245, 247), (222, 225, 230), (150, 155, 163)
_EARLY_S: Final = 1e-3
"""Rounding tolerance of time stamps in seconds (Matroska's)."""


@dataclass(frozen=True)
class Encoding:
    """How a clip is encoded; ``options`` are the encoder's."""

    codec: str
    options: Mapping[str, str]
    pixel_format: str
    container: str
    suffix: str


def x264(crf: int) -> Encoding:
    """H.264 in MP4 at a constant rate factor, with FFmpeg's default preset.

    CRF values are usually quoted for that preset. ``mbtree`` is off because its decisions vary
    between encodings of the same frames, and a resumed run must give the same rows. One thread,
    because there are as many workers as CPUs.
    """
    options = {"preset": "medium", "crf": str(crf), "mbtree": "0", "threads": "1"}
    return Encoding("libx264", options, "yuv420p", "mp4", ".mp4")


MJPEG: Final = Encoding(
    "mjpeg", {"qmin": JPEG_STEP, "qmax": JPEG_STEP, "threads": "1"}, "yuvj420p", "matroska", ".mkv"
)
"""Motion JPEG: every frame is a separate JPEG."""

NEARLY_AS_IT_IS: Final = 18
"""H.264 for conditions that change something else; visually almost lossless."""


@dataclass(frozen=True)
class Condition:
    """A transform of a clip, and the encoding of the result.

    ``does`` describes it in one line. ``change`` maps each frame, (H, W, 3) to (H', W', 3); above
    ``max_fps`` frames per second some are dropped. ``still`` is Pillow's format name for pictures,
    None if the condition is for videos only.
    """

    name: str
    does: str
    encoding: Encoding
    change: Callable[[Pixels], Pixels] | None = None
    max_fps: float | None = None
    still: str | None = None

    def settings(self) -> str:
        """Every setting that affects the pixels, on one line."""
        how = self.encoding
        options = " ".join(f"{key}={value}" for key, value in how.options.items())
        pictures = f"; pictures as {self.still}" if self.still else ""
        video = f"{how.codec} {options}, {how.pixel_format} in {how.container}"
        return f"{self.name}: {self.does}; {video}{pictures}"

    def suffix(self, picture: bool) -> str:
        """The suffix of the output file."""
        return f".{self.still}" if picture else self.encoding.suffix


# ---------------------------------------------------------------- frames


def halve(rgb: Pixels) -> Pixels:
    """Half as wide and high, rounded to even numbers of pixels; bicubic, antialiased."""
    height, width = (max(2, 2 * round(side / 4)) for side in rgb.shape[:2])
    small = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small)


def mirror(rgb: Pixels) -> Pixels:
    """Flip horizontally."""
    return np.ascontiguousarray(rgb[:, ::-1])


def frame_in_window(rgb: Pixels) -> Pixels:
    """Place the unscaled picture in a browser-like window, as in a screenshot.

    The canvas is larger by :data:`BORDER`, so faces take a smaller share; its sides are even.
    """
    height, width = rgb.shape[:2]
    top, _, _, left = _margins(height, width)
    canvas = _window(height, width).copy()
    canvas[top : top + height, left : left + width] = rgb
    return canvas


def _margins(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels above, right, below, left; canvas sides come out even."""
    top, bottom = round(BORDER[0] * height), round(BORDER[2] * height)
    right, left = round(BORDER[1] * width), round(BORDER[3] * width)
    return top, right + (width + right + left) % 2, bottom + (height + top + bottom) % 2, left


@functools.lru_cache(maxsize=2)
def _window(height: int, width: int) -> Pixels:
    """The empty canvas: a page, and a bar with three buttons above the picture."""
    top, right, bottom, left = _margins(height, width)
    canvas = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
    canvas[:] = _PAGE
    bar = round(0.6 * top)
    canvas[:bar] = _BAR
    rows, columns = np.ogrid[:bar, : canvas.shape[1]]
    for button in range(3):
        near = (rows - bar / 2) ** 2 + (columns - bar * (0.7 + button)) ** 2
        canvas[:bar][near <= (0.25 * bar) ** 2] = _DOT
    canvas.setflags(write=False)
    return canvas


def thin_out(frames: Iterator[Frame], max_fps: float | None) -> Iterator[Frame]:
    """Keep at most ``max_fps`` frames per second: the first of each tick, at its own time."""
    last = None
    for frame in frames:
        tick = None if max_fps is None else int((frame.pts_s + _EARLY_S) * max_fps // 1)
        if tick is None or tick != last:
            yield frame
        last = tick


# ---------------------------------------------------------------- the table

_AT_18: Final = x264(NEARLY_AS_IT_IS)

ALTERED: Final[tuple[Condition, ...]] = (
    Condition("reencoded", "H.264 at CRF 18 and nothing else", _AT_18),
    Condition("fps15", "at most 15 frames a second", _AT_18, max_fps=15),
    Condition("half", "half as wide and high", _AT_18, halve, still="png"),
    Condition("crf23", "H.264 at CRF 23", x264(23)),
    Condition("crf32", "H.264 at CRF 32", x264(32)),
    Condition("crf40", "H.264 at CRF 40", x264(40)),
    Condition("jpeg", f"each frame a JPEG of quality {JPEG_QUALITY}", MJPEG, still="jpeg"),
    Condition("border", "in a window, as a screenshot", _AT_18, frame_in_window, still="png"),
    Condition("mirrored", "left and right swapped", _AT_18, mirror, still="png"),
)
"""In display order. Pictures are stored without loss, except in ``jpeg``."""

CONDITIONS: Final[Mapping[str, Condition]] = {c.name: c for c in ALTERED}
"""Every condition but :data:`ORIGINAL`, by name."""


# ---------------------------------------------------------------- clips and pictures


@dataclass(frozen=True)
class Written:
    """Number of frames written, and of original frames lost or damaged."""

    frames: int
    lost: int


def write_transformed(video: Video, condition: Condition, path: str | Path | Opened) -> Written:
    """Decode a whole clip and encode it under a condition; frames keep their times.

    :raises VideoError: no frame could be decoded, or frames differ in size.
    :raises DecoderError: another decoder should read the clip; ``path`` is incomplete.
    :raises DfscanError: it cannot be encoded or written.
    """
    frames = thin_out(in_order(video), condition.max_fps)
    first = next(frames, None)
    if first is None:
        raise VideoError("decode_error", "no frame could be decoded")
    change = condition.change or _as_it_is
    changed = change(first.rgb)
    count = 1
    with _writer(path, changed, video.info.fps, condition) as writer:
        writer.write(changed, first.pts_s)
        for frame in frames:
            if frame.rgb.shape != first.rgb.shape:
                raise VideoError("unsupported", "frames of different sizes cannot be re-encoded")
            writer.write(change(frame.rgb), frame.pts_s)
            count += 1
    return Written(count, video.frames_lost)


def _as_it_is(rgb: Pixels) -> Pixels:
    return rgb


def _writer(
    path: str | Path | Opened, frame: Pixels, fps: float | None, condition: Condition
) -> VideoWriter:
    """A writer for frames with this shape."""
    if fps and condition.max_fps:
        fps = min(fps, condition.max_fps)
    how = condition.encoding
    return VideoWriter(
        path,
        frame.shape[1],
        frame.shape[0],
        fps,
        codec=how.codec,
        options=how.options,
        pixel_format=how.pixel_format,
        container=how.container,
    )


def transformed_picture(rgb: Pixels, condition: Condition) -> bytes:
    """Apply a condition to a picture (H, W, 3) and encode it.

    :raises VideoError: ``unsupported``, :data:`NOT_APPLICABLE`.
    """
    if condition.still is None:
        raise VideoError("unsupported", NOT_APPLICABLE)
    sink = io.BytesIO()
    changed = Image.fromarray((condition.change or _as_it_is)(rgb))
    options = {"quality": JPEG_QUALITY, "subsampling": "4:2:0"} if condition.still == "jpeg" else {}
    changed.save(sink, condition.still.upper(), **options)
    return sink.getvalue()
