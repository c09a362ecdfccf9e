"""``dfscan stress``: the same videos under each condition, scored, and compared with the originals.

A condition's verdicts are committed unit by unit under ``parts/`` as scoring commits its own, so a
run that was killed continues; they become ``verdicts/CONDITION.parquet`` when it is through. Their
record names the condition, so ``verify``, which would look at the original file, cannot take them
for verdicts on it.
"""

import contextlib
import csv
import io
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from dfscan import __version__, storage
from dfscan.commands.stress.robustness import Truth, outcomes, stress_rows
from dfscan.config.base import DecodingConfig
from dfscan.config.loading import build
from dfscan.config.score import ScoreConfig
from dfscan.config.stress import StressConfig
from dfscan.corpora import labels
from dfscan.corpora.base import LabelRecord
from dfscan.errors import ConfigError, DfscanError, OutputError, did_you_mean
from dfscan.execution.executor import check_cluster, ray_session, run_units
from dfscan.pipeline.inputs import list_sources, pending_videos
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.sandbox.process import Limits
from dfscan.pipeline.score_task import ScoreTask
from dfscan.pipeline.scoring_setup import make_score_task, record_of
from dfscan.pipeline.transformed_extractor import TransformedExtractor
from dfscan.pipeline.work_units import plan_units
from dfscan.rendering.robustness_plot import robustness
from dfscan.schemas.evolution import concat
from dfscan.schemas.fingerprint import differences, json_hash
from dfscan.schemas.records import VERDICT_SCHEMA, VideoRef
from dfscan.verdicts.parts import read_matching
from dfscan.verdicts.store import VerdictStore
from dfscan.verdicts.summary import KEYS, latest_per_video
from dfscan.verdicts.table import verdict_files
from dfscan.video import ORDERS
from dfscan.video.transforms import ALTERED, CONDITIONS, ORIGINAL


@dataclass(frozen=True)
class StressResult:
    """A row a condition: AUC, flips of verdicts and the like, as in ``stress.json``."""

    out: str
    rows: list[dict[str, Any]]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


SCHEMA_VERSION: Final = 1
MARKER: Final = "stress.json"
"""Written when a run begins, with ``finished: false``, and again with its rows at the end."""

TABLE: Final = "stress.csv"
PLOT: Final = "stress.png"
VERDICTS: Final = "verdicts"
PARTS: Final = "parts"
TEMPORARY: Final = ".altered"
"""Re-encoded clips lie here while they are looked at; what a killed run left goes at the next start."""

_OURS: Final = (MARKER, TABLE, PLOT, VERDICTS, PARTS, TEMPORARY)


def run(config: StressConfig, progress: Progress) -> StressResult:
    """Score under every condition, or continue to, and compare.

    :raises UsageError: no model, nothing at the source, an unknown condition, or the output or the
        labels cannot be used.
    :raises DfscanError: the run cannot be finished; the same command continues.
    """
    started = time.monotonic()
    out = storage.local(config.out, "altered copies and what they come to").absolute()
    names = _conditions(config)
    scoring = _scoring(config)
    check_cluster(config)
    videos, groups = _videos(config, progress)
    task = make_score_task(scoring, out / PARTS / ORIGINAL, progress)
    with storage.Lock(out / ".dfscan.lock", out) as lock:
        run_ = _Run(config, scoring, videos, task, out, lock, progress)
        header = run_.prepare(names)
        if not _can_decide(task):
            progress.message(_undecided(config))
        try:
            with contextlib.nullcontext() if config.inline else ray_session(config):
                tables = {name: run_.work(name) for name in names}
        finally:
            storage.remove(out / TEMPORARY)
        found = {name: outcomes(table) for name, table in tables.items()}
        truth = _truth(videos, groups, tables[ORIGINAL])
        rows = stress_rows(found, truth, config.seed)
        notes = _notes(config, task, rows, truth)
        run_.finish(header, rows, notes, _title(scoring, videos))
    too_many = any(row["failed"] > config.max_failed * row["videos"] for row in rows)
    return StressResult(
        out=str(out),
        rows=rows,
        notes=notes,
        elapsed_s=time.monotonic() - started,
        exit_code=3 if too_many else 0,
    )


