from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from dfscan.errors import ConfigError, ModelError
from dfscan.models.backbones import create_network
from dfscan.models.heads import TimmClassifier
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.schemas.recipe import FaceRecipe, Head, NetworkInput, Sampling

MLP = Head(kind="mlp", hidden=(8,))
RECIPE = FaceRecipe(sampling=Sampling(frames=8), input=NetworkInput(size=64))


def published(name: str, path: Path, **options: object) -> dict[str, Tensor]:
    """A file as timm publishes them: a thousand classes, batches counted."""
    torch.manual_seed(3)
    tensors = timm.create_model(name, num_classes=1000, **options).state_dict()
    tensors = {k: v.clone().contiguous() for k, v in tensors.items()}
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("head", [Head(), MLP])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_the_features_are_those_of_the_file(name: str, head: Head, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = published(name, path)
    network = create_network(name, 64, head=head, weights=str(path))
    assert isinstance(network, TimmClassifier)
    same = timm.create_model(name, num_classes=1000).eval()
    same.load_state_dict(tensors)
    ours: Any = network.model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.forward_features(x), same.forward_features(x))


def test_positions_are_fitted_to_another_size(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    tensors = published("vit_tiny_patch16_224", path)
    network = create_network("vit_tiny_patch16_224", 96, weights=str(path))
    state = network.state_dict()
    assert tensors["pos_embed"].shape == (1, 1 + 14 * 14, 192)
    assert state["model.pos_embed"].shape == (1, 1 + 6 * 6, 192)
    torch.testing.assert_close(state["model.pos_embed"][:, 0], tensors["pos_embed"][:, 0])
    torch.testing.assert_close(state["model.norm.weight"], tensors["norm.weight"])


def test_auxiliary_classifiers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    tensors = published("inception_v3", path, aux_logits=True)
    assert any(k.startswith("AuxLogits.") for k in tensors)
    state = create_network("inception_v3", 96, weights=str(path)).state_dict()
    name = "Mixed_7c.branch1x1.conv.weight"
    torch.testing.assert_close(state[f"model.{name}"], tensors[name])


def test_a_model_of_ours_is_a_start_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(5)
    trained = create_network("resnet10t", 64, head=MLP)
    save_model(path, trained, ModelHeader(backbone="resnet10t", head=MLP, recipe=RECIPE))
    started = create_network("resnet10t", 64, weights=str(path))
    name = "model.layer4.0.conv2.weight"
    torch.testing.assert_close(started.state_dict()[name], trained.state_dict()[name])
    small = create_network("meso4", 64)
    save_model(path, small, ModelHeader(backbone="meso4", recipe=RECIPE))
    again = create_network("meso4", 64, weights=str(path))
    torch.testing.assert_close(again.state_dict(), small.state_dict())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = published("resnet10t", path)
    tensors["layer9.weight"] = tensors.pop("layer3.0.conv1.weight")
    tensors["layer1.0.bn1.bias"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(
        ModelError,
        match=r"layer1\.0\.bn1\.bias of shape \(3,\) instead of \(64,\), "
        r"no layer3\.0\.conv1\.weight, an unknown layer9\.weight",
    ) as error:
        create_network("resnet10t", 64, weights=str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "vgg11", "meso4"])
def test_another_familys_weights_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    published("resnet10t", path)
    with pytest.raises(ModelError, match=r"do not fit .* and \d+ more"):
        create_network(name, 64, weights=str(path))


def test_a_pickle_says_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "resnet10t.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"resnet10t\.pth is a torch checkpoint.*save_file"):
        create_network("resnet10t", 64, weights=str(path))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights at .*give a safetensors file"):
        create_network("resnet10t", 64, weights=str(tmp_path / "none.safetensors"))
    path = tmp_path / "cut.safetensors"
    published("resnet10t", path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cut\.safetensors is not a safetensors file"):
        create_network("resnet10t", 64, weights=str(path))
    with pytest.raises(ConfigError, match="exclude each other"):
        create_network("resnet10t", 64, pretrained=True, weights=str(path))
