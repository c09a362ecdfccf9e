"""The command as a person types it.

What works has a process of its own. Mistakes are made in this one, which has imported everything that
a process would first import again, except for one of each kind.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dfscan.cli import main
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.train import InputConfig
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, read_header, save_model
from dfscan.schemas.recipe import FaceRecipe, Sampling

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return subprocess.run(
            [sys.executable, "-m", "dfscan", *args],
            cwd=tmp_path,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return call


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """As ``run``, without a process of its own."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(sys, "argv", ["dfscan", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(args, end.value.code, out, err)

    return call


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['dfscan', '--help']\n"
        "from dfscan.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'pydantic', 'numpy', 'av', 'rich.console'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    assert "Commands:" in out
    assert "LOADED []" in out


BAD = [
    (("extract", "/no/such"), "'/no/such' does not exist: give a folder, a .zip or a video"),
    (("extract",), "no source: give a folder"),
    (("extract", "x", "--set", "extract.detctor.min_face=3"), "'extract.detctor': did you mean"),
    (("extract", "x", "--set", "extract.crop.quality=101"), "extract.crop.quality: got 101"),
    (("extract", "x", "--stride", "abc"), "extract.stride"),
    (("extract", "x", "--layout", "dfcd"), "extract.layout: got 'dfcd'"),
    (("extract", "x", "--preset", "dfcd"), "unknown preset 'dfcd' for extract"),
    (("train", "faces", "--backbone", "resnet5"), "unknown backbone 'resnet5': did you mean"),
    (("train", "faces"), "is not a face dataset"),
    (("score", "x"), "no model: give --model"),
    (("score", "x", "--model", "nothing"), "no model at 'nothing'"),
    (("score", "x", "--frames", "3", "--stride", "3"), "exclude each other"),
    (("score", "x", "--precision", "float16"), "float16 needs a GPU (--gpus 1): use float32"),
    (("score", "x", "--precision", "half"), "score.precision: got 'half'"),
    (("verify", "none.parquet"), "none.parquet': dfscan score SOURCE"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_a_mistake_is_one_line_and_exit_code_2(
    run_here: Run, args: tuple[str, ...], message: str
) -> None:
    done = run_here(*args)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("dfscan: ")
    assert message in done.stderr
    assert done.stdout == ""


def test_a_process_that_ends_with_a_mistake_says_no_more_than_that(run: Run) -> None:
    for args, message in (BAD[0], BAD[-1]):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("dfscan: ")
        assert message in line


def test_an_unknown_flag_and_verb(run: Run) -> None:
    assert run("extract", "--bogus").returncode == 2
    assert run("extrat").returncode == 2
    assert "Traceback" not in run("extrat").stderr


def test_the_three_verbs_take_what_is_missing_from_the_file(
    run: Run, corpus: Corpus, tmp_path: Path
) -> None:
    assert run("init", "--source", str(corpus.parts[0])).returncode == 0
    settings = yaml.safe_load((tmp_path / "dfscan.yaml").read_text())
    settings["run"] = {"inline": True}
    settings["train"] |= {"epochs": 1, "batch_size": 8, "input": {"size": 64}}
    settings["score"]["frames"] = 2
    (tmp_path / "dfscan.yaml").write_text(yaml.safe_dump(settings))

    extract = run("extract", "--stride", "3")
    assert extract.returncode == 0, extract.stderr
    assert "wrote" in extract.stdout
    assert "6/6 videos" in extract.stderr
    train = run("train")
    assert train.returncode == 0, train.stderr
    assert "28,615" not in train.stdout  # a smaller input, so fewer parameters
    assert "validation, videos" in train.stdout
    score = run("score", str(corpus.test), "--out", "verdicts.parquet", "--json")
    assert score.returncode == 0, score.stderr
    result = json.loads(score.stdout)
    assert result["videos"] == 4
    assert (tmp_path / "verdicts.parquet").is_file()
    again = json.loads(
        run("score", str(corpus.test), "--out", "verdicts.parquet", "--json", "-q").stdout
    )
    assert again["new"] == 0
    plan = run("score", str(corpus.test), "--out", "verdicts.parquet", "--dry-run", "-q")
    assert plan.returncode == 0, plan.stderr
    assert "videos at the source" in plan.stdout
    assert plan.stdout.endswith("nothing was written\n")
    verify = run("verify")  # verdicts and model are those of score
    assert verify.returncode == 0, verify.stderr
    assert (
        "4 verdicts: 4 agree, 0 differ, 0 cannot be checked (float32 logits to 0.001)"
        in verify.stdout
    )
    (tmp_path / "run" / "model.safetensors").write_bytes(
        (tmp_path / "run" / "model.safetensors").read_bytes() + b"\0"
    )
    other = run("verify", "--json", "-q")
    assert other.returncode == 3, other.stderr
    assert json.loads(other.stdout)["counts"] == {"agrees": 0, "differs": 0, "unchecked": 4}


class Harm:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def cut(model: Path) -> None:
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])


