"""How much a fake's face differs from the original's in the same box of the same frame.

The measure is 1 − SSIM over the face box only: a forgery changes little else, and the stored
context would dilute it.
"""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import gaussian_filter

from dfscan.faces.crops import Box

SIGMA: Final = 1.5
"""Standard deviation of the window in pixels."""

RADIUS: Final = 5
"""Radius of the window in pixels: 3.5 sigma."""

WINDOW: Final = 2 * RADIUS + 1
"""Side of the window in pixels; smaller pictures have no SSIM."""

K1: Final = 0.01
K2: Final = 0.03
RANGE: Final = 255

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""

_Plane = npt.NDArray[np.float64]


def ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float | None:
    """Mean structural similarity: 1 for equal pictures, near 0 (or below) for unrelated ones.

    Wang, Bovik, Sheikh, Simoncelli, 2004, "Image quality assessment: from error visibility to
    structural similarity" (doi:10.1109/TIP.2003.819861), with its constants: Gaussian window of
    11 × 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, range 255, weighted (not sample)
    covariance. The mean excludes the border, where windows extend beyond the picture.

    :param a: (H, W) brightness or (H, W, 3) RGB, uint8; colours are compared by their luma.
    :param b: the same shape.
    :returns: None if a side is shorter than :data:`WINDOW` pixels.
    :raises ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures must have the same shape, got {a.shape} and {b.shape}")
    if min(a.shape[:2]) < WINDOW:
        return None
    x, y = _luma(a), _luma(b)
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) - mean_x**2 + _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return float(np.mean(above / below))


def _luma(picture: npt.NDArray[np.uint8]) -> _Plane:
    plane: _Plane = picture.astype(np.float64)
    return plane @ np.array(LUMA) if plane.ndim == 3 else plane


def _blur(plane: _Plane) -> _Plane:
    """Weighted means over the windows that lie inside: (H, W) → (H - 10, W - 10)."""
    inside = slice(RADIUS, -RADIUS)
    blurred: _Plane = gaussian_filter(plane, SIGMA, radius=RADIUS)[inside, inside]
    return blurred


def face_difference(
    fake: bytes, fake_crop_box: Box, original: bytes, original_crop_box: Box, box: Box
) -> float | None:
    """1 − SSIM of the face box in two stored crops: 0 if nothing changed, at most 2.

    If the pictures have different scales, the larger is downscaled with antialiasing, so that
    sharpness does not count as forgery.

    :param fake: an encoded picture (JPEG or PNG), as ``original``. :param fake_crop_box: its
        region: x0, y0, x1, y1 in pixels of the frame. :param box: the face, in pixels of the same
        frame; its part in both crops is compared. :returns: None if that part is smaller than
        :data:`WINDOW` pixels in either picture, or a picture does not decode.
    """
    small, large = _decode(fake), _decode(original)
    if small is None or large is None:
        return None
    here, there = fake_crop_box, original_crop_box
    if _scale(small, here) > _scale(large, there):
        small, large, here, there = large, small, there, here
    shown = _common(_common(box, here), there)
    x0, y0, x1, y1 = _moved(shown, here, (0, 0, *small.size))
    if not (x1 - x0 > WINDOW - 1 and y1 - y0 > WINDOW - 1):
        return None
    whole = (round(x0), round(y0), round(x1), round(y1))
    size = (whole[2] - whole[0], whole[3] - whole[1])
    region = _moved(_moved(whole, (0, 0, *small.size), here), there, (0, 0, *large.size))
    region = _common(region, (0, 0, *large.size))  # rounding may exceed the edge
    matched = large.resize(size, Image.Resampling.BICUBIC, box=region)
    similar = ssim(np.asarray(small.crop(whole)), np.asarray(matched))
    return None if similar is None else 1 - similar


def _decode(image: bytes) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(image), formats=("JPEG", "PNG")).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _scale(picture: Image.Image, crop_box: Box) -> float:
    """Pixels of the picture per pixel of the frame."""
    return picture.size[0] / (crop_box[2] - crop_box[0])


def _common(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _moved(box: Box, source: Box, target: Box) -> Box:
    """Map ``box`` by the transform that maps ``source`` to ``target``."""
    scale_x = (target[2] - target[0]) / (source[2] - source[0])
    scale_y = (target[3] - target[1]) / (source[3] - source[1])
    return (
        target[0] + (box[0] - source[0]) * scale_x,
        target[1] + (box[1] - source[1]) * scale_y,
        target[0] + (box[2] - source[0]) * scale_x,
        target[1] + (box[3] - source[1]) * scale_y,
    )
