"""What a training face may be turned into before a network sees it: presets and how to apply them.

An :class:`Augmentation` says how strong each change may be, :func:`draw` takes one picture's share
of them from that picture's own generator, :func:`apply` carries them out: cutout, mirror, turn,
colour, blur, loss of resolution, noise, JPEG, in this order. Nothing here knows a label, and no
change measures the picture it is applied to: both classes pass the same changes, above all the same
compression, and the two pictures of a pair get one draw.

Pillow, NumPy, SciPy and one function of torch's do the work, each on the calling thread alone and
without any random state of their own, so that pixels do not depend on the number of threads.
torchvision's functions, with which the tests compare, would spread over torch's threads beside the
training thread, and take up to five times as long on one (a blur at 224 pixels: 3.1 ms for 0.6).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from pydantic import AfterValidator, Field
from scipy.ndimage import correlate1d
from torch.nn.functional import grid_sample

from dfscan.faces.crops import Box, wanted_region
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Fraction, NetworkInput

Picture = npt.NDArray[np.uint8]
Landmarks = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

Change = TypeVar("Change", "Cutout", "Warp", "Colour", "Blur", "Downscale", "Noise", "Jpeg")

PARTS: Final = ("eyes", "mouth", "nose")
_PART_SHARES: Final = (4 / 7, 2 / 7, 1 / 7)

_ENLARGED_WITH: Final = (
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)

LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""

_YIQ: Final = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the first number must not be above the second, got {value}")
    return value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, got {value}")
    return value


Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
Span = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Odd = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]


class Cutout(Strict):
    """Blackens the eyes, the mouth or the nose, as 4 : 2 : 1, where landmarks are known."""

    share: Fraction = 1.0


class Warp(Strict):
    """Turns by ± ``rotate`` degrees, scales by 1 ± ``scale``, shifts by ± ``shift`` of a side.

    About the centre; what comes into view at the edges is the picture's mirror image, never black.
    """

    share: Fraction = 1.0
    rotate: float = Field(0.0, ge=0, le=180)
    scale: float = Field(0.0, ge=0, le=0.9)
    shift: Fraction = 0.0


class Colour(Strict):
    """Brightness, contrast and saturation times 1 ± so much, hue turned by ± ``hue`` of a circle.

    ``levels`` are added to or taken from each of red, green and blue on its own (of 255);
    ``grey`` is the share of the recoloured pictures that lose their colour.
    """

    share: Fraction = 1.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: float = Field(0.0, ge=0, le=0.5)
    levels: float = Field(0.0, ge=0, le=255)
    grey: Fraction = 0.0


class Blur(Strict):
    """A Gaussian cut off after ``kernel`` pixels (x, y), its deviation out of ``sigma`` pixels."""

    share: Fraction = 1.0
    kernel: tuple[Odd, Odd]
    sigma: Span


class Downscale(Strict):
    """Makes the picture ``factor`` times smaller, then as large as before, with a random filter."""

    share: Fraction = 1.0
    factor: Annotated[tuple[Factor, Factor], AfterValidator(_ascending)]


class Noise(Strict):
    """Gaussian noise, its deviation out of ``sigma`` (levels of 255), in each channel on its own."""

    share: Fraction = 1.0
    sigma: Span


class Jpeg(Strict):
    """JPEG with a quality out of ``quality``, both ends included, and halved colour (4:2:0)."""

    share: Fraction = 1.0
    quality: Annotated[tuple[Quality, Quality], AfterValidator(_ascending)]


class Augmentation(Strict):
    """The changes a training picture may go through; null: none of that kind.

    Each has its ``share``, the probability with which a picture gets it; ``flip`` is that of
    being mirrored.
    """

    cutout: Cutout | None = None
    flip: Fraction = 0.0
    warp: Warp | None = None
    colour: Colour | None = None
    blur: Blur | None = None
    downscale: Downscale | None = None
    noise: Noise | None = None
    jpeg: Jpeg | None = None


NONE: Final = Augmentation()
"""The picture as it is."""

FLIP: Final = Augmentation(flip=0.5)
"""Half of the pictures mirrored, as the winner of DFDC and most others do."""

LIGHT: Final = Augmentation(
    flip=0.5,
    warp=Warp(rotate=15),
    colour=Colour(brightness=0.2, contrast=0.2),
    blur=Blur(share=0.5, kernel=(5, 5), sigma=(0.1, 2.0)),
)
"""Small changes that suit most pictures.

