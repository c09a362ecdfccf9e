"""The pyramid and cut-outs for MTCNN's networks, equal to facenet-pytorch's.

Both are area averages of the full frame: averaging each level from the previous one would be
cheaper, but moves one face in six to an IoU below 0.9, because non-maximum suppression amplifies
small differences. On a CPU they come from an integral image (Crow, 1984, 10.1145/800031.808600; the
name is Viola and Jones', 2001): the sum over a window of any size takes four look-ups.
"""

import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CELL: Final = 12
"""PNet's receptive field in pixels: the smallest face it sees at scale 1."""

_BITS: Final = 21
"""Bits of a 64-bit word for each channel's sum; the last channel has one more."""

_WINDOW: Final = ((1 << _BITS) - 1) // 255
"""Pixels whose sum fits into ``_BITS``; larger windows are summed in parts."""

_ROWS: Final = 32
"""Rows packed at a time, which fit the cache."""

_PLACES: Final = np.array([1, 1 << 8, 1 << 16], np.uint32)

_Integers = npt.NDArray[np.int64]


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


class Pictures(ABC):
    """Frames of one size, from which pictures of other sizes are averaged.

    These are transposed, x before y, float32, 0 to 255, channels last in memory.
    """

    def __init__(self, frames: Sequence[Tensor]) -> None:
        self.height, self.width, _ = frames[0].shape
        self.device = frames[0].device

    @abstractmethod
    def level(self, scale: float) -> Tensor:
        """Every frame at a scale: (B, 3, w, h)."""

    @abstractmethod
    def cut(self, owners: Tensor, begins: Tensor, ends: Tensor, size: int) -> Tensor:
        """Windows of frames ``owners`` (N,) from ``begins`` to ``ends`` (N, 2): (N, 3, size, size).

        :param begins: x and y of the first pixel, within the frame.
        :param ends: x and y one past the last pixel.
        """

    def _size(self, scale: float) -> tuple[int, int]:
        return int(self.height * scale + 1), int(self.width * scale + 1)


class Workspace(threading.local):
    """Memory reused between batches, because fresh pages cost more time than the sums.

    One per thread, because all threads of a process share a detector.
    """

    def __init__(self) -> None:
        self._words = np.zeros(0, np.int64)

    def words(self, *shape: int) -> _Integers:
        """An uninitialised array of this shape."""
        count = math.prod(shape)
        if count > len(self._words):
            self._words = np.zeros(count, np.int64)
        return self._words[:count].reshape(shape)


def pictures(frames: Sequence[Tensor], workspace: Workspace) -> Pictures:
    """For frames (H, W, 3) uint8, contiguous, all of one size, on one device.

    :param workspace: not shared with other pictures of this thread that are still in use.
    """
    if frames[0].device.type == "cpu":
        return _Integrals(frames, workspace)
    return _Stack(frames)


class _Stack(Pictures):
    """torch's area averages, for GPUs."""

    def __init__(self, frames: Sequence[Tensor]) -> None:
        super().__init__(frames)
        self._frames = frames
        self._stacked = torch.stack(list(frames)).permute(0, 3, 1, 2).float()

    def level(self, scale: float) -> Tensor:
        """See :class:`Pictures`."""
        return F.interpolate(self._stacked, self._size(scale), mode="area").transpose(2, 3)

    def cut(self, owners: Tensor, begins: Tensor, ends: Tensor, size: int) -> Tensor:
        """See :class:`Pictures`."""
        cuts = torch.cat([owners[:, None], begins, ends], dim=1).tolist()
        made = [
            F.adaptive_avg_pool2d(self._stacked[owner, :, top:bottom, left:right], size)
            for owner, left, top, right, bottom in cuts
        ]
        stacked = torch.stack(made) if made else self._stacked.new_zeros(0, 3, size, size)
        return stacked.transpose(2, 3).contiguous(memory_format=torch.channels_last)


