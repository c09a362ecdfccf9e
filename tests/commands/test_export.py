import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.faces import RECIPE, person, write_faces

from dfscan import export
from dfscan.cli import main
from dfscan.commands import export as export_job
from dfscan.commands import extract as extract_job
from dfscan.commands.export.samples import choose_faces
from dfscan.config.extract import ExtractConfig
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, DfscanError, OutputError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.exporters import EXPORTERS
from dfscan.models.exporters.base import PixelNetwork
from dfscan.models.modelfile import ModelHeader, load_model, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import Detector


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_job, "_ROUNDS", 1)


def make_model(folder: Path, backbone: str = "cnn1", **wanted: float) -> Path:
    torch.manual_seed(0)
    seen = network_input(backbone, InputConfig(**({"size": 64} | wanted)))
    header = ModelHeader(backbone=backbone, recipe=RECIPE.model_copy(update={"input": seen}))
    save_model(folder / "model.safetensors", create_network(backbone, seen.size), header)
    return folder / "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "run")


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_faces(tmp_path / "faces", [r for n in "abcdef" for r in person(n)], units=2).root


def test_formats_are_compared_with_the_original(model: Path, faces: Path) -> None:
    result = export(str(model), formats=("onnx", "onnx-int8", "torchscript"), faces=str(faces))
    out = model.parent / "export"
    assert result.out == str(out)
    assert [r["format"] for r in result.rows] == ["original", "onnx", "onnx-int8", "torchscript"]
    assert {p.name for p in out.iterdir()} == {
        "export.json", "model.onnx", "model.int8.onnx", "model.torchscript.pt",
    }  # fmt: skip
    for row in result.rows[1:]:
        assert row["bytes"] == (out / row["file"]).stat().st_size
    for row in result.rows:
        assert row["ms_batch_1"] > 0
        assert row["ms_batch_32"] > 0
        assert 0 <= row["auc"] <= 1
    exact = {r["format"]: r["max_delta"] for r in result.rows}
    assert exact["original"] == 0
    assert exact["onnx"] <= 1e-4
    assert exact["torchscript"] <= 1e-4
    assert 1e-4 < exact["onnx-int8"] < 1
    about = result.faces
    assert about["apart"]
    assert about["compared"] + about["fitted"] == 36
    assert about["fakes"] * 2 == about["compared"]
    written = json.loads((out / "export.json").read_text())
    assert written["finished"]
    assert written["rows"] == result.rows
    assert written["model_sha256"] == load_model(model).sha256


def test_the_files_themselves_give_the_original_logits(model: Path, faces: Path) -> None:
    export(str(model), formats=("onnx", "torchscript"), faces=str(faces))
    loaded = load_model(model)
    seen = loaded.header.recipe.input
    assert seen is not None
    pixels = choose_faces(str(faces), model, seen, False, []).pixels
    with torch.inference_mode():
        expected = PixelNetwork(loaded.network, seen)(torch.from_numpy(pixels)).numpy()
    for name in ("onnx", "torchscript"):
        data = (model.parent / "export" / f"model{EXPORTERS[name].suffix}").read_bytes()
        np.testing.assert_allclose(EXPORTERS[name].load(data, 1)(pixels), expected, atol=1e-4)