Rotation by ±15° and jitter of brightness and contrast by 0.2 are those of :data:`CLASSIC`; half of
the pictures are mirrored. The blur is gentle: half of the pictures, torchvision's default sigma of
0.1 to 2 pixels, over 5 pixels.
"""

CLASSIC: Final = LIGHT.model_copy(update={"blur": Blur(share=0.5, kernel=(7, 13), sigma=(6, 7))})
"""That of the small system ``cnn2_2`` (CNNs on the real-and-fake-face pictures).

Rotation by ±15°, a flip, jitter 0.2/0.2 of brightness and contrast, and a Gaussian blur of kernel
(7, 13) and sigma 6 to 7 on half of the pictures, torchvision's default for ``RandomApply``.
What rotation uncovers is mirrored here and black there, and contrast turns about mid-grey, not
about the picture's mean.
"""

DFDC: Final = Augmentation(
    cutout=Cutout(share=0.6),
    flip=0.5,
    warp=Warp(share=0.5, rotate=10, scale=0.2, shift=0.1),
    colour=Colour(share=0.7, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, grey=0.3),
    blur=Blur(share=0.05, kernel=(3, 3), sigma=(0.8, 0.8)),
    downscale=Downscale(share=0.2, factor=(2, 4)),
    noise=Noise(share=0.1, sigma=(3.2, 7.1)),
    jpeg=Jpeg(share=0.5, quality=(40, 100)),
)
"""After the system that won DFDC (Seferbekov, github.com/selimsef/dfdc_deepfake_challenge).

From its training pipeline and the defaults of its library (albumentations): the shares of flip,
warp, colour, blur, noise and JPEG; ±10°, ±20 % in scale, ±10 % in shift; brightness and contrast
±0.2; a fifth grey (0.3 of those recoloured); a blur of 3 pixels, for which OpenCV takes a sigma of
0.8; noise of variance 10 to 50; cutouts in 0.7 · 7/8 of the pictures, eyes, mouth and nose as
4 : 2 : 1. Loss of resolution by 2 to 4, enlarged by nearest, bilinear or bicubic, is in its code
but not in its final pipeline: the share is dfscan's.

Different here: JPEG goes down to 40, the lower end that it uses for its own blends, instead of 60,
and comes last, at the network's size, as compression does in the wild. Hue (0.05 of a circle) and
saturation (0.2) join brightness and contrast at about half of its strength, where it takes one of
the two kinds or a shift along the colours' main axes. Edges are mirrored, where it leaves them
black; the half faces and hulls that it blackens in 8 % of the pictures are left out.
"""

SBI: Final = Augmentation(
    flip=0.5,
    colour=Colour(share=0.5, brightness=0.3, contrast=0.3, levels=20),
    jpeg=Jpeg(share=0.5, quality=(40, 100)),
)
"""What self-blended pairs pass after blending (Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376).

