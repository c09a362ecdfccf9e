"""Fakes made of one real picture: a face blended into itself.

Self-blended images (Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376; values from the code they
published): two copies of a face differ a little in colour and sharpness, one is moved a little, and
its face is laid over the other's through a soft mask. A network that tells the two apart has
learned the seams of a face swap and none of its generators.

**The mask is coarser than the paper's.** There it is the hull of 81 landmarks; here five are known,
and a mean face says where the rest should be: turned aside by the yaw that explains the five best,
then laid over them by the similarity transform that fits best. Up to some 60 degrees of yaw the
outline follows the face; a long chin, a raised head, an open mouth, a low hairline are not seen.
So a network learns from seams a little off the jaw, the brows and the hairline, some of them across
hair or background, where those of real swaps lie on the face.

Everything happens before the network's square is cut and before any compression: the caller cuts
both pictures alike and augments them with one draw.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from scipy.spatial import ConvexHull

from dfscan.faces.crops import Box
from dfscan.training.augment import (
    Colour,
    Landmarks,
    Picture,
    draw_tint,
    gaussian,
    recolour,
    shrink_and_enlarge,
    warped,
)

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.float32]

MIN_FACE: Final = 48
"""A face box with a shorter side than so many pixels is not blended: a loss of resolution by 4 would
leave nothing of it to see a seam in."""

_MARKS: Final = np.array(
    [(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.6, 0.4), (-0.45, 1.09, 0.0), (0.45, 1.09, 0.0)]
)
"""The landmarks of the mean face: x to the right, y down, z towards the viewer, in distances
between the eyes from the point between them. x and y are the mean of dlib's 68 landmarks as
OpenFace publishes it, made symmetric; z is estimated from proportions of heads."""

_JAW: Final = (
    (1.17, 0.01, -0.9), (1.16, 0.32, -0.85), (1.13, 0.64, -0.8), (1.07, 0.94, -0.7),
    (0.95, 1.23, -0.55), (0.76, 1.48, -0.35), (0.54, 1.70, -0.15), (0.29, 1.87, 0.0),
    (0.0, 1.92, 0.05), (0.95, 0.45, -0.35), (0.75, 1.05, -0.15),
)  # fmt: skip
"""Points of the right half, from the ear to the chin, then two on the cheek."""

_BROWS: Final = (
    (0.19, -0.28, 0.1),
    (0.58, -0.36, -0.05),
    (0.78, -0.33, -0.15),
    (0.92, -0.22, -0.3),
)
_RAISED: Final = (
    (0.19, -0.58, 0.1),
    (0.58, -0.62, -0.05),
    (0.78, -0.54, -0.15),
    (0.92, -0.4, -0.3),
)
"""The brows lifted a little, as in the masks that Face X-ray calls extended and components."""

_FOREHEAD: Final = (
    (0.0, -1.12, -0.05), (0.30, -1.09, -0.1), (0.58, -1.0, -0.2), (0.82, -0.82, -0.4),
    (1.02, -0.52, -0.7),
)  # fmt: skip
"""An estimate for the 13 points that the paper's 81 landmarks have above the brows."""

_TOPS: Final = ((_RAISED, 1 / 2), (_BROWS, 5 / 16), (_FOREHEAD, 3 / 16))
"""How far up a face is swapped, and how often: the hulls of the paper's code (Face X-ray's four, a
quarter of the time without the forehead's points) counted together."""

_YAWS: Final = np.deg2rad(np.arange(-70, 71, 5))

_PLACES: Final = 64
BEND: Final = 0.04
"""The outline's places, evenly spaced, and how far they are bent off at random (the deviation in
distances between the eyes)."""

SHIFT: Final = (0.06, 0.03)
SCALE: Final = (0.95, 1 / 0.95)
"""The source moves by up to so much of the box's width and height and is scaled so much, in x and
y on their own. In the paper 3 and 1.5 % of a crop about twice as large as the face."""

