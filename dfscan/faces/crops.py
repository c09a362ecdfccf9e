"""Boxes → stored crops → network inputs. Training and scoring share this code."""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dfscan.errors import ConfigError, DfscanError
from dfscan.schemas.recipe import Crop, NetworkInput

Box = tuple[float, float, float, float]

_FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class PictureError(DfscanError):
    """A stored face does not decode."""


@dataclass(frozen=True, slots=True)
class StoredCrop:
    """An encoded picture of the region ``crop_box``, in pixels of the frame."""

    image: bytes
    crop_box: Box


def expand(box: Box, share: float) -> Box:
    """The box with ``share`` of its width and height added on each side."""
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * share, (y1 - y0) * share
    return x0 - dx, y0 - dy, x1 + dx, y1 + dy


def crop_face(frame: npt.NDArray[np.uint8], box: Box, recipe: Crop) -> StoredCrop | None:
    """Crop a face with its context from a frame and encode it.

    :param frame: (H, W, 3) uint8 RGB.
    :param box: x0, y0, x1, y1 in pixels of the frame.
    :returns: None if the box has no pixel inside the frame.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = expand(box, recipe.context)
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
    if right <= left or bottom <= top:
        return None
    picture = Image.fromarray(np.ascontiguousarray(frame[top:bottom, left:right]))
    longer = max(picture.size)
    target = recipe.face_size or min(longer, recipe.max_size)
    if target != longer:
        size = tuple(max(1, round(side * target / longer)) for side in picture.size)
        picture = picture.resize((size[0], size[1]), _FILTERS[recipe.interpolation])
    return StoredCrop(_encode(picture, recipe), (left, top, right, bottom))


def _encode(picture: Image.Image, recipe: Crop) -> bytes:
    sink = io.BytesIO()
    if recipe.codec == "png":
        picture.save(sink, "PNG")
    elif recipe.codec == "webp":
        picture.save(sink, "WEBP", lossless=True)
    else:
        picture.save(sink, "JPEG", quality=recipe.quality, subsampling=recipe.subsampling)
    return sink.getvalue()


def crop_for_network(
    image: bytes, crop_box: Box, box: Box, recipe: NetworkInput
) -> npt.NDArray[np.uint8]:
    """The network's input from a stored crop, before scaling to [0, 1]: (size, size, 3) uint8.

    :param crop_box: the stored picture's region, in pixels of the frame.
    :param box: the face, in pixels of the frame.
    :raises PictureError: ``image`` does not decode.
    """
    return cut_out(decode(image), crop_box, box, recipe)


def decode(image: bytes) -> npt.NDArray[np.uint8]:
    """A stored crop's pixels, (H, W, 3) uint8 RGB.

    :raises PictureError: it does not decode.
    """
    try:
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"a stored face does not decode: {error}") from None


def cut_out(
    crop: npt.NDArray[np.uint8], crop_box: Box, box: Box, recipe: NetworkInput
) -> npt.NDArray[np.uint8]:
    """:func:`crop_for_network` for a decoded crop, (H, W, 3) uint8."""
    picture = Image.fromarray(crop)
    region = region_of(picture.size, crop_box, wanted_region(box, recipe))
    size, resample = recipe.size, _FILTERS[recipe.interpolation]
    if recipe.square != "pad":
        return np.asarray(picture.resize((size, size), resample, box=region))
    width, height = region[2] - region[0], region[3] - region[1]
    scale = size / max(width, height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(
        picture.resize(fitted, resample, box=region),
        ((size - fitted[0]) // 2, (size - fitted[1]) // 2),
    )
    return np.asarray(canvas)


def wanted_region(box: Box, recipe: NetworkInput) -> Box:
    """A network's input region of a face: box and margin, optionally expanded to a square.

    :param box: in pixels of the frame, as the result, which may extend beyond the frame.
    """
    x0, y0, x1, y1 = expand(box, recipe.margin)
    if recipe.square == "grow":
        missing = ((y1 - y0) - (x1 - x0)) / 2
        x0, x1 = x0 - max(0.0, missing), x1 + max(0.0, missing)
        y0, y1 = y0 - max(0.0, -missing), y1 + max(0.0, -missing)
    return x0, y0, x1, y1


def region_of(size: tuple[int, int], crop_box: Box, wanted: Box) -> Box:
    """``wanted`` (pixels of the frame) in pixels of the stored picture, clipped to it.

    :param size: width and height of the stored picture, whose region in the frame is ``crop_box``.
    """
    scale_x = size[0] / (crop_box[2] - crop_box[0])
    scale_y = size[1] / (crop_box[3] - crop_box[1])
    x0 = min(max((wanted[0] - crop_box[0]) * scale_x, 0.0), size[0] - 1.0)
    y0 = min(max((wanted[1] - crop_box[1]) * scale_y, 0.0), size[1] - 1.0)
    x1 = max(min((wanted[2] - crop_box[0]) * scale_x, float(size[0])), x0 + 1.0)
    y1 = max(min((wanted[3] - crop_box[1]) * scale_y, float(size[1])), y0 + 1.0)
    return x0, y0, x1, y1


def check_margin(stored: Crop, wanted: NetworkInput) -> None:
    """Refuse a model margin larger than the stored context.

    :raises ConfigError: the message names both values.
    """
    if wanted.margin > stored.context:
        raise ConfigError(
            f"train.input.margin: got {wanted.margin}; the faces were stored with a context of "
            f"{stored.context}: use at most that, or extract again with --set "
            f"extract.crop.context={wanted.margin}",
            code="recipe.mismatch",
        )
