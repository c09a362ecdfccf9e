"""``dfscan score``: list, plan, run units, merge their verdicts into one file."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.aggregation import logit_of, sigmoid
from dfscan.calibration import Calibration
from dfscan.config import ScoreConfig
from dfscan.corpora.base import is_picture
from dfscan.errors import ConfigError, OutputError
from dfscan.jobs import verdict_files
from dfscan.jobs.looking import GONE_LIMIT, left_to_do, list_sources, make_looker
from dfscan.jobs.pool import check_cluster, run_units
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import ScoreResult
from dfscan.jobs.verdict_files import record_of
from dfscan.models.modelfile import ModelHeader, find_model, load_model
from dfscan.recipe import differences, fingerprint
from dfscan.records import VERDICT_SCHEMA, VideoRef
from dfscan.steps.score import NamedModel, ScoreStep, Way
from dfscan.steps.units import plan_units
from dfscan.verdicts import Rule, ensemble


def run(config: ScoreConfig, progress: Progress) -> ScoreResult:
    """Score, or continue to; pictures without an ``out`` are judged here and now, and told.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    pictures = config.source and all(is_picture(s) and Path(s).is_file() for s in config.source)
    if not pictures or "out" in config.model_fields_set:
        return _score(config, progress)
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/verdicts.parquet"
        result = _score(config.model_copy(update={"out": out, "inline": True}), progress)
        table = storage.read_table(out).select(list(TOLD))
    return replace(result, out="", rows=table.to_pylist())


