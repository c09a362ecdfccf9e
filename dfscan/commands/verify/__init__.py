"""``dfscan verify``: make verdicts again from their custody record, and compare."""

import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.commands.verify.reproducibility import (
    HALF,
    Checked,
    Difference,
    Tolerance,
    changed_since,
    compare,
)
from dfscan.config.base import DecodingConfig
from dfscan.config.loading import build
from dfscan.config.score import ScoreConfig
from dfscan.config.verify import VerifyConfig
from dfscan.errors import ConfigError, DfscanError, SourceError, VideoError, did_you_mean
from dfscan.execution.executor import check_cluster, ray_session, run_units
from dfscan.models.modelfile import find_model, read_header
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.score_task import ScoreTask
from dfscan.pipeline.scoring_setup import make_score_task, record_of
from dfscan.pipeline.work_units import plan_units
from dfscan.schemas.fingerprint import differences
from dfscan.schemas.records import VideoRef
from dfscan.scoring.redecision import redecide
from dfscan.storage import Lock
from dfscan.verdicts.provenance import FOLLOWING, KEY, hash_of, recipe_of
from dfscan.verdicts.store import VerdictStore


@dataclass(frozen=True)
class VerifyResult:
    """Verdicts made again, by ``video_id``; ``counts`` by outcome.

    ``tolerance`` is on logits of float32. ``notes`` are those of all videos, each with the number of
    them; they say where another tolerance was used.
    """

    verdicts: str
    models: list[str]
    tolerance: float
    videos: list[Checked]
    counts: dict[str, int]
    notes: list[str]
    max_failed: float
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """5: something differs; 3: more than ``max_failed`` could not be checked; else 0."""
        if self.counts["differs"]:
            return 5
        return 3 if self.counts["unchecked"] > self.max_failed * len(self.videos) else 0


_OF_THE_MACHINE: Final = frozenset(("missing", "crashed", "timeout"))
"""Statuses that say nothing about a file's content: another machine need not come to them."""

_PLANNED_BY: Final = ("video_id", "uri", "label", "bytes", "version", "status")
_MADE_BY: Final = ("config_hash", "models", "decoder", "precision")
_NEEDED: Final = (*_PLANNED_BY, "content_sha256", "verdict", "reason", "frames", "top_frames_s")


@dataclass(frozen=True)
class _Verdicts:
    """The rows of a verdict file, their place by ``video_id``, and what they were made with."""

    path: storage.StoragePath
    table: pa.Table
    places: Mapping[str, int]
    records: Mapping[str, Any]

    @classmethod
    def read(cls, path: storage.StoragePath) -> "_Verdicts":
        store = VerdictStore.open(path)
        opened, made_with = store.table(), store.provenance()
        lacking = opened.lacks((*_NEEDED, "custody"))
        if lacking:
            raise SourceError(
                f"{path} has no column {', '.join(lacking)}: give a whole verdict file"
            )
        table = opened.read()
        names = table.column("video_id").to_pylist()
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise SourceError(
                f"{path} holds several rows of {twice[0]}: a verdict file holds one",
                code="source.duplicate",
            )
        if not names:
            raise SourceError(
                f"{path} holds no verdict: there is nothing to verify", code="source.empty"
            )
        if not made_with:
            raise SourceError(
                f"{path} does not say how it was scored (no metadata {KEY.decode()}: an earlier dfscan "
                "wrote it): score again with --overwrite to get verdicts that can be verified",
                code="record.damaged",
            )
        return cls(path, table, {name: at for at, name in enumerate(names)}, made_with)

    def row(self, video_id: str) -> dict[str, Any]:
        """One row whole."""
        row: dict[str, Any] = self.table.slice(self.places[video_id], 1).to_pylist()[0]
        return row

    def chosen(self, config: VerifyConfig) -> list[dict[str, Any]]:
        """The rows to make again, as far as it takes to plan that: no frames."""
        unknown = [v for v in config.video if v not in self.places]
        if unknown:
            hint = did_you_mean(unknown[0], self.places, show=3)
            raise SourceError(f"{self.path} holds no row of {unknown[0]!r}: {hint}")
        names = sorted(dict.fromkeys(config.video) or self.places)
        if config.sample is not None:
            chance = random.Random(config.seed)
            names = sorted(chance.sample(names, min(config.sample, len(names))))
        table = self.table.take(pa.array([self.places[n] for n in names], pa.int64()))
        custody = table.column("custody")
        columns = {name: table.column(name) for name in _PLANNED_BY}
        columns |= {name: pc.struct_field(custody, name) for name in _MADE_BY}
        rows: list[dict[str, Any]] = pa.table(columns).to_pylist()
        return rows


