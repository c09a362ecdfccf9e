import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from dfscan import storage
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.loading import build
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.scoring.calibration import Calibration

PIPELINES = Path(__file__).parents[2] / "pipelines"
SCHEDULES = PIPELINES / "schedules"


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nightly_scan", PIPELINES / "nightly_scan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(path: Path, threshold: float) -> None:
    torch.manual_seed(0)
    sampling = Sampling(frames=2)
    recipe = FaceRecipe(
        sampling=sampling, input=network_input("mesoinception4", InputConfig(size=64))
    )
    fitted = Calibration(scale=1.0, offset=0.0, reals=8, fakes=8, sampling=sampling)
    header = ModelHeader(
        backbone="mesoinception4", recipe=recipe, calibration=fitted, threshold=threshold
    )
    save_model(path, create_network("mesoinception4", 64), header)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a configuration; models by threshold alone."""
    make_model(tmp_path / "lenient.safetensors", 1.0)
    make_model(tmp_path / "strict.safetensors", 0.0)
    evidence = {"frames": 0, "face_px": 0, "sharpness": 0, "errors": 0}
    settings = {
        "source": "videos", "model": "lenient.safetensors", "out": "verdicts.parquet",
        "inline": True, "frames": 2, "evidence": evidence,
    }  # fmt: skip
    (tmp_path / "dfscan.yaml").write_text(yaml.safe_dump({"score": settings}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def put(corpus: Corpus, house: Path) -> Callable[[str, int], Path]:
    """Puts one of the synthetic clips under a name into the folder that is scanned."""
    clips = []
    for part in (corpus.test, *corpus.parts):
        with zipfile.ZipFile(part) as archive:
            clips += [archive.read(n) for n in archive.namelist() if n.endswith(".mp4")]

    def place(name: str, number: int) -> Path:
        path = house / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clips[number])
        return path

    return place


@pytest.fixture
def night(
    pipeline: ModuleType, house: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    class ThatNight(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "ThatNight":
            return cls(2026, 11, 21, 3, tzinfo=tz)

    monkeypatch.setattr(pipeline, "datetime", ThatNight)

    def scan(*more: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["nightly_scan.py", "--quiet", *more])
        code = pipeline.main()
        reports = sorted((house / "nights").glob("*.json"), key=lambda r: r.stat().st_mtime_ns)
        text = reports[-1].with_suffix(".txt").read_text()
        return code, json.loads(reports[-1].read_text()), text

    return scan


def changes(report: dict[str, Any]) -> set[tuple[str, str, str | None, str | None]]:
    return {(c["video_id"], c["change"], c["before"], c["after"]) for c in report["changes"]}


def test_nights_over_a_folder_that_changes(
    night: Callable[..., tuple[int, dict[str, Any], str]],
    house: Path,
    put: Callable[[str, int], Path],
) -> None:
    for number, name in enumerate(("a", "b", "c")):
        put(f"{name}.mp4", number)
    code, report, text = night()
    assert (code, report["new"]) == (0, 3)
    assert changes(report) == {(f"videos/{n}.mp4", "new", None, "REAL") for n in "abc"}
    assert "0 video(s) newly FAKE" in text

    before = (house / "verdicts.parquet").read_bytes()
    code, report, text = night()
    assert (code, report["new"], report["changes"]) == (0, 0, [])
    assert (house / "verdicts.parquet").read_bytes() == before

    put("d.mp4", 3)
    shutil.copy(house / "videos" / "a.mp4", house / "videos" / "copy_of_a.mp4")
    put("b.mp4", 4)
    (house / "videos" / "c.mp4").unlink()
    code, report, text = night("--set", "score.allow_gone=true")
    assert (code, report["new"], report["recognised"], report["gone"]) == (0, 2, 1, 1)
    assert changes(report) == {
        ("videos/copy_of_a.mp4", "new", None, "REAL"), ("videos/d.mp4", "new", None, "REAL"),
        ("videos/c.mp4", "gone", "REAL", "REAL"),
    }  # fmt: skip

    assert "  videos/c.mp4: gone (was REAL)\n" in text
    assert "  videos/d.mp4: REAL\n" in text

    code, report, text = night("--set", "score.model=strict.safetensors")
    assert (code, report["new"], report["stale"]) == (0, 0, 4)
    assert "4 verdict(s) are from another model" in text
    code, report, text = night(
        "--set", "score.model=strict.safetensors", "--set", "score.stale=rescan"
    )
    assert (code, report["new"]) == (4, 4)  # fakes were found
    assert {c[1:] for c in changes(report)} == {("changed", "REAL", "FAKE")}
    assert "4 video(s) newly FAKE" in text
    assert "  videos/a.mp4: REAL → FAKE\n" in text
    assert {report.stem for report in (house / "nights").glob("*.json")} == {
        "2026-11-21", *(f"2026-11-21_{number}" for number in range(2, 6))
    }  # fmt: skip
    lines = (house / "nights" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert sum(e["event"] == "run_finished" for e in events) == 5
    assert (
        'dfscan_score_verdicts{verdict="FAKE"} 4' in (house / "nights" / "dfscan.prom").read_text()
    )


def test_a_night_that_cannot_begin_says_so(
    pipeline: ModuleType, house: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["nightly_scan.py", "--quiet"])
    assert pipeline.main() == 2
    assert capsys.readouterr().err.startswith("nightly scan: ")
    assert not (house / "verdicts.parquet").exists()


def test_what_came_back_is_told_with_its_verdict(
    night: Callable[..., tuple[int, dict[str, Any], str]],
    house: Path,
    put: Callable[[str, int], Path],
) -> None:
    put("a.mp4", 0)
    gone = put("b.mp4", 1)
    night()
    gone.unlink()
    night("--set", "score.allow_gone=true")
    put("b.mp4", 1)
    _, report, text = night()
    assert ("videos/b.mp4", "came_back", "REAL", "REAL") in changes(report)
    assert "  videos/b.mp4: came back (REAL)\n" in text


def test_a_night_does_not_only_plan(
    night: Callable[..., tuple[int, dict[str, Any], str]],
    put: Callable[[str, int], Path],
    pipeline: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    put("a.mp4", 0)
    argv = ["nightly_scan.py", "--quiet", "--set", "score.dry_run=true"]
    monkeypatch.setattr(sys, "argv", argv)
    assert pipeline.main() == 2
    assert "score.dry_run: the nightly scan does not support it" in capsys.readouterr().err


def test_a_night_that_is_interrupted_continues_the_next(
    pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch, house: Path, capsys: Any
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", stop)
    monkeypatch.setattr(sys, "argv", ["nightly_scan.py", "--quiet"])
    assert pipeline.main() == 130
    assert "the next run continues" in capsys.readouterr().err
    assert not (house / "nights").exists()


# ---------------------------------------------------------------- schedules


def commands() -> dict[str, list[str]]:
    """What each schedule runs, from the script's name on."""
    line = re.findall(r"^[\d*/]+(?: [\d*/,-]+){4} (.*)$", (SCHEDULES / "crontab").read_text(), re.M)
    start = re.findall(
        r"^ExecStart=(.*)$", (SCHEDULES / "dfscan-nightly.service").read_text(), re.M
    )
    job = yaml.safe_load((SCHEDULES / "cronjob.yaml").read_text())
    (box,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    found = {"cron": shlex.split(line[0]), "systemd": shlex.split(start[0])}
    found["kubernetes"] = [*box["command"], *box["args"]]
    return {
        name: words[words.index("pipelines/nightly_scan.py") + 1 :] for name, words in found.items()
    }


@pytest.mark.parametrize("name", ["cron", "systemd", "kubernetes"])
def test_schedules_give_arguments_that_there_are(
    name: str, pipeline: ModuleType, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = commands()[name]
    words[words.index("--config") + 1] = str(house / "dfscan.yaml")
    monkeypatch.setattr(sys, "argv", ["nightly_scan.py", *words])
    settings = pipeline._settings(pipeline._arguments())
    assert settings.limit_time == 6 * 3600
    assert settings.source == ("videos",)
    assert build(ScoreConfig, {}).limit_time is None


def test_the_cron_job_is_one_of_batch_v1() -> None:
    job = yaml.safe_load((SCHEDULES / "cronjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert set(job["spec"]) <= {
        "schedule", "concurrencyPolicy", "startingDeadlineSeconds", "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit", "jobTemplate", "suspend", "timeZone",
    }  # fmt: skip
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy allows no other
    (box,) = pod["containers"]
    assert {m["name"] for m in box["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line() -> None:
    units = [str(SCHEDULES / f"dfscan-nightly.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    told = [t for t in done.stderr.splitlines() if "dfscan" in t and "is not executable" not in t]
    assert told == []


def test_verdicts_are_where_the_night_says(
    night: Callable[..., tuple[int, dict[str, Any], str]],
    house: Path,
    put: Callable[[str, int], Path],
) -> None:
    put("a.mp4", 0)
    _, _, text = night()
    assert text.endswith("verdicts in verdicts.parquet\n")
    assert storage.read_table(house / "verdicts.parquet").num_rows == 1
