"""A small corpus in DFDC's shape, drawn on this machine; nothing is downloaded.

All people here are invented: one public-domain portrait (NASA's photograph of Eileen Collins,
as scikit-image ships it) is bent, recoloured and put before drawn backgrounds. A fake is a real
clip whose face is overlaid with another invented person's: aligned, lower in resolution, only
partly matched in colour, blended in through a soft mask. That is enough to run every step of
dfscan in minutes. **It is synthetic: figures from it say nothing about real deepfakes.**

Reals and fakes pass the same encoder with the same settings, and a fake is drawn over the very
frames of its original, so that only the face tells them apart. Equal specs give equal bytes
(with the same versions of NumPy, SciPy, Pillow and PyAV).
"""

import functools
import io
import json
import string
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from dfscan import storage
from dfscan.errors import ConfigError, DfscanError

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Points = tuple[tuple[int, int], ...]

TRAIN_NAME: Final = "dfdc_train_part_"
TEST_NAME: Final = "dfdc_test"

_PERSON, _CLIP, _NAMES, _DONORS, _FAKE = range(5)
"""What a random stream is for; with the seed and an index it makes the stream's seed."""

_RESOLUTION_LOSS: Final = (2.8, 3.8)
_LUMA_SHIFT: Final = (5.0, 13.0)
_CHROMA_SHIFT: Final = (5.0, 12.0)
"""How far a fake's face is off: times smaller, and 8-bit levels lighter or darker and tinted."""

# The portrait, in its own pixels (512 × 512).
_EYES: Final = ((205, 102), (247, 104))
_LANDMARKS: Final = np.array([*_EYES, (225, 129), (202, 139), (245, 142)], np.float64)
_MIRRORED: Final = [1, 0, 2, 4, 3]
_FACE_CENTRE: Final = np.array([224.0, 118.0])
_HEAD: Final[Points] = (
    (176, 131), (171, 126), (170, 118), (162, 109), (156, 98), (154, 80), (154, 64), (160, 53),
    (172, 44), (188, 36), (198, 27), (214, 20), (232, 15), (245, 17), (255, 22), (270, 31),
    (285, 40), (294, 52), (299, 70), (301, 88), (297, 107), (290, 120), (279, 128), (272, 135),
)  # fmt: skip
_BODY: Final[Points] = (
    (267, 137), (266, 145), (259, 160), (256, 174), (270, 181), (285, 192), (295, 203), (303, 220),
    (305, 236), (325, 250), (340, 270), (346, 290), (356, 320), (360, 360), (365, 511), (0, 511),
    (0, 292), (40, 255), (70, 237), (100, 220), (116, 206), (113, 187), (127, 175), (136, 162),
    (150, 152), (165, 148), (184, 149), (182, 133),
)  # fmt: skip
_SKIN: Final[Points] = (
    (186, 77), (183, 90), (181, 116), (172, 118), (175, 131), (181, 133), (184, 150), (187, 168),
    (192, 182), (215, 187), (235, 190), (254, 185), (258, 165), (266, 140), (271, 135), (278, 128),
    (269, 124), (270, 110), (265, 92), (245, 85), (222, 79), (200, 78),
)  # fmt: skip
_JAW: Final[Points] = (
    (184, 130), (187, 160), (200, 176), (225, 182), (248, 176), (260, 158), (266, 132), (255, 142),
    (248, 134), (225, 133), (205, 132), (196, 140),
)  # fmt: skip
_MOUTH: Final = (199, 137, 249, 157)
_BROWS: Final = ((188, 84, 216, 94), (236, 87, 264, 97))
_SWAP_CENTRE: Final = np.array([225.0, 128.0])
_SWAP_RADII: Final = np.array([36.0, 43.0])