From its published code: half mirrored; each of red, green and blue by ±20 levels; brightness and
contrast ±0.3; JPEG 40 to 100 on half. There shift and brightness have a probability of 0.3 each,
here both come together on half (0.51 get at least one there). Its shifts of hue, saturation and
value by 0.3 are 0.3 of a level of 255 in its library, next to nothing, and are left out.
"""

SELF_BLENDED: Final = "sbi"
"""The preset whose fakes are made of the reals."""

PRESETS: Final[Mapping[str, Augmentation]] = {
    "none": NONE,
    "flip": FLIP,
    "light": LIGHT,
    "classic": CLASSIC,
    "dfdc": DFDC,
    SELF_BLENDED: SBI,
}


@dataclass(frozen=True)
class Tint:
    """One recolouring: factors (1: as it is), the turn of the hue (of a circle), levels of RGB."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    levels: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class SampledAugmentation:
    """What one draw does to a picture, or to both pictures of a pair; None and False: not that.

    ``turn`` is degrees counter-clockwise, a factor of size, and a shift in x and y in shares of
    the sides; ``blur`` the weights along x and y; ``downscale`` the factor and the filter to
    enlarge with; ``noise`` the deviation in levels and the seed of its field; ``quality`` JPEG's.
    """

    part: Literal["eyes", "mouth", "nose"] | None = None
    flip: bool = False
    turn: tuple[float, float, float, float] | None = None
    tint: Tint | None = None
    blur: tuple[Matrix, Matrix] | None = None
    downscale: tuple[float, Image.Resampling] | None = None
    noise: tuple[float, int] | None = None
    quality: int | None = None


def draw(recipe: Augmentation, random: np.random.Generator) -> SampledAugmentation:
    """One picture's or one pair's changes: they depend on the recipe and the generator alone."""
    cutout = _given(recipe.cutout, random)
    warp, colour = _given(recipe.warp, random), _given(recipe.colour, random)
    blur, downscale = _given(recipe.blur, random), _given(recipe.downscale, random)
    noise, jpeg = _given(recipe.noise, random), _given(recipe.jpeg, random)
    return SampledAugmentation(
        part=PARTS[random.choice(3, p=_PART_SHARES)] if cutout else None,
        flip=random.random() < recipe.flip,
        turn=_draw_turn(warp, random) if warp else None,
        tint=draw_tint(colour, random) if colour else None,
        blur=_draw_blur(blur, random) if blur else None,
        downscale=_draw_downscale(downscale, random) if downscale else None,
        noise=(random.uniform(*noise.sigma), int(random.integers(2**63))) if noise else None,
        quality=int(random.integers(*jpeg.quality, endpoint=True)) if jpeg else None,
    )


def _given(change: Change | None, random: np.random.Generator) -> Change | None:
    return change if change is not None and random.random() < change.share else None


def _draw_turn(warp: Warp, random: np.random.Generator) -> tuple[float, float, float, float]:
    return (
        random.uniform(-warp.rotate, warp.rotate),
        random.uniform(1 - warp.scale, 1 + warp.scale),
        random.uniform(-warp.shift, warp.shift),
        random.uniform(-warp.shift, warp.shift),
    )


def draw_tint(colour: Colour, random: np.random.Generator) -> Tint:
    """One recolouring out of ``colour``, whatever its share."""
    brightness, contrast, saturation = (
        random.uniform(1 - most, 1 + most)
        for most in (colour.brightness, colour.contrast, colour.saturation)
    )
    red, green, blue = random.uniform(-colour.levels, colour.levels, 3).tolist()
    return Tint(
        brightness=brightness,
        contrast=contrast,
        saturation=0.0 if random.random() < colour.grey else saturation,
        hue=random.uniform(-colour.hue, colour.hue),
        levels=(red, green, blue),
    )


def _draw_blur(blur: Blur, random: np.random.Generator) -> tuple[Matrix, Matrix]:
    sigma = random.uniform(*blur.sigma)
    return gaussian(blur.kernel[0], sigma), gaussian(blur.kernel[1], sigma)


def _draw_downscale(
    downscale: Downscale, random: np.random.Generator
) -> tuple[float, Image.Resampling]:
    return random.uniform(*downscale.factor), _ENLARGED_WITH[random.integers(3)]


