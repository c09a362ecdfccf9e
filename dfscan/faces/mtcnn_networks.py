"""MTCNN's three networks with facenet-pytorch's weights, laid out for speed.

The arithmetic is reordered, so outputs equal the library's to float rounding: pixels stay 0 to 255
(the first layer includes the library's normalisation), channels come last and are zero-padded to
full vectors, max pooling is two element-wise maxima, the softmax over two classes is a sigmoid of
their difference, and the heads are one product. Pictures are transposed, x before y, as in
:mod:`dfscan.faces.pyramid`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import facenet_pytorch.models.mtcnn as library
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

OFFSET: Final = 127.5
SCALE: Final = 0.0078125
"""The library feeds its networks (pixel - OFFSET) · SCALE."""

_LAST: Final = torch.channels_last


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor
    slopes: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.prelu(F.conv2d(x, self.weight, self.bias), self.slopes)


@dataclass(frozen=True)
class _Dense:
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PNet:
    """Proposals: (B, 3, w, h) pixels → probability (B, w', h') and box offsets (B, 4, w', h')."""

    def __init__(self, device: torch.device) -> None:
        net = library.PNet().eval().to(device)
        self._conv1 = _convolution(net.conv1, net.prelu1, 3, 16, first=True)
        self._conv2 = _convolution(net.conv2, net.prelu2, 16, 16)
        self._conv3 = _convolution(net.conv3, net.prelu3, 16, 32)
        heads = _heads(net.conv4_1, net.conv4_2)
        self._heads = _Dense(heads.weight.contiguous(memory_format=_LAST), heads.bias)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = _pool2(self._conv1(x))
        x = self._conv3(self._conv2(x))
        x = F.conv2d(x, self._heads.weight, self._heads.bias)
        return torch.sigmoid(x[:, 0]), x[:, 1:]


class RNet:
    """Refinement: (N, 3, 24, 24) pixels → probability (N,) and box offsets (N, 4)."""

    def __init__(self, device: torch.device) -> None:
        net = library.RNet().eval().to(device)
        self._conv1 = _convolution(net.conv1, net.prelu1, 3, 32, first=True)
        self._conv2 = _convolution(net.conv2, net.prelu2, 32, 48)
        self._conv3 = _convolution(net.conv3, net.prelu3, 48, 64)
        self._dense4, self._slopes4 = _dense(net.dense4), net.prelu4.weight.detach()
        self._heads = _heads(net.dense5_1, net.dense5_2)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = _pool3(self._conv2(_pool3(self._conv1(x))))
        x = F.prelu(self._dense4(_flat(self._conv3(x))), self._slopes4)
        x = self._heads(x)
        return torch.sigmoid(x[:, 0]), x[:, 1:]


class ONet:
    """Output: (N, 3, 48, 48) pixels → probability (N,), box offsets (N, 4), points (N, 10).

    Points are five x, then five y, as shares of the box.
    """

    def __init__(self, device: torch.device) -> None:
        net = library.ONet().eval().to(device)
        self._conv1 = _convolution(net.conv1, net.prelu1, 3, 32, first=True)
        self._conv2 = _convolution(net.conv2, net.prelu2, 32, 64)
        self._conv3 = _convolution(net.conv3, net.prelu3, 64, 64)
        self._conv4 = _convolution(net.conv4, net.prelu4, 64, 128)
        self._dense5, self._slopes5 = _dense(net.dense5), net.prelu5.weight.detach()
        self._heads = _heads(net.dense6_1, net.dense6_2, net.dense6_3)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        x = _pool3(self._conv2(_pool3(self._conv1(x))))
        x = self._conv4(_pool2(self._conv3(x)))
        x = F.prelu(self._dense5(_flat(x)), self._slopes5)
        x = self._heads(x)
        return torch.sigmoid(x[:, 0]), x[:, 1:5], x[:, 5:]


def _convolution(
    conv: nn.Conv2d,
    prelu: nn.PReLU,
    inputs: int,
    outputs: int,
    *,
    first: bool = False,
) -> _Convolution:
    """A convolution with its PReLU, zero-padded to full channels."""
    assert conv.bias is not None
    weight, bias = conv.weight.detach(), conv.bias.detach()
    if first:
        bias = bias - OFFSET * SCALE * weight.sum((1, 2, 3))
        weight = weight * SCALE
    weight = weight.transpose(2, 3)
    more = outputs - weight.shape[0]
    weight = F.pad(weight, (0, 0, 0, 0, 0, inputs - weight.shape[1], 0, more))
    return _Convolution(
        weight.contiguous(memory_format=_LAST),
        F.pad(bias, (0, more)),
        F.pad(prelu.weight.detach(), (0, more)),
    )


def _dense(linear: nn.Linear) -> _Dense:
    """A layer over a picture flattened as (x, y, channel), as in the library."""
    return _Dense(linear.weight.detach(), linear.bias.detach())


def _heads(scores: Any, *others: Any) -> _Dense:
    """The class scores' difference and all other outputs as one product."""
    weights = [scores.weight[1:] - scores.weight[:1], *(o.weight for o in others)]
    biases = [scores.bias[1:] - scores.bias[:1], *(o.bias for o in others)]
    return _Dense(torch.cat(weights).detach(), torch.cat(biases).detach())


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


def _pool2(x: Tensor) -> Tensor:
    """Max over 2x2 at stride 2, with partial windows at the end (``ceil_mode``)."""
    return _pool(x, _pairs)


def _pool3(x: Tensor) -> Tensor:
    """Max over 3x3 at stride 2, with partial windows at the end (``ceil_mode``)."""
    return _pool(x, _triples)


def _pool(x: Tensor, along: Callable[[Tensor, int], Tensor]) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    return along(along(y, 1), 2).permute(0, 3, 1, 2)


def _pairs(x: Tensor, axis: int) -> Tensor:
    even, odd = _even_odd(x, axis)
    count = odd.shape[axis]
    pairs = torch.maximum(even.narrow(axis, 0, count), odd)
    if even.shape[axis] == count:
        return pairs
    return torch.cat([pairs, even.narrow(axis, count, 1)], axis)


def _triples(x: Tensor, axis: int) -> Tensor:
    even, odd = _even_odd(x, axis)
    count, whole = odd.shape[axis], even.shape[axis] - 1
    pairs = torch.maximum(even.narrow(axis, 0, count), odd)
    triples = torch.maximum(pairs.narrow(axis, 0, whole), even.narrow(axis, 1, whole))
    if count == whole:
        return triples
    return torch.cat([triples, pairs.narrow(axis, whole, 1)], axis)


def _even_odd(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    if axis == 1:
        return x[:, 0::2], x[:, 1::2]
    return x[:, :, 0::2], x[:, :, 1::2]