# Centres, reach and largest relative change (x, y) of the features that differ between people.
_FEATURES: Final = (
    (_EYES, 15, 0.16, 0.24),
    (((226, 103),), 30, 0.15, 0.05),  # distance between the eyes
    (((225, 122),), 15, 0.28, 0.20),  # nose
    (((224, 147),), 20, 0.20, 0.30),  # mouth
    (((225, 172),), 30, 0.20, 0.16),  # jaw and chin
    (((225, 45),), 50, 0.20, 0.26),  # hair
    (((225, 120),), 60, 0.09, 0.09),  # the face as a whole
)
_HAIR: Final = (  # gain per RGB channel, saturation kept
    ((0.26, 0.25, 0.27), 0.5),  # black
    ((0.55, 0.46, 0.40), 1.0),  # brown
    ((1.00, 0.95, 0.85), 1.0),  # as it is
    ((1.22, 1.18, 1.10), 0.9),  # fair
    ((1.00, 0.62, 0.44), 1.1),  # red
    ((1.10, 1.12, 1.20), 0.15),  # grey
)
_SKIN_LIGHT: Final = np.array([1.06, 1.07, 1.10], np.float32)
_SKIN_DARK: Final = np.array([0.56, 0.46, 0.40], np.float32)
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class CorpusSpec:
    """How much to draw. Equal specs give equal archives.

    ``size`` is the width of a frame in pixels, even; some clips are square, some 4:3.
    ``parts`` counts the training archives; ``frames`` is per clip, ``fps`` per second. A face
    is about a third of a frame wide.

    :raises ConfigError: a number is out of its range.
    """

    people: int = 24
    test_people: int = 8
    parts: int = 2
    fakes_per_real: int = 1
    frames: int = 60
    size: int = 320
    fps: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "people": (2, 10_000),
            "test_people": (2, 10_000),
            "parts": (1, min(50, self.people)),
            "fakes_per_real": (1, 20),
            "frames": (1, 3_000),
            "size": (160, 1_280),
            "fps": (1, 120),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} = {value}: give a number from {low} to {high}")
        if self.size % 2:
            raise ConfigError(f"size = {self.size}: give an even number of pixels")


@dataclass(frozen=True)
class Corpus:
    """What was made: the training archives, the test archive, and the number of videos."""

    parts: tuple[Path, ...]
    test: Path
    videos: int


@dataclass(frozen=True)
class _Person:
    """One invented person in one clip. A canvas is the frame plus ``pad`` pixels on each side.

    ``still`` is RGBA on the canvas, ``swap`` the mask (L) that a face put here is blended
    through, ``marks`` (5, 2) the landmarks in canvas pixels, left of the picture first.
    """

    still: Image.Image
    swap: Image.Image
    marks: Matrix
    background: Image.Image
    motion: "_Motion"
    noise: float
    crf: int
    pad: int

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the frame in pixels."""
        return self.still.width - 2 * self.pad, self.still.height - 2 * self.pad


@dataclass(frozen=True)
class _Motion:
    """Per frame: affine 3 × 3 maps from frame to canvas pixels, and the gain of the light."""

    head: Matrix
    background: Matrix
    light: Matrix


def make_corpus(
    folder: Path, spec: CorpusSpec, progress: Callable[[int, int], None] | None = None
) -> Corpus:
    """Draw a synthetic corpus into ``folder``; figures from it say nothing about real deepfakes.

    ``dfdc_train_part_00.zip``, … hold a folder each (``dfdc_train_part_0/``) of clips and
    ``metadata.json``, as DFDC's do; ``dfdc_test.zip`` holds clips of other invented people in
    ``dfdc_test/``, with labels in its ``metadata.json``. Archives are replaced whole.

    :param progress: called after every video with the numbers of videos done and in all.
    :raises DfscanError: scikit-image is missing, or the folder cannot be written.
    """
    _portrait()  # ends here where scikit-image is missing
    sets = [
        (f"{TRAIN_NAME}{part:02d}.zip", f"{TRAIN_NAME}{part}", "train", range(spec.people))
        for part in range(spec.parts)
    ]
    everyone = spec.people + spec.test_people
    sets.append((f"{TEST_NAME}.zip", TEST_NAME, "test", range(spec.people, everyone)))
    total = everyone * (1 + spec.fakes_per_real)
    names = _names(spec, total)
    done = 0
    paths = []
    for part, (archive, inside, split, cast) in enumerate(sets):
        members: dict[str, bytes] = {}
        metadata: dict[str, dict[str, str]] = {}
        for person in cast[part :: spec.parts] if split == "train" else cast:
            first = person * (1 + spec.fakes_per_real)
            own = [f"{name}.mp4" for name in names[first : first + 1 + spec.fakes_per_real]]
            for name, clip in zip(own, _clips(spec, person, cast), strict=True):
                members[name] = clip
                metadata[name] = {"label": "REAL", "split": split}
                if name != own[0]:
                    metadata[name] = {"label": "FAKE", "split": split, "original": own[0]}
                done += 1
                if progress:
                    progress(done, total)
        storage.commit_bytes(folder / archive, _archive(inside, members, metadata))
        paths.append(folder / archive)
    return Corpus(tuple(paths[:-1]), paths[-1], done)


# ---------------------------------------------------------------- archives


def _rng(spec: CorpusSpec, purpose: int, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([spec.seed, index, purpose])


def _names(spec: CorpusSpec, count: int) -> list[str]:
    """Distinct random names of ten lower-case letters, as DFDC's."""
    rng = _rng(spec, _NAMES)
    names: dict[str, None] = {}
    while len(names) < count:
        letters = rng.integers(0, 26, 10)
        names["".join(string.ascii_lowercase[i] for i in letters)] = None
    return list(names)