def apply(picture: Picture, landmarks: Landmarks | None, changes: SampledAugmentation) -> Picture:
    """A picture after ``changes``.

    :param picture: (H, W, 3) uint8 RGB, the network's square before scaling; not written to.
    :param landmarks: (5, 2) in pixels of the picture, see :func:`landmarks_in_cut`; None: nothing
        is cut out.
    :returns: (H, W, 3) uint8; ``picture`` itself where nothing changes.
    """
    if changes.part is not None and landmarks is not None:
        picture = cut_out(picture, landmarks, changes.part)
    if changes.flip:
        picture = np.ascontiguousarray(picture[:, ::-1])
    if changes.turn is not None:
        picture = warped(picture, _turn_matrix(picture.shape[1], picture.shape[0], *changes.turn))
    if changes.tint is not None:
        picture = recolour(picture, changes.tint)
    if changes.blur is not None:
        picture = _blurred(picture, *changes.blur)
    if changes.downscale is not None:
        factor, enlarged_with = changes.downscale
        picture = shrink_and_enlarge(picture, factor, Image.Resampling.BOX, enlarged_with)
    if changes.noise is not None:
        picture = _noisy(picture, *changes.noise)
    if changes.quality is not None:
        picture = _compressed(picture, changes.quality)
    return picture


def cut_out(picture: Picture, landmarks: Landmarks, part: str) -> Picture:
    """Blackens a part of the face, as the winner of DFDC does.

    A line from eye to eye, from between them to the nose, or along the mouth, thickened on all
    sides: by a quarter of the distance of the eyes, or a third of the mouth's width.

    :param part: one of :data:`PARTS`.
    """
    left, right, nose, mouth_left, mouth_right = landmarks.astype(float)
    start, end, reach = {
        "eyes": (left, right, np.hypot(*(right - left)) / 4),
        "mouth": (mouth_left, mouth_right, np.hypot(*(mouth_right - mouth_left)) / 3),
        "nose": ((left + right) / 2, nose, np.hypot(*(right - left)) / 4),
    }[part]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.line([*start, *end], fill=(0, 0, 0), width=max(1, round(2 * reach)))
    for x, y in (start, end):
        draw.ellipse([x - reach, y - reach, x + reach, y + reach], fill=(0, 0, 0))
    return np.asarray(image)


