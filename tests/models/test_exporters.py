import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dfscan
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, ModelError
from dfscan.models.backbones import create_network, network_input, normalise
from dfscan.models.exporters import EXPORTERS, litert, onnx, torchscript
from dfscan.models.exporters.base import PixelNetwork, describe
from dfscan.models.modelfile import Model, ModelHeader
from dfscan.schemas.recipe import FaceRecipe, NetworkInput, Sampling, Stride
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.operating_point import OperatingPoint

SAMPLING = Sampling(stride=Stride(real=30, fake=30))
SEEN = network_input("cnn1", InputConfig(size=64))
NONE = np.zeros((0, 64, 64, 3), np.uint8)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    header = ModelHeader(
        backbone="cnn1",
        recipe=FaceRecipe(sampling=SAMPLING, input=SEEN),
        threshold=0.4,
        calibration=Calibration(scale=2.0, offset=-0.5, reals=9, fakes=8, sampling=SAMPLING),
    )
    return Model(header, create_network("cnn1", 64).eval(), "ab" * 32)


def test_normalisation_is_the_one_that_scoring_uses(model: Model) -> None:
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model.network(normalise(pixels, SEEN))
        assert torch.equal(PixelNetwork(model.network, SEEN)(pixels), expected)


def test_a_file_says_what_goes_in_and_what_comes_out(model: Model) -> None:
    facts = describe(model, EXPORTERS["onnx"])
    assert ModelHeader.model_validate_json(facts["dfscan"]) == model.header
    assert facts["model_sha256"] == "ab" * 32
    words = facts["description"]
    assert "(N, 64, 64, 3) uint8, channels last, RGB" in words
    assert "0.3 of the box's width" in words
    assert "exp(-(2 * score + -0.5))" in words
    assert "FAKE from p_fake = 0.4 on" in words
    assert "(1, 64, 64, 3)" in describe(model, EXPORTERS["litert"])["description"]
    assert "8-bit" in describe(model, EXPORTERS["onnx-int8"])["description"]


def test_an_uncalibrated_file_gives_no_probability(model: Model) -> None:
    header = model.header.model_copy(update={"calibration": None})
    words = describe(Model(header, model.network, ""), EXPORTERS["onnx"])["description"]
    assert "not calibrated" in words
    assert "p_fake" not in words
    assert "FAKE from" not in words
    point = OperatingPoint(
        rule="fpr=0.01", reals=100, fakes=0, false_positive_rate=0.01,
        false_positive_rate_upper=0.05, sampling=SAMPLING, aggregation="confident",
        scored_by="", chosen_on="mine",
    )  # fmt: skip
    chosen = header.model_copy(
        update={"operating_point": point, "threshold": 0.7, "dfscan": "0.0.1"}
    )
    words = describe(Model(chosen, model.network, ""), EXPORTERS["onnx"])["description"]
    assert "FAKE from 1 / (1 + exp(-score)) = 0.7 on, where score is the confident of" in words
    assert f"exported by dfscan {dfscan.__version__} from" in words
    assert "which dfscan 0.0.1 wrote" in words


def test_onnx_holds_the_facts_and_no_path_of_this_machine(model: Model) -> None:
    import onnx as protobuf

    facts = describe(model, EXPORTERS["onnx"])
    data = onnx.convert(PixelNetwork(model.network, SEEN), facts, NONE)
    made = protobuf.load_model_from_string(data)
    assert {p.key: p.value for p in made.metadata_props} == facts
    assert made.graph.doc_string == facts["description"]
    assert EXPORTERS["onnx"].facts(data) == EXPORTERS["onnx-int8"].facts(data) == facts
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert str(Path(dfscan.__file__).parent).encode() not in data


def test_torchscript_runs_where_dfscan_is_not(model: Model, tmp_path: Path) -> None:
    facts = describe(model, EXPORTERS["torchscript"])
    network = PixelNetwork(model.network, SEEN)
    path = tmp_path / "m.pt"
    data = torchscript.convert(network, facts, NONE)
    assert str(Path(torch.__file__).parent).encode() not in data  # stored, so it would be seen
    assert EXPORTERS["torchscript"].facts(data) == facts
    path.write_bytes(data)
    script = (
        "import sys, json\n"
        "sys.modules['dfscan'] = None\n"
        "import torch\n"
        "extra = {'dfscan': '', 'description': ''}\n"
        "network = torch.jit.load(sys.argv[1], _extra_files=extra)\n"
        "pixels = torch.arange(5 * 64 * 64 * 3).remainder(251).to(torch.uint8).view(5, 64, 64, 3)\n"
        "logits = network(pixels).tolist(), network(pixels[:1]).tolist()\n"
        "print(json.dumps([logits, {k: v.decode() for k, v in extra.items()}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", script, str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    (five, one), extra = json.loads(done.stdout)
    pixels = torch.arange(5 * 64 * 64 * 3).remainder(251).to(torch.uint8).view(5, 64, 64, 3)
    with torch.inference_mode():
        expected = network(pixels).tolist()
    assert five == pytest.approx(expected, abs=1e-5)
    assert one == pytest.approx(expected[:1], abs=1e-5)
    assert ModelHeader.model_validate_json(extra["dfscan"]) == model.header
    assert extra["description"] == facts["description"]


def test_litert_facts_follow_the_network_as_a_zip() -> None:
    data = litert.with_facts(b"\x1c\0\0\0TFL3 network", {"dfscan": "{}", "description": "words"})
    assert data.startswith(b"\x1c\0\0\0TFL3 network")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("dfscan.json") == b"{}"
        assert archive.read("description.txt") == b"words"
    assert litert.facts(data) == {"dfscan": "{}", "description": "words"}


class Paired(nn.Module):
    """Takes two faces at a time only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3, 16, 16).mean((1, 2, 3))


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_a_network_of_one_batch_size_is_refused(name: str) -> None:
    network = PixelNetwork(Paired(), NetworkInput(size=16))
    refused = rf"cannot be exported as {name} .*leave {name} out"
    with pytest.raises(ModelError, match=refused) as error:
        EXPORTERS[name].convert(network, {"description": ""}, NONE)
    assert "\n" not in str(error.value)


def test_int8_without_faces_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="--faces"):
        EXPORTERS["onnx-int8"].convert(PixelNetwork(model.network, SEEN), {}, NONE)


@pytest.mark.parametrize(("name", "extra"), [("onnx", "onnx"), ("litert", "litert")])
def test_a_missing_package_says_how_to_install_it(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'dfscan\[{extra}\]'"):
        EXPORTERS[name].check_installed(name)