RATIOS: Final = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""How much of the source comes through inside of the mask, one drawn at random."""

_MASK_SIDES: Final = (192, 256)
_KERNELS: Final = (5, 25)
_SOFTNESS: Final = (5.0, 45.0)
"""The mask is made at a width and a height out of the first, in pixels, eroded by an odd kernel out
of the second, and blurred by another with a deviation out of the third."""

_TINTS: Final = Colour(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.01, levels=20)
_LEVELS_SHARE: Final = 0.3
"""How one copy is recoloured. Levels of red, green and blue, with their share, brightness and
contrast are the paper's code's; its shifts of hue, saturation and value by 0.3 are 0.3 of a level
of 255 in its library, and small ones that can be seen stand here instead."""

_FACTORS: Final = (2, 4)
_SHRUNK_WITH: Final = Image.Resampling.NEAREST
_SHARPNESS: Final = (0.2, 0.5)
_LIGHTNESS: Final = (0.5, 1.0)
"""Half of the changed copies lose resolution, the others are sharpened, as in the paper's code."""

_CROP: Final = 2.2
"""How many times wider and higher than the face's box the picture is that ``_MASK_SIDES`` means."""


@dataclass(frozen=True)
class SelfBlend:
    """A pair and what made it: ``real`` and ``fake`` (H, W, 3) uint8 RGB, ``mask`` (H, W) float32.

    The mask is the source's share of the fake, 0 to 1; where it is 0 both pictures are equal.
    """

    real: Picture
    fake: Picture
    mask: Mask


def self_blend(
    crop: Picture, landmarks: Landmarks | None, box: Box, random: np.random.Generator
) -> tuple[Picture, Picture] | None:
    """A real face and a fake made of it alone, equal but for the face.

    :param crop: (H, W, 3) uint8 RGB, a real face with its context; not written to.
    :param landmarks: (5, 2) in pixels of the crop: eyes, nose, corners of the mouth, left first.
    :param box: the face, x0, y0, x1, y1 in pixels of the crop.
    :param random: of this picture alone: equal seeds give equal pairs.
    :returns: both (H, W, 3) uint8, the real one recoloured half of the time; None where landmarks
        are missing or lie outside of the crop, or a side of the box is under :data:`MIN_FACE`.
    """
    made = blend_with_mask(crop, landmarks, box, random)
    return None if made is None else (made.real, made.fake)


def blend_with_mask(
    crop: Picture, landmarks: Landmarks | None, box: Box, random: np.random.Generator
) -> SelfBlend | None:
    """As :func:`self_blend`, with the mask."""
    if landmarks is None or min(box[2] - box[0], box[3] - box[1]) < MIN_FACE:
        return None
    outline = _outline(landmarks.astype(np.float64), random)
    changed = _changed(crop, random)
    source, target = (changed, crop) if random.random() < 0.5 else (crop, changed)
    motion = _motion(box, random)
    mask = _mask(_moved(outline, motion), box, crop.shape[1], crop.shape[0], random)
    if mask is None:
        return None
    mask *= random.choice(RATIOS)
    fake = _blended(warped(source, _inverse(motion)), target, mask)
    return SelfBlend(target, fake, mask)


def fit(templates: Points, points: Points) -> tuple[Points, Points]:
    """The similarity transforms that take ``templates`` (K, N, 2) to ``points`` (N, 2).

    Least squares over turn, scale and shift, with x + iy for a point.

    :returns: (K, 2, 3), and the sums of squared distances that are left, (K,).
    """
    origin, goal = templates @ (1, 1j), points @ (1, 1j)
    centred = origin - origin.mean(axis=1, keepdims=True)
    turn = (centred.conj() @ goal) / (abs(centred) ** 2).sum(axis=1)
    shift = goal.mean() - turn * origin.mean(axis=1)
    left = abs(turn[:, None] * origin + shift[:, None] - goal) ** 2
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.moveaxis(np.array(rows), 2, 0), left.sum(axis=1)


def _moved(points: Points, matrix: Points) -> Points:
    moved: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def _seen(points: Points, yaw: float) -> Points:
    """(N, 3) of the mean face → (N, 2): how they are seen when it is turned aside."""
    return np.stack([points[:, 0] * np.cos(yaw) + points[:, 2] * np.sin(yaw), points[:, 1]], axis=1)


