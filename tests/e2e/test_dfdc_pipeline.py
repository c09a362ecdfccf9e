"""DFDC's parts to verdicts on its test set, in one command that continues."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from dfscan.commands.quickstart.synthetic import Corpus

PIPELINE = Path(__file__).parents[2] / "pipelines" / "dfdc_end_to_end.py"

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dfdc_end_to_end", PIPELINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(pipeline: ModuleType, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``run(*flags)``: exit code and report of the pipeline, always on the same folder."""
    house = tmp_path_factory.mktemp("dfdc")
    settings = {
        "extract": {"stride": 4},
        "train": {"epochs": 1, "batch_size": 8, "val_fraction": 0.34, "input": {"size": 64}},
        "score": {"frames": 2},
        "evaluate": {"resamples": 100},
    }
    (house / "dfscan.yaml").write_text(yaml.safe_dump(settings))
    parts = [str(part) for part in (*corpus.parts, corpus.test)]

    def once(*flags: str) -> tuple[int, dict[str, Any]]:
        words = [*parts, "--test", str(corpus.test), "--out", str(house / "out"), "--inline"]
        with pytest.MonkeyPatch.context() as patched:
            argv = ["dfdc", *words, "--config", str(house / "dfscan.yaml"), "--quiet", *flags]
            patched.setattr(sys, "argv", argv)
            code = pipeline.main()
        report = house / "out" / "report.json"
        return code, json.loads(report.read_text()) if report.is_file() else {}

    return once


def test_the_gate_stops_before_training(run: Run, capsys: Any) -> None:
    code, report = run("--min-yield", "1.01")
    assert code == 3
    assert "share of readable videos with a face: FAKE 1.000, REAL 1.000" in capsys.readouterr().err
    assert list(report["steps"]) == ["extract", "gate"]
    assert report["steps"]["gate"]["passed"] is False
    assert not (Path(report["steps"]["extract"]["out"]).parent / "run").exists()


def test_it_goes_on_from_there_to_the_end(run: Run) -> None:
    code, report = run()
    assert (code, report["finished"]) == (0, True)
    steps = report["steps"]
    assert list(steps) == ["extract", "gate", "train", "evaluate", "test"]
    assert (steps["extract"]["videos"], steps["extract"]["new"]) == (12, 0)
    assert steps["gate"]["yield"] == {"FAKE": 1.0, "REAL": 1.0}
    assert steps["evaluate"]["scored"]["videos"] == steps["test"]["videos"] == 4
    assert steps["evaluate"]["metrics"]["kind"] == "verdicts"
    assert (Path(steps["extract"]["out"]).parent / "evaluation" / "metrics.json").is_file()


def test_again_it_has_nothing_to_do(run: Run) -> None:
    code, report = run()
    assert (code, report["finished"]) == (0, True)
    steps = report["steps"]
    assert [steps["extract"]["new"], steps["evaluate"]["scored"]["new"], steps["test"]["new"]] == [
        0, 0, 0,
    ]  # fmt: skip
    assert steps["train"]["metrics"]["model_sha256"]


def test_another_training_is_not_taken_for_this_one(run: Run, capsys: Any) -> None:
    code, _ = run("--set", "train.epochs=2")
    assert code == 2
    assert "run was trained with another epochs" in capsys.readouterr().err


def test_something_must_be_left_to_train_on(run: Run, capsys: Any) -> None:
    assert run("--held-out", "3")[0] == 2
    assert "--held-out: got 3 of 3 part(s)" in capsys.readouterr().err