def test_what_does_not_agree_is_not_left_behind(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = EXPORTERS["torchscript"]

    def shifted(data: bytes, threads: int) -> object:
        runner = good.load(data, threads)
        return lambda pixels: runner(pixels) + np.float32(2e-4)

    monkeypatch.setitem(EXPORTERS, "torchscript", replace(good, load=shifted))
    with pytest.raises(DfscanError, match=r"torchscript: its logits differ .* by up to 0\.0002"):
        export(str(model), formats=("onnx", "torchscript"), faces=str(faces))
    assert not (model.parent / "export").exists()
    mine = model.parent / "mine"
    mine.mkdir()
    with pytest.raises(DfscanError, match="differ"):
        export(str(model), formats=("torchscript",), faces=str(faces), out=str(mine))
    assert not list(mine.iterdir())  # an empty folder of the user's stays


def test_a_network_that_remembers_a_batch_size_is_found_out(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = EXPORTERS["torchscript"]

    def alone_is_wrong(data: bytes, threads: int) -> object:
        runner = good.load(data, threads)
        return lambda pixels: runner(pixels) + np.float32(len(pixels) == 1)

    monkeypatch.setitem(EXPORTERS, "torchscript", replace(good, load=alone_is_wrong))
    with pytest.raises(DfscanError, match="differ from the original's by up to 1"):
        export(str(model), formats=("torchscript",), faces=str(faces))


def test_an_export_is_replaced_only_when_told_and_only_by_a_whole_one(
    model: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(model), formats=("onnx",), faces=str(faces))
    out = model.parent / "export"
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(OutputError, match="--overwrite"):
        export(str(model), formats=("torchscript",), faces=str(faces))
    with monkeypatch.context() as broken:
        worse = replace(EXPORTERS["torchscript"], tolerance=-1.0)
        broken.setitem(EXPORTERS, "torchscript", worse)
        with pytest.raises(DfscanError, match="differ"):
            export(str(model), formats=("torchscript",), faces=str(faces), overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    export(str(model), formats=("torchscript",), faces=str(faces), overwrite=True)
    assert {p.name for p in out.iterdir()} == {"export.json", "model.torchscript.pt"}


def test_a_folder_of_something_else_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"holds no export\.json"):
        export(str(model), formats=("torchscript",), out=str(tmp_path / "mine"), overwrite=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_without_faces_it_says_so(model: Path) -> None:
    result = export(str(model), formats=("torchscript",))
    assert result.faces["fakes"] is None
    assert result.rows[1]["auc"] is None
    assert any("synthetic pictures" in note for note in result.notes)
    with pytest.raises(ConfigError, match="onnx-int8 is fitted to faces"):
        export(str(model), formats=("onnx-int8",), overwrite=True)


def test_the_faces_of_the_models_own_run_are_found(model: Path, faces: Path) -> None:
    run = {"finished": True, "config": {"faces": [str(faces)]}}
    (model.parent / "run.json").write_text(json.dumps(run))
    result = export(str(model), formats=("torchscript",))
    assert result.faces["source"] == str(faces)
    assert any("own run" in note for note in result.notes)


def test_one_group_is_fitted_and_compared_on_and_that_is_said(model: Path, tmp_path: Path) -> None:
    one = write_faces(tmp_path / "one", person("a", frames=4)).root
    result = export(str(model), formats=("onnx-int8",), faces=str(one))
    assert not result.faces["apart"]
    assert any("flatters" in note for note in result.notes)


def test_a_margin_wider_than_stored_is_refused(tmp_path: Path, faces: Path) -> None:
    wide = make_model(tmp_path / "wide", margin=0.9)
    with pytest.raises(ConfigError, match="margin"):
        export(str(wide), formats=("torchscript",), faces=str(faces))
    assert not (wide.parent / "export").exists()


def test_a_run_killed_while_replacing_leaves_nothing_for_good(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(model), formats=("onnx",))
    out = model.parent / "export"
    (out / "notes.txt").write_text("kept")

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(export_job.storage, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            export(str(model), formats=("torchscript",), overwrite=True)
    assert {"model.onnx", "model.torchscript.pt"} < {p.name for p in out.iterdir()}
    assert not json.loads((out / "export.json").read_text())["finished"]
    export(str(model), formats=("torchscript",))
    names = {p.name for p in out.iterdir()}
    assert names == {"export.json", "model.torchscript.pt", "notes.txt"}
    assert "earlier" not in json.loads((out / "export.json").read_text())


def test_two_models_side_by_side_have_an_export_each(model: Path) -> None:
    other = model.with_name("best.safetensors")
    other.write_bytes(model.read_bytes())
    first, second = (export(str(m), formats=("torchscript",)) for m in (model, other))
    assert [Path(r.out).name for r in (first, second)] == ["export", "best_export"]
    refused = (
        r"export holds an export of model\.safetensors, not of best\.safetensors: give another"
    )
    with pytest.raises(OutputError, match=refused):
        export(str(other), formats=("torchscript",), out=first.out, overwrite=True)
    assert (Path(first.out) / "model.torchscript.pt").exists()


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dfscan", "export", *words, "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_stdout_holds_the_json_alone(
    model: Path, faces: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(model), "--format", "onnx", "--faces", str(faces), "--json"]
    run_command(monkeypatch, *words)
    assert json.loads(capfd.readouterr().out)["rows"][1]["format"] == "onnx"


def test_the_table_names_every_format(
    model: Path, faces: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(model), "--format", "torchscript", "--faces", str(faces)]
    run_command(monkeypatch, *words)
    shown = capfd.readouterr().out
    assert "model.torchscript.pt" in shown
    assert "on 36 faces (18 FAKE) of 6 groups" in shown


def test_real_faces_agree(samples: Path, tmp_path: Path) -> None:
    crops = samples / "images" / "ffpp_crops"
    config = ExtractConfig(
        source=(str(crops),),
        out=str(tmp_path / "faces"),
        inline=True,
        detector=Detector(name="none"),
    )
    extract_job.run(config, Progress())
    model = make_model(tmp_path / "run", "hog_mlp", size=128)
    result = export(str(model), formats=("onnx", "torchscript"), faces=str(tmp_path / "faces"))
    assert result.faces["compared"] == 96
    assert all(row["max_delta"] <= 1e-4 for row in result.rows)
