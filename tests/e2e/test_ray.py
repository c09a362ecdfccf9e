"""The verbs on a local Ray, and what the driver does when workers die."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from support.verdicts import apart, make_model, verdicts

from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.commands import score as score_job
from dfscan.commands import train as train_job
from dfscan.commands import verify as verify_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.extract import ExtractConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.config.verify import VerifyConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ClusterError, ConfigError, DfscanError
from dfscan.execution import executor as pool
from dfscan.execution.executor import ray_session, run_units
from dfscan.execution.ray_training import train_on_ray
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.work_units import Unit, UnitResult, make_unit, split_per_video
from dfscan.schemas.records import VideoRef

# Ray's own modules warn about themselves; what dfscan does still has to be free of warnings.
pytestmark = [
    pytest.mark.filterwarnings("default:::ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for this module: the jobs use what is there."""
    with ray_session(ExtractConfig(workers=2)):
        yield


def face_rows(root: Path) -> list[dict[str, Any]]:
    rows = [r for _, t in storage.read_tables(root / "faces") for r in t.to_pylist()]
    return sorted(rows, key=lambda r: (r["video_id"], r["frame_index"], r["face_index"]))


def test_workers_write_what_one_process_writes(
    corpus: Corpus, faceset: FaceSet, tmp_path: Path
) -> None:
    parts = tuple(str(p) for p in corpus.parts)
    config = ExtractConfig(source=parts, out=str(tmp_path), stride="3", unit_size=2, workers=2)
    result = extract_job.run(config, Progress())
    assert result.videos == 12
    assert face_rows(tmp_path) == face_rows(faceset.root)


@pytest.mark.slow
def test_decoders_feed_the_detector_of_their_worker(
    corpus: Corpus, faceset: FaceSet, tmp_path: Path
) -> None:
    config = ExtractConfig(
        source=tuple(str(p) for p in corpus.parts), out=str(tmp_path), stride="3", unit_size=6,
        workers=1, decoders=2,
    )  # fmt: skip
    assert extract_job.run(config, Progress()).videos == 12
    assert face_rows(tmp_path) == face_rows(faceset.root)


