from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfscan.errors import ConfigError
from dfscan.models.backbones import OWN, count_parameters, create_network
from dfscan.models.freezing import head_of, train_mode, unfreeze
from dfscan.schemas.recipe import Head

MLP = Head(kind="mlp", hidden=(16,))


def learning(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if p.requires_grad}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("backbone", "head", "names"),
    [
        ("resnet10t", Head(), {"model.fc.weight", "model.fc.bias"}),
        ("vgg11", Head(), {"model.head.fc.weight", "model.head.fc.bias"}),
        ("resnet10t", MLP, {f"head.{n}.{p}" for n in (0, 3) for p in ("weight", "bias")}),
        ("meso4", Head(), {f"classifier.{n}.{p}" for n in (2, 5) for p in ("weight", "bias")}),
    ],
)
def test_the_head_alone(backbone: str, head: Head, names: set[str]) -> None:
    network = create_network(backbone, 64, head=head)
    trainable, total = unfreeze(network, "head")
    assert learning(network) == names
    assert trainable == sum(p.numel() for n, p in network.named_parameters() if n in names)
    assert total == count_parameters(network)


@pytest.mark.parametrize("backbone", OWN)
def test_every_network_of_ours_has_a_head_that_can_learn_alone(backbone: str) -> None:
    network = create_network(backbone, OWN[backbone].multiple * 2)
    trainable, total = unfreeze(network, "head")
    assert 0 < trainable < total
    assert all(p.requires_grad for m in head_of(network) for p in m.parameters())
    assert unfreeze(network, "all") == (total, total)


def test_the_last_layers_are_counted_by_what_holds_parameters() -> None:
    network = create_network("resnet10t", 64)
    unfreeze(network, "last:3")
    assert {n.rpartition(".")[0] for n in learning(network)} == {
        "model.fc",
        "model.layer4.0.downsample.1",
        "model.layer4.0.downsample.2",
    }
    vit = create_network("vit_tiny_patch16_224", 64)
    unfreeze(vit, "last:2")
    assert {n.rpartition(".")[0] for n in learning(vit)} == {"model.head", "model.norm"}


def test_named_modules_learn_with_the_head() -> None:
    network = create_network("resnet10t", 64)
    unfreeze(network, ("model.layer4.0", "model.layer3"))
    assert {n.split(".")[1] for n in learning(network)} == {"layer3", "layer4", "fc"}


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("last:0", r"got 'last:0'; allowed: all, head, last:1 to last:\d\d"),
        ("last:900", "got 'last:900'"),
        ("last:x", "got 'last:x'"),
        ("tail", "got 'tail'; allowed: all, head"),
        (("layer4.0",), "unknown module 'layer4.0': did you mean 'model.layer4.0'"),
        (("",), "unknown module ''"),
    ],
)
def test_what_cannot_be_unfrozen_is_said(what: str | tuple[str, ...], complaint: str) -> None:
    network = create_network("resnet10t", 64)
    with pytest.raises(ConfigError, match=complaint):
        unfreeze(network, what)


def test_frozen_normalisations_keep_their_statistics() -> None:
    network = create_network("resnet10t", 64)
    unfreeze(network, ("model.layer4",))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    train_mode(network)
    network(torch.randn(4, 3, 64, 64)).sum().backward()
    optimiser.step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[1] for k in changed} == {"layer4", "fc"}
    assert "model.layer4.0.bn1.running_mean" in changed
    unfreeze(network, "all")
    train_mode(network)
    network(torch.randn(4, 3, 64, 64))
    after = network.state_dict()["model.bn1.running_mean"]
    assert not torch.equal(after, before["model.bn1.running_mean"])


@pytest.mark.usefixtures("process_group")
def test_a_wrapped_network_is_frozen_inside() -> None:
    network = create_network("meso4", 64)
    wrapped = DistributedDataParallel(network)
    unfreeze(wrapped, "head")
    assert all(name.startswith("classifier.") for name in learning(network))
    assert head_of(wrapped) == (network.get_submodule("classifier"),)
    train_mode(wrapped)
    assert wrapped.training
    assert not network.get_submodule("features.2").training
    assert network.get_submodule("classifier.1").training
