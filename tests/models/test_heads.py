import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from dfscan.models.backbones import create_network
from dfscan.models.heads import TimmClassifier, classifiers
from dfscan.schemas.recipe import Head

FAMILIES = [
    "efficientnet_b0",
    "mnasnet_small",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "resnet10t",
    "resnext50_32x4d",
    "vgg16",
    "inception_v3",
    "inception_resnet_v2",
    "legacy_xception",
    "convnext_atto",
    "vit_tiny_patch16_224",
]
MLP = Head(kind="mlp", hidden=(12, 5), dropout=(0.5, 0.25))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_mlp_follows_the_pooled_features_of_every_family(name: str) -> None:
    network = create_network(name, 96, head=MLP).eval()
    assert isinstance(network, TimmClassifier)
    assert isinstance(network.head, nn.Sequential)
    with torch.inference_mode():
        x = torch.randn(2, 3, 96, 96)
        features = network.model(x)
        assert network(x).shape == (2,)
    first, last = network.head[0], network.head[-1]
    assert first.weight.shape == (12, features.shape[1])
    assert last.weight.shape == (1, 5)
    assert features.ndim == 2
    assert network.head_modules() == (network.head,)


def test_an_mlp_is_dense_layers_with_relu_and_its_dropouts() -> None:
    torch.manual_seed(0)
    network = create_network("resnet10t", 32, head=MLP).eval()
    assert isinstance(network, TimmClassifier)
    assert isinstance(network.head, nn.Sequential)
    assert [m.p for m in network.head if isinstance(m, nn.Dropout)] == [0.5, 0.25]
    x = torch.randn(3, 3, 32, 32)
    values = network.model(x).detach().double().numpy()
    for layer in (m for m in network.head if isinstance(m, nn.Linear)):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        values = values @ weight.T + bias
        values = values if layer.out_features == 1 else values.clip(min=0)
    torch.testing.assert_close(
        network(x).double(), torch.from_numpy(values[:, 0]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_a_linear_head_keeps_the_layout_of_older_model_files(name: str) -> None:
    options = {"img_size": 64} if name.startswith("vit") else {}
    plain = timm.create_model(name, num_classes=1, **options)
    network = create_network(name, 64)
    wanted = {f"model.{k}": v.shape for k, v in plain.state_dict().items()}
    assert {k: v.shape for k, v in network.state_dict().items()} == wanted
    assert isinstance(network, TimmClassifier)
    assert network.head_modules() == classifiers(network.model)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "mlp"}, "needs hidden widths"),
        ({"hidden": [256]}, "kind must be mlp"),
        ({"kind": "mlp", "hidden": [8, 4], "dropout": [0.5]}, "got 1 for 2 layers"),
        ({"kind": "mlp", "hidden": [0]}, "greater than or equal to 1"),
        ({"kind": "mlp", "hidden": [8], "dropout": [1.0]}, "less than 1"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Head.model_validate(values)
