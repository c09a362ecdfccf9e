from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform

from dfscan.faces.crops import crop_face
from dfscan.faces.detectors import load_detector
from dfscan.faces.similarity import ssim
from dfscan.schemas.recipe import Crop, Detector
from dfscan.training.selfblend import (
    MIN_FACE,
    RATIOS,
    SelfBlend,
    blend_with_mask,
    fit,
    self_blend,
)
from dfscan.video import open_video

BOX = (90.0, 80.0, 210.0, 236.0)
LANDMARKS = np.array([(122, 140), (178, 140), (150, 174), (125, 201), (175, 201)], np.float32)


def crop(seed: int = 0, size: int = 300) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(60, 196, (9, 9, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    grain = random.integers(-10, 11, (size, size, 3))
    return np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)


def blended(seed: int, picture: np.ndarray | None = None) -> SelfBlend:
    made = blend_with_mask(
        crop() if picture is None else picture, LANDMARKS, BOX, np.random.default_rng(seed)
    )
    assert made is not None
    return made


def test_equal_seeds_give_equal_pairs_and_the_crop_stays() -> None:
    picture = crop()
    before = picture.copy()
    picture.setflags(write=False)
    one = self_blend(picture, LANDMARKS, BOX, np.random.default_rng(7))
    two = self_blend(picture, LANDMARKS, BOX, np.random.default_rng(7))
    other = self_blend(picture, LANDMARKS, BOX, np.random.default_rng(8))
    assert one is not None
    assert two is not None
    assert other is not None
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[1], other[1])
    np.testing.assert_array_equal(picture, before)
    assert all(p.shape == picture.shape and p.dtype == np.uint8 for p in one)


def test_a_pair_is_equal_outside_the_mask_and_differs_inside() -> None:
    differing = 0
    for seed in range(40):
        made = blended(seed)
        away = made.mask == 0
        assert away.mean() > 0.5
        np.testing.assert_array_equal(made.real[away], made.fake[away])
        inside = made.mask > 0.8 * made.mask.max()
        change = np.abs(made.real[inside].astype(int) - made.fake[inside])
        differing += change.mean() > 2
    assert differing > 35


def test_half_of_the_reals_are_the_crop_itself() -> None:
    picture = crop()
    untouched = sum(np.array_equal(blended(seed).real, picture) for seed in range(100))
    assert 35 < untouched < 65


def test_masks_are_soft_and_cover_the_face() -> None:
    strengths = set()
    areas = []
    for seed in range(60):
        mask = blended(seed).mask
        assert mask.dtype == np.float32
        assert mask.min() == 0
        strengths.add(round(float(mask.max()), 2))
        rows, columns = np.nonzero(mask > 0.5 * mask.max())
        assert BOX[0] - 15 <= columns.min() <= columns.max() <= BOX[2] + 15
        assert BOX[1] - 15 <= rows.min() <= rows.max() <= BOX[3] + 15
        areas.append((mask > 0.5 * mask.max()).sum() / (120 * 156))
        assert np.abs(np.diff(mask, axis=1)).max() < 0.5 * mask.max()  # no hard edge
        nose_to_mouth = mask[165:195, 150]
        assert nose_to_mouth.min() > 0.9 * mask.max()
    assert strengths == {round(r, 2) for r in RATIOS}
    assert 0.25 < min(areas) < max(areas) < 0.95
    assert np.std(areas) > 0.03


def test_a_face_at_the_border_gets_no_black() -> None:
    plain = np.full((160, 130, 3), 200, np.uint8)
    marks = LANDMARKS - np.array([88, 79], np.float32)
    for seed in range(30):
        pair = self_blend(plain, marks, (2.0, 1.0, 122.0, 157.0), np.random.default_rng(seed))
        assert pair is not None
        assert min(p.min() for p in pair) > 100


@pytest.mark.parametrize(
    ("landmarks", "box"),
    [
        (None, BOX),
        (LANDMARKS, (100.0, 100.0, 100.0 + MIN_FACE - 1, 200.0)),
        (LANDMARKS + 1000, BOX),
        (np.full((5, 2), 150, np.float32), BOX),
    ],
)
def test_what_cannot_be_blended_is_none(
    landmarks: np.ndarray | None, box: tuple[float, float, float, float]
) -> None:
    assert self_blend(crop(), landmarks, box, np.random.default_rng(0)) is None


def test_the_template_is_laid_by_the_best_similarity() -> None:
    random = np.random.default_rng(0)
    templates, points = random.normal(size=(4, 5, 2)), random.normal(size=(5, 2))
    points = templates[2] @ [[2, 1], [-1, 2]] + (30, 40) + 0.1 * points
    matrices, left = fit(templates, points)
    assert left.argmin() == 2
    for template, matrix, rest in zip(templates, matrices, left, strict=True):
        expected = SimilarityTransform.from_estimate(template, points)
        np.testing.assert_allclose(matrix, expected.params[:2], atol=1e-9)
        assert rest == pytest.approx((expected.residuals(template, points) ** 2).sum())


@pytest.mark.parametrize("side", [1, -1])
def test_the_mask_of_a_turned_face_reaches_to_its_ear(side: int) -> None:
    """Eyes and mouth close together and the nose beside them: the near cheek is the wider."""
    marks = np.array([(-14, 0), (14, 0), (19, 34), (-10, 61), (14, 61)], np.float32)
    if side < 0:
        marks = (marks * np.array([-1, 1], np.float32))[[1, 0, 2, 4, 3]]
    picture, middle = crop(), np.array([150, 140], np.float32)
    near = far = 0.0
    for seed in range(20):
        made = blend_with_mask(picture, marks + middle, BOX, np.random.default_rng(seed))
        assert made is not None
        columns = np.nonzero(made.mask[160] > 0.5 * made.mask.max())[0] - 150
        near += (columns * side).min() / 20
        far += (columns * side).max() / 20
    assert near < -25
    assert 8 < far < 32


@pytest.fixture(scope="module")
def faces(samples: Path) -> list[tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]]:
    """Stored crops of real faces of the sample clips, with landmarks and box in their pixels."""
    found = []
    detector = load_detector(Detector(), "cpu")
    for path in sorted((samples / "clips" / "real").glob("*.mp4")):
        video = open_video(path.read_bytes(), "pyav")
        frame = next(iter(video.read([5])))[0].rgb
        faces = detector.detect([frame], 40)[0]
        box = tuple(faces.boxes[0].tolist())
        stored = crop_face(frame, box, Crop(codec="png", max_size=4096))
        assert stored is not None
        left, top, right, bottom = (int(v) for v in stored.crop_box)
        corner = np.array([left, top], np.float32)
        moved = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
        found.append((frame[top:bottom, left:right], faces.landmarks[0] - corner, moved))
    return found


def test_real_faces_blend_without_harm(
    faces: list[tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]],
) -> None:
    """A fake looks like its real picture, keeps its margin, and is changed around the nose."""
    assert len(faces) == 4
    for picture, landmarks, box in faces:
        for seed in range(8):
            made = blend_with_mask(picture, landmarks, box, np.random.default_rng(seed))
            assert made is not None
            similar = ssim(made.real, made.fake)
            assert similar is not None
            assert 0.8 < similar < 1
            edge = np.ones(made.mask.shape, bool)
            edge[5:-5, 5:-5] = False
            assert made.mask[edge].max() == 0
            x, y = landmarks[2].astype(int)
            assert made.mask[y, x] > 0.9 * made.mask.max()
