import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfscan.errors import VideoError
from dfscan.video.pictures import MAX_PIXELS, is_picture, is_picture_file, open_picture

FORMATS = {"jpeg": {"quality": 95}, "png": {}, "webp": {"lossless": True}, "bmp": {}, "tiff": {}}


def ramp(height: int = 40, width: int = 64) -> np.ndarray:
    """Red grows to the right, green downwards: every turn and mirror image differs."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 250, width)[None, :]
    rgb[..., 1] = np.linspace(0, 250, height)[:, None]
    return rgb


def encode(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(sink, kind, **options)
    return sink.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return next(open_picture(data).read([0]))[0].rgb


@pytest.mark.parametrize(
    ("name", "picture"),
    [("a.PNG", True), ("a.mp4", False), ("a.zip!/b.gif", False), ("a", None), ("a.dat", None)],
)
def test_a_known_ending_says_what_a_file_is_else_its_first_bytes(
    name: str, picture: bool | None
) -> None:
    for data, starts_as_one in ((encode(ramp(), "png"), True), (b"text", False)):
        expected = starts_as_one if picture is None else picture
        assert is_picture_file(f"/x/{name}", data) is expected


def refused(data: bytes) -> VideoError:
    with pytest.raises(VideoError) as caught:
        open_picture(data)
    assert "\n" not in caught.value.reason
    return caught.value


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG with these raw rows, each led by its filter byte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_is_a_video_of_one_frame(kind: str) -> None:
    video = open_picture(encode(ramp(), kind, **FORMATS[kind]))
    info = video.info
    assert (video.decoder, video.count) == ("pillow", 1)
    assert (info.container, info.codec, info.bit_depth) == (kind, kind, 8)
    assert (info.width, info.height, info.rotation) == (64, 40, 0)
    assert (info.fps, info.duration_s, info.frames_claimed) == (None, None, 1)
    [[frame]] = list(video.read([0]))
    assert (frame.index, frame.pts_s, frame.key_frame) == (0, 0.0, True)
    assert frame.rgb.dtype == np.uint8
    assert frame.rgb.flags.c_contiguous
    np.testing.assert_allclose(frame.rgb.astype(int), ramp(), atol=9 if kind == "jpeg" else 0)
    assert (video.frames_decoded, video.frames_lost) == (1, 0)
    assert list(video.read([])) == []


UPRIGHT = {
    1: (0, lambda a: a),
    2: (0, lambda a: a[:, ::-1]),
    3: (180, lambda a: a[::-1, ::-1]),
    4: (180, lambda a: a[::-1]),
    5: (270, lambda a: a.swapaxes(0, 1)),
    6: (90, lambda a: np.rot90(a, -1)),
    7: (90, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
    8: (270, lambda a: np.rot90(a, 1)),
}


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    video = open_picture(encode(ramp(), kind, exif=exif, **FORMATS[kind]))
    degrees, turn = UPRIGHT[orientation]
    rgb = next(video.read([0]))[0].rgb
    np.testing.assert_allclose(rgb.astype(int), turn(ramp()), atol=9 if kind == "jpeg" else 0)
    assert rgb.flags.c_contiguous
    assert video.info.rotation == degrees
    assert (video.info.height, video.info.width) == rgb.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_is_none_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    video = open_picture(encode(ramp(), "png", exif=exif))
    assert video.info.rotation == 0
    assert video.info.width == 64


def test_damaged_metadata_do_not_cost_the_picture() -> None:
    data = encode(ramp(), "jpeg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff nonsense")
    assert pixels(data).shape == (40, 64, 3)


def test_transparency_lies_over_black() -> None:
    rgba = np.full((20, 20, 4), 200, np.uint8)
    rgba[:, :10, 3], rgba[:, 10:, 3] = 0, 255
    for kind in ("png", "webp", "tiff"):
        rgb = pixels(encode(rgba, kind, **FORMATS[kind]))
        assert rgb[:, :10].max() == 0, kind
        assert (rgb[:, 10:] == 200).all(), kind
    half = np.full((20, 20, 2), 128, np.uint8)
    assert pixels(encode(Image.fromarray(half), "png"))[0, 0].tolist() == pytest.approx([64] * 3, 1)


def test_transparent_colours_of_palettes_and_grey() -> None:
    palette = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 4, axis=0)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert pixels(encode(palette, "png"))[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    assert pixels(encode(palette, "png", transparency=0))[0].tolist() == [[0, 0, 0], [0, 255, 0]]
    grey = Image.fromarray(np.full((4, 4), 99, np.uint8))
    assert pixels(encode(grey, "png"))[0, 0].tolist() == [99, 99, 99]
    assert pixels(encode(grey, "png", transparency=99)).max() == 0


def test_sixteen_bits_keep_their_upper_eight() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("png", "tiff"):
        data = encode(Image.fromarray(grey), kind)
        assert pixels(data)[0, :, 1].tolist() == [0, 0, 1, 128, 255], kind
        assert open_picture(data).info.bit_depth == 16, kind
    colour = png(1, 1, 16, 2, b"\x00" + struct.pack(">HHH", 256, 32768, 65535))
    assert pixels(colour).tolist() == [[[1, 128, 255]]]
    assert open_picture(colour).info.bit_depth == 16


def test_black_and_white_and_cmyk() -> None:
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    for kind in ("png", "bmp", "tiff"):
        assert pixels(encode(bits, kind))[0, :2].tolist() == [[255] * 3, [0] * 3]
    assert open_picture(encode(bits, "png")).info.bit_depth == 1
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("jpeg", "tiff"):
        assert pixels(encode(cyan, kind))[8, 8].tolist() == pytest.approx([0, 255, 255], abs=3)


@pytest.mark.parametrize("kind", ["tiff", "webp", "png", "mpo"])
def test_of_several_pictures_the_first_counts(kind: str) -> None:
    red, blue = (Image.new("RGB", (16, 16), c) for c in ((255, 0, 0), (0, 0, 255)))
    data = encode(red, kind, save_all=True, append_images=[blue])
    assert pixels(data)[8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert open_picture(data).count == 1


def test_pixels_without_a_white_are_unsupported() -> None:
    error = refused(encode(Image.fromarray(np.ones((4, 4), np.float32)), "tiff"))
    assert (error.status, error.reason) == (
        "unsupported",
        "pixels of mode F have no defined white",
    )


@pytest.mark.parametrize(("width", "height"), [(9460, 9460), (20_000, 20_000)])
def test_decompression_bombs_are_too_large(width: int, height: int) -> None:
    assert width * height > MAX_PIXELS  # Pillow warns of the first and raises on the second
    error = refused(png(width, height, 8, 2, b""))
    assert error.status == "too_large"
    assert "89,478,485" in error.reason


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_cut_pictures_are_decode_errors(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind, **FORMATS[kind])
    error = refused(data[: max(20, int(len(data) * share))])
    assert error.status == "decode_error"
    assert kind in error.reason


def test_damage_that_a_checksum_shows_is_an_error() -> None:
    """Asked for EXIF, Pillow loads a PNG; if that failed, a second load would give half of it."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = bytearray(encode(noise, "png"))
    data[len(data) // 2] ^= 0x55
    assert refused(bytes(data)).status == "decode_error"


def iso(brand: bytes) -> bytes:
    return b"\x00\x00\x00\x18ftyp" + brand + bytes(12)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (iso(b"avif"), "an AVIF picture"),
        (iso(b"heic"), "a HEIF picture"),
        (iso(b"mif1"), "a HEIF or AVIF picture"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"8BPS\x00\x01", "a Photoshop document"),
    ],
)
def test_formats_that_are_not_decoded_are_named(data: bytes, what: str) -> None:
    error = refused(data)
    assert error.status == "unsupported"
    assert error.reason == f"{what}: only JPEG, PNG, WebP, BMP and TIFF are decoded"
    assert is_picture(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing, not a picture"),
        (b"<?xml version='1.0'?>\n<svg>\xc3\xa4</svg>", "an SVG drawing, not a picture"),
        (b"<?xml version='1.0'?><MPD/>", "an XML document, not a picture"),
        (b"BMW and other makers\n", "a text file, not a picture"),
        (b"#EXTM3U\n", "a text file, not a picture"),
        (b"%PDF-1.7\x00", "a PDF document, not a picture"),
        (b"GIF89a\x00", "a video (gif), not a picture"),
        (iso(b"isom"), "a video (mov), not a picture"),
        (b"RIFF\x00\x00\x00\x00WAVE", "a WAV file, not a picture"),
        (b"BM" + bytes(50), "not a known picture format"),
        (bytes(100), "not a known picture format"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, what: str) -> None:
    error = refused(data)
    assert (error.status, error.reason) == ("not_video", what)
    assert not is_picture(data)


def test_pictures_are_known_by_their_first_bytes() -> None:
    assert all(is_picture(encode(ramp(), kind)) for kind in FORMATS)


def test_damaged_files_end_in_a_frame_or_an_error(samples: Path) -> None:
    real = [sorted((samples / "images").rglob(f"*.{e}"))[0].read_bytes() for e in ("jpg", "png")]
    small = Image.open(io.BytesIO(real[0])).convert("RGB").resize((48, 48))
    whole = real + [encode(small, kind, **FORMATS[kind]) for kind in FORMATS]
    rng = random.Random(0)
    statuses = set()
    for number in range(300):
        data = bytearray(whole[number % len(whole)])
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            reach = min(len(data), rng.choice((64, 600, len(data))))
            for _ in range(rng.choice((1, 4, 16))):
                data[rng.randrange(reach)] = rng.randrange(256)
        try:
            video = open_picture(bytes(data))
        except VideoError as error:
            statuses.add(error.status)
            continue
        [[frame]] = list(video.read([0]))
        assert frame.rgb.shape == (video.info.height, video.info.width, 3)
        statuses.add("ok")
    assert {"ok", "decode_error", "not_video"} <= statuses
