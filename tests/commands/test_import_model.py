"""``dfscan models import`` and ``list``."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.weights import as_checkpoint, keras_arrays, write_hdf5

import dfscan
from dfscan import storage
from dfscan.cli.app import app
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.errors import ConfigError, ModelError, OutputError
from dfscan.models.importers import IMPORTERS
from dfscan.models.importers.mapping import shipped
from dfscan.models.modelfile import load_model


@pytest.fixture
def meso(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "Meso4_DF.h5", keras_arrays("meso4"))


def test_the_model_file_holds_what_it_was_made_of(meso: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    result = dfscan.import_model("mesonet", str(meso), out=str(out))
    model = load_model(out)
    header = model.header
    assert (result.backbone, header.backbone, header.labels) == ("meso4", "meso4", ("REAL", "FAKE"))
    assert header.calibration is None
    assert header.recipe.sampling.frames == 32
    assert result.model_sha256 == model.sha256
    assert result.input == header.recipe.model_dump(mode="json")["input"]
    said = header.training
    assert (said["imported"], said["licence"]) == ("mesonet", "Apache-2.0")
    assert said["source"] == "https://github.com/DariusAf/MesoNet"
    assert said["file"] == "Meso4_DF.h5"
    assert said["file_sha256"] == hashlib.sha256(meso.read_bytes()).hexdigest()
    assert said["tensors"] == result.tensors == {"used": 28, "counters": 0, "left_out": 0}


def test_it_scores_and_is_uncertain_without_a_threshold(
    meso: Path, corpus: Corpus, tmp_path: Path
) -> None:
    model = dfscan.import_model("mesonet", str(meso), out=str(tmp_path / "x.safetensors")).out
    asked = {"model": model, "inline": True, "frames": 4, "workers": 1}
    for threshold, verdicts in ((None, {"UNCERTAIN"}), (0.5, {"REAL", "FAKE", "UNCERTAIN"})):
        out = str(tmp_path / f"{threshold}.parquet")
        dfscan.score(str(corpus.test), out=out, threshold=threshold, **asked)
        rows = storage.read_table(out).to_pylist()
        assert {row["verdict"] for row in rows} <= verdicts
        assert all(row["p_fake"] is not None and not row["calibrated"] for row in rows)
        unsure = {row["reason"] == "model_uncalibrated" for row in rows}
        assert unsure == {threshold is None}


def test_the_default_output_is_named_after_the_file(
    meso: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert dfscan.import_model("mesonet", str(meso)).out == "Meso4_DF.safetensors"
    assert (folder / "Meso4_DF.safetensors").is_file()


def test_only_a_model_of_ours_is_replaced_and_only_when_asked(meso: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    first = dfscan.import_model("mesonet", str(meso), out=str(out))
    with pytest.raises(OutputError, match=r"exists: give another --out, or --overwrite"):
        dfscan.import_model("mesonet", str(meso), out=str(out))
    again = dfscan.import_model("mesonet", str(meso), out=str(out), overwrite=True)
    assert again.model_sha256 == first.model_sha256
    with pytest.raises(OutputError, match="is no model that this dfscan can replace"):
        dfscan.import_model("mesonet", str(meso), out=str(meso), overwrite=True)
    newer = out.read_bytes().replace(rb"\"format\":4", rb"\"format\":9")
    assert newer != out.read_bytes()
    out.write_bytes(newer)
    with pytest.raises(OutputError, match=r"has model format 9 .*: upgrade dfscan"):
        dfscan.import_model("mesonet", str(meso), out=str(out), overwrite=True)
    assert out.read_bytes() == newer
    with pytest.raises(OutputError, match="is a folder"):
        dfscan.import_model("mesonet", str(meso), out=str(tmp_path), overwrite=True)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "kind": ({"kind": "mesonets"}, ConfigError, r"unknown kind 'mesonets': did you mean 'mesonet'\?"),
    "no file": (
        {"file": "none.h5"}, ModelError, r"no weights at 'none\.h5' \(there is no such file\): give",
    ),
    "a mapping not wanted": ({"mapping": "x"}, ConfigError, "--mapping is for the kind mapping"),
    "no mapping": ({"kind": "mapping"}, ConfigError, r"give --mapping FILE\.yaml, or one of"),
    "another kind": ({"kind": "dfdc-winner"}, ModelError, r"Meso4_DF\.h5"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_and_nothing_written(wrong: str, meso: Path, tmp_path: Path) -> None:
    changes, kind, message = WRONG[wrong]
    out = tmp_path / "x.safetensors"
    asked = {"kind": "mesonet", "file": str(meso), "out": str(out)} | changes
    with pytest.raises(kind, match=message) as error:
        dfscan.import_model(**asked)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [meso]


def test_a_tensor_left_over_leaves_the_earlier_model(meso: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    first = dfscan.import_model("mesonet", str(meso), out=str(out))
    odd = tmp_path / "odd.pth"
    odd.write_bytes(as_checkpoint({"a": torch.ones(1)}))
    asked = {"out": str(out), "overwrite": True, "mapping": "torchvision_resnet50"}
    with pytest.raises(ModelError, match="do not fit"):
        dfscan.import_model("mapping", str(odd), **asked)
    assert load_model(out).sha256 == first.model_sha256


def test_a_users_own_mapping_file(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=1)
    file = tmp_path / "mine.pth"
    file.write_bytes(as_checkpoint(model.state_dict()))
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "what: mine\nwhere: my desk\nlicence: MIT\nbackbone: resnet10t\n"
        "input: {size: 64, margin: 0.1, square: pad}\noutputs: [REAL]\nthreshold: 0.7\n"
    )
    out = tmp_path / "x.safetensors"
    dfscan.import_model("mapping", str(file), mapping=str(rules), out=str(out))
    header = load_model(out).header
    assert (header.threshold, header.training["mapping"]) == (0.7, "mine.yaml")
    assert header.recipe.input is not None
    assert header.recipe.input.square == "pad"


def test_the_list_names_every_kind_and_mapping() -> None:
    rows = dfscan.list_models().rows
    assert {row["kind"] for row in rows} == set(IMPORTERS)
    assert [row["mapping"] for row in rows if row["mapping"]] == shipped()
    for row in rows:
        assert row["what"]
        assert row["licence"]
        assert row["where"].startswith("https://")


def test_on_the_command_line(meso: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "x.safetensors"
    shown = runner.invoke(app, ["models", "import", "mesonet", str(meso), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "28 used, 0 counters, 0 left out by rule" in shown.output
    assert "Apache-2.0" in shown.output
    listed = runner.invoke(app, ["models", "list"])
    assert listed.exit_code == 0
    assert "--mapping deepfakebench_xception" in listed.output
    assert "CC-BY-NC-4.0" in listed.output


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    shown = CliRunner().invoke(app, ["models", "list", "--json"])
    assert shown.exit_code == 0
    assert json.loads(capfd.readouterr().out)["rows"] == dfscan.list_models().rows
