import pytest
import torch

from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError
from dfscan.models import backbones
from dfscan.models.backbones import count_parameters, create_network, network_input, normalise
from dfscan.schemas.recipe import NetworkInput


def test_mesoinception4_has_the_papers_parameters() -> None:
    assert count_parameters(create_network("mesoinception4", 256)) == 28_615


def test_an_unknown_backbone_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"'resnet5'.*'resnet50'.*mesoinception4.*timm"):
        network_input("resnet5", InputConfig())


def test_a_size_the_backbone_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 100; mesoinception4 takes multiples of 32"):
        network_input("mesoinception4", InputConfig(size=100))


def test_timm_backbones_bring_their_normalisation() -> None:
    assert network_input("resnet18", InputConfig()).mean == (0.485, 0.456, 0.406)
    assert network_input("mesoinception4", InputConfig()).mean == (0.0, 0.0, 0.0)


def test_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="no published weights: use --no-pretrained"):
        create_network("mesoinception4", 256, pretrained=True)


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nlong trace")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(
        ConfigError, match=r"cannot get the published weights.*--no-pretrained"
    ) as e:
        create_network("resnet18", 64, pretrained=True)
    assert "\n" not in str(e.value)


def test_normalise() -> None:
    pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    pixels[..., 0] = 255
    recipe = NetworkInput(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5))
    out = normalise(pixels, recipe)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == [2.0, -1.0, -1.0]
    assert backbones.has_published_weights("resnet18")
    assert not backbones.has_published_weights("mesoinception4")


def test_frozen_parameters_count() -> None:
    network = create_network("mesoinception4", 256)
    network.requires_grad_(False)
    assert count_parameters(network) == 28_615
