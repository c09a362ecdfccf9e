"""Published layouts, checked by their numbers of parameters and by what is worked out apart."""

from pathlib import Path

import h5py
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError
from dfscan.models.backbones import OWN, count_parameters, create_network, network_input
from dfscan.models.plaincnn import TwoOutputs
from dfscan.schemas.recipe import Head

PUBLISHED = {"meso4": 27_977, "mesoinception4": 28_615, "cnn1": 8_408_386, "cnn2": 134_608_002}
KERAS = {"Meso4_DF.h5": "meso4", "MesoInception_F2F.h5": "mesoinception4"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        network = OWN[name].make(OWN[name].size)
    assert count_parameters(network) == PUBLISHED[name]


@pytest.mark.parametrize("file", KERAS)
def test_every_tensor_has_its_place_in_the_authors_file(file: str, samples: Path) -> None:
    shapes: list[tuple[int, ...]] = []
    with h5py.File(samples / "weights" / file) as keras:
        keras.visititems(
            lambda _, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None
        )
    ours = [
        tuple(reversed(t.shape))
        if t.ndim == 2
        else tuple(t.permute(2, 3, 1, 0).shape)
        if t.ndim == 4
        else tuple(t.shape)
        for name, t in create_network(KERAS[file], 256).state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    assert sorted(ours) == sorted(shapes)


def test_two_outputs_are_one_logit_with_the_same_loss() -> None:
    torch.manual_seed(0)
    network = create_network("cnn1", 32).eval()
    assert isinstance(network, TwoOutputs)
    x, fake = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1, 0])
    logits = network(x)
    ours = nn.BCEWithLogitsLoss()(logits, fake.float())
    published = cross_entropy(network.classifier(network.features(x)), fake)
    torch.testing.assert_close(ours, published)


def test_each_brings_its_size_and_normalisation() -> None:
    assert network_input("cnn2", InputConfig()).model_dump(include={"size", "mean", "std"}) == {
        "size": 128,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert network_input("meso4", InputConfig(size=128)).size == 128
    with pytest.raises(ConfigError, match="got 130; cnn1 takes multiples of 4"):
        network_input("cnn1", InputConfig(size=130))


def test_a_head_of_their_own_is_not_exchanged() -> None:
    with pytest.raises(ConfigError, match=r"train\.head: meso4 has a head of its own"):
        create_network("meso4", 64, head=Head(kind="mlp", hidden=(8,)))