def _archive(inside: str, members: dict[str, bytes], metadata: dict[str, dict[str, str]]) -> bytes:
    """A zip of stored members, in the order of their names so that it tells no labels."""
    table = json.dumps({name: metadata[name] for name in sorted(metadata)})
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [*sorted(members.items()), ("metadata.json", table.encode())]:
            info = zipfile.ZipInfo(f"{inside}/{name}", (2019, 12, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return sink.getvalue()


def _clips(spec: CorpusSpec, index: int, cast: range) -> Iterator[bytes]:
    """The real clip of a person, then the fakes made from it."""
    person = _person(spec, index)
    frames = list(_real_frames(person, _rng(spec, _CLIP, index)))
    yield _encode(frames, spec.fps, person.crf)
    others = [other for other in cast if other != index]
    donors = _rng(spec, _DONORS, index).permutation(others)
    for fake in range(spec.fakes_per_real):
        rng = _rng(spec, _FAKE, index * 20 + fake)
        donor = _person(spec, int(donors[fake % len(donors)]))
        fakes = _fake_frames(person, frames, _swapped_face(person, donor, rng), rng)
        yield _encode(fakes, spec.fps, person.crf)


# ---------------------------------------------------------------- people


@functools.cache
def _portrait() -> Floats:
    """scikit-image's portrait, (512, 512, 3) RGB from 0 to 255."""
    try:
        from skimage import data
    except ImportError:
        raise DfscanError(
            "the synthetic corpus is drawn from a portrait in scikit-image, which is not "
            "installed: install with pip install 'dfscan[quickstart]'",
            code="install.incomplete",
        ) from None
    return np.asarray(data.astronaut(), np.float32)


@functools.cache
def _masks() -> dict[str, Floats]:
    """Where things are in the portrait: (512, 512) masks from 0 to 1, soft at their edges."""
    head, skin = _polygon(_HEAD, 0), _polygon(_SKIN, 0)
    brows, mouth = (Image.new("L", (512, 512)) for _ in range(2))
    for box in _BROWS:
        ImageDraw.Draw(brows).ellipse(box, 255)
    ImageDraw.Draw(mouth).ellipse(_MOUTH, 255)
    person = np.maximum(np.maximum(head, skin), _polygon(_BODY, 0))
    y, x = np.mgrid[0:512, 0:512]
    away = np.abs((np.stack([x, y], -1) - _SWAP_CENTRE) / _SWAP_RADII)
    oval = (away**2.4).sum(-1) < 1
    jaw = _polygon(_JAW, 5) * (1 - _soft(mouth, 2))
    body = np.clip(person - np.maximum(head, skin), 0, 1)
    return {
        "person": np.clip(ndimage.gaussian_filter(person, 1.6) * 1.9 - 0.9, 0, 1),
        "hair": ndimage.gaussian_filter(np.clip(head - skin, 0, 1), 1.5),
        "skin": ndimage.gaussian_filter(skin, 1.5),
        "clothes": ndimage.gaussian_filter(body, 1.5),
        "brows": _soft(brows, 2.5),
        "beard": jaw,
        "swap": ndimage.gaussian_filter(oval.astype(np.float32), 1.9),
    }


def _polygon(points: Points, blur: float) -> Floats:
    image = Image.new("L", (512, 512))
    ImageDraw.Draw(image).polygon(points, 255)
    return _soft(image, blur)


def _soft(image: Image.Image, blur: float) -> Floats:
    mask: Floats = ndimage.gaussian_filter(np.asarray(image, np.float32) / 255, blur)
    return mask


@functools.lru_cache(maxsize=64)
def _person(spec: CorpusSpec, index: int) -> _Person:
    """A person and all about the clip, from the seed and the index alone."""
    rng = _rng(spec, _PERSON, index)
    unit = spec.size / 320
    wide = rng.random() < 0.35
    width, height = spec.size, round(spec.size * 0.375) * 2 if wide else spec.size
    pad = round(spec.size / 6)
    scale = unit * (rng.uniform(1.14, 1.22) if wide else rng.uniform(1.2, 1.5))
    shift = unit * rng.uniform((-22, -4), (22, 8 if wide else 20))
    canvas = (width + 2 * pad, height + 2 * pad)
    grade = _grade(rng)
    where = _geometry(rng, canvas, scale, shift)
    colours = _recoloured(rng)
    layers = [_sampled(colours[..., c], where, 3) for c in range(3)]
    rgb = np.stack(layers, -1) * _side_light(rng, canvas)
    rgb = ndimage.gaussian_filter(grade(rgb), (*[rng.uniform(0, 0.4) * unit] * 2, 0))
    alpha = _sampled(_masks()["person"], where, 1) * 255
    swap = _sampled(_masks()["swap"], where, 1) * 255
    marks = _marks(where)
    return _Person(
        still=Image.fromarray(_bytes(np.dstack([rgb, alpha]))),
        swap=Image.fromarray(_bytes(swap)),
        marks=marks,
        background=Image.fromarray(_bytes(grade(_background(rng, canvas)))),
        motion=_motion(rng, spec, marks.mean(0), pad),
        noise=rng.uniform(0.8, 2.6),
        crf=int(rng.integers(20, 24)),
        pad=pad,
    )


def _geometry(
    rng: np.random.Generator, canvas: tuple[int, int], scale: float, shift: Matrix
) -> Matrix:
    """(H, W, 2) x and y in the portrait for every pixel of a canvas: a face of its own."""
    y, x = np.mgrid[0 : canvas[1], 0 : canvas[0]]
    centre = np.array(canvas) / 2 + shift
    tilt = rng.uniform(-0.07, 0.07)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    aspect = np.array([rng.uniform(0.93, 1.08), 1.0])
    at = (np.stack([x, y], -1) - centre) @ turn.T / (scale * aspect) + _FACE_CENTRE
    bent: Matrix = at.copy()
    for middles, reach, most_x, most_y in _FEATURES:
        change = rng.uniform(-1, 1, 2) * (most_x, most_y)
        for middle in middles:
            away = at - np.array(middle)
            near = np.exp(-(away**2).sum(-1, keepdims=True) / (2 * reach**2))
            bent -= away * near * change
    for axis in range(2):
        bent[..., axis] += _smooth(rng, canvas, 28 * scale, 1.5)
    if rng.random() < 0.5:
        bent = bent[:, ::-1]
    return bent


def _smooth(
    rng: np.random.Generator, canvas: tuple[int, int], grain: float, amplitude: float
) -> Matrix:
    """(H, W) of smooth noise: bumps about ``grain`` pixels wide, deviation ``amplitude``."""
    cells = [max(4, round(side / grain) + 1) for side in reversed(canvas)]
    zoom = [side / n for side, n in zip(reversed(canvas), cells, strict=True)]
    field: Matrix = ndimage.zoom(rng.normal(0, amplitude, cells), zoom, order=3, mode="nearest")
    return field


def _sampled(layer: Floats, where: Matrix, order: int) -> Floats:
    at = [where[..., 1], where[..., 0]]
    sampled: Floats = ndimage.map_coordinates(layer, at, order=order, mode="nearest")
    return sampled


def _marks(where: Matrix) -> Matrix:
    """Where the landmarks lie on the canvas, (5, 2) x and y, left of the picture first."""
    found = []
    for mark in _LANDMARKS:
        nearest = int(((where - mark) ** 2).sum(-1).argmin())
        found.append((nearest % where.shape[1], nearest // where.shape[1]))
    marks = np.array(found, np.float64)
    return marks[_MIRRORED] if marks[0, 0] > marks[1, 0] else marks


def _recoloured(rng: np.random.Generator) -> Floats:
    """The portrait with other skin, hair, brows, clothes and, for some, a beard."""
    masks = _masks()
    rgb = _portrait()
    tone = np.float32(rng.random() ** 1.4)
    skin = (_SKIN_LIGHT + tone * (_SKIN_DARK - _SKIN_LIGHT)) * rng.normal(1, 0.025, 3)
    # Teeth and the whites of the eyes are hardly red; they keep most of their colour.
    redness = ndimage.gaussian_filter(np.clip((rgb[..., 0] - rgb[..., 2]) / 45, 0.25, 1), 1)
    rgb = _painted(rgb, rgb * skin.astype(np.float32), masks["skin"] * redness)
    gain, saturation = _HAIR[int(rng.integers(len(_HAIR)))]
    hair = np.array(gain) * rng.uniform(0.88, 1.1) * rng.normal(1, 0.03, 3)
    luma = (rgb @ _LUMA)[..., None]
    coloured = (luma + (rgb - luma) * saturation) * hair.astype(np.float32)
    rgb = _painted(rgb, coloured, masks["hair"])
    rgb = _painted(rgb, rgb * rng.uniform(0.35, 1.0), masks["brows"])
    if rng.random() < 0.3:
        stubble = ndimage.gaussian_filter(rng.normal(0, 1, (512, 512)), 0.8)[..., None]
        shade = np.clip(rng.uniform(0.45, 0.75) + 0.12 * stubble, 0.2, 1)
        rgb = _painted(rgb, rgb * shade * (0.95, 0.98, 1.05), masks["beard"])
    clothes = rgb @ _hue_turn(rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.0)).T
    return _painted(rgb, clothes * rng.uniform(0.45, 1.15), masks["clothes"])


def _painted(rgb: Floats, other: npt.NDArray[np.floating], mask: Floats) -> Floats:
    return (rgb + (other - rgb) * mask[..., None]).astype(np.float32)


def _hue_turn(angle: float, saturation: float) -> Floats:
    """A 3 × 3 matrix on RGB that turns the hue about the grey axis (NTSC YIQ)."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix: Floats = (np.linalg.inv(yiq) @ turn @ yiq).astype(np.float32)
    return matrix


def _grade(rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """The camera: white balance, exposure and contrast of a whole clip."""
    balance = (rng.normal(1, 0.05, 3) * rng.uniform(0.78, 1.08)).astype(np.float32)
    gamma = rng.uniform(0.85, 1.2)

    def grade(rgb: Floats) -> Floats:
        exposed = np.clip(rgb * balance, 0, 255) / np.float32(255)
        graded: Floats = (exposed**gamma * 255).astype(np.float32)
        return graded

    return grade


def _side_light(rng: np.random.Generator, canvas: tuple[int, int]) -> Floats:
    """(H, W, 1) gain: a lamp on one side."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    y, x = np.mgrid[-1 : 1 : canvas[1] * 1j, -1 : 1 : canvas[0] * 1j]
    slope = x * np.cos(angle) + y * np.sin(angle)
    gain = 1 + strength * np.clip(slope * 1.5, -1, 1)
    light: Floats = gain[..., None].astype(np.float32)
    return light


def _background(rng: np.random.Generator, canvas: tuple[int, int]) -> Floats:
    """(H, W, 3): a mottled wall with, for most, furniture-like shapes out of focus."""
    low, high = rng.uniform(40, 205, (2, 1)) + rng.normal(0, 16, (2, 3))
    blend = np.clip(0.5 + _smooth(rng, canvas, canvas[0] / 4, 0.3), 0, 1)[..., None]
    wall = low + (0.5 * low + 0.5 * high - low) * blend
    image = Image.fromarray(_bytes(wall))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 9))):
        x, y = rng.uniform(0, 1, 2) * canvas
        w, h = rng.uniform(0.05, 0.35, 2) * canvas[0]
        colour = tuple(int(v) for v in np.clip(high + rng.normal(0, 30, 3), 0, 255))
        shape = draw.ellipse if rng.random() < 0.3 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    blurred = ndimage.gaussian_filter(
        np.asarray(image, np.float32), (*[rng.uniform(0.6, 4) * canvas[0] / 426] * 2, 0)
    )
    grain = _smooth(rng, canvas, 5, rng.uniform(1, 5))
    background: Floats = (blurred + grain[..., None]).astype(np.float32)
    return background


