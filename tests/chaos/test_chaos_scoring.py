"""Scoring killed with SIGKILL and run again: each video once, as if nothing had happened."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos import campaign
from chaos.campaign import Scene
from support.verdicts import apart, make_model, verdicts

from dfscan import storage
from dfscan.commands import score as score_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.score import ScoreConfig
from dfscan.pipeline.progress import Progress
from dfscan.verdicts.history import history_folder
from dfscan.verdicts.parts import parts_folder

Verdicts = dict[str, dict[str, Any]]


@dataclass
class Scoring(Scene):
    """A verdict file instead of a dataset; ``detector`` is the model."""

    def command(self, out: Path, detector: str, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "dfscan", "score", *self.sources, "--out", text(out),
            "--model", detector, "--frames", "3", "--set", "score.unit_size=2",
            "--stale", "rescan", "--max-failed", "1", "--quiet", *more,
        ]  # fmt: skip


def text(out: Path) -> str:
    """A file, or a folder of files."""
    return str(out) if out.suffix else f"{out}/"


def finish(scene: Scoring, out: Path, model: str) -> int:
    """The same command again, in this process; returns how many videos it scored."""
    config = ScoreConfig(
        source=tuple(scene.sources), out=text(out), model=(model,), frames=3, unit_size=2,
        stale="rescan", inline=True,
    )  # fmt: skip
    return score_job.run(config, Progress()).new


@pytest.fixture(scope="module")
def scene(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Scoring:
    folder = tmp_path_factory.mktemp("scoring")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "text.mp4").write_text("no video")
    (broken / "empty.mp4").touch()
    return Scoring(folder, [*map(str, corpus.parts), str(corpus.test), str(broken)])


@pytest.fixture(scope="module")
def model(scene: Scoring) -> str:
    return str(make_model(scene.folder / "m.safetensors", detector="none"))


@pytest.fixture(scope="module")
def other(scene: Scoring) -> str:
    return str(make_model(scene.folder / "other.safetensors", detector="none", seed=1))


@pytest.fixture(scope="module")
def undisturbed(scene: Scoring, model: str) -> Verdicts:
    out = scene.folder / "undisturbed.parquet"
    assert finish(scene, out, model) == 18
    return verdicts(out)


@pytest.fixture(scope="module")
def by_other(scene: Scoring, other: str) -> Verdicts:
    out = scene.folder / "other.parquet"
    assert finish(scene, out, other) == 18
    return verdicts(out)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where a run writes; nothing but verdicts and their history is left there."""
    path = tmp_path / "run" / "v.parquet"
    yield path
    assert {p.name for p in path.parent.iterdir()} <= {path.name, history_folder(path).name}
    assert not list(history_folder(path).glob(".*"))


@pytest.mark.parametrize(("plan", "kept"), [
    ("commit.renamed@parts#4=kill", 8),
    *(pytest.param(*values, marks=pytest.mark.slow) for values in (
        ("commit.written@parts#3=kill", 4), ("commit.synced@run#1=kill", 18),
        ("commit.renamed@run#1=kill", 18),
    )),
])  # fmt: skip
def test_a_killed_run_goes_on_from_its_units(
    scene: Scoring, model: str, undisturbed: Verdicts, out: Path, plan: str, kept: int
) -> None:
    assert campaign._run_with_fault(scene, out, model, "inline", plan) == 1
    assert finish(scene, out, model) == 18 - kept
    assert apart(verdicts(out), undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["commit.renamed@history#1=kill", "commit.renamed@run#1=kill"])
def test_what_a_killed_run_superseded_is_kept_once(
    scene: Scoring, other: str, undisturbed: Verdicts, by_other: Verdicts, out: Path, plan: str
) -> None:
    out.parent.mkdir()
    shutil.copy(scene.folder / "undisturbed.parquet", out)
    assert campaign._run_with_fault(scene, out, other, "inline", plan) == 1
    assert finish(scene, out, other) == 0
    assert apart(verdicts(out), by_other) == []
    (history,) = history_folder(out).iterdir()
    assert apart(verdicts(history), undisturbed) == []


@pytest.mark.slow
def test_a_folder_whose_merge_is_killed(
    scene: Scoring, other: str, undisturbed: Verdicts, by_other: Verdicts, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "v"
    table = storage.read_table(scene.folder / "undisturbed.parquet")
    for number in range(2):
        storage.commit_table(folder / f"{number}.parquet", table.slice(9 * number, 9))
    plan = "merge.file#1=kill"
    assert campaign._run_with_fault(scene, folder, other, "inline", plan) == 1
    assert finish(scene, folder, other) == 0
    assert apart(verdicts(folder), by_other) == []
    history = history_folder(folder)
    assert len(list(history.iterdir())) == 2
    assert apart(verdicts(history), undisturbed) == []
    assert {p.name for p in folder.parent.iterdir()} == {folder.name, history.name}


@pytest.mark.slow
def test_a_run_killed_again_and_again(
    scene: Scoring, model: str, undisturbed: Verdicts, out: Path
) -> None:
    done = 0
    for _ in range(2):
        with campaign._started(scene.command(out, model, "--inline")) as (process, _):
            while len(list(parts_folder(out).glob("*.parquet"))) <= done:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        done = len(list(parts_folder(out).glob("*.parquet")))
    assert finish(scene, out, model) == 18 - 2 * done
    assert apart(verdicts(out), undisturbed) == []


@pytest.mark.slow
def test_workers_killed_while_scoring(
    scene: Scoring, model: str, undisturbed: Verdicts, out: Path
) -> None:
    plan = "commit.synced@parts#2=kill"
    assert campaign._run_with_fault(scene, out, model, "ray", plan) == 1
    assert apart(verdicts(out), undisturbed) == []
    assert finish(scene, out, model) == 0
