"""Optimisers, learning-rate schedules and losses by the names that a phase gives them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer, lr_scheduler
from torchvision.ops import sigmoid_focal_loss

from dfscan.config import Loss, Phase


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
            cycle_momentum=phase.optimizer.startswith(
                "adam"
            ),  # SGD keeps its own, Adadelta has none
        )
    if phase.schedule == "poly":
        return lr_scheduler.PolynomialLR(optimiser, total, phase.power)
    return lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)


def loss_of(logits: Tensor, fake: Tensor, recipe: Loss, fake_weight: float) -> Tensor:
    """Mean loss of a batch.

    :param logits: (N,) of FAKE.
    :param fake: (N,) float32, 1 for fakes.
    :param fake_weight: of each fake against a real's 1.
    """
    target = fake * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if recipe.name == "focal":  # Lin et al., 2017 (arXiv:1708.02002), without its class weight
        losses = sigmoid_focal_loss(logits, target, alpha=-1, gamma=recipe.gamma)
    else:
        losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    if recipe.apart:
        return _apart(losses, fake)
    weight = torch.where(fake > 0, fake_weight, 1.0).to(losses)
    mean: Tensor = (losses * weight).sum() / weight.sum()
    return mean


def _apart(losses: Tensor, fake: Tensor) -> Tensor:
    """Reals and fakes averaged apart, each half of the loss where a batch has both."""
    sides = [losses[side] for side in (fake > 0, fake <= 0)]
    return torch.stack([side.mean() for side in sides if len(side)]).mean()
