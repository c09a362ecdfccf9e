"""The image pyramid of MTCNN's first stage, to the pixel that of facenet-pytorch.

Every level is an area average of the full frame: averaging level from level would be cheaper, and
moves one face in six by more than IoU 0.9 allows, since the cascade's non-maximum suppression
turns small differences into other picks. On a CPU the averages are sums of rows, then of columns, which ``embedding_bag`` does at the speed of memory; rows are summed in strips of columns
that stay in the cache, columns after a transposition that puts them into rows.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CELL: Final = 12
"""PNet's receptive field in pixels: the smallest face it sees at scale 1."""

_BLOCK: Final = 4
"""Rows are summed by so many once, for windows that span them."""

_STRIP: Final = 192
"""Columns in a strip."""


def scales(height: int, width: int, min_face: int, factor: float) -> list[float]:
    """Scales at which PNet sees faces of ``min_face`` pixels and larger; may be empty."""
    scale = CELL / min_face
    shorter = min(height, width) * scale
    found = []
    while shorter >= CELL:
        found.append(scale)
        scale *= factor
        shorter *= factor
    return found


def levels(frames: Sequence[Tensor], at: Sequence[float]) -> list[Tensor]:
    """Every frame at every scale: a tensor (B, 3, w, h) float32, 0 to 255, a level.

    Pictures are transposed, x before y.

    :param frames: (H, W, 3) uint8, all of one size, on one device.
    """
    height, width, _ = frames[0].shape
    sizes = tuple((int(height * s + 1), int(width * s + 1)) for s in at)
    if not sizes:
        return []
    if frames[0].device.type != "cpu":
        stacked = torch.stack(list(frames)).permute(0, 3, 1, 2).float()
        return [F.interpolate(stacked, size, mode="area").transpose(2, 3) for size in sizes]
    plan = _plan(height, width, sizes)
    each = [_levels(frame, plan) for frame in frames]
    return [torch.cat(same) for same in zip(*each, strict=True)]


@dataclass(frozen=True)
class _Sums:
    """Sums of a table's rows, as ``embedding_bag`` takes them."""

    rows: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class _Plan:
    """How frames of one size come to their levels.

    ``vertical`` has a sum for every row of every level, ``heights`` of them a level; ``horizontal``
    has, a level, a sum for every column and channel, and ``areas`` the pixels in each window.
    """

    vertical: _Sums
    heights: tuple[int, ...]
    horizontal: tuple[_Sums, ...]
    areas: tuple[Tensor, ...]


def average(picture: Tensor, out: Tensor) -> None:
    """Area averages of a picture (h, w, 3) uint8 into ``out`` (n, 3, n) float32: x, channel, y.

    As torch's adaptive average pooling, the library's way to cut a candidate out, only faster.
    """
    height, width, _ = picture.shape
    size = len(out)
    if picture.device.type != "cpu":
        pooled = F.adaptive_avg_pool2d(picture.permute(2, 0, 1).float(), size)
        out.copy_(pooled.permute(2, 0, 1))
        return
    down = _add(picture.float().view(height, width * 3), _axis(height, size, 1))
    sums = _add(down.t().contiguous(), _axis(width, size, 3))
    torch.div(sums.view(size, 3, size), _area(height, width, size, size), out=out)


@functools.lru_cache(maxsize=1024)
def _axis(pixels: int, count: int, channels: int) -> _Sums:
    """Sums of ``count`` windows along an axis, a row a channel."""
    begins, ends = (side.tolist() for side in _windows(pixels, count))
    parts = (
        range(channels * a + c, channels * b + c, channels)
        for a, b in zip(begins, ends, strict=True)
        for c in range(channels)
    )
    return _sums(parts)


@functools.lru_cache(maxsize=1024)
def _area(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Pixels in each window: (columns, 1, rows)."""
    (tops, bottoms), (lefts, rights) = _windows(height, rows), _windows(width, columns)
    area = np.outer(rights - lefts, bottoms - tops).astype(np.float32)
    return torch.from_numpy(area)[:, None, :]


@functools.lru_cache(maxsize=8)
def _plan(height: int, width: int, sizes: tuple[tuple[int, int], ...]) -> _Plan:
    windows = (
        _in_blocks(top, bottom, height)
        for h, _ in sizes
        for top, bottom in zip(*(side.tolist() for side in _windows(height, h)), strict=True)
    )
    return _Plan(
        vertical=_sums(windows),
        heights=tuple(h for h, _ in sizes),
        horizontal=tuple(_axis(width, w, 3) for _, w in sizes),
        areas=tuple(_area(height, width, h, w) for h, w in sizes),
    )


def _windows(pixels: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Begin and end of ``count`` windows, as torch's adaptive average pooling cuts them."""
    i = np.arange(count)
    return i * pixels // count, -(-(i + 1) * pixels // count)


def _in_blocks(begin: int, end: int, rows: int) -> Iterable[int]:
    """Rows begin to end of a table whose row ``rows + i`` is the sum of the i-th block of rows."""
    first, last = -(-begin // _BLOCK), end // _BLOCK
    if last <= first:
        return range(begin, end)
    whole = range(rows + first, rows + last)
    return [*range(begin, first * _BLOCK), *whole, *range(last * _BLOCK, end)]


def _sums(parts: Iterable[Iterable[int]]) -> _Sums:
    """One sum of rows a part."""
    rows: list[int] = []
    offsets = []
    for part in parts:
        offsets.append(len(rows))
        rows += part
    return _Sums(torch.tensor(rows, dtype=torch.int32), torch.tensor(offsets, dtype=torch.int32))


def _levels(frame: Tensor, plan: _Plan) -> list[Tensor]:
    """The levels of one frame: (1, 3, w, h) each, channels last."""
    height, width, _ = frame.shape
    flat = frame.view(height, width * 3)
    across = [flat.new_empty(width * 3, h, dtype=torch.float32) for h in plan.heights]
    blocks = height // _BLOCK
    memory = torch.empty((height + blocks) * _STRIP * 3)
    for left in range(0, width * 3, _STRIP * 3):
        strip = flat[:, left : left + _STRIP * 3]
        table = memory[: (height + blocks) * strip.shape[1]].view(-1, strip.shape[1])
        table[:height] = strip
        quads = table[: blocks * _BLOCK].view(blocks, _BLOCK, strip.shape[1]).unbind(1)
        torch.add(quads[0], quads[1], out=table[height:])
        for row in quads[2:]:
            table[height:] += row
        down = _add(table, plan.vertical)
        for rows, columns in zip(down.split_with_sizes(plan.heights), across, strict=True):
            columns[left : left + _STRIP * 3] = rows.t()
    found = []
    for columns, sums, area in zip(across, plan.horizontal, plan.areas, strict=True):
        level = _add(columns, sums).view(area.shape[0], 3, -1) / area
        level = level.permute(1, 0, 2)[None]
        found.append(level.contiguous(memory_format=torch.channels_last))
    return found


def _add(table: Tensor, sums: _Sums) -> Tensor:
    return torch.embedding_bag(table, sums.rows, sums.offsets)[0]