def _conditions(config: StressConfig) -> list[str]:
    """The original, and what was asked for, in the order of the table.

    :raises ConfigError: there is no such condition.
    """
    for name in config.conditions:
        if name not in CONDITIONS and name != ORIGINAL:
            hint = did_you_mean(name, CONDITIONS, show=len(CONDITIONS))
            raise ConfigError(f"stress.conditions: got {name!r}; {hint}")
    wanted = config.conditions or tuple(CONDITIONS)
    return [ORIGINAL, *(c.name for c in ALTERED if c.name in wanted)]


def _scoring(config: StressConfig) -> ScoreConfig:
    """As ``score`` does it: 32 frames spread evenly over a clip, whatever its content."""
    shared = {key: getattr(config, key) for key in DecodingConfig.model_fields}
    keys = (
        "model",
        "source",
        "layout",
        "max_bytes",
        "decoder",
        "frames",
        "threshold",
        "aggregation",
        "batch_size",
    )
    return build(ScoreConfig, shared | {key: getattr(config, key) for key in keys})


# ---------------------------------------------------------------- which videos, and what they are


def _videos(config: StressConfig, progress: Progress) -> tuple[list[VideoRef], dict[str, str]]:
    """The chosen videos with their labels, and the group of each, originals with their fakes.

    :raises SourceError: there are none, or the labels cannot be used.
    """
    videos = list_sources(config, progress)
    told = {v.video_id: LabelRecord(v.label, True, v.original, v.group) for v in videos}
    if config.labels is not None:
        read = labels.read_truth(config.labels, config.layout)
        matched = labels.match(read, told)
        if not matched.records:
            raise ConfigError(
                f"stress.labels: {config.labels} names none of the {len(videos):,} videos: it needs "
                "their video_id or file name",
                code="labels.missing",
            )
        if matched.ambiguous:
            progress.message(
                f"{len(matched.ambiguous)} video(s) are left without a label: their file name is not "
                f"theirs alone, first {min(matched.ambiguous)}"
            )
        told = {video: matched.records.get(video, LabelRecord()) for video in told}
    videos = [replace(v, label=told[v.video_id].label) for v in videos]
    nothing: dict[str, str | None] = dict.fromkeys(told)
    if config.sample is not None:
        families = {video: LabelRecord(original=given.original) for video, given in told.items()}
        together = labels.groups(families, nothing)
        videos = choose(videos, together, config.sample, config.seed)
    return videos, labels.groups(told, nothing)


def choose(
    videos: Sequence[VideoRef], together: Mapping[str, str], count: int, seed: int
) -> list[VideoRef]:
    """So many at random: whole families in random order while they fit, then part of the next.

    :param together: ``video_id`` → its family, an original and its fakes.
    """
    members: dict[str, list[VideoRef]] = {}
    for video in sorted(videos, key=lambda v: v.video_id):
        members.setdefault(together[video.video_id], []).append(video)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    chosen: list[VideoRef] = []
    left: list[VideoRef] = []
    for family in order:
        fits = len(chosen) + len(members[family]) <= count
        (chosen if fits else left).extend(members[family])
    chosen += left[: count - len(chosen)]
    return sorted(chosen, key=lambda v: v.video_id)


def _truth(
    videos: Sequence[VideoRef], groups: Mapping[str, str], original: pa.Table
) -> dict[str, Truth]:
    """What each video is; files with the same bytes are of one group."""
    contents = dict(
        zip(
            original.column("video_id").to_pylist(),
            original.column("content_sha256").to_pylist(),
            strict=True,
        )
    )
    given = {v.video_id: LabelRecord(group=groups[v.video_id]) for v in videos}
    joined = labels.groups(given, {v.video_id: contents.get(v.video_id) for v in videos})
    return {v.video_id: Truth(v.label, joined[v.video_id]) for v in videos}