def _turn_matrix(
    width: int, height: int, degrees: float, factor: float, shift_x: float, shift_y: float
) -> Matrix:
    """(2, 3): from a pixel of the result to the place in the picture that is shown there."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    centre = np.array([width / 2, height / 2])
    shift = np.array([shift_x * width, shift_y * height])
    return np.column_stack([turn, centre - turn @ (centre + shift)])


def warped(picture: Picture, matrix: Matrix) -> Picture:
    """The picture seen through an affine map, bilinear; beyond its edges lies its mirror image.

    :param matrix: (2, 3) from a place of the result to one of the picture; the middle of the
        pixel in column 0 and row 0 is at (0.5, 0.5).
    """
    height, width = picture.shape[:2]
    scaled = (matrix * (2 / np.array([[width], [height]]))).astype(np.float32)
    x = np.arange(width, dtype=np.float32) + 0.5
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5
    grid = np.empty((height, width, 2), np.float32)  # places from -1 to 1, edge to edge
    for axis, (of_x, of_y, constant) in enumerate(scaled):
        np.add(of_x * x + (constant - 1), of_y * y, out=grid[..., axis])
    planes = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)
    seen = grid_sample(
        planes[None], torch.from_numpy(grid)[None], padding_mode="reflection", align_corners=False
    )[0]
    return (seen.numpy().transpose(1, 2, 0) + np.float32(0.5)).astype(np.uint8, order="C")


def recolour(picture: Picture, tint: Tint) -> Picture:
    """Brightness, then saturation and hue, then contrast, then levels: one affine map of RGB.

    Brightness and saturation are those of torchvision's ``adjust_brightness`` and
    ``adjust_saturation``. Contrast turns about mid-grey, not about the picture's mean, which would
    differ within a pair and betray the fake everywhere. Hue turns about the grey axis in YIQ
    (NTSC), so that brightness stays, where HSV keeps the largest channel.
    """
    if (tint.saturation, tint.hue, tint.levels) == (1.0, 0.0, (0.0, 0.0, 0.0)):
        return _relit(picture, tint.contrast * tint.brightness, 127.5 * (1 - tint.contrast))
    angle = 2 * np.pi * tint.hue
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grey = np.tile(LUMA, (3, 1))
    chroma = np.linalg.solve(_YIQ, turn @ _YIQ) - grey
    factors = tint.contrast * tint.brightness * (tint.saturation * chroma + grey)
    offsets = 127.5 * (1 - tint.contrast) + np.array(tint.levels)
    matrix = tuple(np.column_stack([factors, offsets]).ravel().tolist())
    return np.asarray(Image.fromarray(picture).convert("RGB", matrix))


def _relit(picture: Picture, factor: float, offset: float) -> Picture:
    """Every level of every channel by a table, a quarter of what the matrix costs."""
    levels = np.arange(256) * factor + (offset + 0.5)
    table = np.clip(levels, 0, 255).astype(np.uint8).tobytes()
    return np.frombuffer(picture.tobytes().translate(table), np.uint8).reshape(picture.shape)


def gaussian(kernel: int, sigma: float) -> Matrix:
    """(kernel,) weights of a Gaussian cut off after so many pixels, 1 in all; sigma in pixels."""
    distance = np.arange(kernel) - (kernel - 1) / 2
    weights: Matrix = np.exp(-0.5 * (distance / sigma) ** 2)
    weights /= weights.sum()
    return weights


def _blurred(picture: Picture, along_x: Matrix, along_y: Matrix) -> Picture:
    rows = correlate1d(picture, along_x, axis=1, output=np.float32, mode="mirror")
    both = correlate1d(rows, along_y, axis=0, mode="mirror") + np.float32(0.5)
    blurred: Picture = both.astype(np.uint8)
    return blurred


def shrink_and_enlarge(
    picture: Picture,
    factor: float,
    shrunk_with: Image.Resampling,
    enlarged_with: Image.Resampling,
) -> Picture:
    """The picture made ``factor`` times smaller, then as large as before."""
    image = Image.fromarray(picture)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return np.asarray(image.resize(small, shrunk_with).resize(image.size, enlarged_with))


def _noisy(picture: Picture, sigma: float, seed: int) -> Picture:
    noise = np.random.default_rng(seed).standard_normal(picture.shape, dtype=np.float32)
    noise *= sigma
    noise += picture
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def _compressed(picture: Picture, quality: int) -> Picture:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(sink))


def landmarks_in_cut(
    landmarks: npt.ArrayLike,
    stored_size: tuple[int, int],
    crop_box: Box,
    box: Box,
    recipe: NetworkInput,
) -> Landmarks:
    """Where landmarks lie in what :func:`dfscan.faces.crops.crop_for_network` makes of a stored face.

    :param landmarks: (5, 2), or the ten numbers of :attr:`FaceRow.landmarks`, in pixels of the
        frame.
    :param stored_size: width and height of the stored picture in pixels.
    :param crop_box: what it shows, in pixels of the frame; ``box`` is the face, in the same.
    :returns: (5, 2) float32 in pixels of the network's square; outside of it where the landmark is.
    """
    points = np.asarray(landmarks, np.float64).reshape(5, 2)
    crop = np.array(crop_box, np.float64).reshape(2, 2)
    shown = np.clip(np.array(wanted_region(box, recipe)).reshape(2, 2), crop[0], crop[1])
    found: Matrix = (points - shown[0]) / (shown[1] - shown[0])  # 0 to 1 over what is shown
    if recipe.square != "pad":
        found *= recipe.size
    else:
        sides = (shown[1] - shown[0]) / (crop[1] - crop[0]) * stored_size
        fitted = np.maximum(1, np.rint(sides * recipe.size / sides.max()))
        found = found * fitted + (recipe.size - fitted) // 2
    return found.astype(np.float32)
