import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from dfscan.errors import ModelError
from dfscan.models.backbones import create_network
from dfscan.models.modelfile import ModelHeader, find_model, load_model, read_header, save_model
from dfscan.schemas.recipe import FaceRecipe, Head, NetworkInput, Sampling, Stride
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.operating_point import OperatingPoint

SAMPLING = Sampling(stride=Stride(real=30, fake=30))
RECIPE = FaceRecipe(sampling=SAMPLING, input=NetworkInput(size=64))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "model.safetensors"
    calibration = Calibration(scale=2.0, offset=-0.5, reals=9, fakes=8, sampling=SAMPLING)
    header = ModelHeader(backbone="mesoinception4", recipe=RECIPE, calibration=calibration)
    save_model(path, create_network("mesoinception4", 64), header)
    return path


def test_a_model_comes_back_whole(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.header.labels == ("REAL", "FAKE")
    assert loaded.header.recipe == RECIPE
    assert loaded.header.calibration is not None
    assert loaded.header.calibration.scale == 2.0
    torch.manual_seed(1)
    original = create_network("mesoinception4", 64).eval()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded.network(x), original(x))


def test_a_run_folder_stands_for_its_model(model: Path) -> None:
    assert find_model(str(model.parent)) == model


def test_a_head_travels_with_its_model(tmp_path: Path) -> None:
    head = Head(kind="mlp", hidden=(6,), dropout=(0.5,))
    network = create_network("resnet10t", 64, head=head).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, ModelHeader(backbone="resnet10t", head=head, recipe=RECIPE))
    loaded = load_model(path)
    assert loaded.header.head == head
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded.network(x), network(x))


def test_a_model_from_before_heads_is_linear(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=1).eval()
    tensors = {f"model.{k}": v.contiguous() for k, v in network.state_dict().items()}
    header = ModelHeader(backbone="resnet10t", recipe=RECIPE, format=1)
    text = json.dumps(
        header.model_dump(
            mode="json", exclude={"head", "operating_point", "calibrations", "triage"}
        )
    )
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"dfscan": text})
    loaded = load_model(path)
    assert loaded.header.head == Head()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded.network(x), network(x).squeeze(1))


def test_an_operating_point_travels_with_its_model(model: Path, tmp_path: Path) -> None:
    point = OperatingPoint(
        rule="fpr=0.01",
        reals=300,
        fakes=0,
        false_positive_rate=0.01,
        false_positive_rate_upper=0.03,
        sampling=SAMPLING,
        scored_by="ab" * 32,
        chosen_on="night.parquet",
    )
    loaded = load_model(model)
    header = loaded.header.model_copy(update={"operating_point": point})
    save_model(tmp_path / "b.safetensors", loaded.network, header)
    found = read_header(tmp_path / "b.safetensors")
    assert found.operating_point == point
    assert found.format == 4
    assert found.operating_point.true_positive_rate is None
    assert found.decides("mean", "exact")
    assert not found.decides("trimmed", "exact")
    assert not found.decides("mean", "keyframes")
    assert not loaded.header.decides("mean", "exact")


def test_a_model_from_before_operating_points_has_none(model: Path) -> None:
    old = read_header(model).model_dump(
        mode="json", exclude={"operating_point", "calibrations", "triage"}
    ) | {"format": 2}
    tensors = {k: v.contiguous() for k, v in load_model(model).network.state_dict().items()}
    save_file(tensors, model, metadata={"dfscan": json.dumps(old)})
    found = load_model(model).header
    assert (found.format, found.operating_point) == (2, None)
    assert found.calibration is not None


@pytest.mark.parametrize("path", [None, "/no/such/model"])
def test_no_model_says_how_to_get_one(path: str | None) -> None:
    with pytest.raises(ModelError, match="dfscan train"):
        find_model(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ModelError, match="pickle"):
        load_model(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="torch checkpoint"):
        load_model(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_a_cut_model_is_refused(model: Path, keep: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(model)


def test_other_programs_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="no dfscan header"):
        load_model(path)


def test_a_newer_format_asks_for_an_upgrade(model: Path) -> None:
    header = read_header(model).model_dump(mode="json") | {"format": 99}
    save_file({"w": torch.zeros(1)}, model, metadata={"dfscan": json.dumps(header)})
    with pytest.raises(ModelError, match="upgrade dfscan"):
        load_model(model)


@pytest.mark.parametrize("metadata", [
    [1], {"dfscan": 5}, {"dfscan": "[1]"}, {"dfscan": "[" * 100_000}, {"dfscan": '{"format": null}'},
    {"dfscan": '{"format": "4"}'}, {"dfscan": '{"format": 4}'},
], ids=lambda metadata: str(metadata)[:30])  # fmt: skip
def test_a_header_of_another_shape_is_refused(model: Path, metadata: object) -> None:
    text = json.dumps({"__metadata__": metadata}).encode()
    model.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_header(model)


def test_an_unknown_network_is_the_models_fault(model: Path) -> None:
    header = read_header(model).model_dump(mode="json") | {"backbone": "resnet5"}
    save_file(load_file(model), model, metadata={"dfscan": json.dumps(header)})
    with pytest.raises(ModelError, match=r"model\.safetensors: its network cannot be made here"):
        load_model(model)


def test_tensors_of_another_architecture_are_refused(model: Path) -> None:
    header = read_header(model).model_dump_json()
    save_file({"w": torch.zeros(1)}, model, metadata={"dfscan": header})
    with pytest.raises(ModelError, match="do not fit mesoinception4"):
        load_model(model)