# ---------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Run:
    """One run over the conditions, under its lock."""

    config: StressConfig
    scoring: ScoreConfig
    videos: Sequence[VideoRef]
    task: ScoreTask
    out: Path
    lock: storage.Lock
    progress: Progress

    @property
    def temporary(self) -> Path:
        """This run's folder of re-encoded clips; a worker that outlives another run has another."""
        return self.out / TEMPORARY / self.lock.lease.token[:8]

    def prepare(self, names: Sequence[str]) -> dict[str, Any]:
        """Make the folder ready; returns the head of ``stress.json``.

        :raises OutputError: it holds something else, or was made with another configuration.
        """
        header = self._header(names)
        marker = self.out / MARKER
        if storage.exists(marker) and not self.config.overwrite:
            self._compare(storage.read_json(str(marker)), header)
        storage.check_output_folder(self.out, MARKER, self.config.overwrite, _OURS)
        storage.remove(self.out / TEMPORARY)
        for folder in (self.out, self.out / VERDICTS, *(self.out / PARTS / name for name in names)):
            storage.sweep(folder, self.lock.now, age_s=0)
        storage.commit_json(marker, header, self.lock.lease.check)
        return header

    def _header(self, names: Sequence[str]) -> dict[str, Any]:
        fingerprint_inputs = {
            **self.task.fingerprint_inputs,
            "recipe": self.task.full.extractor.recipe.model_dump(mode="json"),
            "source": [storage.absolute(s) for s in self.config.source],
            "layout": self.config.layout,
            "conditions": list(names),
            "sample": self.config.sample,
            "seed": self.config.seed,
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "dfscan": __version__,
            "models": {m.sha256: str(m.path) for m in self.task.scorer.models},
            "configuration": json.loads(json.dumps(fingerprint_inputs)),
            "labels": self.config.labels,
            "finished": False,
            "notes": [],
            "rows": [],
        }

    def _compare(self, before: Any, header: Mapping[str, Any]) -> None:
        if not isinstance(before, dict) or not isinstance(before.get("configuration"), dict):
            raise OutputError(
                f"{self.out / MARKER} is not dfscan's: give another --out", code="output.foreign"
            )
        changed = differences(before["configuration"], header["configuration"])
        if changed:
            raise OutputError(
                f"{self.out} was made with another configuration ({'; '.join(changed[:3])}): give "
                "another --out, or --overwrite to start anew",
                code="output.mismatch",
            )

    def work(self, name: str) -> pa.Table:
        """Score under a condition what is not scored yet; returns the verdicts, a row a video."""
        task = self._task(name)
        known = self._known(name, task)
        done = dict(
            zip(*(known.column(c).to_pylist() for c in ("video_id", "status")), strict=True)
        )
        todo = pending_videos(self.videos, done, self.config.retry)
        if todo:
            self._make_temporary()
            self.progress.start(name, len(todo), "videos")
            units = plan_units(todo, self.config.unit_size, task.config_hash)
            files = [str(model.path) for model in task.scorer.models]
            run_units(task, units, self.scoring, self.progress, self.lock.lease, files=files)
            self.progress.stop()
        elif known.num_rows:
            self.progress.message(f"{name}: all {known.num_rows} videos are done already")
        table = self._known(name, task)
        if table.num_rows < len(self.videos) and not self.config.retry:
            raise DfscanError(
                f"{len(self.videos) - table.num_rows} verdict(s) did not arrive in {task.target}: do "
                "the workers see this folder?",
                code="work.lost",
            )
        table = _with_labels(table, self.videos)
        VerdictStore(self._file(name)).write(table, record_of(task), self.lock.lease)
        storage.remove(task.target)
        return table

    def _task(self, name: str) -> ScoreTask:
        """The task of a condition. What it does to the videos decides about their verdicts."""
        target = self.out / PARTS / name
        task = replace(self.task, target=target, lease=self.lock.lease)
        if name == ORIGINAL:
            return task
        config = self.config
        memory = None if config.max_memory is None else int(config.max_memory)
        extractor = TransformedExtractor(
            extractor=task.full.extractor,
            condition=name,
            folder=self.temporary,
            limits=Limits(config.timeout, memory, config.recycle),
            max_bytes=config.max_bytes,
            decoders=ORDERS[config.decoder],
        )
        fingerprint_inputs = {**task.fingerprint_inputs, "altered": CONDITIONS[name].settings()}
        return replace(
            task,
            full=replace(task.full, extractor=extractor),
            fingerprint_inputs=fingerprint_inputs,
            config_hash=json_hash(fingerprint_inputs),
        )

    def _make_temporary(self) -> None:
        try:
            self.temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DfscanError(
                f"cannot make {self.temporary}: {error.strerror}", code="output.unwritable"
            ) from None

    def _file(self, name: str) -> Path:
        return self.out / VERDICTS / f"{name}.parquet"

    def _known(self, name: str, task: ScoreTask) -> pa.Table:
        """Verdicts of these very files under this condition, from finished runs and others."""
        files = [*verdict_files(self._file(name)), *verdict_files(task.target)]
        table = concat(read_matching(files, [task.config_hash]), VERDICT_SCHEMA)
        versions = {v.video_id: v.version for v in self.videos}
        names, stored = (table.column(c).to_pylist() for c in ("video_id", "version"))
        current = [versions.get(n) == version for n, version in zip(names, stored, strict=True)]
        table = table.filter(pa.array(current, pa.bool_()))
        kept, _ = latest_per_video(table.select(KEYS))
        return table.take(pa.array(kept))

    def finish(
        self,
        header: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        notes: Sequence[str],
        title: str,
    ) -> None:
        """Write the table, the plot, and ``stress.json`` last."""
        check = self.lock.lease.check
        storage.commit_bytes(self.out / TABLE, as_csv(rows).encode(), check)
        storage.commit_bytes(self.out / PLOT, robustness(rows, title), check)
        whole = {**header, "finished": True, "notes": list(notes), "rows": list(rows)}
        storage.commit_json(self.out / MARKER, whole, check)
        storage.remove(self.out / PARTS)