# ---------------------------------------------------------------- motion


def _motion(rng: np.random.Generator, spec: CorpusSpec, pivot: Matrix, pad: int) -> _Motion:
    """A hand-held camera and a head that nods, turns a little and leans."""
    unit = spec.size / 320
    seconds = np.arange(spec.frames) / spec.fps
    shake = np.stack([_sway(rng, seconds, 3.0 * unit) for _ in range(2)], -1)
    lean = np.stack([_sway(rng, seconds, 5.0 * unit) for _ in range(2)], -1)
    turn, zoom = _sway(rng, seconds, 0.05), 1 + _sway(rng, seconds, 0.03)
    nod, shear = 1 + _sway(rng, seconds, 0.02), _sway(rng, seconds, 0.03)
    cos, sin, zero = np.cos(turn), np.sin(turn), np.zeros(spec.frames)
    spin = _stacked(((cos, sin), (-sin, cos)))
    squeeze = _stacked(((zoom, shear), (zero, zoom * nod)))
    head = _about(spin @ squeeze, pivot, pivot - pad + shake + lean)
    still = np.broadcast_to(np.eye(2), (spec.frames, 2, 2))
    background = _about(still, np.array([pad, pad], np.float64), 1.5 * shake)
    return _Motion(head, background, 1 + _sway(rng, seconds, 0.05))