class _Integrals(Pictures):
    """Averages from integral images, equal to torch's to float rounding."""

    def __init__(self, frames: Sequence[Tensor], workspace: Workspace) -> None:
        super().__init__(frames)
        self._sums = workspace.words(len(frames), self.height + 1, self.width + 1)
        self._sums[:, 0] = self._sums[:, :, 0] = 0
        for frame, sums in zip(frames, self._sums, strict=True):
            _integrate(frame.numpy(), sums[1:, 1:])

    def level(self, scale: float) -> Tensor:
        """See :class:`Pictures`."""
        height, width = self._size(scale)
        frames = np.arange(len(self._sums))
        whole = np.zeros_like(frames)
        rows = _windows(whole, whole + self.height, height)
        columns = _windows(whole, whole + self.width, width)
        return self._averages(frames, rows, columns)

    def cut(self, owners: Tensor, begins: Tensor, ends: Tensor, size: int) -> Tensor:
        """See :class:`Pictures`."""
        rows = _windows(begins[:, 1].numpy(), ends[:, 1].numpy(), size)
        columns = _windows(begins[:, 0].numpy(), ends[:, 0].numpy(), size)
        return self._averages(owners.numpy(), rows, columns)

    def _averages(self, owners: _Integers, rows: "_Windows", columns: "_Windows") -> Tensor:
        """(N, 3, w, h) from windows (N, h) of rows and (N, w) of columns."""
        count, height = rows[0].shape
        made = np.zeros((count, columns[0].shape[1], height, 3), np.float32)
        if count:
            for high, wide in _parts(rows, columns):
                _unpack(self._packed(owners, high, wide), made)
            areas = (columns[1] - columns[0])[:, :, None] * (rows[1] - rows[0])[:, None, :]
            made /= areas.astype(np.float32)[..., None]
        return torch.from_numpy(made).permute(0, 3, 1, 2)

    def _packed(self, owners: _Integers, rows: "_Windows", columns: "_Windows") -> _Integers:
        """Sums over windows, three channels in one word: (N, h, w)."""
        _, height, width = self._sums.shape
        above, below = ((owners[:, None] * height + y) * width for y in rows)
        sides = np.stack(columns, axis=1)[:, None]
        sums = self._sums.ravel()
        between = sums.take(below[:, :, None, None] + sides)
        between -= sums.take(above[:, :, None, None] + sides)
        total: _Integers = between[:, :, 1] - between[:, :, 0]
        return total


_Windows = tuple[_Integers, _Integers]
"""Begins and ends of windows along an axis, (N, n) each."""


def _windows(begins: _Integers, ends: _Integers, count: int) -> _Windows:
    """``count`` windows of each interval, as in torch's adaptive average pooling."""
    i, pixels = np.arange(count), (ends - begins)[:, None]
    first = begins[:, None]
    return first + i * pixels // count, first - (-(i + 1) * pixels // count)


def _parts(rows: _Windows, columns: _Windows) -> list[tuple[_Windows, _Windows]]:
    """Split windows along each axis into parts whose sums fit ``_BITS``."""
    high, wide = (int((ends - begins).max()) for begins, ends in (rows, columns))
    many = 1
    while -(-high // many) * -(-wide // many) > _WINDOW:
        many += 1
    return [
        (_part(rows, i, many), _part(columns, j, many)) for i in range(many) for j in range(many)
    ]


def _part(windows: _Windows, number: int, many: int) -> _Windows:
    begins, ends = windows
    pixels = ends - begins
    return begins + pixels * number // many, begins + pixels * (number + 1) // many


def _integrate(frame: npt.NDArray[np.uint8], out: _Integers) -> None:
    """Sums over all pixels above and to the left, three channels packed in each word.

    Sums of whole frames overflow, but their differences over a window are exact modulo 2⁶⁴.
    """
    _pack(frame, out)
    np.cumsum(out, axis=1, out=out)
    for above, row in itertools.pairwise(out):
        np.add(above, row, out=row)


def _pack(frame: npt.NDArray[np.uint8], out: _Integers) -> None:
    """Red in the lowest bits.

    Pixels are read as words of four bytes, the fourth the next pixel's.
    """
    height, width, _ = frame.shape
    ahead = np.ndarray((height, width - 1), "<u4", frame, strides=frame.strides[:2])
    words = np.empty((min(_ROWS, height), width), np.uint32)
    for top in range(0, height, _ROWS):
        rows = out[top : top + _ROWS]
        word = words[: len(rows)]
        word[:, :-1] = ahead[top : top + _ROWS]
        word[:, -1] = frame[top : top + _ROWS, -1] @ _PLACES
        low = word & 0xFF00
        low <<= _BITS - 8
        low |= word & 0xFF
        word >>= 16
        word &= 0xFF
        np.left_shift(word, 2 * _BITS, out=rows, dtype=np.int64)
        rows |= low


def _unpack(packed: _Integers, out: npt.NDArray[np.float32]) -> None:
    """Add sums (N, h, w) to ``out`` (N, w, h, 3)."""
    turned = packed.swapaxes(1, 2)
    mask = (1 << _BITS) - 1
    out[..., 0] += turned & mask
    out[..., 1] += turned >> _BITS & mask
    out[..., 2] += turned >> 2 * _BITS
