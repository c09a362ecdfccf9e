import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from dfscan.faces.crops import StoredCrop, crop_face
from dfscan.faces.detectors import load_detector
from dfscan.faces.similarity import face_difference, ssim
from dfscan.schemas.recipe import Crop, Detector
from dfscan.video import open_video

FACE = (170.0, 70.0, 280.0, 200.0)
"""The astronaut's, in pixels of the picture."""


def reference(a: np.ndarray, b: np.ndarray) -> float:
    """The library's, on brightness."""
    a, b = (x @ [0.299, 0.587, 0.114] if x.ndim == 3 else x.astype(float) for x in (a, b))
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 255}
    return float(structural_similarity(a, b, **options))


def blurred(frame: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)))


def recompressed(image: bytes, quality: int) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(image)).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def difference(a: StoredCrop | None, b: StoredCrop | None, box: tuple[float, ...] = FACE) -> float:
    assert a is not None
    assert b is not None
    value = face_difference(a.image, a.crop_box, b.image, b.crop_box, box)
    assert value is not None
    return value


@pytest.mark.parametrize("shape", [(11, 11), (11, 40), (64, 33, 3), (101, 100, 3)])
def test_ssim_equals_the_librarys(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, shape, dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 30, shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(reference(a, b), abs=1e-9)


@pytest.mark.parametrize("radius", [0.5, 2, 8])
def test_ssim_of_a_real_picture_equals_the_librarys(radius: float) -> None:
    a, b = astronaut(), blurred(astronaut(), radius)
    assert ssim(a, b) == pytest.approx(reference(a, b), abs=1e-9)


def test_ssim_of_equal_flat_and_opposite_pictures() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    flat = np.full((50, 50), 255, np.uint8)
    assert ssim(noise, noise) == pytest.approx(1.0, abs=1e-12)
    assert ssim(flat, flat) == 1.0
    assert ssim(flat, flat * 0) == pytest.approx(0.0, abs=1e-3)
    assert ssim(noise, 255 - noise) < -0.5


def test_pictures_smaller_than_the_window_have_none() -> None:
    tiny = np.zeros((10, 50, 3), np.uint8)
    assert ssim(tiny, tiny) is None
    with pytest.raises(ValueError, match=r"the same shape.*\(10, 50, 3\) and \(10, 50\)"):
        ssim(tiny, tiny[..., 0])


@pytest.mark.parametrize("recipe", [Crop(), Crop(codec="png"), Crop(face_size=224)])
def test_a_face_does_not_differ_from_itself(recipe: Crop) -> None:
    crop = crop_face(astronaut(), FACE, recipe)
    assert difference(crop, crop) == pytest.approx(0.0, abs=1e-9)


def test_recompression_is_little_and_another_face_is_much() -> None:
    crop = crop_face(astronaut(), FACE, Crop())
    again = {q: recompressed(crop.image, q) for q in (95, 75, 50)}
    little = {q: difference(StoredCrop(i, crop.crop_box), crop) for q, i in again.items()}
    assert 0 < little[95] < little[75] < 0.05
    assert little[75] < little[50] < 0.1
    x0, y0, x1, y1 = (int(v) for v in FACE)
    for share, least in ((1.0, 0.5), (0.5, 0.2)):
        frame = astronaut().copy()
        face = frame[y0:y1, x0:x1]
        frame[y0:y1, x0:x1] = share * face[:, ::-1] + (1 - share) * face
        assert difference(crop_face(frame, FACE, Crop()), crop) > least


def test_only_the_face_counts() -> None:
    frame = blurred(astronaut(), 5)
    x0, y0, x1, y1 = (int(v) for v in FACE)
    frame = frame.copy()
    frame[y0:y1, x0:x1] = astronaut()[y0:y1, x0:x1]
    png = Crop(codec="png")
    assert difference(crop_face(frame, FACE, png), crop_face(astronaut(), FACE, png)) < 1e-9


def test_scale_is_no_difference() -> None:
    """Blown up again, the small one would differ by 0.10."""
    large, small = (crop_face(astronaut(), FACE, Crop(max_size=s, codec="png")) for s in (512, 120))
    assert difference(large, small) < 0.005
    assert difference(small, large) == pytest.approx(difference(large, small))
    doubled = np.asarray(
        Image.fromarray(astronaut()).resize((1024, 1024), Image.Resampling.BICUBIC)
    )
    crop = crop_face(doubled, tuple(2 * v for v in FACE), Crop(codec="png"))
    here = StoredCrop(crop.image, tuple(v / 2 for v in crop.crop_box))
    assert difference(here, large) < 0.01


def test_crops_that_show_different_parts_are_laid_over_one_another() -> None:
    png = Crop(codec="png")
    whole = crop_face(astronaut(), FACE, png)
    shifted = crop_face(astronaut(), (180.0, 83.0, 300.0, 220.0), png)
    assert whole.crop_box != shifted.crop_box
    assert difference(whole, shifted) < 1e-9
    cut = crop_face(astronaut()[:150], FACE, png)  # the lower part of the face is not there
    assert difference(whole, cut) < 1e-9


def test_none_where_nothing_can_be_said() -> None:
    crop = crop_face(astronaut(), FACE, Crop())
    say = face_difference
    image, shown = crop.image, crop.crop_box
    assert say(b"no picture", shown, image, shown, FACE) is None
    assert say(image, shown, image[:500], shown, FACE) is None
    assert say(image, shown, image, shown, (200.0, 100.0, 209.0, 150.0)) is None
    assert say(image, shown, image, shown, (900.0, 900.0, 990.0, 990.0)) is None
    assert say(image, shown, image, shown, (float("nan"),) * 4) is None


def test_a_real_fake_differs_more_than_a_recompressed_original(samples: Path) -> None:
    """Measured on the 26 frames: 0.30 to 0.42 for the fake, 0.02 for quality 75."""
    original = _frames(samples / "ffpp/original_sequences/youtube/c23/videos/519.mp4")
    fake = _frames(samples / "ffpp/manipulated_sequences/Deepfakes/c23/videos/519_515.mp4")
    min_face = Detector().min_face_px(640, 480)
    detections = load_detector(Detector(), "cpu").detect(original, min_face)
    compared = 0
    for real, forged, found in zip(original, fake, detections, strict=True):
        for row in found.boxes:
            box = tuple(float(v) for v in row)
            ours, theirs = crop_face(forged, box, Crop()), crop_face(real, box, Crop())
            again = StoredCrop(recompressed(theirs.image, 75), theirs.crop_box)
            assert difference(ours, theirs, box) > 0.2
            assert difference(again, theirs, box) < 0.05
            compared += 1
    assert compared >= 10


def _frames(path: Path) -> list[np.ndarray]:
    video = open_video(path.read_bytes(), "decord")
    return [f.rgb for batch in video.read(range(0, video.count, 60)) for f in batch]
