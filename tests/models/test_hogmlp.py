import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dfscan.models.backbones import count_parameters, create_network
from dfscan.models.freezing import train_mode, unfreeze
from dfscan.models.hogmlp import BINS, HogMlp, OrientedGradients


def grating(direction: float, side: int = 64) -> Tensor:
    """(1, 3, side, side): waves whose brightness changes in ``direction`` radians, x to the right."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = (x * np.cos(direction) + y * np.sin(direction)) / 2
    return (0.5 + 0.3 * torch.sin(phase)).expand(1, 3, -1, -1)


@pytest.mark.parametrize("number", range(BINS))
def test_waves_fill_the_bin_of_their_direction(number: int) -> None:
    histograms = OrientedGradients(8)(grating((number + 0.5) * np.pi / BINS))
    assert histograms.shape == (1, BINS, 8, 8)
    inside = histograms[0, :, 1:-1, 1:-1].square()
    assert (inside.argmax(0) == number).all()
    assert (inside[number] / inside.sum(0)).min() > 0.8


def test_a_gradient_between_two_bins_is_shared() -> None:
    inside = OrientedGradients(8)(grating(np.pi / BINS))[0, :, 2:-2, 2:-2].square()
    torch.testing.assert_close(inside[0].mean(), inside[1].mean(), rtol=0.2, atol=0)


def test_contrast_does_not_matter_but_a_flat_picture_has_none() -> None:
    torch.manual_seed(0)
    rough = 0.2 * torch.rand(1, 3, 64, 64)
    gradients = OrientedGradients(8)
    torch.testing.assert_close(gradients(rough), gradients(4 * rough), rtol=0, atol=1e-3)
    assert gradients(torch.full((1, 3, 64, 64), 0.5)).abs().max() == 0


def test_a_mirrored_face_has_mirrored_gradients() -> None:
    torch.manual_seed(0)
    face = torch.rand(1, 3, 64, 64)
    gradients = OrientedGradients(8)
    torch.testing.assert_close(gradients(face.flip(3)), gradients(face).flip(1, 3))


def test_half_precision_does_not_reach_the_gradients() -> None:
    face = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = OrientedGradients(8)(face)
    torch.testing.assert_close(half, OrientedGradients(8)(face), rtol=0, atol=0)


def test_its_parameters() -> None:
    assert count_parameters(create_network("hog_mlp", 256)) == (2 * (9 * 32**2 + 1)) * 128 + 257


def test_a_face_alone_is_seen_as_when_scoring() -> None:
    torch.manual_seed(0)
    network = HogMlp(64).train()
    for _ in range(3):
        network(torch.rand(8, 3, 64, 64))
    face = torch.rand(1, 3, 64, 64)
    network.get_submodule("hidden.2").eval()
    alone = network(face)
    torch.testing.assert_close(alone, network.eval()(face))


def test_where_only_the_head_learns_the_statistics_stay() -> None:
    network = create_network("hog_mlp", 64)
    unfreeze(network, "head")
    train_mode(network)
    network(torch.rand(4, 3, 64, 64))
    means = [m.running_mean for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(means) == 2
    assert all((mean == 0).all() for mean in means)
    unfreeze(network, "all")
    train_mode(network)
    network(torch.rand(4, 3, 64, 64))
    assert all((mean != 0).any() for mean in means)


def spots(count: int, shift: int, seed: int) -> Tensor:
    """(count, 3, 64, 64): noise and one bright square, ``shift`` pixels to the right of the middle."""
    pictures = 0.4 * torch.rand(count, 3, 64, 64, generator=torch.manual_seed(seed))
    pictures[:, :, 24:40, 24 + shift : 40 + shift] += 0.5
    return pictures


def test_it_learns_where_something_is() -> None:
    torch.manual_seed(0)
    network = create_network("hog_mlp", 64).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    fake = torch.tensor([0.0, 1.0]).repeat_interleave(16)
    for step in range(20):
        batch = torch.cat([spots(16, 0, 2 * step), spots(16, 5, 2 * step + 1)])
        optimiser.zero_grad()
        torch.autograd.backward(binary_cross_entropy_with_logits(network(batch), fake))
        optimiser.step()
    with torch.inference_mode():
        network.eval()
        assert network(spots(40, 5, 1001)).min() > network(spots(40, 0, 1000)).max()


@pytest.mark.parametrize("size", [64, 96, 224])
def test_any_multiple_of_32_will_do(size: int) -> None:
    network = create_network("hog_mlp", size).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, size, size)).shape == (2,)
