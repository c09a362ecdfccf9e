"""``dfscan score``: list, plan, run units, merge their verdicts into one file, or into a folder's."""

import math
import tempfile
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
from dfscan.errors import ConfigError
from dfscan.jobs import verdict_file, verdict_folder
from dfscan.jobs.changes import changes, count_matching, news
from dfscan.jobs.custody import record_of
from dfscan.jobs.looking import list_sources, make_looker
from dfscan.jobs.pool import Deadline, check_cluster, run_units
from dfscan.jobs.progress import Progress
from dfscan.jobs.recognise import Recogniser
from dfscan.jobs.results import ScorePlan, ScoreResult
from dfscan.jobs.score_log import (
    EventLog,
    LoggedProgress,
    check_reports,
    open_log,
    totals,
    write_metrics,
)
from dfscan.jobs.score_plan import Known, Plan, check_gone, count_stale, make_plan
from dfscan.jobs.verdict_file import (
    Merged,
    briefs,
    output,
    parts_folder,
    read_parts,
    sweep,
    undo_history,
)
from dfscan.jobs.verdict_reading import FILE, verdict_files
from dfscan.models.modelfile import ModelHeader, find_model, load_model
from dfscan.recipe import SamplingMode, differences, fingerprint
from dfscan.records import VideoRef
from dfscan.steps.score import NamedModel, ScoreStep, Way
from dfscan.steps.units import Unit, plan_units
from dfscan.verdicts import Rule, ensemble


def run(config: ScoreConfig, progress: Progress) -> ScoreResult | ScorePlan:
    """Score, or continue to; pictures without an ``out`` are judged here and now, and told.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    if config.dry_run:
        return _dry_run(config, progress)
    stop = Deadline(config.limit_time)
    check_reports(config)
    with open_log(config) as log:
        result = _run(config, LoggedProgress(progress, log), log, stop)
        log.write("run_finished", **totals(result))
    if config.metrics_file is not None:
        write_metrics(Path(config.metrics_file).absolute(), result)
    return result


def _run(config: ScoreConfig, progress: Progress, log: EventLog, stop: Deadline) -> ScoreResult:
    if not _only_told(config):
        return _score(config, progress, log, stop)
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/verdicts.parquet"
        here = config.model_copy(update={"out": out, "inline": True})
        result = _score(here, progress, log, stop)
        table = storage.read_table(out, list(TOLD))
    return replace(result, out="", rows=table.to_pylist())


def _only_told(config: ScoreConfig) -> bool:
    """Whether all that is asked for is the verdicts of some pictures, on the screen."""
    pictures = config.source and all(is_picture(s) and Path(s).is_file() for s in config.source)
    return bool(pictures) and "out" not in config.model_fields_set


def _dry_run(config: ScoreConfig, progress: Progress) -> ScorePlan:
    """What there is to do; nothing is written and no video is opened.

    :raises UsageError: as scoring itself would, but for the lock, the reports, and too many that are
        gone: whether those were only moved takes reading.
    """
    told = _only_told(config)
    given = config.model_copy(update={"inline": True}) if told else config
    out, videos, step = _prepared(given, progress)
    known = Known.read(out, step.config_hash, config.overwrite or told)
    plan = make_plan(known.rows, videos, config, step.config_hash)
    changed = plan.again(known)
    return ScorePlan(
        out="" if told else str(out),
        videos=len(videos),
        new=len(plan.new) - changed,
        changed=changed,
        stale=len(plan.stale) + plan.kept,
        gone=len(plan.gone),
        older=plan.older,
        todo=len(plan.todo),
        bytes=sum(v.bytes for v in plan.todo),
        units=len(_units(plan, step, config)),
    )


def _prepared(
    config: ScoreConfig, progress: Progress
) -> tuple[storage.Place, Sequence[VideoRef], ScoreStep]:
    """Where verdicts go, of which videos, and how they are made.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    out = output(config.out)
    models = _models(config)
    check_cluster(config)
    videos = list_sources(config, progress)
    return out, videos, _step(config, models, parts_folder(out), progress)


