import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from dfscan.faces.crops import Box, crop_face, crop_for_network
from dfscan.schemas.recipe import Crop, NetworkInput
from dfscan.training.augment import (
    CLASSIC,
    DFDC,
    LIGHT,
    PRESETS,
    SBI,
    Augmentation,
    Blur,
    Colour,
    Cutout,
    Downscale,
    Jpeg,
    Noise,
    SampledAugmentation,
    Tint,
    Warp,
    apply,
    draw,
    landmarks_in_cut,
)

LANDMARKS = np.array([(40, 44), (70, 42), (56, 60), (44, 80), (68, 79)], np.float32)
EVERYTHING = Augmentation(
    cutout=Cutout(),
    flip=0.5,
    warp=Warp(rotate=30, scale=0.3, shift=0.2),
    colour=Colour(brightness=0.3, contrast=0.3, saturation=0.5, hue=0.2, levels=30, grey=0.2),
    blur=Blur(kernel=(5, 7), sigma=(0.5, 3)),
    downscale=Downscale(factor=(1.5, 4)),
    noise=Noise(sigma=(2, 9)),
    jpeg=Jpeg(quality=(30, 95)),
)


def scene(seed: int = 0, height: int = 112, width: int = 112) -> np.ndarray:
    """Smooth patches of colour with fine grain, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 216, (7, 7, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.integers(-12, 13, (height, width, 3))
    return np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)


def apart(picture: np.ndarray, other: torch.Tensor) -> int:
    """The largest difference of a level."""
    return int((tensor(picture).int() - other.int()).abs().max())


def augment(
    picture: np.ndarray,
    landmarks: np.ndarray | None,
    random: np.random.Generator,
    recipe: Augmentation,
) -> np.ndarray:
    return apply(picture, landmarks, draw(recipe, random))


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (224, 224), (380, 380), (50, 91)])
def test_a_preset_keeps_the_shape_and_leaves_its_picture_alone(
    name: str, height: int, width: int
) -> None:
    picture = scene(1, height, width)
    before = picture.copy()
    picture.setflags(write=False)
    for seed in range(12):
        changed = augment(picture, LANDMARKS, np.random.default_rng(seed), PRESETS[name])
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        assert changed.flags.c_contiguous
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"none"}))
def test_equal_seeds_give_equal_pixels_on_any_number_of_threads(name: str) -> None:
    pictures = [scene(seed) for seed in range(40)]

    def one(seed: int) -> np.ndarray:
        random = np.random.default_rng((3, seed))
        return augment(pictures[seed], LANDMARKS, random, PRESETS[name])

    alone = [one(seed) for seed in range(40)]
    np.random.seed(5)
    torch.manual_seed(5)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, reversed(range(40))))
    np.testing.assert_array_equal(alone, together[::-1])
    changed = sum(not np.array_equal(a, p) for a, p in zip(alone, pictures, strict=True))
    assert changed >= 10


def test_none_is_the_picture_itself() -> None:
    picture = scene()
    assert augment(picture, LANDMARKS, np.random.default_rng(0), PRESETS["none"]) is picture


def test_flip_mirrors_half() -> None:
    picture = scene()
    mirrored = 0
    for seed in range(200):
        changed = augment(picture, None, np.random.default_rng(seed), PRESETS["flip"])
        assert np.array_equal(changed, picture) or np.array_equal(changed, picture[:, ::-1])
        mirrored += np.array_equal(changed, picture[:, ::-1])
    assert 75 < mirrored < 125


def test_presets_draw_what_they_say() -> None:
    random = np.random.default_rng(1)
    drawn = [draw(DFDC, random) for _ in range(4000)]
    shares = {
        "part": 0.6,
        "turn": 0.5,
        "tint": 0.7,
        "blur": 0.05,
        "downscale": 0.2,
        "noise": 0.1,
        "quality": 0.5,
    }
    for name, share in shares.items():
        assert np.mean([getattr(c, name) is not None for c in drawn]) == pytest.approx(
            share, abs=0.03
        )
    parts = [c.part for c in drawn if c.part]
    assert [parts.count(p) / len(parts) for p in ("eyes", "mouth", "nose")] == pytest.approx(
        [4 / 7, 2 / 7, 1 / 7], abs=0.03
    )
    qualities = {c.quality for c in drawn if c.quality is not None}
    assert (min(qualities), max(qualities)) == (40, 100)
    weights = [c.blur for c in (draw(CLASSIC, random) for _ in range(50)) if c.blur]
    assert 10 < len(weights) < 40
    assert {(len(x), len(y)) for x, y in weights} == {(7, 13)}
    assert draw(LIGHT, random).turn is not None
    assert {draw(SBI, random).turn for _ in range(50)} == {None}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"noise": {"sigma": (7, 3)}}, "must not be above"),
        ({"jpeg": {"quality": (0, 50)}}, "greater than or equal to 1"),
        ({"jpeg": {"quality": (90, 50)}}, "must not be above"),
        ({"blur": {"kernel": (4, 5), "sigma": (1, 1)}}, "must be odd"),
        ({"blur": {"kernel": (5, 5), "sigma": (0, 1)}}, "greater than 0"),
        ({"downscale": {"factor": (0.5, 2)}}, "greater than or equal to 1"),
        ({"flip": 1.2}, "less than or equal to 1"),
        ({"sharpen": 1}, "Extra inputs"),
    ],
)
def test_strengths_that_are_not_allowed_are_refused(
    values: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Augmentation.model_validate(values)


# ---------------------------------------------------------------- each change


@pytest.mark.parametrize("factor", [0.7, 1.25])
def test_brightness_and_saturation_are_torchvisions(factor: float) -> None:
    picture = scene()
    bright = apply(picture, None, SampledAugmentation(tint=Tint(brightness=factor)))
    assert apart(bright, reference.adjust_brightness(tensor(picture), factor)) <= 1
    pale = apply(picture, None, SampledAugmentation(tint=Tint(saturation=factor)))
    assert apart(pale, reference.adjust_saturation(tensor(picture), factor)) <= 2


def test_contrast_levels_and_hue() -> None:
    picture = scene()
    harder = apply(picture, None, SampledAugmentation(tint=Tint(contrast=1.3, levels=(9, 0, -9))))
    wanted = 127.5 + 1.3 * (picture - 127.5) + (9, 0, -9)
    np.testing.assert_allclose(harder, np.clip(wanted, 0, 255), atol=0.51)
    grey = np.repeat(picture[..., :1], 3, axis=2)
    np.testing.assert_allclose(
        apply(grey, None, SampledAugmentation(tint=Tint(hue=0.3))), grey.astype(float), atol=1
    )
    muted = (127 + 0.3 * (picture - 127.0)).astype(np.uint8)  # so that nothing is clipped
    turned = apply(muted, None, SampledAugmentation(tint=Tint(hue=1 / 3)))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(turned @ luma, muted @ luma, atol=1.1)
    back = apply(turned, None, SampledAugmentation(tint=Tint(hue=-1 / 3)))
    np.testing.assert_allclose(back, muted.astype(float), atol=2.1)
    assert np.abs(turned.astype(int) - muted).max() > 15


@pytest.mark.parametrize("brightness", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("contrast", [0.8, 1.0, 1.2])
def test_light_alone_is_what_the_matrix_would_give(brightness: float, contrast: float) -> None:
    picture = scene()
    quick = apply(picture, None, SampledAugmentation(tint=Tint(brightness, contrast)))
    slow = apply(
        picture, None, SampledAugmentation(tint=Tint(brightness, contrast, levels=(1e-4, 0, 0)))
    )
    assert apart(quick, tensor(slow)) <= 1
    assert np.mean(quick != slow) < 0.01
    assert (brightness == contrast == 1.0) == np.array_equal(quick, picture)


@pytest.mark.parametrize("sigma", [0.3, 1.7, 6.5])
def test_blur_is_torchvisions(sigma: float) -> None:
    picture = scene()
    recipe = Augmentation(blur=Blur(kernel=(7, 13), sigma=(sigma, sigma)))
    blurred = augment(picture, None, np.random.default_rng(0), recipe)
    expected = reference.gaussian_blur(tensor(picture), [7, 13], [sigma, sigma])
    assert apart(blurred, expected) <= 1


@pytest.mark.parametrize(
    ("turn", "inside"),
    [((20, 1.0, 0, 0), 25), ((-15, 1.25, 0, 0), 10), ((0, 0.8, 0.1, -0.05), 25)],
)
def test_warp_is_torchvisions_inside(turn: tuple[float, float, float, float], inside: int) -> None:
    picture = scene(2)
    degrees, factor, x, y = turn
    warped = apply(picture, None, SampledAugmentation(turn=turn))
    expected = reference.affine(
        tensor(picture),
        angle=-degrees,
        translate=[x * 112, y * 112],
        scale=factor,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    middle = slice(inside, -inside)
    assert apart(warped[middle, middle], expected[:, middle, middle]) <= 3


@pytest.mark.parametrize("seed", range(8))
def test_warp_uncovers_no_black(seed: int) -> None:
    recipe = Augmentation(warp=Warp(rotate=180, scale=0.5, shift=0.5))
    white = np.full((64, 64, 3), 255, np.uint8)
    assert augment(white, None, np.random.default_rng(seed), recipe).min() == 255


def test_what_warp_uncovers_is_the_mirror_image() -> None:
    picture = scene()
    moved = apply(picture, None, SampledAugmentation(turn=(0, 1.0, 0.25, 0)))
    np.testing.assert_array_equal(moved[:, 28:], picture[:, :-28])
    np.testing.assert_array_equal(moved[:, :28], picture[:, 27::-1])


def test_cutouts_blacken_their_part_alone() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    left, right, nose, mouth_left, mouth_right = LANDMARKS.astype(int)
    black = {
        "eyes": (left, right, (left + right) // 2),
        "mouth": (mouth_left, mouth_right, (mouth_left + mouth_right) // 2),
        "nose": (nose, (nose + left) // 2 + (4, 0)),
    }
    for part, points in black.items():
        cut_out = apply(white, LANDMARKS, SampledAugmentation(part=part))  # type: ignore[arg-type]
        assert all(cut_out[y, x].max() == 0 for x, y in points)
        others = [p for name, some in black.items() if name != part for p in some[:1]]
        assert all(cut_out[y, x].min() == 255 for x, y in others)
        assert 0.02 < (cut_out[..., 0] == 0).mean() < 0.12
    assert apply(white, None, SampledAugmentation(part="eyes")) is white


def test_jpeg_is_that_of_its_quality() -> None:
    picture = scene()
    recipe = Augmentation(jpeg=Jpeg(quality=(55, 55)))
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=55, subsampling=2)
    np.testing.assert_array_equal(
        augment(picture, None, np.random.default_rng(0), recipe), np.asarray(Image.open(sink))
    )


def test_noise_has_its_deviation() -> None:
    grey = np.full((224, 224, 3), 128, np.uint8)
    recipe = Augmentation(noise=Noise(sigma=(6, 6)))
    noisy = augment(grey, None, np.random.default_rng(0), recipe)
    assert noisy.std() == pytest.approx(6, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.1)
    red, green = noisy[..., 0].ravel(), noisy[..., 1].ravel()
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02


def test_downscaling_loses_detail_and_keeps_the_rest() -> None:
    picture = scene()
    soft = augment(
        picture, None, np.random.default_rng(0), Augmentation(downscale=Downscale(factor=(4, 4)))
    )
    assert (
        np.abs(np.diff(soft.astype(int), axis=1)).mean()
        < 0.7 * np.abs(np.diff(picture.astype(int), axis=1)).mean()
    )
    blocks = picture.reshape(28, 4, 28, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(soft.reshape(28, 4, 28, 4, 3).mean(axis=(1, 3)), blocks, atol=25)


# ---------------------------------------------------------------- both classes alike


def test_a_draw_depends_on_the_generator_alone() -> None:
    for seed in range(50):
        bright, dark = np.random.default_rng(seed), np.random.default_rng(seed)
        augment(np.full((64, 64, 3), 250, np.uint8), LANDMARKS, bright, EVERYTHING)
        augment(scene(4, 90, 70), None, dark, EVERYTHING)
        assert bright.bit_generator.state == dark.bit_generator.state


def test_a_pair_differs_only_where_it_did_before() -> None:
    recipe = EVERYTHING.model_copy(update={"warp": None, "flip": 0.0, "cutout": None})
    far = np.ones((112, 112), bool)
    far[24:88, 24:88] = False  # the patch and what blur, scaling and JPEG blocks reach from it
    for seed in range(20):
        real = scene(seed)
        fake = real.copy()
        fake[48:64, 48:64] = 255 - fake[48:64, 48:64]
        changes = draw(recipe, np.random.default_rng(seed))
        one, other = apply(real, None, changes), apply(fake, None, changes)
        np.testing.assert_array_equal(one[far], other[far])
        assert np.abs(one[50:62, 50:62].astype(int) - other[50:62, 50:62]).mean() > 5


def test_both_labels_see_the_same_strengths() -> None:
    """Reals and fakes draw from generators of their own: the same share of each quality."""
    share = {}
    for label in (0, 1):
        drawn = [draw(DFDC, np.random.default_rng((label, n))) for n in range(3000)]
        share[label] = [
            np.mean([c.quality is not None for c in drawn]),
            np.mean([c.quality for c in drawn if c.quality is not None]) / 60,
            np.mean([c.downscale is not None for c in drawn]),
            np.mean([c.noise is not None for c in drawn]),
        ]
    assert share[0] == pytest.approx(share[1], abs=0.05)


# ---------------------------------------------------------------- landmarks in the network's square


@pytest.mark.parametrize("square", ["stretch", "pad", "grow"])
@pytest.mark.parametrize(
    ("box", "max_size"),
    [
        ((200.0, 150.0, 300.0, 290.0), 512),
        ((200.0, 150.0, 300.0, 290.0), 120),
        ((10.0, 20.0, 130.0, 170.0), 512),
        ((480.3, 260.7, 601.2, 398.1), 512),
    ],
)
def test_landmarks_fall_where_cut_puts_them(square: str, box: Box, max_size: int) -> None:
    width, height = box[2] - box[0], box[3] - box[1]
    shares = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = np.array([(box[0] + u * width, box[1] + v * height) for u, v in shares])
    recipe = NetworkInput.model_validate({"size": 200, "margin": 0.3, "square": square})
    for number, (x, y) in enumerate(points):
        frame = np.zeros((400, 620, 3), np.uint8)
        rows, columns = np.mgrid[0:400, 0:620] + 0.5
        frame[np.hypot(columns - x, rows - y) < 5] = 255
        crop = crop_face(frame, box, Crop(context=0.6, codec="png", max_size=max_size))
        assert crop is not None
        seen = crop_for_network(crop.image, crop.crop_box, box, recipe)[..., 0].astype(float)
        v, u = np.mgrid[0:200, 0:200] + 0.5
        painted = ((u * seen).sum() / seen.sum(), (v * seen).sum() / seen.sum())
        size = Image.open(io.BytesIO(crop.image)).size
        found = landmarks_in_cut(points.ravel(), size, crop.crop_box, box, recipe)
        assert found.shape == (5, 2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[number], painted, atol=0.6)
