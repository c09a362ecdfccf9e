import math
from typing import get_args

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from dfscan.config.train import Loss, Phase
from dfscan.training.optimising import face_weights, loss_of, make_optimiser, make_schedule

OPTIMISERS = get_args(Phase.model_fields["optimizer"].annotation)
SCHEDULES = get_args(Phase.model_fields["schedule"].annotation)
KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adadelta": torch.optim.Adadelta,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_has_what_its_phase_says(name: str) -> None:
    assert set(OPTIMISERS) == set(KINDS)
    layers = network()
    layers[0].requires_grad_(False)
    phase = Phase(optimizer=name, lr=0.3, weight_decay=0.02, schedule="constant", momentum=0.7)
    optimiser = make_optimiser(phase, layers.parameters())
    assert type(optimiser) is KINDS[name]
    (group,) = optimiser.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert [id(p) for p in group["params"]] == [id(p) for p in layers[1].parameters()]
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)
        still = make_optimiser(phase.model_copy(update={"momentum": 0.0}), layers.parameters())
        assert still.param_groups[0]["momentum"] == 0
        assert not still.param_groups[0]["nesterov"]


def rates(phase: Phase, steps: int) -> list[float]:
    """The rate of every step."""
    optimiser = make_optimiser(phase, network().parameters())
    schedule: LRScheduler = make_schedule(phase, optimiser, steps)
    found = []
    for _ in range(phase.epochs * steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_optimiser_goes_with_every_schedule(optimizer: str, schedule: str) -> None:
    for epochs, steps in ((1, 1), (1, 2), (3, 1), (5, 7), (2, 50)):
        phase = Phase(optimizer=optimizer, schedule=schedule, epochs=epochs, lr=0.2)
        found = rates(phase, steps)
        assert len(found) == epochs * steps
        assert all(0 < rate <= 0.2 * (1 + 1e-12) for rate in found)


def test_rates_follow_their_formulas() -> None:
    steps, epochs, lr = 4, 10, 0.1
    total = steps * epochs
    wanted = {
        "constant": lambda t: lr,
        "step": lambda t: lr * 0.3 ** (t // (3 * steps)),
        "cosine": lambda t: lr * (1 + math.cos(math.pi * t / total)) / 2,
        "poly": lambda t: lr * (1 - t / total) ** 2,
    }
    for name, formula in wanted.items():
        phase = Phase(
            optimizer="sgd", schedule=name, epochs=epochs, lr=lr, step_epochs=3, gamma=0.3, power=2
        )
        expected = [formula(t) for t in range(total)]
        assert rates(phase, steps) == pytest.approx(expected, rel=1e-9), name


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing() -> None:
    found = rates(Phase(optimizer="adam", schedule="onecycle", epochs=10, lr=0.1), steps=20)
    top = found.index(max(found))
    assert max(found) == pytest.approx(0.1, rel=1e-3)
    assert 0.18 < top / len(found) < 0.23
    assert found[0] == pytest.approx(0.1 / 25)
    assert found[-1] < 1e-3 * found[0] * 25
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_sgd_keeps_the_momentum_of_its_phase(schedule: str, momentum: float) -> None:
    phase = Phase(optimizer="sgd", schedule=schedule, epochs=2, momentum=momentum)
    optimiser = make_optimiser(phase, network().parameters())
    stepped = make_schedule(phase, optimiser, 5)
    for _ in range(10):
        assert optimiser.param_groups[0]["momentum"] == momentum
        optimiser.step()
        stepped.step()


# ---------------------------------------------------------------- losses

LOGITS = [-3.0, -0.4, 0.0, 0.7, 2.5, 1.1]
FAKE = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def value(
    recipe: Loss, weight: float = 1.0, rows: slice = slice(None), fakes: float = 0.5, parts: int = 1
) -> float:
    """:param fakes: share of fakes among the faces to train on."""
    logits = torch.tensor(LOGITS, dtype=torch.float64)[rows]
    fake = torch.tensor(FAKE)[rows]
    weights = face_weights(fake, recipe, weight, fakes)
    cuts = [range(part, len(fake), parts) for part in range(parts)]
    return sum(float(loss_of(logits[c], fake[c], recipe, weights[c])) for c in map(list, cuts))


def losses(smoothing: float = 0.0, gamma: float | None = None) -> list[float]:
    """Of each row, by hand."""
    found = []
    for logit, fake in zip(LOGITS, FAKE, strict=True):
        p = 1 / (1 + math.exp(-logit))
        target = fake * (1 - smoothing) + smoothing / 2
        entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
        right = p * target + (1 - p) * (1 - target)
        found.append(entropy if gamma is None else entropy * (1 - right) ** gamma)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_cross_entropy_with_and_without_smoothed_labels() -> None:
    assert value(Loss()) == pytest.approx(mean(losses()), rel=1e-6)
    smoothed = value(Loss(label_smoothing=0.2))
    assert smoothed == pytest.approx(mean(losses(smoothing=0.2)), rel=1e-6)
    # half-smoothed at 0.2: the target of a fake is 0.9, so its best logit is log(9)
    logits = torch.tensor([math.log(9.0)], dtype=torch.float64, requires_grad=True)
    loss_of(logits, torch.ones(1), Loss(label_smoothing=0.2), torch.ones(1)).backward()
    assert logits.grad is not None
    assert float(logits.grad) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    by_paper = []  # FL(p_t) = -(1 - p_t)^γ log(p_t)
    for logit, fake in zip(LOGITS, FAKE, strict=True):
        p = 1 / (1 + math.exp(-logit))
        right = p if fake else 1 - p
        by_paper.append(-((1 - right) ** gamma) * math.log(right))
    assert value(Loss(name="focal", gamma=gamma)) == pytest.approx(mean(by_paper), rel=1e-6)
    smoothed = value(Loss(name="focal", gamma=gamma, label_smoothing=0.1))
    assert smoothed == pytest.approx(mean(losses(0.1, gamma)), rel=1e-6)
    if not gamma:
        assert value(Loss(name="focal", gamma=0)) == pytest.approx(value(Loss()), rel=1e-6)


def test_apart_gives_each_class_half_whatever_its_number() -> None:
    each = losses()
    fakes = mean([x for x, fake in zip(each, FAKE, strict=True) if fake])
    reals = mean([x for x, fake in zip(each, FAKE, strict=True) if not fake])
    assert value(Loss(apart=True)) == pytest.approx((fakes + reals) / 2, rel=1e-6)
    some = slice(1, 5)  # three fakes, one real
    uneven = (mean([each[1], each[3], each[4]]) + each[2]) / 2
    assert value(Loss(apart=True), rows=some) == pytest.approx(uneven, rel=1e-6)
    assert value(Loss(apart=True), rows=slice(3, 5)) == pytest.approx(mean(each[3:5]), rel=1e-6)
    assert value(Loss(apart=True), rows=slice(0, 1)) == pytest.approx(each[0], rel=1e-6)


@pytest.mark.parametrize("weight", [0.25, 1.0, 7.0])
def test_a_fakes_weight_is_against_a_reals_one(weight: float) -> None:
    weights = [weight if fake else 1.0 for fake in FAKE]
    wanted = sum(w * x for w, x in zip(weights, losses(), strict=True)) / sum(weights)
    assert value(Loss(), weight) == pytest.approx(wanted, rel=1e-6)


def test_a_rare_class_counts_by_half_over_many_batches() -> None:
    fake = torch.zeros(1000)
    fake[:20] = 1
    weight, share = 980 / 20, 0.02
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    fakes = reals = 0.0
    for batch in fake[order].split(8):  # most of them hold no fake at all
        weights = face_weights(batch, Loss(), weight, share)
        fakes += float((weights * batch).sum())
        reals += float((weights * (1 - batch)).sum())
    assert fakes == pytest.approx(reals, rel=1e-5)
    assert fakes + reals == pytest.approx(125, rel=1e-5)  # a mean of 1 a batch


@pytest.mark.parametrize("recipe", [Loss(), Loss(apart=True), Loss(name="focal")])
@pytest.mark.parametrize("weight", [1.0, 5.0])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_of_a_batch_add_up_to_it(recipe: Loss, weight: float, parts: int) -> None:
    whole = value(recipe, weight, fakes=0.1)
    assert value(recipe, weight, fakes=0.1, parts=parts) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("recipe", [Loss(), Loss(name="focal"), Loss(apart=True)])
def test_certain_and_wrong_is_finite(recipe: Loss) -> None:
    logits = torch.tensor([-200.0, 200.0, 200.0, -200.0], requires_grad=True)
    fake = torch.tensor([1.0, 0.0, 1.0, 0.0])
    found = loss_of(logits, fake, recipe, face_weights(fake, recipe, 2.0, 0.5))
    found.backward()
    assert logits.grad is not None
    assert torch.isfinite(found)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0] < 0 < logits.grad[1]
