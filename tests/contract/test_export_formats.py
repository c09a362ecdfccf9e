import numpy as np
import pytest
import torch

from dfscan.config.train import InputConfig
from dfscan.models.backbones import OWN, create_network, network_input
from dfscan.models.exporters import EXPORTERS
from dfscan.models.exporters.base import PixelNetwork

BACKBONES = [*OWN, "mobilenetv3_small_050", "vit_tiny_patch16_224"]
FACTS = {"dfscan": "{}", "model_sha256": "ab", "description": "words"}
EXACT = [name for name, exporter in EXPORTERS.items() if exporter.tolerance is not None]


def network_of(backbone: str) -> PixelNetwork:
    torch.manual_seed(0)
    recipe = network_input(backbone, InputConfig(size=64))
    return PixelNetwork(create_network(backbone, 64), recipe)


def pictures(count: int) -> np.ndarray:
    """Coarse noise, each darker or brighter than the last: untrained networks tell these apart."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, np.linspace(40, 256, count)[:, None, None, None], (count, 8, 8, 3))
    return coarse.astype(np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", EXACT)
def test_every_backbone_gives_the_same_logits_in_every_format(name: str, backbone: str) -> None:
    exporter = EXPORTERS[name]
    for package in exporter.packages:
        pytest.importorskip(package)
    network, pixels = network_of(backbone), pictures(5)
    runner = exporter.load(exporter.convert(network, FACTS, pixels[:0]), 1)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    assert np.ptp(expected) > 1e-3  # else a constant would agree
    assert exporter.tolerance is not None
    for batch in (1, 2, 5):
        logits = runner(pixels[:batch])
        assert logits.shape == (batch,)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:batch], atol=exporter.tolerance, rtol=0)


def test_an_int8_network_is_smaller_and_near() -> None:
    exporter, network, pixels = EXPORTERS["onnx-int8"], network_of("hog_mlp"), pictures(24)
    data = exporter.convert(network, FACTS, pixels[::2])
    assert len(data) < 0.6 * 4 * sum(p.numel() for p in network.parameters())
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels[1::2])).numpy()
    logits = exporter.load(data, 1)(pixels[1::2])
    assert np.corrcoef(logits, expected)[0, 1] > 0.9
    assert np.abs(logits - expected).max() > 0  # it is quantised
