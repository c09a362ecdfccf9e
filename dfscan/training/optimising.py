"""Optimisers, learning-rate schedules and losses by the names that a phase gives them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer, lr_scheduler
from torchvision.ops import sigmoid_focal_loss

from dfscan.config.train import Loss, Phase


def make_optimiser(phase: Phase, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The phase's optimiser over those parameters that are to be trained."""
    trained = [p for p in parameters if p.requires_grad]
    shared: dict[str, Any] = {"lr": phase.lr, "weight_decay": phase.weight_decay}
    if phase.optimizer == "adam":
        return torch.optim.Adam(trained, **shared)
    if phase.optimizer == "adamw":
        return torch.optim.AdamW(trained, **shared)
    if phase.optimizer == "adadelta":
        return torch.optim.Adadelta(trained, **shared)
    return torch.optim.SGD(trained, momentum=phase.momentum, nesterov=phase.momentum > 0, **shared)


def make_schedule(phase: Phase, optimiser: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """The phase's schedule, called after every step.

    :param steps: an epoch.
    """
    total = phase.epochs * steps
    if phase.schedule == "step":
        return lr_scheduler.StepLR(optimiser, phase.step_epochs * steps, phase.gamma)
    if phase.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimiser, total)
    if phase.schedule == "onecycle":
        return lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=phase.lr,
            total_steps=total + 1,
            pct_start=0.21,  # not 1/5: OneCycleLR divides by zero where that share is one step
            cycle_momentum=phase.optimizer in ("adam", "adamw"),  # SGD keeps its, Adadelta has none
        )
    if phase.schedule == "poly":
        return lr_scheduler.PolynomialLR(optimiser, total, phase.power)
    return lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)


def face_weights(fake: Tensor, recipe: Loss, fake_weight: float, fakes: float) -> Tensor:
    """What each face's loss counts in a batch's: (N,), so that the batch's is their weighted sum.

    Parts of a batch, each with its faces' weights, add up to the batch.

    :param fake: (N,) float32, 1 for fakes, of the whole batch.
    :param fake_weight: of a fake against a real's 1.
    :param fakes: share of fakes among all faces to train on: dividing by the mean weight over all of
        them, not over the batch, keeps a rare class's share where a batch has none of it.
    """
    if recipe.apart and 0 < fake.sum() < len(fake):
        halves: Tensor = 0.5 * (fake / fake.sum() + (1 - fake) / (1 - fake).sum())
        return halves
    mean = 1 + fakes * (fake_weight - 1)
    return torch.where(fake > 0, fake_weight, 1.0).to(fake) / (mean * len(fake))


def loss_of(logits: Tensor, fake: Tensor, recipe: Loss, weights: Tensor) -> Tensor:
    """Loss of some faces, a scalar.

    :param logits: (N,) of FAKE.
    :param fake: (N,) float32, 1 for fakes.
    :param weights: (N,) of :func:`face_weights`.
    """
    target = fake * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if recipe.name == "focal":  # Lin et al., 2017 (arXiv:1708.02002), without its class weight
        losses = sigmoid_focal_loss(logits, target, alpha=-1, gamma=recipe.gamma)
    else:
        losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    total: Tensor = (losses * weights).sum()
    return total
