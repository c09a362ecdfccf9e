"""``dfscan quickstart``: a synthetic corpus through extract, train, score and evaluate."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfscan import storage
from dfscan.commands import evaluate as evaluate_job
from dfscan.commands import extract as extract_job
from dfscan.commands import score as score_job
from dfscan.commands import train as train_job
from dfscan.commands.quickstart.synthetic import Corpus, CorpusSpec, make_corpus
from dfscan.config.evaluate import EvaluateConfig
from dfscan.config.extract import ExtractConfig
from dfscan.config.quickstart import QuickstartConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.train import TrainConfig
from dfscan.errors import OutputError
from dfscan.evaluation.metrics import binary_metrics
from dfscan.execution.executor import ray_session
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import Stride


@dataclass(frozen=True)
class QuickstartResult:
    """Every test clip with truth and verdict, and the AUC over them (None with one class)."""

    out: str
    clips: list[dict[str, Any]]
    auc: float | None
    accuracy: float | None
    elapsed_s: dict[str, float]
    exit_code: int = 0


MARKER = "quickstart.json"
STRIDE = Stride(real=6, fake=6)


def run(config: QuickstartConfig, progress: Progress) -> QuickstartResult:
    """Make the corpus, extract, train, score, evaluate.

    :raises UsageError: the folder holds something else, or an earlier quickstart.
    """
    out = storage.local(config.out, "the first steps").absolute()
    made = (
        *("corpus", "faces", "run", "verdicts.parquet", "verdicts.parquet.parts"),
        *("evaluation", MARKER),
    )
    storage.check_output_folder(out, MARKER, config.overwrite, made)
    if storage.exists(out / MARKER):
        if storage.read_json(str(out / MARKER)).get("finished"):
            raise OutputError(
                f"{out} holds a quickstart already: --overwrite starts anew", code="output.exists"
            )
        for name in made:
            storage.remove(out / name)
    storage.commit_json(out / MARKER, {"finished": False})
    times: dict[str, float] = {}
    with _timed(times, "corpus"):
        corpus = _make(out / "corpus", config, progress)
    shared = {"inline": config.inline, "workers": config.workers, "gpus": config.gpus}
    with nullcontext() if config.inline else ray_session(config):
        with _timed(times, "extract"):
            parts = tuple(str(p) for p in corpus.parts)
            faces = str(out / "faces")
            extract_job.run(
                ExtractConfig(source=parts, out=faces, stride=STRIDE, unit_size=8, **shared),
                progress,
            )
        with _timed(times, "train"):
            training: dict[str, Any] = shared | {"workers": None}
            train_job.run(
                TrainConfig(
                    faces=(faces,),
                    out=str(out / "run"),
                    epochs=config.epochs,
                    batch_size=16,
                    val_fraction=0.4,
                    test_fraction=0.0,  # the test part is other people altogether
                    seed=config.seed,
                    **training,
                ),
                progress,
            )
        with _timed(times, "score"):
            verdicts = out / "verdicts.parquet"
            score_job.run(
                ScoreConfig(
                    source=(str(corpus.test),),
                    model=str(out / "run"),
                    out=str(verdicts),
                    frames=10,
                    unit_size=4,
                    **shared,
                ),
                progress,
            )
    with _timed(times, "evaluate"):
        evaluation = EvaluateConfig(path=str(verdicts), out=str(out / "evaluation"))
        evaluate_job.run(evaluation, progress)
    result = _result(out, verdicts, times)
    storage.commit_json(out / MARKER, {"finished": True, **dataclasses.asdict(result)})
    return result


def _make(folder: Path, config: QuickstartConfig, progress: Progress) -> Corpus:
    spec = CorpusSpec(people=config.people, test_people=config.test_people, seed=config.seed)
    progress.message("making a synthetic corpus: one public-domain portrait, varied and blended")
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done == 1:
            progress.start("corpus", total, "clips")
        progress.advance(done - told)
        told = done

    corpus = make_corpus(folder, spec, tell)
    progress.stop()
    return corpus


def _result(out: Path, verdicts: Path, times: dict[str, float]) -> QuickstartResult:
    rows = storage.read_table(verdicts).to_pylist()
    clips = [
        {
            "clip": row["video_id"].rsplit("/", 1)[-1],
            "truth": row["label"],
            "verdict": row["verdict"],
            "p_fake": row["p_fake"],
        }
        for row in rows
    ]
    judged = [row for row in rows if row["score_raw"] is not None]
    metrics = binary_metrics(
        np.array([row["score_raw"] for row in judged], dtype=np.float64),
        np.array([row["label"] == "FAKE" for row in judged], dtype=bool),
    )
    right = sum(row["verdict"] == row["label"] for row in rows)
    return QuickstartResult(str(out), clips, metrics["auc"], right / len(rows), times)


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[name] = time.monotonic() - started
