import pytest
import torch

from dfscan.config.train import InputConfig
from dfscan.models.backbones import OWN, create_network, network_input, normalise

BACKBONES = [*OWN, "mobilenetv3_small_050", "resnet10t", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_one_logit_a_face_and_learns(name: str) -> None:
    recipe = network_input(name, InputConfig(size=64))
    assert recipe.size == 64
    network = create_network(name, recipe.size)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    logits = network(normalise(pixels, recipe))
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_face_scores_the_same_in_any_batch(name: str) -> None:
    torch.manual_seed(0)
    recipe = network_input(name, InputConfig(size=64))
    network = create_network(name, recipe.size).eval()
    tensor = normalise(torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8), recipe)
    with torch.inference_mode():
        together = network(tensor)
        alone = torch.cat([network(one[None]) for one in tensor])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
