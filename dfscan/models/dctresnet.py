"""A small residual network for few pictures and no published weights.

It looks twice: at the picture in quarter size, for what is drawn, and at the spectra of its 8 by 8
blocks at full size, for how it was made: upsampling, warping and blending leave traces there (Frank
et al., Leveraging Frequency Analysis for Deep Fake Image Recognition, ICML 2020, arXiv:2003.08685).
The spectra keep every frequency; no layer pools them away before they are taken.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

BLOCK: Final = 8
"""Side of a block in pixels, JPEG's."""

_YCBCR: Final = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""RGB → Y, Cb, Cr without their offsets (ITU-T T.871)."""


class Spectra(nn.Module):
    """log(1 + |coefficient|) of each block's discrete cosine transform, its mean left out.

    Forward: (N, 3, H, W) in [0, 1] → (N, 189, H/8, W/8): 63 coefficients of Y, of Cb and of Cr, on
    the scale of pixels from 0 to 255. Always in float32: bfloat16 has no room for small coefficients
    beside large ones.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = _cosines(BLOCK).flatten(0, 1)[1:]
        colours = torch.tensor(_YCBCR)
        kernels = torch.einsum("cr,kyx->ckryx", colours, basis).flatten(0, 1)
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(x.device.type, enabled=False):
            coefficients = conv2d(x.float() * 255 - 128, self.kernels, stride=BLOCK)
            return coefficients.abs().log1p()


class Residual(nn.Module):
    """Two 3 by 3 convolutions around a shortcut (He et al. 2016, with ResNet-D's average pooling).

    Forward: (N, C, H, W) → (N, width, H/stride, W/stride).
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride),
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.body(x) + self.shortcut(x))


class DctResNet(nn.Module):
    """674,316 parameters at any size; learns from scratch, from a few hundred faces on.

    Forward: (N, 3, S, S) float32 in [0, 1] → (N,) logits of FAKE, the mean of two: one of the picture,
    one of its spectra. While training, a random half of the batch teaches the one and the other half
    the other, so that neither leans on what the other has found.

    :param size: S, a multiple of 32. Layers do not depend on it.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        del size
        self.picture = nn.Sequential(
            nn.AvgPool2d(4),
            *_convolution(3, 32, 3),
            Residual(32, 32),
            Residual(32, 64, 2),
            Residual(64, 96, 2),
            Residual(96, 128, 2),
        )
        self.spectra = nn.Sequential(
            Spectra(),
            nn.BatchNorm2d(189),
            *_convolution(189, 48, 1),
            Residual(48, 48),
            Residual(48, 96, 2),
        )
        self.classifier = nn.ModuleList([_classifier(128), _classifier(96)])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.training or len(x) == 1:
            return (self._of_picture(x) + self._of_spectra(x)) / 2
        order = torch.randperm(len(x), device=x.device)
        one, other = order.tensor_split(2)
        logits = torch.cat([self._of_picture(x[one]), self._of_spectra(x[other])])
        return logits[order.argsort()]

    def _of_picture(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier[0](self.picture(x * 2 - 1)).squeeze(1)
        return logits

    def _of_spectra(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier[1](self.spectra(x)).squeeze(1)
        return logits


def _cosines(size: int) -> Tensor:
    """The orthonormal two-dimensional DCT-II: (v, u, y, x), frequencies before positions."""
    place = torch.arange(size)
    waves = torch.cos(torch.pi * (place + 0.5) * place[:, None] / size) * (2 / size) ** 0.5
    waves[0] /= 2**0.5
    return torch.einsum("vy,ux->vuyx", waves, waves)


def _convolution(channels: int, width: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU()


def _classifier(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, 1)
    )
