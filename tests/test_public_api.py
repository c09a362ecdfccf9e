from pathlib import Path

import pytest

import dfscan
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.errors import ConfigError


def test_the_public_surface() -> None:
    verbs = {
        "annotate", "calibrate", "evaluate", "export", "extract", "import_model", "init", "inspect",
        "list_models", "purge", "quickstart", "report", "score", "stress", "train", "verify",
    }  # fmt: skip
    assert set(dfscan.__all__) == {"__version__"} | verbs
    assert all(callable(getattr(dfscan, name)) for name in dfscan.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'scan'"):
        _ = dfscan.scan


def test_the_verbs_are_functions(corpus: Corpus, tmp_path: Path) -> None:
    faces, run = str(tmp_path / "faces"), str(tmp_path / "run")
    parts = [str(p) for p in corpus.parts]
    stride = {"real": 4, "fake": 4}
    extracted = dfscan.extract(*parts, out=faces, stride=stride, inline=True)
    assert extracted.videos == 12
    trained = dfscan.train(faces, out=run, epochs=1, batch_size=8, input={"size": 64}, inline=True)
    assert Path(trained.model).is_file()
    out = str(tmp_path / "v.parquet")
    scored = dfscan.score(str(corpus.test), model=run, out=out, frames=2, inline=True)
    assert scored.verdicts == {"UNCERTAIN": 4}
    assert dfscan.verify(out, model=run, inline=True).counts["agrees"] == 4
    with pytest.raises(ConfigError, match=r"'score\.frame': did you mean 'frames'"):
        dfscan.score("x", frame=3)