def _score(config: ScoreConfig, progress: Progress, log: EventLog, stop: Deadline) -> ScoreResult:
    """Score into verdicts, or continue to.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    out, videos, step = _prepared(config, progress)
    if step.rule.calibration is None and not step.rule.forced:
        progress.note(
            f"{_uncalibrated(config)}: every verdict will be UNCERTAIN; --threshold 0.5 "
            "decides anyway (with --stale rescan where verdicts exist already)"
        )
    with storage.Lock(out.with_name(f".{out.name}.lock"), out) as lock:
        step = replace(step, lease=lock.lease)
        sweep(out, lock.now)
        known = _known(out, step, config)
        plan, recognised = _plan(out, known, videos, step, config, progress, log, stop)
        done = _work(plan, step, config, progress, stop)
        after, written = _merge(out, plan, known, step, config, progress)
        storage.remove(step.target)
    left = len(plan.todo) - done
    if left:
        progress.note(f"the time limit left {left} video(s); the same command continues")
    fresh = news(known.before, written)
    log.write_fakes(fresh)
    return ScoreResult(
        out=str(out),
        videos=after.num_rows,
        status=_counts(after, "status"),
        max_failed=config.max_failed,
        elapsed_s=stop.elapsed_s,
        new=done,
        verdicts=_counts(after, "verdict"),
        stale=count_stale(after, step.config_hash),
        gone=len(plan.gone),
        recognised=recognised,
        left=left,
        found=count_matching(fresh, config.fail_on),
        changes=changes(known.before, after) if config.diff else None,
    )


OFF: Final = 4.0
"""So many times more or fewer faces a video than at calibration are told."""

TOLD: Final = ("video_id", "status", "verdict", "reason", "score_raw", "p_fake", "calibrated")
"""Columns of the verdicts that are told rather than written."""


def make_step(config: ScoreConfig, target: storage.Place, progress: Progress) -> ScoreStep:
    """The step that a configuration asks for.

    :raises UsageError: no model, or there are no GPUs where some are asked for.
    """
    return _step(config, _models(config), target, progress)


def _known(out: storage.Place, step: ScoreStep, config: ScoreConfig) -> Known:
    if config.overwrite:
        storage.remove(step.target)
    else:
        undo_history(out)
    return Known.read(out, step.config_hash, config.overwrite)


def _plan(
    out: storage.Place,
    known: Known,
    videos: Sequence[VideoRef],
    step: ScoreStep,
    config: ScoreConfig,
    progress: Progress,
    log: EventLog,
    stop: Deadline,
) -> tuple[Plan, int]:
    """What is left to score, and how many files were recognised by their content.

    :raises OutputError: too many known videos are gone.
    """
    assert step.lease is not None
    plan = make_plan(known.rows, videos, config, step.config_hash)
    counts = {"videos": len(videos), "new": len(plan.new), "stale": len(plan.stale)}
    log.write("planned", config_hash=step.config_hash, **counts)
    sampling, check = step.look.recipe.sampling, step.lease.check
    recogniser = Recogniser(out, known, sampling, step.config_hash, check)
    recognised = recogniser.recognise(plan.todo, config, progress, stop)
    written = briefs(read_parts(out, step.config_hash)) if recognised else known.left
    check_gone(plan, known, written, config)
    plan = plan.without(recognised)
    if plan.stale:
        progress.note(f"{len(plan.stale)} video(s) with stale verdicts are scored after the new")
    if plan.kept:
        progress.note(
            f"{plan.kept} verdict(s) of another model or configuration are kept; "
            "--stale rescan scores those videos again"
        )
    if plan.older:
        progress.note(f"{plan.older} video(s) were changed before --since and are left out")
    return plan, len(recognised)


def _work(
    plan: Plan, step: ScoreStep, config: ScoreConfig, progress: Progress, stop: Deadline
) -> int:
    """Score what is left to do, new videos first; returns how many were."""
    assert step.lease is not None
    progress.start("score", len(plan.todo), "videos")
    units = _units(plan, step, config)
    files = [str(m.path) for m in step.models]
    result = run_units(step, units, config, progress, step.lease, stop, files)
    progress.stop()
    return result.videos


def _units(plan: Plan, step: ScoreStep, config: ScoreConfig) -> list[Unit]:
    return [
        unit
        for videos in (plan.new, plan.stale)
        for unit in plan_units(videos, config.unit_size, step.config_hash)
    ]


def _merge(
    out: storage.Place,
    plan: Plan,
    known: Known,
    step: ScoreStep,
    config: ScoreConfig,
    progress: Progress,
) -> tuple[pa.Table, pa.Table]:
    """Verdicts of all videos, and those written since; a file that would not change is left alone."""
    assert step.lease is not None
    parts = read_parts(out, step.config_hash)
    after = known.before
    if parts or config.overwrite or not verdict_files(out) or plan.changes_gone(after):
        merge = verdict_file.merge if out.suffix == FILE else verdict_folder.merge
        merged = merge(out, parts, plan.gone, config.overwrite, record_of(step), step.lease.check)
        _compare_counts(merged, step, progress)
        after = merged.rows
    return after, briefs(parts)


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


def _compare_counts(merged: Merged, step: ScoreStep, progress: Progress) -> None:
    """Say where these videos have far more or fewer faces than those ``p_fake`` was fitted on."""
    usual = step.rule.calibration and step.rule.calibration.frames_median
    mine = pc.equal(merged.rows.column("config_hash"), step.config_hash)
    counts = merged.faces.filter(mine).to_numpy()
    counts = counts[counts > 0]
    if not usual or not len(counts):
        return
    here = float(np.median(counts))
    if not usual / OFF <= here <= usual * OFF:
        progress.note(
            f"{here:g} faces a video (median), {usual:g} where the model was calibrated: p_fake is "
            "too sure of itself with fewer and not sure enough with more; of videos take as many with "
            "--frames or --stride"
        )


def _uncalibrated(config: ScoreConfig) -> str:
    subject = "one of the models" if len(config.model) > 1 else "the model"
    ways = [w for w in (config.aggregation, config.sampling) if w and w != "mean"]
    how = f" for {' and '.join(ways)}" if ways else ""
    return f"{subject} is not calibrated{how}"


def _step(
    config: ScoreConfig, models: Sequence[_Loaded], target: storage.Place, progress: Progress
) -> ScoreStep:
    header = models[0].header
    mode = config.sampling or header.recipe.sampling.mode
    recipe = header.recipe.model_copy(update={"sampling": config.frames_of(mode)})
    calibrations = _calibrations(config, models, mode)
    calibration = ensemble(calibrations)
    threshold = _threshold(config, models, calibrations)
    decides = len(models) == 1 and header.decides(config.aggregation, mode)
    rule = Rule(
        calibration=calibration,
        threshold=threshold,
        forced=config.threshold is not None or decides,
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
    for key in ("at_fpr", "prevalence"):  # keys that came later count only where they are set
        if getattr(config, key) is not None:
            deciding[key] = getattr(config, key)
    if config.computes_in() != "float32":
        deciding["precision"] = config.computes_in()
    quick = _quick(config, header, rule, progress) if config.triage else None
    if quick is not None:
        deciding["triage"] = quick.rule.threshold
    return ScoreStep(
        look=make_looker(config, recipe, progress),
        models=tuple(m.named for m in models),
        calibrations=calibrations,
        rule=rule,
        quick=quick,
        precision=config.computes_in(),
        batch_size=config.faces_together(),
        config_hash=fingerprint(deciding),
        deciding=deciding,
        target=target,
    )


def _calibrations(
    config: ScoreConfig, models: Sequence[_Loaded], mode: SamplingMode
) -> tuple[Calibration | None, ...]:
    """Each model's for this way of scoring, at the prior that is asked for.

    :raises ConfigError: a prior is asked of a model without a calibration.
    """
    found = tuple(m.header.calibrated(config.aggregation, mode) for m in models)
    if config.prevalence is None:
        return found
    moved = []
    for model, own in zip(models, found, strict=True):
        if own is None:
            raise ConfigError(
                f"score.prevalence: {_uncalibrated(config)}, so its p_fake is no probability: "
                "dfscan calibrate makes it one"
            )
        threshold = model.header.threshold if own.threshold is None else own.threshold
        kept = own.model_copy(update={"threshold": threshold})
        moved.append(kept.at_prior(config.prevalence))
    return tuple(moved)


def _quick(config: ScoreConfig, header: ModelHeader, rule: Rule, progress: Progress) -> Way:
    """The look at key frames that comes first.

    :raises ConfigError: what it misses is not known of this model.
    """
    known = header.triage
    if known is None:
        raise ConfigError(
            "score.triage: this model's scores of key frames were never compared with the full look's: "
            "score labelled videos with --sampling keyframes and without, then dfscan calibrate "
            "MODEL VERDICTS --quick VERDICTS_OF_KEY_FRAMES --out MODEL2"
        )
    progress.note(
        f"key frames first: of fakes that the full look flags at least {known.recall:.1%} go there "
        f"(95 % bound, {known.flagged} fakes)"
    )
    recipe = header.recipe.model_copy(update={"sampling": config.frames_of("keyframes")})
    quick = replace(rule, calibration=known.calibration, threshold=known.deep_if)
    if config.prevalence is not None:
        moved = known.calibration.model_copy(update={"threshold": known.deep_if})
        moved = moved.at_prior(config.prevalence)
        assert moved.threshold is not None
        quick = replace(rule, calibration=moved, threshold=moved.threshold)
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


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    counted = table.column(column).value_counts().to_pylist()
    return dict(sorted((v["values"] or "without a verdict", v["counts"]) for v in counted))