def _score(config: ScoreConfig, progress: Progress) -> ScoreResult:
    """Score into a file of verdicts, or continue to.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    started = time.monotonic()
    storage.check_is_local(config.out)
    out = Path(config.out).absolute()
    if out.suffix != ".parquet" or out.is_dir():
        raise ConfigError(f"score.out: got {config.out!r}; must be a file that ends in .parquet")
    models = _models(config)
    check_cluster(config)
    videos = list_sources(config, progress)
    step = _step(config, models, parts_folder(out), progress)
    if step.rule.calibration is None and not step.rule.forced:
        progress.note(
            f"{_uncalibrated(config)}: every verdict will be UNCERTAIN; --threshold 0.5 "
            "decides anyway (with --overwrite where verdicts exist already)"
        )
    with storage.Lock(out.with_name(f".{out.name}.lock"), out) as lock:
        step = replace(step, lease=lock.lease)
        known = _Known.read(out, step, videos, config)
        known.check_gone(config)
        if known.stale:
            progress.note(
                f"{known.stale} verdict(s) of another model or configuration are kept; "
                "--overwrite scores everything again"
            )
        progress.start("score", len(known.todo), "videos")
        units = plan_units(known.todo, config.unit_size, step.config_hash)
        run_units(step, units, config, progress, lock.lease)
        progress.stop()
        table = verdict_files.with_records(known.merge(step), {**known.records, **record_of(step)})
        _compare_counts(table, step, progress)
        storage.commit_table(out, table)
        storage.remove(step.target)
    return ScoreResult(
        out=str(out),
        videos=table.num_rows,
        status=_counts(table, "status"),
        max_failed=config.max_failed,
        elapsed_s=time.monotonic() - started,
        new=len(known.todo),
        verdicts=_counts(table, "verdict"),
        stale=known.stale,
        gone=len(known.gone),
    )


OFF: Final = 4.0
"""So many times more or fewer faces a video than at calibration are told."""

TOLD: Final = ("video_id", "status", "verdict", "reason", "score_raw", "p_fake", "calibrated")
"""Columns of the verdicts that are told rather than written."""


def make_step(config: ScoreConfig, target: Path, progress: Progress) -> ScoreStep:
    """The step that a configuration asks for.

    :raises UsageError: no model, or there are no GPUs where some are asked for.
    """
    return _step(config, _models(config), target, progress)


def parts_folder(out: Path) -> Path:
    """Where units commit until the run is finished."""
    return out.with_name(out.name + ".parts")


@dataclass(frozen=True)
class _Loaded:
    """A model of this run: where it is, and what its file says."""

    named: NamedModel
    header: ModelHeader


def _models(config: ScoreConfig) -> list[_Loaded]:
    """Every model, once loaded and so known to be whole.

    :raises ModelError: one is missing or damaged. :raises ConfigError: one is given twice, or their
        faces are found or cut in different ways.
    """
    found: list[_Loaded] = []
    for given in config.model or (None,):
        path = find_model(given)
        model = load_model(path)
        loaded = _Loaded(NamedModel(path, model.sha256), model.header)
        for other in found:
            if other.named.sha256 == model.sha256:
                raise ConfigError(f"score.model: {path} and {other.named.path} are the same model")
            changed = differences(_faces_of(other.header), _faces_of(model.header))
            if changed:
                raise ConfigError(
                    f"score.model: {other.named.path} and {path} learned from faces found or cut in "
                    f"different ways ({'; '.join(changed)}): score with each and compare"
                )
        found.append(loaded)
    return found


def _faces_of(header: ModelHeader) -> dict[str, Any]:
    """What models that judge the same faces must share: all but the network's input and which
    frames their training took."""
    recipe = header.recipe.model_dump(mode="json", exclude={"input", "sampling"})
    return recipe | {"sampling": header.recipe.sampling.mode}


def _compare_counts(table: pa.Table, step: ScoreStep, progress: Progress) -> None:
    """Say where these videos have far more or fewer faces than those ``p_fake`` was fitted on."""
    usual = step.rule.calibration and step.rule.calibration.frames_median
    mine = pc.equal(pc.struct_field(table.column("custody"), "config_hash"), step.config_hash)
    counts = pc.list_value_length(table.column("frames").filter(mine)).to_numpy()
    counts = counts[counts > 0]
    if not usual or not len(counts):
        return
    here = float(np.median(counts))
    if not usual / OFF <= here <= usual * OFF:
        progress.note(
            f"{here:g} faces a video (median), {usual:g} where the model was calibrated: p_fake is "
            "too sure of itself with fewer and not sure enough with more; take as many with "
            "--frames or --stride"
        )


def _uncalibrated(config: ScoreConfig) -> str:
    subject = "one of the models" if len(config.model) > 1 else "the model"
    ways = [w for w in (config.aggregation, config.sampling) if w and w != "mean"]
    how = f" for {' and '.join(ways)}" if ways else ""
    return f"{subject} is not calibrated{how}"


def _step(
    config: ScoreConfig, models: Sequence[_Loaded], target: Path, progress: Progress
) -> ScoreStep:
    header = models[0].header
    mode = config.sampling or header.recipe.sampling.mode
    recipe = header.recipe.model_copy(update={"sampling": config.frames_of(mode)})
    calibrations = tuple(m.header.calibrated(config.aggregation, mode) for m in models)
    calibration = ensemble(calibrations)
    threshold = _threshold(config, models, calibrations)
    rule = Rule(
        calibration=calibration,
        threshold=threshold,
        forced=config.threshold is not None,
        min_frames=config.min_frames,
        aggregation=config.aggregation,
        evidence=config.evidence,
    )
    deciding = {
        "recipe": recipe.hash(),
        "models": sorted(m.named.sha256 for m in models),
        "threshold": threshold,
        "forced": rule.forced,
        "min_frames": config.min_frames,
        "aggregation": config.aggregation,
        "evidence": config.evidence.model_dump(mode="json"),
        "max_bytes": config.max_bytes,
    }
    if config.at_fpr is not None:  # a key that came later counts only where it is set
        deciding["at_fpr"] = config.at_fpr
    quick = _quick(config, header, rule, progress) if config.triage else None
    if quick is not None:
        deciding["triage"] = quick.rule.threshold
    return ScoreStep(
        look=make_looker(config, recipe, progress),
        models=tuple(m.named for m in models),
        calibrations=calibrations,
        rule=rule,
        quick=quick,
        batch_size=config.batch_size,
        config_hash=fingerprint(deciding),
        deciding=deciding,
        target=target,
    )


def _quick(config: ScoreConfig, header: ModelHeader, rule: Rule, progress: Progress) -> Way:
    """The look at key frames that comes first.

    :raises ConfigError: what it misses is not known of this model.
    """
    known = header.triage
    if known is None:
        raise ConfigError(
            "score.triage: this model's scores of key frames were never compared with the full look's: "
            "score labelled videos with --sampling keyframes and without, then dfscan calibrate "
            "MODEL VERDICTS --quick VERDICTS_OF_KEY_FRAMES"
        )
    progress.note(
        f"key frames first: of fakes that the full look flags at least {known.recall:.1%} go there "
        f"(95 % bound, {known.flagged} fakes)"
    )
    recipe = header.recipe.model_copy(update={"sampling": config.frames_of("keyframes")})
    quick = replace(rule, calibration=known.calibration, threshold=known.deep_if)
    return Way("quick", make_looker(config, recipe, progress), quick)


def _threshold(
    config: ScoreConfig, models: Sequence[_Loaded], calibrations: Sequence[Calibration | None]
) -> float:
    """On ``p_fake``: the user's, one for a false-positive rate, or the mean of the models' own.

    :raises ConfigError: a false-positive rate is asked of models that cannot tell.
    """
    if config.threshold is not None:
        return config.threshold
    if config.at_fpr is not None:
        if len(models) > 1:
            raise ConfigError(
                "score.at_fpr: what several models together call FAKE is known of none: give "
                "--threshold, or one model"
            )
        (only,) = calibrations
        if only is None:
            raise ConfigError(f"score.at_fpr: {_uncalibrated(config)}: give --threshold")
        return only.at_fpr(config.at_fpr)
    own = [
        m.header.threshold if c is None or c.threshold is None else c.threshold
        for m, c in zip(models, calibrations, strict=True)
    ]
    if len(own) == 1:
        return own[0]
    return sigmoid(math.fsum(logit_of(min(max(t, 1e-6), 1 - 1e-6)) for t in own) / len(own))


@dataclass(frozen=True)
class _Known:
    """The verdicts that are there already, and what is left to do."""

    old: pa.Table
    todo: list[VideoRef]
    gone: frozenset[str]
    gone_before: frozenset[str]
    stale: int
    records: dict[str, Any]

    @classmethod
    def read(
        cls, out: Path, step: ScoreStep, videos: list[VideoRef], config: ScoreConfig
    ) -> "_Known":
        """Verdicts of earlier runs: the finished file, and units of one that was interrupted."""
        tables, records = [VERDICT_SCHEMA.empty_table()], dict[str, Any]()
        if storage.exists(out) and not config.overwrite:
            tables.append(_read_verdicts(out))
            records = verdict_files.records(out)
        if config.overwrite:
            storage.remove(step.target)
        tables += list(_parts(step))
        old = _latest(pa.concat_tables(tables))
        names = old.column("video_id").to_pylist()
        known = (old.column(c).to_pylist() for c in ("version", "label", "status"))
        hashes = pc.struct_field(old.column("custody"), "config_hash").to_pylist()
        # A listed file that is not there keeps the verdict that it has from when it was.
        states = zip(names, old.column("status").to_pylist(), strict=True)
        have = {name for name, status in states if status != "missing"}
        videos = [v for v in videos if v.version or v.video_id not in have]
        present = {v.video_id for v in videos}
        rows = {name: row for name, *row in zip(names, *known, strict=True)}
        status = {
            v.video_id: rows[v.video_id][2]
            for v in videos
            if v.video_id in rows and rows[v.video_id][:2] == [v.version, v.label]
        }
        todo = left_to_do(videos, status, config.retry)
        redone = {v.video_id for v in todo}
        stale = sum(
            h != step.config_hash and n in present and n not in redone
            for n, h in zip(names, hashes, strict=True)
        )
        accepted = {n for n, g in zip(names, old.column("gone").to_pylist(), strict=True) if g}
        return cls(old, todo, frozenset(names) - present, frozenset(accepted), stale, records)

    def check_gone(self, config: ScoreConfig) -> None:
        """Refuse to mark many verdicts as gone at once.

        :raises OutputError: unless told to go on.
        """
        known = self.old.num_rows - len(self.gone_before)
        newly = len(self.gone - self.gone_before)
        if not config.allow_gone and newly > GONE_LIMIT * known:
            raise OutputError(
                f"{newly} of the {known} videos in {config.out} are not at the source: is "
                "a disk unmounted, or is this another source? Give another --out, or --allow-gone"
            )

    def merge(self, step: ScoreStep) -> pa.Table:
        """Old and new verdicts, one a video, sorted by ``video_id``."""
        table = _latest(pa.concat_tables([self.old, *_parts(step)]))
        gone = pc.is_in(
            table.column("video_id"), value_set=pa.array(sorted(self.gone), pa.string())
        )
        place = table.schema.get_field_index("gone")
        table = table.set_column(place, VERDICT_SCHEMA.field("gone"), gone)
        return table.sort_by("video_id").replace_schema_metadata(VERDICT_SCHEMA.metadata)


def _parts(step: ScoreStep) -> list[pa.Table]:
    """Committed units of this very configuration."""
    tables = []
    for _, table in storage.read_tables(step.target):
        hashes = pc.struct_field(table.column("custody"), "config_hash")
        tables.append(table.filter(pc.equal(hashes, step.config_hash)).cast(VERDICT_SCHEMA))
    return tables


def _read_verdicts(path: Path) -> pa.Table:
    try:
        table = storage.read_table(path)
        return table.cast(VERDICT_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise OutputError(
            f"{path} exists and is no verdict file of this dfscan ({detail}): give another --out"
        ) from None


def _latest(table: pa.Table) -> pa.Table:
    """One row a video: the one scanned last."""
    latest: dict[str, tuple[Any, int]] = {}
    names, times = table.column("video_id").to_pylist(), table.column("scanned_at").to_pylist()
    for place, (name, when) in enumerate(zip(names, times, strict=True)):
        if name not in latest or when >= latest[name][0]:
            latest[name] = (when, place)
    return table.take(pa.array([place for _, place in latest.values()], pa.int64()))


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    values = Counter(v or "without a verdict" for v in table.column(column).to_pylist())
    return dict(sorted(values.items()))
