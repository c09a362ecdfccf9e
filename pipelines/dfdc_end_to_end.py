"""From the parts of DFDC to verdicts on its test set: extract, check, train, evaluate, score.

    python pipelines/dfdc_end_to_end.py PART… --test TEST --out DIR [--config dfscan.yaml]

The last ``--held-out`` parts (default 1) are not used for training; they are scored like unknown videos
and then evaluated. The steps are configured by the sections ``extract``, ``train``, ``score`` and
``evaluate`` of the configuration. DIR gets ``faces/``, ``run/``, ``held_out.parquet`` with its
``evaluation/``, ``test.parquet``, and ``report.json``, rewritten after each step. The same command
continues after an interruption: each step skips work that is already done.

The gate: at least ``--min-yield`` of each label's readable videos must have a face. If one label has
fewer, the network could learn a failing detector or a wrong crop as a sign of forgery.

Exit codes: 0 done, 3 the gate failed or too many videos failed, 1 and 2 the work could not be done, 130
interrupted.
"""

import argparse
import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

from dfscan import __version__, storage
from dfscan.cli.progress import pick_progress
from dfscan.commands import evaluate as evaluate_job
from dfscan.commands import extract as extract_job
from dfscan.commands import score as score_job
from dfscan.commands import train as train_job
from dfscan.config.evaluate import EvaluateConfig
from dfscan.config.extract import ExtractConfig
from dfscan.config.loading import resolve
from dfscan.config.score import ScoreConfig
from dfscan.config.train import TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ConfigError, DfscanError, OutputError
from dfscan.execution.executor import ray_session
from dfscan.pipeline.progress import Progress
from dfscan.schemas.status import SUCCEEDED

MARKER: Final = "report.json"
PRODUCTS: Final = ("faces", "run", "held_out.parquet", "evaluation", "test.parquet")

Config = TypeVar("Config", ExtractConfig, TrainConfig, ScoreConfig, EvaluateConfig)


class GateError(DfscanError):
    """Too few videos have a face; nothing was trained."""

    exit_code = 3