@dataclass(frozen=True)
class _Group:
    """Videos that one task makes the verdicts of again; ``notes`` hold for each of them.

    ``precision`` is the recorded one; the task's is another where this machine has not got it.
    """

    task: ScoreTask
    precision: str
    max_bytes: int
    videos: list[VideoRef]
    notes: list[str]


def run(config: VerifyConfig, progress: Progress) -> VerifyResult:
    """Verify; nothing is written but to a temporary folder.

    :raises UsageError: there is no verdict file or no model, or the file does not say how it was made.
    """
    started = time.monotonic()
    verdicts = _Verdicts.read(storage.as_path(config.verdicts).absolute())
    models = _models(config)
    check_cluster(config)
    checked, left = _sort_out(verdicts.chosen(config), verdicts.records, models)
    with _temporary() as folder, storage.Lock(folder / "lock", verdicts.path) as lock:
        groups, refused = _plan(config, verdicts.records, models, left, folder, progress)
        checked += refused
        with contextlib.nullcontext() if config.inline or not groups else ray_session(config):
            progress.start("verify", sum(len(g.videos) for g in groups), "videos")
            for group in groups:
                checked += _check(group, verdicts, config, progress, lock)
            progress.stop()
    checked.sort(key=lambda c: c.video_id)
    outcomes = Counter(c.outcome for c in checked)
    notes = Counter(note for c in checked for note in c.notes)
    return VerifyResult(
        verdicts=str(verdicts.path),
        models=[str(model) for model in models.values()],
        tolerance=config.tolerance,
        videos=checked,
        counts={name: outcomes[name] for name in ("agrees", "differs", "unchecked")},
        notes=[f"{note} ({count} of {len(checked)})" for note, count in sorted(notes.items())],
        max_failed=config.max_failed,
        elapsed_s=time.monotonic() - started,
    )


def _models(config: VerifyConfig) -> dict[str, storage.StoragePath]:
    """The given models by the SHA-256 of their file.

    :raises ModelError: one is missing, or is no model.
    """
    found = {}
    for given in config.model or (None,):
        path = find_model(given)
        read_header(path)  # what is no model is told as that, not as another model
        found[storage.sha256(storage.read_bytes(str(path)))] = path
    return found


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="dfscan-verify-")
    except OSError as error:
        raise DfscanError(
            f"cannot make a temporary folder ({error.strerror}): set TMPDIR to one that can be written",
            code="output.unwritable",
        ) from None
    with folder as name:
        yield Path(name)


def _sort_out(
    rows: Sequence[dict[str, Any]],
    made_with: Mapping[str, Any],
    models: Mapping[str, storage.StoragePath],
) -> tuple[list[Checked], list[tuple[dict[str, Any], VideoRef]]]:
    """What can be said without opening a video, and the rows that are left with their videos."""
    checked: list[Checked] = []
    left: list[dict[str, Any]] = []
    made_by = {name: _made_by(name, record) for name, record in made_with.items()}
    for row in rows:
        found = _at_once(row, made_by, models)
        if found is None:
            left.append(row)
        else:
            checked.append(found)
    there = []
    for row, ref in zip(left, _refs(left), strict=True):
        if ref is None:
            checked.append(_unchecked(row["video_id"], f"there is no file at {row['uri']}"))
        else:
            there.append((row, ref))
    return checked, there


def _unchecked(video_id: str, reason: str) -> Checked:
    return Checked(video_id, "unchecked", reason)


@dataclass(frozen=True)
class _MadeBy:
    """The models of a record, and the precision that its rows have."""

    models: list[str]
    precision: str


def _made_by(config_hash: str, record: Mapping[str, Any]) -> _MadeBy | Difference | ConfigError:
    """What a record says; a difference where it is not the one that was written."""
    try:
        now = hash_of(record)
    except ConfigError as error:
        return error
    if now != config_hash:
        what = f"the record of how it was scored ({KEY.decode()})"
        return Difference(what, config_hash, now)
    precision = record.get("precision", "float32")
    return _MadeBy(sorted(record["models"]), precision)


