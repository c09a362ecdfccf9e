"""Published weights compute in dfscan what they compute where they come from."""

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from support.weights import (
    DeepFakeClassifier,
    as_checkpoint,
    keras_arrays,
    keras_logits,
    write_hdf5,
)
from torch import nn

from dfscan.errors import ConfigError, ModelError
from dfscan.models.backbones import count_parameters, create_network
from dfscan.models.checkpoints import read_checkpoint
from dfscan.models.importers import IMPORTERS, dfdc_winner, mapping, mesonet
from dfscan.models.importers.mapping import TensorMapping

PUBLISHED = ["Meso4_DF", "Meso4_F2F", "MesoInception_DF", "MesoInception_F2F"]
PARAMETERS = {"meso4": 27_977, "mesoinception4": 28_615}


def check_says_what_keras_says(network: nn.Module, file: Path, pixels: Any) -> None:
    """On (N, 256, 256, 3) pixels in [0, 1], whose probabilities must not be all alike."""
    expected = keras_logits(file, pixels)
    with torch.inference_mode():
        x = torch.from_numpy(np.asarray(pixels, np.float32)).permute(0, 3, 1, 2)
        fake = network.eval()(x)
    real = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(1 - fake.sigmoid().numpy(), real, atol=1e-4)
    np.testing.assert_allclose(-fake.numpy(), expected, atol=1e-4, rtol=1e-4)
    assert np.ptp(real) > 0.01


# ---------------------------------------------------------------- MesoNet


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_say_what_keras_says(name: str, samples: Path) -> None:
    file = samples / "weights" / f"{name}.h5"
    crops = samples / "images" / "ffpp_crops"
    pictures = [*sorted((crops / "real").iterdir())[:2], *sorted((crops / "fake").iterdir())[:2]]
    pixels = np.stack([
        np.asarray(Image.open(p).convert("RGB").resize((256, 256))) for p in pictures
    ]) / 255.0  # fmt: skip
    imported = mesonet.read(name, file.read_bytes())
    assert count_parameters(imported.network) == PARAMETERS[imported.backbone]
    check_says_what_keras_says(imported.network, file, pixels)


@pytest.mark.parametrize("first", [1, 5])
@pytest.mark.parametrize("backbone", ["meso4", "mesoinception4"])
def test_random_weights_say_what_keras_says(backbone: str, first: int, tmp_path: Path) -> None:
    arrays = keras_arrays(backbone, first)
    file = write_hdf5(tmp_path / "meso.h5", arrays)
    pixels = np.random.default_rng(1).random((2, 256, 256, 3))
    pixels[1, :128] *= 0.3
    imported = mesonet.read("meso.h5", file.read_bytes())
    assert imported.backbone == backbone
    assert imported.tensors == {"used": len(arrays), "counters": 0, "left_out": 0}
    check_says_what_keras_says(imported.network, file, pixels)


def without(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arrays.items() if k != name}