def _stacked(rows: tuple[tuple[Matrix, Matrix], tuple[Matrix, Matrix]]) -> Matrix:
    """(N, 2, 2) from four (N,)."""
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _sway(rng: np.random.Generator, seconds: Matrix, amplitude: float) -> Matrix:
    """(N,) a slow, irregular to and fro, at most ``amplitude``."""
    slow, quick = rng.uniform(0.1, 0.3), rng.uniform(0.4, 1.1)
    first, second = rng.uniform(0, 2 * np.pi, 2)
    wave: Matrix = 0.65 * np.sin(2 * np.pi * slow * seconds + first)
    wave += 0.35 * np.sin(2 * np.pi * quick * seconds + second)
    return wave * amplitude * rng.uniform(0.3, 1)


def _about(linear: Matrix, to: Matrix, start: Matrix) -> Matrix:
    """(N, 3, 3) affine maps that are ``linear`` (N, 2, 2) and take point ``start`` to ``to``."""
    affine = np.zeros((len(linear), 3, 3))
    affine[:, :2, :2] = linear
    affine[:, :2, 2] = to - np.einsum(
        "nij,nj->ni", linear, np.broadcast_to(start, (len(linear), 2))
    )
    affine[:, 2, 2] = 1
    return affine


def _warped(
    image: Image.Image,
    affine: Matrix,
    size: tuple[int, int],
    filter_: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """``image`` seen through an affine map from output to input pixels."""
    # Pillow adds half a pixel to both; take it off so that a map speaks of pixel centres.
    m = affine[:2].copy()
    m[:, 2] += 0.5 - m[:, :2].sum(1) / 2
    return image.transform(size, Image.Transform.AFFINE, tuple(m.ravel()), filter_)


# ---------------------------------------------------------------- frames


def _real_frames(person: _Person, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The clip as its camera saw it, noise included."""
    width, height = person.frame_size
    grain = rng.normal(0, person.noise, (3, height + 64, width + 64, 3)).round().astype(np.int16)
    motion = person.motion
    for head, behind, light in zip(motion.head, motion.background, motion.light, strict=True):
        picture = _warped(person.background, behind, person.frame_size, Image.Resampling.BILINEAR)
        body = _warped(person.still, head, person.frame_size)
        picture.paste(body, mask=body.getchannel("A"))
        which, top, left = rng.integers(0, (3, 64, 64))
        noise = grain[which, top : top + height, left : left + width]
        lit = np.asarray(picture.point(_gain(light))) + noise
        yield Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _gain(gain: float) -> list[int]:
    """A look-up table for the three channels of an RGB image."""
    table: list[int] = _bytes(np.arange(256) * gain).tolist()
    return table * 3


def _swapped_face(person: _Person, donor: _Person, rng: np.random.Generator) -> Image.Image:
    """The donor's face on the person's canvas, RGBA; its alpha is the mask it is blended by."""
    mapping = _fit(person.marks, donor.marks)
    face = _warped(donor.still.convert("RGB"), mapping, person.still.size)
    loss = rng.uniform(*_RESOLUTION_LOSS)
    small = (round(face.width / loss), round(face.height / loss))
    face = face.resize(small, Image.Resampling.BOX).resize(face.size, Image.Resampling.BILINEAR)
    inside = np.asarray(person.swap) > 128
    there, target = np.asarray(face, np.float32), np.asarray(person.still, np.float32)[..., :3]
    contrast = np.clip(target[inside].std(0) / there[inside].std(0), 0.7, 1.4) ** 0.6
    matched = (there - there[inside].mean(0)) * contrast + target[inside].mean(0)
    matched += _off_colour(rng) * np.float32(max(0.5, target[inside].mean() / 140))
    return Image.fromarray(_bytes(np.dstack([matched, np.asarray(person.swap, np.float32)])))


def _fit(here: Matrix, there: Matrix) -> Matrix:
    """The affine 3 × 3 map that takes landmarks ``here`` to ``there`` with the least squares."""
    known = np.column_stack([here, np.ones(len(here))])
    solved = np.linalg.lstsq(known, there, rcond=None)[0]
    return np.vstack([solved.T, (0, 0, 1)])


def _off_colour(rng: np.random.Generator) -> Floats:
    """What colour matching missed: lighter or darker, and a tint, in levels of RGB."""
    luma = rng.uniform(*_LUMA_SHIFT) * rng.choice([-1, 1])
    angle, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(*_CHROMA_SHIFT)
    red, blue = chroma * np.cos(angle), chroma * np.sin(angle)
    green = -(0.299 * red + 0.114 * blue) / 0.587  # a tint does not change the brightness
    return np.array([luma + red, luma + green, luma + blue], np.float32)


def _fake_frames(
    person: _Person, frames: Iterable[Image.Image], face: Image.Image, rng: np.random.Generator
) -> Iterator[Image.Image]:
    """The frames of the original with the face blended in, trembling a little."""
    box = face.getchannel("A").getbbox() or (0, 0, *face.size)
    corners = np.array([(x, y, 1) for x in box[::2] for y in box[1::2]], np.float64).T
    middle = person.marks.mean(0)
    unit = person.still.width / 426
    for frame, head, light in zip(frames, person.motion.head, person.motion.light, strict=True):
        jitter = np.eye(2) + rng.normal(0, 0.006, (2, 2))
        shaken = _about(jitter[None], middle + rng.normal(0, 0.7 * unit, 2), middle)[0] @ head
        reach = (np.linalg.inv(shaken) @ corners)[:2]
        x0, y0 = np.maximum(np.floor(reach.min(1)).astype(int) - 2, 0)
        x1, y1 = np.minimum(np.ceil(reach.max(1)).astype(int) + 2, frame.size)
        offset = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]], np.float64)
        patch = _warped(face, shaken @ offset, (int(x1 - x0), int(y1 - y0)))
        lit = patch.convert("RGB").point(_gain(light * rng.normal(1, 0.008)))
        picture = frame.copy()
        picture.paste(lit, (int(x0), int(y0)), patch.getchannel("A"))
        yield picture


def _bytes(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    rounded: npt.NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


# ---------------------------------------------------------------- video

# A key frame at 0 and none at cuts. Without mbtree=0 the bytes of P- and B-frames vary from run
# to run, even in one thread: x264's assembly for it (core 165, x86-64) is not deterministic.
_X264: Final = "scenecut=0:threads=1:mbtree=0"


def _encode(frames: Iterable[Image.Image], fps: int, crf: int) -> bytes:
    """An mp4 like DFDC's: H.264 High, yuv420p, B-frames, a key frame only every 250 frames."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = None
        for picture in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps)
                stream.width, stream.height = picture.size
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1  # more threads, other bytes
                options = {"preset": "veryfast", "crf": str(crf), "g": "250", "bf": "3"}
                stream.options = options | {"x264-params": _X264}
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        if stream is not None:
            container.mux(stream.encode(None))
    return sink.getvalue()