def _at_once(
    row: Mapping[str, Any],
    made_by: Mapping[str, _MadeBy | Difference | ConfigError],
    models: Mapping[str, storage.StoragePath],
) -> Checked | None:
    """What can be said of a row without opening its video; None where that is nothing."""
    name, own = row["video_id"], list(row["models"] or ())
    recorded = made_by.get(row["config_hash"])
    if recorded is None:
        return _unchecked(name, f"the file does not say how {row['config_hash']} scored")
    if isinstance(recorded, ConfigError):
        return _unchecked(name, str(recorded))
    if isinstance(recorded, _MadeBy) and sorted(own) != recorded.models:
        recorded = Difference("custody.models", own, recorded.models)
    if isinstance(recorded, _MadeBy) and row["precision"] != recorded.precision:
        recorded = Difference("custody.precision", row["precision"], recorded.precision)
    if isinstance(recorded, Difference):
        return Checked(name, "differs", None, [recorded])
    if not models.keys() >= set(own):
        reason = f"scored by another model (SHA-256 {_short(own)}; given {_short(models)})"
        return _unchecked(name, reason)
    if row["status"] in _OF_THE_MACHINE:
        return _unchecked(name, f"was {row['status']} when it was scored")
    return None


def _short(hashes: Iterable[str]) -> str:
    return ", ".join(f"{h[:16]}…" for h in hashes)


def _refs(rows: Sequence[Mapping[str, Any]]) -> list[VideoRef | None]:
    """Each row's video as it lies there now; None where it does not.

    :raises SourceError: it cannot be told what is there.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i]["uri"])  # an archive is listed once
    refs: list[VideoRef | None] = [None] * len(rows)
    listed = storage.list_paths(("", rows[i]["uri"]) for i in order)
    for index, entries in zip(order, listed, strict=True):
        row = rows[index]
        entry = next((e for e in entries if e.path == row["uri"]), None)
        if entry is not None and not entry.version:
            continue
        refs[index] = VideoRef(
            video_id=row["video_id"],
            uri=row["uri"],
            part="",
            label=row["label"],
            original=None,
            group=row["video_id"],
            bytes=entry.bytes if entry else row["bytes"],
            version=entry.version if entry else row["version"],
        )
    storage.forget()
    return refs


def _plan(
    config: VerifyConfig,
    made_with: Mapping[str, Any],
    models: Mapping[str, storage.StoragePath],
    left: Sequence[tuple[dict[str, Any], VideoRef]],
    folder: storage.StoragePath,
    progress: Progress,
) -> tuple[list[_Group], list[Checked]]:
    """A task for each configuration, decoder and precision; and the rows that none can be had for."""
    sets: dict[tuple[str, str, str, tuple[str, ...]], list[VideoRef]] = {}
    for row, ref in left:
        decoder = "decord" if (row["decoder"] or "").startswith("decord2 ") else "auto"
        key = (row["config_hash"], decoder, row["precision"], tuple(row["models"]))
        sets.setdefault(key, []).append(ref)
    groups: list[_Group] = []
    refused: list[Checked] = []
    for number, (key, videos) in enumerate(sorted(sets.items())):
        config_hash, decoder, precision, own = key
        record = made_with[config_hash]
        files = tuple(str(models[sha256]) for sha256 in own)
        try:
            scoring = _replayed(config, record, files, decoder, precision)
            task = make_score_task(scoring, folder / str(number), progress)
            notes = _same_inputs(record, task)
            groups.append(_Group(task, precision, scoring.max_bytes, videos, notes))
        except ConfigError as error:
            refused += (_unchecked(v.video_id, str(error)) for v in videos)
    return groups, refused


def _replayed(
    config: VerifyConfig,
    record: Mapping[str, Any],
    models: tuple[str, ...],
    decoder: str,
    precision: str,
) -> ScoreConfig:
    """The scoring configuration that comes to a record, run as this verb is told to.

    float16 becomes float32 where there is no GPU.

    :raises ConfigError: this dfscan does not take one of its values.
    """
    sampling = recipe_of(record).sampling
    decided = {key: record[key] for key in record if key in ScoreConfig.model_fields}
    if not record.get("forced"):
        decided.pop("threshold", None)  # it follows from the models
    triage = "triage" in record  # what is recorded of it follows from the model too
    running = {key: getattr(config, key) for key in (*DecodingConfig.model_fields, "batch_size")}
    frames = {
        "stride": sampling.stride,
        "frames": sampling.frames,
        "every": sampling.every_s,
        "phase": sampling.phase,
        "sampling": None if triage else sampling.mode,
    }
    if precision == "float16" and not config.gpus:
        precision = "float32"
    others = {"model": models, "decoder": decoder, "triage": triage, "precision": precision}
    return build(ScoreConfig, {**decided, **running, **frames, **others})


def _same_inputs(record: Mapping[str, Any], task: ScoreTask) -> list[str]:
    """What decides now and the record does not name; precisions are compared row by row.

    :raises ConfigError: something that it does name cannot be had here.
    """
    if "altered" in record:
        raise ConfigError(
            f"scored by dfscan stress under the condition {record['altered']}, not as the file is: "
            "there is nothing to check it against",
            code="record.unsupported",
        )
    now = json.loads(json.dumps(record_of(task)[task.config_hash]))
    then = {**record, "recipe": recipe_of(record).model_dump(mode="json")}
    for each in (now, then):
        for key in ("precision", *FOLLOWING):
            each.pop(key, None)
    apart = differences(then, {key: now.get(key) for key in then})
    if apart:
        raise ConfigError(
            f"its configuration cannot be had here ({'; '.join(apart[:3])}): use the dfscan that "
            "scored it",
            code="record.unsupported",
        )
    return [f"{key} not recorded → {json.dumps(now[key])}" for key in sorted(now.keys() - then)]


def _check(
    group: _Group, verdicts: _Verdicts, config: VerifyConfig, progress: Progress, lock: Lock
) -> Iterator[Checked]:
    """Make the verdicts of a group again and compare each."""
    task = replace(group.task, lease=lock.lease)
    units = plan_units(group.videos, config.unit_size, task.config_hash)
    files = [str(model.path) for model in task.scorer.models]
    run_units(task, units, config, progress, lock.lease, files=files)
    tolerance = Tolerance(config.tolerance, _steepest(task))
    notes = group.notes
    if "tolerance" not in config.model_fields_set:
        tolerance = tolerance.within(group.precision, task.scorer.precision)
    if group.precision in HALF:
        notes = [*notes, f"scored in {group.precision}: logits to {tolerance.score:g}"]
    waiting = {video.video_id for video in group.videos}
    for _, table in storage.read_tables(task.target):
        for found in table.to_pylist():
            waiting.discard(found["video_id"])
            recorded = verdicts.row(found["video_id"])
            half = group.precision in HALF
            if half and task.quick and _another_look(recorded, found):
                looks = f"{recorded['look']} look when it was scored, {found['look']} now"
                why = f"{looks}: rounding may decide where key frames are near deep_if"
                yield replace(_unchecked(found["video_id"], why), notes=notes)
                continue
            now = _as_recorded(recorded, found, task) if half else found
            checked = _compared(recorded, now, tolerance, group.max_bytes)
            yield replace(checked, notes=notes + checked.notes)
    if waiting:
        raise DfscanError(
            f"{len(waiting)} verdict(s) made again did not arrive in {task.target}: workers on other "
            "machines do not see this folder; set TMPDIR to one that all of them share",
            code="work.lost",
        )


def _steepest(task: ScoreTask) -> float:
    """The largest slope of a task's calibrations; 1 without any."""
    ways = [task.full, *([task.quick] if task.quick else [])]
    return max((w.rule.calibration.scale for w in ways if w.rule.calibration), default=1.0)


