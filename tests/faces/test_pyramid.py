import threading
from concurrent.futures import ThreadPoolExecutor

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


def levels(frames: list[Tensor], scales: list[float]) -> list[Tensor]:
    made = pyramid.pictures(frames, pyramid.Workspace())
    return [made.level(scale) for scale in scales]


def assert_levels_equal(frames: list[Tensor], scales: list[float]) -> None:
    for level, scale in zip(levels(frames, scales), scales, strict=True):
        assert level.dtype == torch.float32
        torch.testing.assert_close(level, areas(frames, scale), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (271, 483),  # a quarter of 1080p, odd
        (483, 271),
        (270, 480),
        (128, 192),
        (97, 384),
        (101, 40),
        (12, 12),
        (13, 577),
        (30, 1),
    ],
)
@pytest.mark.parametrize("min_face", [12, 20, 33])
def test_levels_are_torchs_area_averages(height: int, width: int, min_face: int) -> None:
    scales = pyramid.scales(height, width, min_face, FACTOR) or [0.6, 0.25]
    assert_levels_equal([noise(height, width, 3)], scales)


@pytest.mark.parametrize("height", [1, 2, 31, 32, 33])
def test_levels_of_a_frame_about_as_high_as_a_block_of_rows(height: int) -> None:
    assert_levels_equal([noise(height, 50, 3)], [1.0, 0.6, 0.3])


@pytest.mark.parametrize("scale", [0.011, 1 / 3, 0.5, 0.999, 1.0])
def test_levels_at_scales_that_cut_windows_everywhere(scale: float) -> None:
    assert_levels_equal([noise(117, 211, 3)], [scale])


def test_levels_of_several_frames_are_each_frames_own() -> None:
    frames = [noise(95, 207, 3, seed=n) for n in range(3)]
    frames += [torch.zeros_like(frames[0]), torch.full_like(frames[0], 255)]
    scales = pyramid.scales(95, 207, 20, FACTOR)
    assert_levels_equal(frames, scales)
    for level in levels(frames, scales):
        assert not level[3].any()
        torch.testing.assert_close(level[4], torch.full_like(level[4], 255))


def test_frames_of_one_size_after_another_do_not_mix() -> None:
    for seed, (height, width) in enumerate([(60, 90), (90, 60), (60, 90)]):
        assert_levels_equal([noise(height, width, 3, seed=seed)], [0.5, 0.3])


@pytest.mark.parametrize("value", [0, 1, 254, 255])
@pytest.mark.parametrize(("height", "width"), [(90, 91), (92, 92), (400, 100), (361, 700)])
def test_windows_whose_sums_need_more_bits_than_a_word_has(
    height: int, width: int, value: int
) -> None:
    frame = torch.full((height, width, 3), value, dtype=torch.uint8)
    frame[height // 3 :, :, 1] = 255 - value
    frame[:, width // 3 :, 2] = 255 - value
    assert_levels_equal([frame], [1e-4, 1 / min(height, width), 0.02])


def test_a_workspace_serves_frames_of_any_size_one_after_another() -> None:
    workspace = pyramid.Workspace()
    for seed, (height, width) in enumerate([(60, 90), (90, 61), (20, 30), (120, 200)]):
        frames = [noise(height, width, 3, seed=seed + n) for n in range(2)]
        made = pyramid.pictures(frames, workspace)
        torch.testing.assert_close(made.level(0.4), areas(frames, 0.4), atol=1e-3, rtol=0)


def test_threads_do_not_share_a_workspace() -> None:
    workspace = pyramid.Workspace()
    frames = [noise(200, 300, 3, seed=seed) for seed in range(8)]
    together = threading.Barrier(len(frames))

    def look(frame: Tensor) -> Tensor:
        made = pyramid.pictures([frame], workspace)
        together.wait()  # all have theirs before any is averaged
        return made.level(0.4)

    with ThreadPoolExecutor(len(frames)) as pool:
        for frame, level in zip(frames, pool.map(look, frames), strict=True):
            torch.testing.assert_close(level, areas([frame], 0.4), atol=1e-3, rtol=0)


def assert_cut_equals(frames: list[Tensor], boxes: list[list[int]], size: int) -> None:
    """:param boxes: frame, left, top, right, bottom."""
    owners, left, top, right, bottom = torch.tensor(boxes).unbind(1)
    made = pyramid.pictures(frames, pyramid.Workspace())
    begins, ends = torch.stack([left, top], 1), torch.stack([right, bottom], 1)
    found = made.cut(owners, begins, ends, size)
    assert found.shape == (len(boxes), 3, size, size)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for cut, (owner, x0, y0, x1, y1) in zip(found, boxes, strict=True):
        picture = frames[owner][y0:y1, x0:x1].permute(2, 0, 1).float()
        pooled = F.adaptive_avg_pool2d(picture, size).transpose(1, 2)
        torch.testing.assert_close(cut, pooled, atol=1e-3, rtol=0)


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
def test_a_cut_is_torchs_adaptive_pooling(height: int, width: int, size: int) -> None:
    frame = noise(height + 5, width + 9, 3)
    assert_cut_equals([frame], [[0, 4, 2, 4 + width, 2 + height]], size)


def test_cuts_of_any_size_from_several_frames() -> None:
    chance = np.random.default_rng(1)
    frames = [noise(240, 320, 3, seed=seed) for seed in range(3)]
    boxes = [
        [int(chance.integers(3)), 320 - width, 240 - height, 320, 240]
        for height, width in chance.integers(1, 240, (60, 2)).tolist()
    ]
    assert_cut_equals(frames, boxes, 24)


def test_cuts_as_large_as_a_4k_frame() -> None:
    frame = noise(2400, 3840, 3)
    boxes = [[0, 0, 0, 3840, 2400], [0, 1000, 1000, 1030, 1030], [0, 1, 0, 3001, 2399]]
    assert_cut_equals([frame], boxes, 24)


def test_no_cuts() -> None:
    made = pyramid.pictures([noise(30, 40, 3)], pyramid.Workspace())
    none = torch.zeros(0, 2, dtype=torch.long)
    assert made.cut(none[:, 0], none, none, 48).shape == (0, 3, 48, 48)