def _with_labels(table: pa.Table, videos: Iterable[VideoRef]) -> pa.Table:
    """The labels as they are known now, which may be more than when the verdicts were made."""
    known = {v.video_id: v.label for v in videos}
    column = pa.array([known[v] for v in table.column("video_id").to_pylist()], pa.string())
    place = table.schema.get_field_index("label")
    return table.set_column(place, VERDICT_SCHEMA.field("label"), column)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; an interval takes two columns, and lists of videos are left out."""
    flat = []
    for row in rows:
        cells: dict[str, Any] = {}
        for key, value in row.items():
            if key.endswith("_interval"):
                stem = key.removesuffix("_interval")
                cells[f"{stem}_low"], cells[f"{stem}_high"] = value or (None, None)
            elif not isinstance(value, list):
                cells[key] = value
        flat.append(cells)
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return sink.getvalue()


def _title(scoring: ScoreConfig, videos: Sequence[VideoRef]) -> str:
    named = ", ".join(Path(m).name for m in scoring.model) or "the model"
    return f"Robustness of {named}: {len(videos):,} videos"


def _can_decide(task: ScoreTask) -> bool:
    return task.full.rule.calibration is not None or task.full.rule.explicit_threshold


def _undecided(config: StressConfig) -> str:
    subject = "one of the models" if len(config.model) > 1 else "the model"
    how = "" if config.aggregation == "mean" else f" for aggregation {config.aggregation}"
    return (
        f"{subject} is not calibrated{how}: every verdict is UNCERTAIN, so none can flip; --threshold "
        "0.5 decides anyway (with another --out)"
    )


def _notes(
    config: StressConfig,
    task: ScoreTask,
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Truth],
) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    if not _can_decide(task):
        notes.append(_undecided(config))
    known = [t.label for t in truth.values() if t.label is not None]
    if len(set(known)) < 2:
        have = f"only {known[0]}" if known else "no label"
        notes.append(f"{have}: no AUC; --labels says which videos are fakes")
    elif len(known) < len(truth):
        notes.append(f"{len(truth) - len(known):,} video(s) have no label: AUC is without them")
    left_out = max(row["not_applicable"] for row in rows)
    if left_out:
        names = ", ".join(row["condition"] for row in rows if row["not_applicable"])
        notes.append(f"{left_out:,} picture(s): {names} are for videos and do not apply")
    return notes