ODD = {
    "a tensor is missing": (
        lambda a: without("conv2d_2/conv2d_2/bias:0", a),
        r"do not fit Meso4: no features\.4\.bias",
    ),
    "a layer is missing": (
        lambda a: {k: v for k, v in a.items() if not k.startswith("batch_normalization_4")},
        r"no features\.14\.weight, no features\.14\.bias, no features\.14\.running_mean and 1 more",
    ),
    "a layer too many": (
        lambda a: a | {"dense_3/dense_3/kernel:0": np.ones((1, 1), np.float32)},
        r"do not fit Meso4: an unknown dense_3\.weight",
    ),
    "an unknown tensor": (
        lambda a: a | {"conv2d_1/conv2d_1/more:0": np.ones(3, np.float32), "odd": np.ones(2)},
        r"holds conv2d_1/conv2d_1/more:0, odd, which no MesoNet has",
    ),
    "another shape": (
        lambda a: a | {"dense_1/dense_1/kernel:0": np.ones((256, 16), np.float32)},
        r"classifier\.2\.weight of shape \(16, 256\) instead of \(16, 1024\)",
    ),
    "an empty layer": (
        lambda a: a | {"dense_1/dense_1/kernel:0": np.ones((64, 0), np.float32)},
        r"classifier\.2\.weight of shape \(0, 64\) instead of \(16, 1024\)",
    ),
    "not finite": (
        lambda a: a | {"dense_2/dense_2/bias:0": np.array([np.nan], np.float32)},
        r"classifier\.5\.bias holds values that are not finite",
    ),
    "another network": (
        lambda a: {k: v for k, v in a.items() if not k.startswith("conv2d_4")},
        r"has 3 convolutions: Meso4 has 4, MesoInception4 16",
    ),
    "whole numbers": (
        lambda a: a | {"dense_2/dense_2/bias:0": np.array([1])},
        r"dense_2/dense_2/bias:0 is of int64 and shape \(1,\); weights are float arrays",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_mesonet_is_refused_in_one_line(odd: str, tmp_path: Path) -> None:
    change, message = ODD[odd]
    file = write_hdf5(tmp_path / "meso.h5", change(keras_arrays("meso4")))
    with pytest.raises(ModelError, match=message) as error:
        mesonet.read("meso.h5", file.read_bytes())
    assert "\n" not in str(error.value)


def soft_link(file: Any) -> None:
    file["dense_9"] = h5py.SoftLink("/dense_1")


def external_link(file: Any) -> None:
    file["dense_9"] = h5py.ExternalLink("/etc/passwd", "/")


def external_storage(file: Any) -> None:
    file.create_dataset("dense_9/x:0", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def virtual_dataset(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
    file.create_virtual_dataset("dense_9", layout)


def circle(file: Any) -> None:
    file["dense_1/back"] = file["/"]


def second_name(file: Any) -> None:
    file["dense_9"] = file["dense_1"]


def named_type(file: Any) -> None:
    file["dense_9"] = np.dtype("f4")


def bomb(file: Any) -> None:
    file.create_dataset("dense_9", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


@pytest.mark.parametrize("trap", [soft_link, external_link, external_storage, virtual_dataset, circle, second_name, named_type, bomb])  # fmt: skip
def test_nothing_leads_out_of_an_hdf5_file(trap: Any, tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "meso.h5", keras_arrays("meso4"))
    with h5py.File(path, "a") as file:
        trap(file)
    with pytest.raises(ModelError, match=r"refused$|declares more than 64 MiB|float arrays$"):
        mesonet.read("meso.h5", path.read_bytes())


def test_a_file_that_is_cut_off_or_no_hdf5_is_refused(tmp_path: Path) -> None:
    data = write_hdf5(tmp_path / "meso.h5", keras_arrays("meso4")).read_bytes()
    with pytest.raises(ModelError, match="damaged or cut off"):
        mesonet.read("meso.h5", data[: len(data) // 2])
    with pytest.raises(ModelError, match="is not an HDF5 file"):
        mesonet.read("meso.h5", as_checkpoint({"a": torch.zeros(1)}))


def test_without_h5py_its_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModelError, match=r"pip install 'dfscan\[keras\]'"):
        mesonet.read("meso.h5", b"\x89HDF\r\n\x1a\n")


# ---------------------------------------------------------------- the DFDC winner


def test_the_dfdc_winner_says_what_its_own_network_says() -> None:
    torch.manual_seed(2)
    own = DeepFakeClassifier().eval()
    for name, buffer in own.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    nn.init.normal_(own.fc.weight, 0, 1)
    state = {f"module.{name}": tensor for name, tensor in own.state_dict().items()}
    data = as_checkpoint({"epoch": 36, "state_dict": state, "bce_best": np.float64(0.2)})
    imported = dfdc_winner.read("final_111", data)
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert imported.tensors == {
        "used": len(state) - counters - 2,
        "counters": counters,
        "left_out": 2,  # the encoder's own classifier
    }
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(
            imported.network.eval()(x), own(x).squeeze(1), atol=1e-4, rtol=1e-4
        )
    recipe = imported.recipe
    assert (recipe.input.size, recipe.input.square) == (380, "pad")
    assert recipe.input.margin == pytest.approx(1 / 3)
    assert (recipe.sampling.frames, imported.aggregation) == (32, "confident")


# ---------------------------------------------------------------- mappings

SMALL = {
    "what": "a small one", "where": "here", "licence": "MIT", "backbone": "resnet10t",
    "input": {"size": 64}, "rename": [{"match": "^net\\.", "to": ""}],
}  # fmt: skip


def small(**changes: Any) -> TensorMapping:
    return TensorMapping.model_validate(SMALL | {"outputs": ["REAL", "FAKE"]} | changes)


def small_state(outputs: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    import timm

    model = timm.create_model("resnet10t", num_classes=outputs)
    return {f"net.{name}": tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("order", [["REAL", "FAKE"], ["FAKE", "REAL"]])
def test_two_outputs_become_the_logit_of_fake(order: list[str]) -> None:
    import timm

    state = small_state(2)
    imported = mapping.apply(small(outputs=order), "x.pth", as_checkpoint(state))
    theirs = timm.create_model("resnet10t", num_classes=2).eval()
    theirs.load_state_dict({k.removeprefix("net."): v for k, v in state.items()})
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs(x).softmax(1)[:, order.index("FAKE")]
        torch.testing.assert_close(imported.network.eval()(x).sigmoid(), expected)


def test_an_output_for_real_is_negated() -> None:
    data = as_checkpoint(small_state(1))
    fake = mapping.apply(small(outputs=["FAKE"]), "x.pth", data).network.eval()
    real = mapping.apply(small(outputs=["REAL"]), "x.pth", data).network.eval()
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(real(x), -fake(x))


def test_networks_with_two_outputs_of_their_own_take_both_orders() -> None:
    torch.manual_seed(6)
    own = create_network("cnn1", 32).eval()
    state = own.state_dict()
    turned = {k: v.flip(0) if k.startswith("classifier.4.") else v for k, v in state.items()}
    x = torch.randn(3, 3, 32, 32)
    asked = {"backbone": "cnn1", "input": {"size": 32}, "rename": []}
    for order, tensors in ((["REAL", "FAKE"], state), (["FAKE", "REAL"], turned)):
        imported = mapping.apply(small(**asked, outputs=order), "x", as_checkpoint(dict(tensors)))
        with torch.inference_mode():
            torch.testing.assert_close(imported.network.eval()(x), own(x))


def test_a_safetensors_file_in_half_precision_is_as_good() -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in small_state(2).items()}
    imported = mapping.apply(small(), "x.safetensors", save(state))
    assert {p.dtype for p in imported.network.parameters()} == {torch.float32}
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert imported.tensors == {
        "used": len(state) - counters, "counters": counters, "left_out": 0,
    }  # fmt: skip


WRONG = {
    "unknown": (
        {}, {"net.more.weight": torch.ones(1), "aux.bias": torch.ones(1)},
        r"x\.pth: its tensors do not fit ResNet: an unknown more\.weight, an unknown aux\.bias$",
    ),
    "three outputs": ({}, {"net.fc.weight": torch.ones(3, 512)}, r"fc\.weight has 3 output\(s\), the mapping names 2"),
    "one output": (
        {"outputs": ["FAKE"]}, {}, r"fc\.weight has 2 output\(s\), the mapping names 1 \(FAKE\)",
    ),
    "misshapen": (
        {}, {"net.bn1.bias": torch.ones(3)}, r"bn1\.bias of shape \(3,\) instead of \(64,\)",
    ),
    "two to one name": (
        {}, {"fc.bias": torch.ones(2)}, r"net\.fc\.bias and fc\.bias both become fc\.bias",
    ),
    "whole numbers": ({}, {"net.bn1.bias": torch.ones(64).int()}, r"bn1\.bias is of torch\.int32"),
    "outputs of whole numbers": (
        {}, {"net.fc.bias": torch.ones(2).long()}, r"fc\.bias is of torch\.int64; weights are of",
    ),
    "complex outputs": (
        {}, {"net.fc.bias": torch.ones(2, dtype=torch.complex64)}, r"fc\.bias is of torch\.complex64",
    ),
    "an output that is a number": (
        {}, {"net.fc.bias": torch.tensor(1.0)}, r"fc\.bias of shape \(\) instead of \(1,\)",
    ),
    "another backbone": ({"backbone": "mobilenetv3_small_050"}, {}, r"do not fit .* and \d+ more"),
    "no backbone": ({"backbone": "resnet1o"}, {}, r"cannot be made here: .*unknown backbone 'resnet1o'"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_tensor_without_its_place_stops_everything(wrong: str) -> None:
    changes, tensors, message = WRONG[wrong]
    with pytest.raises(ModelError, match=message) as error:
        mapping.apply(small(**changes), "x.pth", as_checkpoint(small_state(2) | tensors))
    assert "\n" not in str(error.value)


def test_a_small_file_that_declares_a_huge_tensor_is_refused() -> None:
    huge = torch.ones(1, 1).expand(2, 1 << 44)
    data = as_checkpoint(small_state(2) | {"net.fc.weight": huge})
    with pytest.raises(ModelError, match=r"fc\.weight of shape \(2, 17592186044416\)"):
        mapping.apply(small(), "x.pth", data)


ODD_TENSORS = {
    "sparse": torch.ones(2, 512).to_sparse(),
    "meta": torch.ones(2, 512, device="meta"),
    "float8": torch.ones(64).to(torch.float8_e4m3fn),
    "complex": torch.ones(64, dtype=torch.complex64),
    "infinite": torch.full((64,), torch.inf),
    "infinite in 32 bits": torch.full((64,), 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize("odd", ODD_TENSORS)
def test_tensors_that_are_no_plain_numbers_are_refused(odd: str) -> None:
    tensor = ODD_TENSORS[odd]
    name = "net.fc.weight" if tensor.ndim == 2 else "net.bn1.bias"
    with pytest.raises(ModelError, match=r"is sparse|bn1\.bias (is of torch\.|holds values that)"):
        mapping.apply(small(), "x.pth", as_checkpoint(small_state(2) | {name: tensor}))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch is about to give quantised tensors up
@pytest.mark.parametrize("name", ["net.fc.weight", "net.bn1.weight"])
def test_quantised_weights_are_refused(name: str) -> None:
    state = small_state(2)
    state[name] = torch.quantize_per_tensor(state[name], 0.1, 0, torch.qint8)
    with pytest.raises(ModelError, match=rf"{name} is sparse, nested, quantised or"):
        mapping.apply(small(), "x.pth", as_checkpoint(state))


def test_a_hostile_name_does_not_reach_the_terminal_as_it_is() -> None:
    data = as_checkpoint(small_state(2) | {"net.\x1b[2J\n" + "x" * 9999: torch.ones(1)})
    with pytest.raises(ModelError, match=r"an unknown \?\[2J\?x+…$") as error:
        mapping.apply(small(), "x.pth", data)
    assert len(str(error.value)) < 300


def test_what_a_rule_leaves_out_is_counted() -> None:
    state = small_state(2) | {"net.aux.weight": torch.ones(1), "mean": torch.ones(3)}
    imported = mapping.apply(small(leave_out=["^net\\.aux", "^mean$"]), "x", as_checkpoint(state))
    assert imported.tensors["left_out"] == 2


BAD = {
    "outputs": ({"outputs": ["FAKE", "FAKE"]}, "two outputs are one REAL and one FAKE"),
    "no outputs": ({"outputs": []}, "outputs: .*at least 1 item"),
    "expression": ({"leave_out": ["("]}, r"leave_out\.0: is no regular expression"),
    "group": ({"rename": [{"match": "a", "to": "\\1"}]}, "does not suit 'a'"),
    "margin": ({"input": {"size": 64, "margin": 0.9}}, r"margin: got 0\.9; at most crop\.context"),
    "key": ({"leaveout": []}, "unknown key 'leaveout': did you mean 'leave_out'"),
    "inner key": ({"input": {"size": 64, "pixels": 1}}, r"unknown key 'input\.pixels'"),
    "no input": ({"input": None}, "input: Input should be a valid dictionary"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_mapping_file_says_where(bad: str, tmp_path: Path) -> None:
    import yaml

    changes, message = BAD[bad]
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"outputs": ["FAKE"]} | changes))
    with pytest.raises(ConfigError, match=message) as error:
        mapping.load_mapping(str(path))
    assert "\n" not in str(error.value)


def test_a_mapping_file_that_is_not_there_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'deepfakebench_xception'"):
        mapping.load_mapping("deepfakebench_xceptio")
    with pytest.raises(ConfigError, match=r"give --mapping FILE\.yaml, or one of: deepfakebench_"):
        mapping.load_mapping(None)
    path = tmp_path / "map.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        mapping.load_mapping(str(path))


# ---------------------------------------------------------------- checkpoints


class Canary:
    """A pickle of this writes a file when it is loaded by a pickle that runs what it is asked to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def torch_file(trap: Any) -> bytes:
    return as_checkpoint({"state_dict": small_state(2), "epoch": trap})


def legacy_file(trap: Any) -> bytes:
    sink = io.BytesIO()
    torch.save({"epoch": trap}, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def bare_pickle(trap: Any) -> bytes:
    return pickle.dumps(trap, protocol=2)


@pytest.mark.parametrize("write", [torch_file, legacy_file, bare_pickle])
@pytest.mark.parametrize("kind", IMPORTERS)
def test_a_pickle_that_would_run_code_runs_nothing(kind: str, write: Any, tmp_path: Path) -> None:
    canary = tmp_path / "sang"
    data = write(Canary(canary))
    with pytest.raises(ModelError, match=r"x\.pth") as error:
        IMPORTERS[kind].read("x.pth", data, "torchvision_resnet50")
    assert not canary.exists()
    assert "\n" not in str(error.value)
    if write is bare_pickle:
        pickle.loads(data)
        assert canary.exists()


def test_numpys_numbers_beside_the_weights_are_data() -> None:
    state = {"a": torch.ones(2)}
    numbers = [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True), np.float16(2)]
    wrapped = {"state_dict": state, "scores": numbers, "optimizer": {"lr": 0.1, "steps": [1, 2]}}
    assert list(read_checkpoint("x", as_checkpoint(wrapped))) == ["a"]
    sink = io.BytesIO()
    torch.save(wrapped, sink, _use_new_zipfile_serialization=False)
    old = sink.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != sink.getvalue()
    assert list(read_checkpoint("x", old)) == ["a"]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_is_found_under_its_usual_keys(key: str) -> None:
    state = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    assert list(read_checkpoint("x", as_checkpoint({"epoch": 1, key: state}))) == ["a", "b"]


@pytest.mark.parametrize("content", [{"weights": 1}, [torch.ones(1)], {}, {"state_dict": {"a": 1}}])
def test_a_checkpoint_without_tensors_by_name_says_what_it_holds(content: Any) -> None:
    with pytest.raises(ModelError, match="holds no tensors by name"):
        read_checkpoint("x", as_checkpoint(content))


def test_a_checkpoint_cut_off_is_refused() -> None:
    data = as_checkpoint({"a": torch.ones(1000)})
    for cut in (0, 1, 10, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ModelError, match=r"cut off|damaged"):
            read_checkpoint("x.pth", data[:cut])
    with pytest.raises(ModelError, match="is an HDF5 file"):
        read_checkpoint("x.h5", b"\x89HDF\r\n\x1a\n")
    safe = save({"a": torch.ones(1000)})
    with pytest.raises(ModelError, match="cut off"):
        read_checkpoint("x.safetensors", safe[:-10])


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E8M0"])
def test_safetensors_of_kinds_that_torch_has_not_are_refused(kind: str) -> None:
    header = json.dumps({"a": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}})
    bits = {"F4": 4, "F6_E2M3": 6, "F8_E8M0": 8}[kind]
    header = header.replace("[0, 8]", f"[0, {bits}]")
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(bits)
    with pytest.raises(
        ModelError, match=r"^x\.safetensors holds tensors that torch cannot make"
    ) as e:
        IMPORTERS["dfdc-winner"].read("x.safetensors", data, None)
    assert "\n" not in str(e.value)
