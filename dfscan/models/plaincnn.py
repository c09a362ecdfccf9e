"""Two plain convolutional networks, often trained on the real-and-fake-face pictures.

Their published layout ends in two outputs, one a class. Softmax cross-entropy over two outputs is
binary cross-entropy of their difference, so the layout and its number of parameters stay as
published while the network gives dfscan's one logit.
"""

from torch import Tensor, nn


class TwoOutputs(nn.Module):
    """Two outputs for REAL and FAKE, given as one logit: that of FAKE minus that of REAL.

    Forward: (N, 3, S, S) float32 → (N,) logits of FAKE.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        real, fake = self.classifier(self.features(x)).unbind(1)
        logits: Tensor = fake - real
        return logits


def cnn1(size: int = 128) -> TwoOutputs:
    """Two convolutions and two dense layers; 8,408,386 parameters at 128 pixels.

    :param size: S, a multiple of 4.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    return TwoOutputs(features, _classifier(64 * (size // 4) ** 2, 128))


def cnn2(size: int = 128) -> TwoOutputs:
    """Four convolutions and two dense layers; 134,608,002 parameters at 128 pixels.

    :param size: S, a multiple of 4.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 256, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
    )
    return TwoOutputs(features, _classifier(256 * (size // 4) ** 2, 512))


def _classifier(features: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, 2),
    )