def _another_look(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether triage sent the same video another way."""
    same = recorded["content_sha256"] == found["content_sha256"]
    looks = {recorded["look"], found["look"]}
    return same and looks == {"quick", "full"}


def _as_recorded(
    recorded: Mapping[str, Any], found: dict[str, Any], task: ScoreTask
) -> dict[str, Any]:
    """A verdict as the recorded scores would have it: rounding may move one across the threshold.

    So a recorded verdict must follow from recorded scores, and these must be near those found now.
    """
    if not recorded["frames"] or None in (recorded["score_raw"], found["score_raw"]):
        return found
    rule = task.quick.rule if task.quick and recorded["look"] == "quick" else task.full.rule
    evidence = {
        name: found[name] if recorded.get(name) is None else recorded[name]
        for name in ("frames_sampled", "median_sharpness")  # not in rows of earlier versions
    }
    decision = redecide({**recorded, **evidence}, rule, task.scorer.calibrations)
    names = ("verdict", "reason", "score_raw", "p_fake", "llr")
    return found | {name: getattr(decision, name) for name in names}


def _compared(
    recorded: dict[str, Any], found: dict[str, Any], tolerance: Tolerance, limit: int
) -> Checked:
    name = found["video_id"]
    if found["status"] in _OF_THE_MACHINE:
        apart = _other_content(recorded, limit)
        if apart:
            return Checked(name, "differs", None, apart)
        return _unchecked(name, f"is {found['status']} now: {found['reason']}")
    apart = compare(recorded, found, tolerance)
    notes = changed_since(recorded, found)
    return Checked(name, "differs" if apart else "agrees", None, apart, notes)


def _other_content(recorded: Mapping[str, Any], limit: int) -> list[Difference]:
    """Whether the file that could not be looked at is another by now."""
    then = recorded["content_sha256"]
    try:
        now = storage.sha256(storage.read_bytes(recorded["uri"], limit))
    except VideoError:
        return []  # the video's own row says why
    return [] if then in (None, now) else [Difference("content_sha256", then, now)]
