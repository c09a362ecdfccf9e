"""Meso-4 and MesoInception-4 (Afchar et al., MesoNet, WIFS 2018, arXiv:1809.00888).

Layer for layer as the authors published them in Keras, so that their weights fit.
"""

import torch
from torch import Tensor, nn

EPSILON = 1e-3
"""Of batch normalisation, as published. Its momentum is torch's 0.1, not Keras' 0.01: running
statistics must follow within the few hundred steps of a small corpus."""


class Meso4(nn.Module):
    """27,977 trainable parameters at 256 pixels: four convolutions and two dense layers.

    Forward: (N, 3, S, S) float32 in [0, 1] → (N,) logits of FAKE.

    :param size: S, a multiple of 32.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            _batch_norm(8),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.ReLU(),
            _batch_norm(8),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 5, padding=2),
            nn.ReLU(),
            _batch_norm(16),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            _batch_norm(16),
            nn.MaxPool2d(4),
        )
        self.classifier = _classifier(size)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classifier(self.features(x)).squeeze(1)
        return logits


class Inception(nn.Module):
    """Four parallel convolutions, the last two dilated by 2 and 3, concatenated.

    :param widths: output channels of the four branches.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(channels, widths[0], 1)])
        for width, dilation in zip(widths[1:], (1, 2, 3), strict=True):
            self.branches.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, 1),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
                )
            )
        self.out_channels = sum(widths)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, sum of widths, H, W)."""
        return torch.relu(torch.cat([branch(x) for branch in self.branches], dim=1))


class MesoInception4(nn.Module):
    """28,615 trainable parameters at 256 pixels; learns from scratch on a CPU.

    Forward: (N, 3, S, S) float32 in [0, 1] → (N,) logits of FAKE.

    :param size: S, a multiple of 32.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        first = Inception(3, (1, 4, 4, 2))
        second = Inception(first.out_channels, (2, 4, 4, 2))
        self.features = nn.Sequential(
            first,
            _batch_norm(first.out_channels),
            nn.MaxPool2d(2),
            second,
            _batch_norm(second.out_channels),
            nn.MaxPool2d(2),
            nn.Conv2d(second.out_channels, 16, 5, padding=2),
            nn.ReLU(),
            _batch_norm(16),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            _batch_norm(16),
            nn.MaxPool2d(4),
        )
        self.classifier = _classifier(size)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.classifier(self.features(x)).squeeze(1)
        return logits


def _classifier(size: int) -> nn.Sequential:
    """Two dense layers over 16 maps of size/32 pixels."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16 * (size // 32) ** 2, 16),
        nn.LeakyReLU(0.1),
        nn.Dropout(0.5),
        nn.Linear(16, 1),
    )


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)
