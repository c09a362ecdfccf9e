"""Every kind of import, and every mapping file that comes with dfscan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.weights import (
    ByBlockNumber,
    ByLastLinear,
    ByNumber,
    DeepFakeClassifier,
    as_checkpoint,
    keras_arrays,
    write_hdf5,
)
from torch import Tensor, nn

from dfscan.config.loading import configs_folder
from dfscan.errors import ModelError
from dfscan.models.importers import IMPORTERS
from dfscan.models.importers.mapping import FOLDER, load_mapping, shipped

MAPPED = "torchvision_resnet50"
"""What the kind mapping is tried with."""


def resnet50() -> nn.Module:
    return torchvision.models.resnet50(num_classes=2)


def keras(folder: Path) -> bytes:
    return write_hdf5(folder / "meso.h5", keras_arrays("meso4")).read_bytes()


PUBLISHED: dict[str, Callable[[Path], bytes]] = {
    "mesonet": keras,
    "dfdc-winner": lambda _: as_checkpoint(DeepFakeClassifier().state_dict()),
    "mapping": lambda _: as_checkpoint(resnet50().state_dict()),
}
"""A file of each kind, as it is published."""

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], dict[str, Tensor]]]] = {
    "deepfakebench_resnet34": (
        ByNumber,
        lambda own: {f"backbone.{k}": v for k, v in own.state_dict().items()},
    ),
    "deepfakebench_xception": (ByLastLinear, lambda own: own.published()),
    "self_blended_images": (ByBlockNumber, lambda own: own.published()),
    "torchvision_resnet50": (resnet50, lambda own: own.state_dict()),
}
"""A network of each shipped mapping, and its tensors by their published names."""

STRANGE = {
    "empty": b"",
    "text": b"<html>404</html>\n" * 40,
    "zip": b"PK\x03\x04" + bytes(200),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "noise": bytes(range(256)) * 20,
    "huge header": (1 << 60).to_bytes(8, "little") + b'{"a":',
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500),
    "other network": as_checkpoint({"weight": torch.ones(3)}),
}


@pytest.mark.parametrize("kind", IMPORTERS)
def test_a_file_as_published_becomes_a_network(kind: str, tmp_path: Path) -> None:
    importer = IMPORTERS[kind]
    data = PUBLISHED[kind](tmp_path)
    imported = importer.read("published", data, MAPPED if importer.needs_mapping else None)
    seen = imported.recipe.input
    assert seen is not None
    assert seen.size == imported.published.size
    assert seen.margin <= imported.recipe.crop.context
    with torch.inference_mode():
        logits = imported.network.eval()(torch.rand(1, 3, 256, 256))
    assert logits.shape == (1,)
    assert importer.needs_mapping or imported.published in importer.published


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("kind", IMPORTERS)
def test_a_strange_file_is_refused_in_one_line(kind: str, strange: str) -> None:
    with pytest.raises(ModelError, match="strange") as error:
        IMPORTERS[kind].read("strange.bin", STRANGE[strange], MAPPED)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", shipped())
def test_a_mapped_network_says_what_it_said(name: str) -> None:
    torch.manual_seed(8)
    make, publish = NETWORKS[name]
    own = make().eval()
    mapping = load_mapping(name)
    importer = IMPORTERS["mapping"]
    state = {f"module.{k}": v for k, v in publish(own).items()}
    imported = importer.read("published", as_checkpoint({"state_dict": state}), name)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        expected = own(x).double().softmax(1)[:, mapping.outputs.index("FAKE")]
        found = imported.network.eval()(x).double().sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert sum(imported.tensors.values()) == len(state)


@pytest.mark.parametrize("name", shipped())
def test_a_mapping_file_says_where_it_has_its_facts_from(name: str) -> None:
    text = (configs_folder() / FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    published = load_mapping(name).published
    assert published.where.startswith("https://")
    assert published.licence