def newer(model: Path) -> None:
    header = json.dumps(read_header(model).model_dump(mode="json") | {"format": 99})
    save_file(load_file(model), model, metadata={"dfscan": header})


def pickled(model: Path) -> None:
    model.write_bytes(pickle.dumps(Harm(model.with_name("harm"))))


def early_pickled(model: Path) -> None:
    model.write_bytes(pickle.dumps(Harm(model.with_name("harm")), protocol=0))


def text(model: Path) -> None:
    model.write_text("a model\n" * 20)


def folder(model: Path) -> None:
    model.unlink()
    model.mkdir()


def foreign(model: Path) -> None:
    save_file({"weight": torch.zeros(3)}, model, metadata={"format": "pt"})


WRONG = [
    (cut, "is damaged or cut off", "give a model.safetensors"),
    (newer, "has model format 99", "upgrade dfscan"),
    (pickled, "which can run code when loaded", "convert it with safetensors.torch.save_file"),
    (early_pickled, "is not a safetensors file", "give a model.safetensors"),
    (text, "is not a safetensors file", "give a model.safetensors"),
    (folder, "no model at", "give a model.safetensors or a run folder"),
    (foreign, "it is another program's model", "give a model.safetensors"),
]


@pytest.mark.parametrize(("spoil", "wrong", "remedy"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_a_file_that_is_no_model_is_one_line_and_nothing_is_written(
    run: Run, run_here: Run, write_clip: Callable[..., Path], tmp_path: Path,
    spoil: Callable[[Path], None], wrong: str, remedy: str,
) -> None:  # fmt: skip
    model = tmp_path / "bad.safetensors"
    recipe = FaceRecipe(
        sampling=Sampling(frames=2), input=network_input("mesoinception4", InputConfig(size=64))
    )
    header = ModelHeader(backbone="mesoinception4", recipe=recipe)
    save_model(model, create_network("mesoinception4", 64), header)
    spoil(model)
    write_clip()
    before = sorted(tmp_path.rglob("*"))
    call = run if spoil is pickled else run_here
    done = call("score", "clip.mp4", "--model", model.name, "--inline")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("dfscan: ")
    for part in (model.name, wrong, remedy):
        assert part in line
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_files_are_rows_and_exit_code_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "text.mp4").write_text("hello")
    (tmp_path / "src" / "empty.mp4").touch()
    done = run("extract", "src", "--inline", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["status"] == {"not_video": 2}
    assert "Traceback" not in done.stderr


def test_a_night_of_scoring(run: Run, tmp_path: Path) -> None:
    recipe = FaceRecipe(
        sampling=Sampling(frames=2), input=network_input("mesoinception4", InputConfig(size=64))
    )
    header = ModelHeader(backbone="mesoinception4", recipe=recipe)
    save_model(tmp_path / "m.safetensors", create_network("mesoinception4", 64), header)
    (tmp_path / "src").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "src" / name).write_text(f"no video: {name}")
    night = (
        *("score", "src", "--model", "m.safetensors", "--inline", "--json", "--max-failed", "1"),
        *("--diff", "--fail-on", "fake,failed", "--stale", "rescan", "--since", "24h"),
        *("--limit-time", "1h", "--log", "log.jsonl", "--metrics-file", "dfscan.prom"),
    )
    first = run(*night)
    assert first.returncode == 4, first.stderr
    assert [c["change"] for c in json.loads(first.stdout)["changes"]] == ["new", "new"]
    (tmp_path / "src" / "b.mp4").rename(tmp_path / "src" / "c.mp4")
    second = run(*night, "--quiet")
    assert second.returncode == 4  # a known file under a new name
    told = json.loads(second.stdout)
    assert (told["new"], told["recognised"], told["gone"]) == (0, 1, 1)
    assert run(*night).returncode == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10
    assert "dfscan_score_gone_videos 1" in (tmp_path / "dfscan.prom").read_text()


def test_a_second_run_on_one_output_is_refused(run: Run, corpus: Corpus, tmp_path: Path) -> None:
    from dfscan.storage import Lock

    with Lock(tmp_path / "faces" / ".dfscan.lock", "faces"):
        done = run("extract", str(corpus.test), "--inline")
    assert done.returncode == 2
    assert f"pid {os.getpid()}" in done.stderr