@pytest.mark.slow
def test_verdicts_of_two_workers_are_those_of_one_process(corpus: Corpus, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors")
    source = tuple(str(p) for p in (*corpus.parts, corpus.test))
    inline = ScoreConfig(
        source=source, model=(str(model),), out=str(tmp_path / "inline.parquet"), frames=3,
        inline=True,
    )  # fmt: skip
    changes = {"inline": False, "workers": 2, "unit_size": 2, "source": source[::-1]}
    two = inline.model_copy(update={**changes, "out": str(tmp_path / "two.parquet")})
    assert [score_job.run(c, Progress()).new for c in (inline, two)] == [16, 16]
    expected, found = (verdicts(Path(c.out)) for c in (inline, two))
    assert list(found) == list(expected)
    assert apart(found, expected) == []
    assert len({round(row["score_raw"], 3) for row in expected.values()}) > 8


def test_two_workers_train_and_score(corpus: Corpus, faceset: FaceSet, tmp_path: Path) -> None:
    config = TrainConfig(
        faces=(str(faceset.root),), out=str(tmp_path / "run"), workers=2, epochs=2, batch_size=8,
        val_fraction=0.34, input=InputConfig(size=64),
    )  # fmt: skip
    notes: list[str] = []

    class Told(Progress):
        def message(self, message: str) -> None:
            notes.append(message)

    result = train_job.run(config, Told())
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert sum(n.startswith("epoch ") for n in notes) == 2
    counts = result.metrics["split"]
    assert result.metrics["validation"]["by_frame"]["reals"] == counts["validation"]["real_faces"]
    score = ScoreConfig(
        source=(str(corpus.test),), model=str(tmp_path / "run"), out=str(tmp_path / "v.parquet"),
        frames=2, workers=2,
    )  # fmt: skip
    assert score_job.run(score, Progress()).videos == 4
    verify = VerifyConfig(
        verdicts=score.out, model=score.model, workers=2, unit_size=1, max_failed=0
    )
    assert verify_job.run(verify, Progress()).counts == {"agrees": 4, "differs": 0, "unchecked": 0}


@pytest.mark.slow
def test_an_error_of_a_training_worker_is_told_as_it_is(faceset: FaceSet, tmp_path: Path) -> None:
    config = TrainConfig(
        faces=(str(faceset.root),), out=str(tmp_path / "run"), input=InputConfig(size=64)
    )
    plan = train_job.make_plan(config, 1)
    object.__setattr__(plan, "pretrained", True)
    (tmp_path / "run").mkdir()
    with pytest.raises(DfscanError, match="mesoinception4 has no published weights"):
        train_on_ray(plan, tmp_path / "run", 1, "cpu", Progress())


@dataclass(frozen=True)
class DeadlyTask:
    """Writes a file a video; "deadly" kills its worker, "odd" raises what nobody expects."""

    folder: Path

    def __call__(self, unit: Unit) -> UnitResult:
        for video in unit.videos:
            if video.video_id == "deadly":
                os._exit(1)
            if video.video_id == "odd":
                raise ZeroDivisionError("never expected")
            (self.folder / video.video_id).write_text("ok")
        return UnitResult(len(unit.videos), 0)

    def split(self, unit: Unit) -> list[Unit]:
        return split_per_video(unit)

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        for video in unit.videos:
            (self.folder / video.video_id).write_text(f"{status}: {reason}")
        return UnitResult(len(unit.videos), 0)


def make_refs(*names: str) -> list[VideoRef]:
    return [VideoRef(n, f"/{n}", "p", None, None, n, 1, "1") for n in names]


@pytest.mark.slow
@pytest.mark.parametrize("crew", ["tasks", "actors"])
def test_a_video_that_kills_its_worker_costs_its_own_row_only(
    tmp_path: Path, crew: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if crew == "actors":  # as with GPUs, of which there need not be any here
        monkeypatch.setattr(pool, "_worker_pool", lambda *_: pool._Actors(2, gpus=0, cpus=1))
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    units = [
        make_unit(make_refs("a", "deadly", "b"), "c"),
        make_unit(make_refs("x", "odd", "y"), "c"),
    ]
    out = tmp_path / "out"
    with storage.Lock(out / ".lock", out) as lock:
        task, config = DeadlyTask(out), ExtractConfig(workers=2)
        total = run_units(task, units, config, Progress(), lock.lease)
    assert total.videos == 6
    written = {p.name: p.read_text() for p in out.iterdir()}
    assert written.pop("deadly").startswith("crashed: the worker was killed on this video")
    assert written.pop("odd") == "crashed: ZeroDivisionError: never expected"
    assert written == dict.fromkeys("abxy", "ok")


def test_units_under_way_are_finished_when_the_time_is_up(tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    units = [make_unit(make_refs(f"v{number}"), "c") for number in range(40)]
    out = tmp_path / "out"
    with storage.Lock(out / ".lock", out) as lock:
        task, config = DeadlyTask(out), ExtractConfig(workers=2)
        total = run_units(task, units, config, Progress(), lock.lease, lambda: any(out.glob("v*")))
    written = sum(1 for _ in out.glob("v*"))
    assert 0 < total.videos == written < 40


@pytest.mark.slow
def test_a_ray_started_here_keeps_no_record_of_its_tasks(tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    out = tmp_path / "out"
    with storage.Lock(out / ".lock", out) as lock:
        task, config = DeadlyTask(out), ExtractConfig(workers=2)
        run_units(task, [make_unit(make_refs("a"), "c")], config, Progress(), lock.lease)
    time.sleep(2)  # by default they are reported every second
    assert not ray.timeline()


def test_an_address_where_nothing_listens_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    config = ExtractConfig(ray_address="127.0.0.1:1")
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'"),
        ray_session(config),
    ):
        pass


def test_more_ranks_than_cpus_are_refused_not_waited_for(faceset: FaceSet, tmp_path: Path) -> None:
    config = TrainConfig(
        faces=(str(faceset.root),), out=str(tmp_path / "run"), workers=3, batch_size=9,
        input=InputConfig(size=64),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="3 workers need 3 CPUs, Ray has 2"):
        train_job.run(config, Progress())