def main() -> int:
    """Run every step and return the exit code."""
    given = _arguments()
    progress = pick_progress(quiet=given.quiet, plain=True)
    try:
        return Pipeline(given, progress).run()
    except DfscanError as error:
        print(f"dfdc end to end: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("dfdc end to end: interrupted; the same command continues", file=sys.stderr)
        return 130
    finally:
        progress.stop()


class Pipeline:
    """The steps, and the report of the finished ones."""

    def __init__(self, given: argparse.Namespace, progress: Progress) -> None:
        if not 0 < given.held_out < len(given.parts):
            raise ConfigError(
                f"--held-out: got {given.held_out} of {len(given.parts)} part(s); at least one part must "
                "remain for training, and at least one must be held out"
            )
        self.given, self.progress = given, progress
        self.out = storage.as_path(given.out).absolute()
        self.report: dict[str, Any] = {"dfscan": __version__, "finished": False, "steps": {}}

    def run(self) -> int:
        """Run every step in order and return the exit code.

        :raises DfscanError: a step cannot be done.
        :raises GateError: too few videos have a face.
        """
        storage.check_output_folder(self.out, MARKER, False, PRODUCTS)
        storage.commit_json(self.out / MARKER, self.report)
        cut = len(self.given.parts) - self.given.held_out
        self.training, self.held_out = self.given.parts[:cut], self.given.parts[cut:]
        where = self.config(ExtractConfig)
        with nullcontext() if where.inline else ray_session(where):
            codes = [
                self.step("extract", self.extract),
                self.step("gate", self.gate),
                self.step("train", self.train),
                self.step("evaluate", self.evaluate),
                self.step("test", self.test),
            ]
        self.report["finished"] = True
        storage.commit_json(self.out / MARKER, self.report)
        return next((code for code in codes if code), 0)

    def step(self, name: str, work: Callable[[], tuple[int, Mapping[str, Any]]]) -> int:
        """Run a step, add its result to the report, and return its exit code."""
        started = time.monotonic()
        self.progress.message(f"{name}:")
        code, facts = work()
        seconds = round(time.monotonic() - started, 3)
        self.report["steps"][name] = {"seconds": seconds, "exit_code": code, **facts}
        storage.commit_json(self.out / MARKER, self.report)
        return code

    def config(self, verb: type[Config], **values: Any) -> Config:
        """A step's configuration: the file and ``--set``, with the pipeline's own paths."""
        shared = {"inline": self.given.inline or None, "gpus": self.given.gpus}
        shared |= {"ray_address": self.given.ray_address}
        if verb is not TrainConfig:  # for training, workers are ranks
            shared["workers"] = self.given.workers
        return resolve(verb, shared | values, config_file=self.given.config, sets=self.given.sets)

    def extract(self) -> tuple[int, Mapping[str, Any]]:
        """Extract the faces of the training parts."""
        config = self.config(ExtractConfig, source=self.training, out=str(self.out / "faces"))
        result = extract_job.run(config, self.progress)
        return result.exit_code, dataclasses.asdict(result)

    def gate(self) -> tuple[int, Mapping[str, Any]]:
        """Check the share of readable videos with a face, per label.

        :raises GateError: a share is below ``--min-yield``.
        """
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        columns = ["label", "status", "faces"]
        for _, table in storage.read_tables(FaceSet(self.out / "faces").videos, columns):
            for row in table.to_pylist():
                if row["status"] in SUCCEEDED:
                    counts = found[row["label"] or "unlabelled"]
                    counts[0] += bool(row["faces"])
                    counts[1] += 1
        shares = {label: some / of for label, (some, of) in sorted(found.items())}
        low = [
            f"{label} {share:.3f}"
            for label, share in shares.items()
            if share < self.given.min_yield
        ]
        facts = {
            "min_yield": self.given.min_yield,
            "yield": shares,
            "passed": bool(shares) and not low,
        }
        if not facts["passed"]:
            self.report["steps"]["gate"] = facts
            storage.commit_json(self.out / MARKER, self.report)
            raise GateError(
                f"share of readable videos with a face: {', '.join(low) or 'no video'}; "
                f"--min-yield requires {self.given.min_yield}: inspect {self.out / 'faces'}, then lower "
                "extract.detector.min_face or --min-yield"
            )
        return 0, facts

    def train(self) -> tuple[int, Mapping[str, Any]]:
        """Train the model, unless it is finished already.

        :raises OutputError: the finished model has another configuration.
        """
        out = self.out / "run"
        config = self.config(TrainConfig, faces=(str(self.out / "faces"),), out=str(out))
        if storage.exists(out / train_job.MARKER):
            before = storage.read_json(str(out / train_job.MARKER))
            if before.get("finished"):
                now = config.model_dump(mode="json")
                changed = [k for k, v in before["config"].items() if now.get(k) != v]
                if changed:
                    raise OutputError(
                        f"{out} was trained with another {', '.join(changed)}: use the same configuration, "
                        "choose another --out, or remove it"
                    )
                self.progress.message("trained already")
                return 0, {"metrics": storage.read_json(str(out / "metrics.json"))}
        result = train_job.run(config, self.progress)
        return result.exit_code, {"metrics": result.metrics}

    def evaluate(self) -> tuple[int, Mapping[str, Any]]:
        """Evaluate the model on the held-out parts."""
        code, scored = self._score(self.held_out, "held_out.parquet")
        config = self.config(
            EvaluateConfig, path=scored["out"], out=str(self.out / "evaluation"), overwrite=True
        )
        result = evaluate_job.run(config, self.progress)
        return code or result.exit_code, {"scored": scored, "metrics": result.metrics}

    def test(self) -> tuple[int, Mapping[str, Any]]:
        """Score the test set."""
        return self._score(self.given.test, "test.parquet")

    def _score(self, source: list[str], name: str) -> tuple[int, Mapping[str, Any]]:
        config = self.config(
            ScoreConfig, source=source, model=(str(self.out / "run"),), out=str(self.out / name),
            stale="rescan",
        )  # fmt: skip
        result = score_job.run(config, self.progress)
        return result.exit_code, dataclasses.asdict(result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="DFDC from its parts to verdicts.")
    parser.add_argument(
        "parts", nargs="+", help="labelled parts: zips, or zips inside a zip (a.zip!/b.zip)"
    )
    parser.add_argument("--test", nargs="+", required=True, help="videos to score")
    parser.add_argument("--out", required=True, help="folder for all outputs, or s3://…")
    parser.add_argument(
        "--held-out",
        type=int,
        default=1,
        help="number of parts, from the end, to evaluate on (default: 1)",
    )
    parser.add_argument(
        "--min-yield",
        type=float,
        default=0.9,
        help="smallest share of readable videos with a face, per label (default: 0.9)",
    )
    parser.add_argument("--config", type=Path, help="default: dfscan.yaml if it exists")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="VERB.KEY=VALUE")
    parser.add_argument("--ray-address")
    parser.add_argument("--workers", type=int, help="workers of extract and score")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--inline", action="store_true", help="one process, without Ray")
    parser.add_argument("-q", "--quiet", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