def _outline(landmarks: Points, random: np.random.Generator) -> Points:
    """(N, 2) in pixels of the crop: a closed line around what is swapped, bent at random.

    The mask is a polygon, so the paper's elastic deformation of it is one of this line.
    """
    fits, left = fit(np.stack([_seen(_MARKS, yaw) for yaw in _YAWS]), landmarks)
    best = int(left.argmin())
    top = _TOPS[random.choice(len(_TOPS), p=[share for _, share in _TOPS])][0]
    half = np.array([*_JAW, *top])
    points = _seen(np.concatenate([half, half * (-1, 1, 1), _MARKS]), _YAWS[best])
    hull = points[ConvexHull(points).vertices]
    closed = np.concatenate([hull, hull[:1]])
    way = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    places = np.linspace(0, way[-1], _PLACES, endpoint=False)
    line = np.stack([np.interp(places, way, closed[:, axis]) for axis in range(2)], axis=1)
    bends = ndimage.gaussian_filter1d(random.normal(size=line.shape), 2.5, axis=0, mode="wrap")
    return _moved(line + BEND * bends / bends.std(), fits[best])


def _changed(picture: Picture, random: np.random.Generator) -> Picture:
    """A copy in slightly other colours, and sharper or of a lower resolution."""
    tint = draw_tint(_TINTS, random)
    if random.random() >= _LEVELS_SHARE:
        tint = replace(tint, levels=(0.0, 0.0, 0.0))
    picture = recolour(picture, tint)
    if random.random() < 0.5:
        factor = random.choice(_FACTORS)
        return shrink_and_enlarge(picture, factor, _SHRUNK_WITH, Image.Resampling.BILINEAR)
    strength, lightness = random.uniform(*_SHARPNESS), random.uniform(*_LIGHTNESS)
    around = np.full(9, -strength)
    around[4] = 1 - strength + strength * (8 + lightness)
    sharper = ImageFilter.Kernel((3, 3), around.tolist(), scale=1)
    return np.asarray(Image.fromarray(picture).filter(sharper))


def _motion(box: Box, random: np.random.Generator) -> Points:
    """(2, 3): where a place of the crop is after the source was scaled about the face and moved."""
    corners = np.array(box).reshape(2, 2)
    centre, sides = corners.mean(axis=0), corners[1] - corners[0]
    factors = random.uniform(*SCALE, 2)
    shift = random.uniform(-1, 1, 2) * SHIFT * sides
    return np.column_stack([np.diag(factors), centre - factors * centre + shift])


def _inverse(matrix: Points) -> Points:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _mask(
    outline: Points, box: Box, width: int, height: int, random: np.random.Generator
) -> Mask | None:
    """(height, width), 0 to 1: the outline filled, eroded and blurred; None where nothing is left.

    Erosion is what the paper's code does by a first blur of which only the untouched inside stays.
    """
    sides = random.integers(*_MASK_SIDES, size=2, endpoint=True)
    scale = sides / (_CROP * (box[2] - box[0]), _CROP * (box[3] - box[1]))
    small = np.maximum(1, np.rint(scale * (width, height))).astype(int)
    drawn = Image.new("L", (int(small[0]), int(small[1])))
    polygon = outline * small / (width, height)
    ImageDraw.Draw(drawn).polygon([(x, y) for x, y in polygon.tolist()], fill=1)
    erode, blur = random.integers(_KERNELS[0] // 2, _KERNELS[1] // 2, size=2, endpoint=True) * 2 + 1
    inside = ndimage.minimum_filter(np.asarray(drawn), erode, mode="nearest")
    if not inside.any():
        return None
    weights = gaussian(int(blur), random.uniform(*_SOFTNESS))
    soft = inside.astype(np.float32)
    for axis in range(2):
        soft = ndimage.correlate1d(soft, weights, axis=axis, mode="mirror")
    full = Image.fromarray(soft / soft.max()).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(full)


def _blended(source: Picture, target: Picture, mask: Mask) -> Picture:
    """source · mask + target · (1 − mask), rounded."""
    base = target.astype(np.float32)
    return np.rint(base + mask[..., None] * (source - base)).astype(np.uint8)
