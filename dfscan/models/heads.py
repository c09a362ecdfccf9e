"""A timm model's features → one logit of FAKE."""

from typing import Any

from torch import Tensor, nn

from dfscan.schemas.recipe import Head


class TimmClassifier(nn.Module):
    """A timm model with one output. Forward: (N, 3, S, S) float32 → (N,) logits of FAKE.

    A linear head is the model's own classifier, under timm's name; an mlp follows on a model made
    with ``num_classes=0``, which gives pooled features.
    """

    def __init__(self, model: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = head if head is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.head(self.model(x)).squeeze(1)
        return logits

    def head_modules(self) -> tuple[nn.Module, ...]:
        """The part that turns features into the logit."""
        return classifiers(self.model) if isinstance(self.head, nn.Identity) else (self.head,)


def classifiers(model: Any) -> tuple[nn.Module, ...]:
    """A timm model's classifier; distilled models have two."""
    found = model.get_classifier()
    return found if isinstance(found, tuple) else (found,)


def make_head(model: Any, head: Head) -> nn.Sequential | None:
    """The layers after a timm model that was made with ``num_classes=0``; none for a linear head.

    They are numbered in the order ReLU(Linear), Dropout, …, Linear.
    """
    if head.kind == "linear":
        return None
    layers: list[nn.Module] = []
    features = int(model.head_hidden_size)
    dropouts = head.dropout or (0.0,) * len(head.hidden)
    for width, dropout in zip(head.hidden, dropouts, strict=True):
        layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 1))
