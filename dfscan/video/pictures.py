"""Still pictures behind the video interface: one frame at second 0.

Pillow decodes them. As with containers, a file is identified by its first bytes and only the plugin
for that format sees it. The result is as a viewer shows it: rotated by EXIF, with transparency on
black. Colour profiles are not applied.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from dfscan.corpora.base import PICTURE_SUFFIXES, VIDEO_SUFFIXES, suffix
from dfscan.errors import VideoError
from dfscan.schemas.recipe import SamplingMode
from dfscan.video import containers
from dfscan.video.reading import Frame, StreamInfo, Video

MAX_PIXELS: Final = 89_478_485
"""Largest picture in pixels: 256 MB decoded, the limit at which Pillow warns."""

_FORMATS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
)
_BMP_HEADERS: Final = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_NO_DECODER: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop document"),
)
_NO_DECODER_BRANDS: Final[Mapping[bytes, str]] = {
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "a HEIF picture"),
    **dict.fromkeys((b"mif1", b"msf1"), "a HEIF or AVIF picture"),
}
_TURNS: Final[Mapping[int, tuple[int, Image.Transpose]]] = {
    2: (0, Image.Transpose.FLIP_LEFT_RIGHT),
    3: (180, Image.Transpose.ROTATE_180),
    4: (180, Image.Transpose.FLIP_TOP_BOTTOM),
    5: (270, Image.Transpose.TRANSPOSE),
    6: (90, Image.Transpose.ROTATE_270),
    7: (90, Image.Transpose.TRANSVERSE),
    8: (270, Image.Transpose.ROTATE_90),
}
"""EXIF orientation → degrees clockwise (after mirroring for 2, 4, 5 and 7), and Pillow's
operation."""


def is_picture(data: bytes) -> bool:
    """Whether a file starts like a still picture, in a supported format or not."""
    head = data[: containers.HEAD]
    return _format(head) is not None or _no_decoder(head) is not None


def is_picture_file(uri: str, data: bytes) -> bool:
    """Whether a file counts as a picture, by its suffix or, without a known suffix, by its first
    bytes."""
    ending = suffix(uri)
    return ending in PICTURE_SUFFIXES or (ending not in VIDEO_SUFFIXES and is_picture(data))


def open_picture(data: bytes) -> Video:
    """Decode a picture held in memory: JPEG, PNG, WebP, BMP or TIFF (the first frame).

    :returns: a video of one frame, (H, W, 3) uint8 RGB as displayed. Transparency is composed on
        black; 16-bit channels keep their upper 8 bits, as in Pillow; CMYK is converted without a
        profile. ``rotation`` is EXIF's; mirroring is applied but not recorded.
    :raises VideoError: ``not_video`` (no picture), ``unsupported`` (a picture that cannot be
        decoded), ``too_large`` (more than :data:`MAX_PIXELS`) or ``decode_error`` (cut off or
        damaged).
    """
    kind = _recognise(data[: containers.HEAD])
    picture = _load(data, kind)
    return _PictureVideo(kind, picture)


@dataclass(frozen=True, slots=True)
class _Decoded:
    rgb: npt.NDArray[np.uint8]
    rotation: int
    bit_depth: int


class _PictureVideo(Video):
    decoder = "pillow"
    count = 1

    def __init__(self, kind: str, picture: _Decoded) -> None:
        self._rgb = picture.rgb
        height, width = picture.rgb.shape[:2]
        self.info = StreamInfo(
            container=kind,
            codec=kind,
            bit_depth=picture.bit_depth,
            width=width,
            height=height,
            rotation=picture.rotation,
            fps=None,
            duration_s=None,
            frames_claimed=1,
        )

    def read(self, indices: Sequence[int], mode: SamplingMode = "exact") -> Iterator[list[Frame]]:
        """See :meth:`Video.read`."""
        if 0 in indices:
            yield [Frame(0, 0.0, True, self._rgb)]
        self.frames_decoded = 1


# ---------------------------------------------------------------- what a file is


def _recognise(head: bytes) -> str:
    kind = _format(head)
    if kind is not None:
        return kind
    what = _no_decoder(head)
    if what is not None:
        raise VideoError("unsupported", f"{what}: only JPEG, PNG, WebP, BMP and TIFF are decoded")
    raise VideoError("not_video", _what_else(head))


def _format(head: bytes) -> str | None:
    for magic, kind in _FORMATS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return None


def _no_decoder(head: bytes) -> str | None:
    if head[4:8] == b"ftyp" and head[8:12] in _NO_DECODER_BRANDS:
        return _NO_DECODER_BRANDS[head[8:12]]
    return next((what for magic, what in _NO_DECODER if head.startswith(magic)), None)


def _what_else(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")):
        return f"{'an SVG drawing' if b'<svg' in start else 'an XML document'}, not a picture"
    if head and all(32 <= b < 127 or b in b"\t\r\n\f" for b in head):
        return "a text file, not a picture"
    try:
        return f"a video ({containers.recognise(head)}), not a picture"
    except VideoError as error:
        if not head:
            return error.reason
        what, known, _ = error.reason.partition(", not a video")
        if not known or what.endswith("picture"):  # for example a BMP with an invalid header
            return "not a known picture format"
        return f"{what}, not a picture"


# ---------------------------------------------------------------- decoding


def _load(data: bytes, kind: str) -> _Decoded:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; errors are raised or checked here
            return _decode(data, kind)
    except VideoError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(f"more than twice {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        reason = f"the {kind} header is damaged, or Pillow does not support it"
    except Exception as error:  # noqa: BLE001  (parsers in Python: on nonsense they raise anything)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"the {kind} picture is cut off or damaged: {lines[0][:200]}"
    raise VideoError("decode_error", reason)


def _decode(data: bytes, kind: str) -> _Decoded:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(f"{image.width} × {image.height} pixels")
        # Pillow rotates a TIFF when it loads it. EXIF of other formats is read after loading:
        # reading a PNG's EXIF loads it, and errors would be lost.
        turned = _orientation(image) if kind == "tiff" else 1
        image.load()
        todo = _orientation(image)
        upright = _rgb(image, kind)
        if todo in _TURNS:
            upright = upright.transpose(_TURNS[todo][1])
        rotation, _ = _TURNS.get(max(turned, todo), (0, None))  # one of the two is 1
        return _Decoded(np.array(upright), rotation, _bit_depth(image, data))


def _too_large(what: str) -> VideoError:
    return VideoError("too_large", f"{what}: the limit is {MAX_PIXELS:,}")


def _orientation(image: Image.Image) -> int:
    """EXIF's tag 274; 1 (as stored) if it is missing or unreadable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (as above; the pixels may be fine)
        return 1


def _rgb(image: Image.Image, kind: str) -> Image.Image:
    """8 bits of red, green and blue.

    :raises VideoError: ``unsupported`` for pixels of 32 bits and in CIELAB.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "png"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise VideoError("unsupported", f"pixels of mode {image.mode} have no defined white")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _bit_depth(image: Image.Image, data: bytes) -> int:
    """Bits per channel as stored; 8 for palettes."""
    if image.mode in ("P", "PA"):
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0])
    if image.format == "PNG":
        return data[24]  # IHDR comes first, at a fixed offset
    return 1 if image.mode == "1" else 8
