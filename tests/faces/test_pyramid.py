import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dfscan.faces import pyramid

FACTOR = 0.709


def noise(*shape: int, seed: int = 0) -> Tensor:
    drawn = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(drawn)


def areas(frames: list[Tensor], scale: float) -> Tensor:
    """What the library feeds PNet at this scale, before its normalisation, transposed."""
    height, width, _ = frames[0].shape
    stacked = torch.stack(frames).permute(0, 3, 1, 2).float()
    size = (int(height * scale + 1), int(width * scale + 1))
    return F.interpolate(stacked, size, mode="area").transpose(2, 3)


def assert_levels_equal(frames: list[Tensor], scales: list[float]) -> None:
    found = pyramid.levels(frames, scales)
    assert len(found) == len(scales)
    for level, scale in zip(found, scales, strict=True):
        assert level.dtype == torch.float32
        torch.testing.assert_close(level, areas(frames, scale), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (271, 483),  # a quarter of 1080p, odd
        (483, 271),
        (270, 480),
        (128, 192),  # one strip of columns exactly
        (64, 193),  # and a column more
        (97, 384),
        (101, 40),  # narrower than a strip
        (12, 12),
        (13, 577),
        (30, 1),
    ],
)
@pytest.mark.parametrize("min_face", [12, 20, 33])
def test_levels_are_torchs_area_averages(height: int, width: int, min_face: int) -> None:
    scales = pyramid.scales(height, width, min_face, FACTOR) or [0.6, 0.25]
    assert_levels_equal([noise(height, width, 3)], scales)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5])
def test_levels_of_a_frame_lower_than_a_block_of_rows(height: int) -> None:
    assert_levels_equal([noise(height, 50, 3)], [1.0, 0.6, 0.3])


@pytest.mark.parametrize("scale", [0.011, 1 / 3, 0.5, 0.999, 1.0])
def test_levels_at_scales_that_cut_windows_everywhere(scale: float) -> None:
    assert_levels_equal([noise(117, 211, 3)], [scale])


def test_levels_of_several_frames_are_each_frames_own() -> None:
    frames = [noise(95, 207, 3, seed=n) for n in range(3)]
    frames += [torch.zeros_like(frames[0]), torch.full_like(frames[0], 255)]
    scales = pyramid.scales(95, 207, 20, FACTOR)
    assert_levels_equal(frames, scales)
    for level in pyramid.levels(frames, scales):
        assert not level[3].any()
        torch.testing.assert_close(level[4], torch.full_like(level[4], 255))


def test_frames_of_one_size_after_another_do_not_mix() -> None:
    for seed, (height, width) in enumerate([(60, 90), (90, 60), (60, 90)]):
        assert_levels_equal([noise(height, width, 3, seed=seed)], [0.5, 0.3])


def test_no_scales_give_no_levels() -> None:
    assert pyramid.levels([noise(9, 9, 3)], []) == []


@pytest.mark.parametrize("size", [24, 48])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1),
        (1, 7),
        (7, 1),
        (5, 5),
        (23, 25),
        (24, 24),
        (48, 48),
        (47, 96),
        (49, 24),
        (13, 200),
        (211, 19),
        (150, 149),
        (301, 302),
    ],
)
def test_average_is_torchs_adaptive_pooling(height: int, width: int, size: int) -> None:
    frame = noise(height + 5, width + 9, 3)
    picture = frame[2 : 2 + height, 4 : 4 + width]
    out = torch.full((size, 3, size), -1.0)
    pyramid.average(picture, out)
    pooled = F.adaptive_avg_pool2d(picture.permute(2, 0, 1).float(), size)
    torch.testing.assert_close(out, pooled.permute(2, 0, 1), atol=1e-3, rtol=0)


def test_average_equals_pooling_for_boxes_of_any_size() -> None:
    chance = np.random.default_rng(1)
    frame = noise(240, 320, 3)
    for height, width in chance.integers(1, 240, (60, 2)).tolist():
        out = torch.empty(24, 3, 24)
        picture = frame[240 - height :, :width]
        pyramid.average(picture, out)
        pooled = F.adaptive_avg_pool2d(picture.permute(2, 0, 1).float(), 24)
        torch.testing.assert_close(out, pooled.permute(2, 0, 1), atol=1e-3, rtol=0)
