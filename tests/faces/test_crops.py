import io

import numpy as np
import pytest
from PIL import Image

from dfscan.errors import ConfigError
from dfscan.faces.crops import PictureError, check_margin, crop_face, crop_for_network, expand
from dfscan.schemas.recipe import Crop, NetworkInput


def ramp(height: int = 400, width: int = 600) -> np.ndarray:
    """A frame whose red is the column and green the row, scaled to 8 bits."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 255, width).astype(np.uint8)[None, :]
    frame[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return frame


def size_of(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


def test_context_is_a_share_of_the_box() -> None:
    assert expand((100, 100, 200, 300), 0.5) == (50, 0, 250, 400)


def test_a_crop_keeps_its_native_resolution() -> None:
    crop = crop_face(ramp(), (200, 100, 300, 200), Crop(context=0.6, codec="png"))
    assert crop is not None
    assert crop.crop_box == (140, 40, 360, 260)
    assert size_of(crop.image) == (220, 220)


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_lossless_codecs_keep_every_pixel(codec: str) -> None:
    crop = crop_face(ramp(), (200, 100, 300, 200), Crop(context=0.6, codec=codec))
    assert crop is not None
    picture = Image.open(io.BytesIO(crop.image))
    assert picture.format == codec.upper()
    np.testing.assert_array_equal(np.asarray(picture), ramp()[40:260, 140:360])


def test_a_crop_at_the_border_holds_only_what_is_there() -> None:
    crop = crop_face(ramp(), (-20, 350, 80, 450), Crop(context=0.6, codec="png"))
    assert crop is not None
    assert crop.crop_box == (0, 290, 140, 400)
    assert size_of(crop.image) == (140, 110)
    assert crop_face(ramp(), (700, 10, 710, 20), Crop(context=0.0)) is None


def test_large_crops_shrink_and_small_ones_stay() -> None:
    assert size_of(crop_face(ramp(), (100, 100, 300, 300), Crop(max_size=128)).image) == (128, 122)
    assert size_of(crop_face(ramp(), (100, 100, 140, 140), Crop(face_size=224)).image) == (224, 224)


@pytest.mark.parametrize("max_size", [4096, 100])
def test_a_model_cuts_the_region_it_asks_for(max_size: int) -> None:
    box = (250.0, 150.0, 350.0, 250.0)
    crop = crop_face(ramp(), box, Crop(context=0.6, codec="png", max_size=max_size))
    assert crop is not None
    pixels = crop_for_network(crop.image, crop.crop_box, box, NetworkInput(size=64, margin=0.2))
    assert pixels.shape == (64, 64, 3)
    red, green = pixels[32, :, 0].astype(float), pixels[:, 32, 1].astype(float)
    assert red[0] == pytest.approx(230 / 600 * 255, abs=3)
    assert red[-1] == pytest.approx(370 / 600 * 255, abs=3)
    assert green[0] == pytest.approx(130 / 400 * 255, abs=3)
    assert green[-1] == pytest.approx(270 / 400 * 255, abs=3)


def test_padding_keeps_the_aspect_ratio_and_stretching_does_not() -> None:
    white = np.full((400, 600, 3), 255, np.uint8)
    box = (100.0, 100.0, 200.0, 300.0)
    crop = crop_face(white, box, Crop(context=0.6, codec="png"))
    assert crop is not None
    padded = crop_for_network(
        crop.image, crop.crop_box, box, NetworkInput(size=64, margin=0.0, square="pad")
    )
    assert (padded[32, :, 0] > 0).sum() == 32
    assert padded[32, 32, 0] == 255
    assert padded[32, 0, 0] == 0
    stretched = crop_for_network(crop.image, crop.crop_box, box, NetworkInput(size=64, margin=0.0))
    assert stretched.min() == 255


@pytest.mark.parametrize("box", [(250.0, 150.0, 310.0, 230.0), (250.0, 150.0, 330.0, 210.0)])
def test_growing_shows_a_square_about_the_centre_of_the_face(box: tuple[float, ...]) -> None:
    crop = crop_face(ramp(), box, Crop(context=0.6, codec="png"))
    assert crop is not None
    recipe = NetworkInput(size=64, margin=0.1, square="grow")
    pixels = crop_for_network(crop.image, crop.crop_box, box, recipe).astype(float)
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 80 * 1.2 / 2
    assert pixels[32, 0, 0] == pytest.approx((x - half) / 600 * 255, abs=2)
    assert pixels[32, -1, 0] == pytest.approx((x + half) / 600 * 255, abs=2)
    assert pixels[0, 32, 1] == pytest.approx((y - half) / 400 * 255, abs=2)
    assert pixels[-1, 32, 1] == pytest.approx((y + half) / 400 * 255, abs=2)


def test_growing_ends_where_the_stored_crop_does() -> None:
    box = (250.0, 100.0, 290.0, 300.0)  # five times as high as wide
    crop = crop_face(ramp(), box, Crop(context=0.6, codec="png"))
    assert crop is not None
    pixels = crop_for_network(
        crop.image, crop.crop_box, box, NetworkInput(size=64, margin=0.0, square="grow")
    )
    assert pixels[32, 0, 0] == pytest.approx(226 / 600 * 255, abs=2)
    assert pixels[32, -1, 0] == pytest.approx(314 / 600 * 255, abs=2)
    assert pixels[0, 32, 1] == pytest.approx(100 / 400 * 255, abs=2)


def test_a_picture_that_does_not_decode_is_named() -> None:
    with pytest.raises(PictureError, match="does not decode"):
        crop_for_network(b"no picture", (0, 0, 1, 1), (0, 0, 1, 1), NetworkInput(size=32))


def test_a_margin_wider_than_stored_is_refused() -> None:
    check_margin(Crop(context=0.6), NetworkInput(size=32, margin=0.6))
    with pytest.raises(ConfigError, match=r"margin: got 0\.7.*context of 0\.6"):
        check_margin(Crop(context=0.6), NetworkInput(size=32, margin=0.7))
