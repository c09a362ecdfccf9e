import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from dfscan.models.backbones import count_parameters, create_network
from dfscan.models.dctresnet import DctResNet, Spectra


def noise(count: int, seed: int) -> Tensor:
    """(count, 3, 64, 64) pictures of coarse spots with fine grain."""
    rng = np.random.default_rng(seed)
    spots = rng.uniform(0.2, 0.8, (count, 3, 8, 8)).repeat(8, axis=2).repeat(8, axis=3)
    grain = rng.normal(0, 0.05, (count, 3, 64, 64))
    return torch.from_numpy((spots + grain).clip(0, 1)).float()


def quarter_kept(pictures: Tensor) -> Tensor:
    """The same in quarter size to the digit, with another grain below that."""
    means = avg_pool2d(pictures, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return means + (pictures - means) / 3


def test_its_parameters() -> None:
    assert count_parameters(create_network("dct_resnet", 256)) == 674_316
    assert count_parameters(create_network("dct_resnet", 64)) == 674_316


def test_spectra_are_those_of_jpeg() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    spectra = Spectra()(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    assert spectra.shape == (1, 189, 2, 3)
    weights = {0: (0.299, 0.587, 0.114), 2: (0.5, -0.418688, -0.081312)}
    for channel, weight in weights.items():
        plane = pixels.astype(np.float64) @ weight
        for row, column in ((0, 0), (1, 2)):
            block = plane[8 * row :, 8 * column :][:8, :8]
            expected = np.log1p(np.abs(dctn(block, norm="ortho"))).reshape(-1)[1:]
            ours = spectra[0, 63 * channel : 63 * (channel + 1), row, column]
            np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_half_precision_does_not_reach_the_spectra() -> None:
    pictures = noise(2, 0)
    spectra = Spectra()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = spectra(pictures)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, spectra(pictures))


def test_each_half_of_a_batch_teaches_one_part() -> None:
    torch.manual_seed(0)
    network = DctResNet().train()
    with torch.no_grad():
        for number, bias in enumerate((5.0, -5.0)):
            network.get_parameter(f"classifier.{number}.3.weight").zero_()
            network.get_parameter(f"classifier.{number}.3.bias").fill_(bias)
    logits = network(noise(6, 0))
    assert sorted(logits.tolist()) == [-5.0] * 3 + [5.0] * 3
    assert network(noise(1, 0)).tolist() == [0.0]
    assert network.eval()(noise(6, 0)).tolist() == [0.0] * 6


def test_each_face_gets_its_own_logit_while_training() -> None:
    torch.manual_seed(1)
    network = DctResNet().train()
    network.picture.eval()
    network.spectra.eval()
    network.classifier.eval()
    pictures = noise(5, 2)
    logits = network(pictures)
    alone = torch.stack([network._of_picture(pictures), network._of_spectra(pictures)])
    nearest = (alone - logits).abs().min(dim=0).values
    assert nearest.max() < 1e-5


def test_it_learns_what_a_smaller_picture_no_longer_holds() -> None:
    torch.manual_seed(0)
    network = create_network("dct_resnet", 64).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    fake = torch.tensor([0.0, 1.0]).repeat_interleave(16)
    for step in range(12):
        real = noise(16, step)
        batch = torch.cat([real, quarter_kept(real)])
        optimiser.zero_grad()
        torch.autograd.backward(binary_cross_entropy_with_logits(network(batch), fake))
        optimiser.step()
    real = noise(40, 1000)
    with torch.inference_mode():
        network.eval()
        assert (network(quarter_kept(real)) > network(real)).float().mean() > 0.95


@pytest.mark.parametrize("size", [64, 96, 224])
def test_any_multiple_of_32_will_do(size: int) -> None:
    network = create_network("dct_resnet", size).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, size, size)).shape == (2,)
