"""What is secret in the environment and the configuration stays out of everything that is written."""

import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml

from dfscan import storage
from dfscan.cli import main
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.training import results as train_results

SECRET = "s3cr3t-value"


def _written(file: Path) -> str:
    """All of a file as text; tables are compressed, so their rows and metadata."""
    if file.suffix != ".parquet":
        return file.read_bytes().decode("latin-1")
    table = storage.read_table(file)
    names = [name for name in table.column_names if name != "image"]
    return f"{table.schema.metadata} {table.select(names).to_pylist()}"


def test_no_secret_is_written_or_told(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_SECRET"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(train_results, "_draw", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    settings = {
        "run": {"inline": True, "runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": SECRET}}},
        "extract": {
            "source": str(corpus.parts[0]), "stride": 8, "detector": {"name": "none"},
            "isolate": False,
        },
        "train": {
            "backbone": "cnn1", "epochs": 1, "input": {"size": 32}, "batch_size": 8,
            "val_fraction": 0.4,
        },
        "score": {
            "source": str(corpus.test), "model": "run", "out": "v.parquet", "frames": 2,
            "isolate": False,
        },
        "evaluate": {"path": "v.parquet", "resamples": 100, "faces": 0},
    }  # fmt: skip
    Path("dfscan.yaml").write_text(yaml.safe_dump(settings))
    for verb in (["extract"], ["train"], ["score"], ["evaluate"], ["verify"], ["inspect", "run"]):
        with mock.patch.object(sys, "argv", ["dfscan", *verb]), pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, verb
    Path("dfscan.yaml").unlink()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"dataset.json", "run.json", "model.safetensors", "v.parquet", "evaluation.json"} <= {
        p.name for p in files
    }
    assert [str(p) for p in files if SECRET in _written(p)] == []
    told = capfd.readouterr()
    assert "verdicts" in told.out
    assert SECRET not in told.out + told.err
