"""Oriented gradients of an aligned face and a small network on them, for few pictures.

Convolutions that are pooled over the whole picture forget where something is; in faces cut alike,
where is most of what a few hundred pictures can teach. What the gradients are is not learned, so
nothing of the little there is goes into learning it (Dalal and Triggs, Histograms of Oriented
Gradients for Human Detection, CVPR 2005).
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, pad

CELL: Final = 8
"""Side of a cell in pixels, at full size."""

BINS: Final = 9
"""Orientations from 0 to π, as Dalal and Triggs."""

WIDTH: Final = 128
"""Hidden units."""

_GREY: Final = (0.299, 0.587, 0.114)
_EPSILON: Final = 1e-6


class OrientedGradients(nn.Module):
    """Histograms of the directions of gradients, over cells of a picture.

    Forward: (N, 3, H, W) in [0, 1] → (N, 9, H/cell, W/cell), from 0 to less than √3. Of the square
    root of the grey values; every gradient weighs by its length, goes to its two nearest orientations and its
    four nearest cells, and a cell is divided by the length of its 3 by 3 neighbourhood's mean. The
    square root of that is returned, which makes distances Hellinger's (Arandjelović and Zisserman,
    Three things everyone should know to improve object retrieval, CVPR 2012). Always in float32.

    :param cell: its side in pixels, even.
    """

    kernel: Tensor
    grey: Tensor
    centres: Tensor

    def __init__(self, cell: int) -> None:
        super().__init__()
        self.cell = cell
        triangle = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = (triangle[:, None] * triangle).repeat(BINS, 1, 1, 1)
        centres = torch.arange(BINS) + 0.5
        for name, value in (
            ("kernel", kernel),
            ("grey", torch.tensor(_GREY).view(1, 3, 1, 1)),
            ("centres", centres.view(1, BINS, 1, 1)),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(x.device.type, enabled=False):
            light = (x.float() * self.grey).sum(1, keepdim=True).clamp_min(0).sqrt()
            around = pad(light, (1, 1, 1, 1), mode="replicate")
            dx = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
            dy = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
            turn = torch.remainder(torch.atan2(dy, dx) / math.pi, 1) * BINS
            apart = (turn - self.centres).abs()
            share = (1 - torch.minimum(apart, BINS - apart)).clamp_min(0)
            length = (dx.square() + dy.square()).sqrt()
            votes = avg_pool2d(share * length, self.cell // 2)
            cells = conv2d(pad(votes, (1, 1, 1, 1)), self.kernel, stride=2, groups=BINS)
            energy = pad(cells.square().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
            return (cells / (avg_pool2d(energy, 3, 1) + _EPSILON).sqrt()).sqrt()


class HogMlp(nn.Module):
    """2,359,809 parameters at 256 px; learns from scratch, in minutes on a CPU, from a few hundred faces.

    Forward: (N, 3, S, S) float32 in [0, 1] → (N,) logits of FAKE. Gradients are taken at full and at
    half size, over cells of one 32nd of 256 pixels, and each of their numbers is standardised with
    the mean and deviation of the faces trained on. One hidden layer follows. Beside them it sees, for
    each size, the mean square of the standardised numbers, by which a face departs from the usual:
    generators that draw near the mean of what they know (the truncation trick, Karras et al., A
    Style-Based Generator Architecture for GANs, CVPR 2019) make faces too usual.

    Train with many faces a batch: statistics come from batches of two and more.
    It learns where things are, so it suits faces that are cut alike and may learn who someone is:
    hold out identities, not frames.

    :param size: S, a multiple of 32. The hidden layer grows with its square.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        self.gradients = nn.ModuleList([OrientedGradients(CELL), OrientedGradients(CELL // 2)])
        numbers = BINS * (size // CELL) ** 2
        self.standardise = nn.ModuleList(
            [nn.BatchNorm1d(numbers, affine=False) for _ in self.gradients]
        )
        features = len(self.gradients) * (numbers + 1)
        dense = nn.Linear(features, WIDTH)
        nn.init.normal_(dense.weight, std=0.05)
        nn.init.zeros_(dense.bias)
        self.hidden = nn.Sequential(dense, nn.ReLU(), nn.Dropout(0.5))
        self.classifier = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        scales = (x, avg_pool2d(x, 2))
        numbers = [g(one).flatten(1) for g, one in zip(self.gradients, scales, strict=True)]
        z = [_standard(n, one) for n, one in zip(self.standardise, numbers, strict=True)]
        departure = [one.square().mean(1, keepdim=True) - 1 for one in z]
        # By the root of their number: one learning rate then suits this layer and the next.
        shrunk = torch.cat(z, 1) / math.sqrt(sum(one.shape[1] for one in z))
        features = torch.cat([shrunk, *departure], 1)
        logits: Tensor = self.classifier(self.hidden(features)).squeeze(1)
        return logits


def _standard(norm: nn.Module, numbers: Tensor) -> Tensor:
    """A face alone in its batch has no deviation: it takes what is known already."""
    if isinstance(norm, nn.BatchNorm1d) and norm.training and len(numbers) == 1:
        return batch_norm(numbers, norm.running_mean, norm.running_var, eps=norm.eps)
    standard: Tensor = norm(numbers)
    return standard
