"""``dfscan score``: list, plan, run units, merge their verdicts into one file, or into a folder's."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan.commands.score.event_log import (
    EventLog,
    LoggedProgress,
    check_reports,
    open_log,
    totals,
    write_metrics,
)
from dfscan.commands.score.result import ScorePlan, ScoreResult
from dfscan.config.score import ScoreConfig
from dfscan.corpora.base import is_picture
from dfscan.execution.executor import check_cluster, run_units
from dfscan.pipeline.content_matching import ContentMatcher
from dfscan.pipeline.inputs import list_sources
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import TimeLimit
from dfscan.pipeline.scan_plan import ExistingVerdicts, Plan, check_gone, count_stale, make_plan
from dfscan.pipeline.score_task import ScoreTask
from dfscan.pipeline.scoring_setup import load_models, record_of, score_task_of, uncalibrated
from dfscan.pipeline.work_units import Unit, plan_units
from dfscan.schemas.records import VideoRef
from dfscan.verdicts.diff import changes, count_matching, new_outcomes
from dfscan.verdicts.store import MergeResult, VerdictStore
from dfscan.verdicts.summary import EMPTY, summaries


def run(config: ScoreConfig, progress: Progress) -> ScoreResult | ScorePlan:
    """Score, or continue to; pictures without an ``out`` are judged here and now, and told.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    if config.dry_run:
        return _dry_run(config, progress)
    stop = TimeLimit(config.limit_time)
    check_reports(config)
    with open_log(config) as log:
        result = _run(config, LoggedProgress(progress, log), log, stop)
        log.write("run_finished", **totals(result))
    if config.metrics_file is not None:
        write_metrics(Path(config.metrics_file).absolute(), result)
    return result


def _run(config: ScoreConfig, progress: Progress, log: EventLog, stop: TimeLimit) -> ScoreResult:
    if not _only_told(config):
        return _score(config, progress, log, stop)
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/verdicts.parquet"
        here = config.model_copy(update={"out": out, "inline": True})
        result = _score(here, progress, log, stop)
        table = VerdictStore.open(out).read(TOLD)
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
    store, videos, task = _prepared(given, progress)
    known = ExistingVerdicts.read(store, task.config_hash, config.overwrite or told)
    plan = make_plan(known.rows, videos, config, task.config_hash)
    changed = plan.again(known)
    return ScorePlan(
        out="" if told else str(store.path),
        videos=len(videos),
        new=len(plan.new) - changed,
        changed=changed,
        stale=len(plan.stale) + plan.kept,
        gone=len(plan.gone),
        older=plan.older,
        todo=len(plan.todo),
        bytes=sum(v.bytes for v in plan.todo),
        units=len(_units(plan, task, config)),
    )


def _prepared(
    config: ScoreConfig, progress: Progress
) -> tuple[VerdictStore, Sequence[VideoRef], ScoreTask]:
    """Where verdicts go, of which videos, and how they are made.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    store = VerdictStore.open(config.out, create=True)
    models = load_models(config)
    check_cluster(config)
    videos = list_sources(config, progress)
    return store, videos, score_task_of(config, models, store.parts_folder, progress)


def _score(config: ScoreConfig, progress: Progress, log: EventLog, stop: TimeLimit) -> ScoreResult:
    """Score into verdicts, or continue to.

    :raises UsageError: no model, nothing at the source, or the output cannot be used.
    """
    store, videos, task = _prepared(config, progress)
    if task.full.rule.calibration is None and not task.full.rule.explicit_threshold:
        progress.message(
            f"{uncalibrated(config)}: every verdict will be UNCERTAIN; --threshold 0.5 "
            "decides anyway (with --stale rescan where verdicts exist already)"
        )
    with store.lock() as lock:
        task = replace(task, lease=lock.lease)
        store.sweep(lock.now)
        known = _known(store, task, config)
        plan, recognised = _plan(store, known, videos, task, config, progress, log, stop)
        done = _work(plan, task, config, progress, stop)
        after, written = _merge(store, plan, known, task, config, progress)
    left = len(plan.todo) - done
    if left:
        progress.message(f"the time limit left {left} video(s); the same command continues")
    fresh = new_outcomes(known.before, written)
    log.write_fakes(fresh)
    return ScoreResult(
        out=str(store.path),
        videos=after.num_rows,
        status=_counts(after, "status"),
        max_failed=config.max_failed,
        elapsed_s=stop.elapsed_s,
        new=done,
        verdicts=_counts(after, "verdict"),
        stale=count_stale(after, task.config_hash),
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


def _known(store: VerdictStore, task: ScoreTask, config: ScoreConfig) -> ExistingVerdicts:
    if config.overwrite:
        store.discard_parts()
    else:
        store.roll_back_history()
    return ExistingVerdicts.read(store, task.config_hash, config.overwrite)


def _plan(
    store: VerdictStore,
    known: ExistingVerdicts,
    videos: Sequence[VideoRef],
    task: ScoreTask,
    config: ScoreConfig,
    progress: Progress,
    log: EventLog,
    stop: TimeLimit,
) -> tuple[Plan, int]:
    """What is left to score, and how many files were recognised by their content.

    :raises OutputError: too many known videos are gone.
    """
    assert task.lease is not None
    plan = make_plan(known.rows, videos, config, task.config_hash)
    counts = {"videos": len(videos), "new": len(plan.new), "stale": len(plan.stale)}
    log.write("planned", config_hash=task.config_hash, **counts)
    sampling = task.full.extractor.recipe.sampling
    matcher = ContentMatcher(store, known, sampling, task.config_hash, task.lease)
    recognised = matcher.reuse_verdicts(plan.todo, config, progress, stop)
    written = summaries(store.parts([task.config_hash])) if recognised else known.left
    check_gone(plan, known, written, config)
    plan = plan.without(recognised)
    if plan.stale:
        progress.message(f"{len(plan.stale)} video(s) with stale verdicts are scored after the new")
    if plan.kept:
        progress.message(
            f"{plan.kept} verdict(s) of another model or configuration are kept; "
            "--stale rescan scores those videos again"
        )
    if plan.older:
        progress.message(f"{plan.older} video(s) were changed before --since and are left out")
    return plan, len(recognised)


def _work(
    plan: Plan, task: ScoreTask, config: ScoreConfig, progress: Progress, stop: TimeLimit
) -> int:
    """Score what is left to do, new videos first; returns how many were."""
    assert task.lease is not None
    progress.start("score", len(plan.todo), "videos")
    units = _units(plan, task, config)
    files = [str(m.path) for m in task.scorer.models]
    result = run_units(task, units, config, progress, task.lease, stop, files)
    progress.stop()
    return result.videos


def _units(plan: Plan, task: ScoreTask, config: ScoreConfig) -> list[Unit]:
    return [
        unit
        for videos in (plan.new, plan.stale)
        for unit in plan_units(videos, config.unit_size, task.config_hash)
    ]


def _merge(
    store: VerdictStore,
    plan: Plan,
    known: ExistingVerdicts,
    task: ScoreTask,
    config: ScoreConfig,
    progress: Progress,
) -> tuple[pa.Table, pa.Table]:
    """Verdicts of all videos, and those written since; a file that would not change is left alone."""
    if not (config.overwrite or plan.changes_gone(known.before) or store.needs_merge()):
        return known.before, EMPTY
    merged = store.merge(plan.gone, record_of(task), task.lease, replace=config.overwrite)
    _compare_counts(merged, task, progress)
    return merged.rows, merged.written


def _compare_counts(merged: MergeResult, task: ScoreTask, progress: Progress) -> None:
    """Say where these videos have far more or fewer faces than those ``p_fake`` was fitted on."""
    usual = task.full.rule.calibration and task.full.rule.calibration.frames_median
    mine = pc.equal(merged.rows.column("config_hash"), task.config_hash)
    counts = merged.faces.filter(mine).to_numpy()
    counts = counts[counts > 0]
    if not usual or not len(counts):
        return
    here = float(np.median(counts))
    if not usual / OFF <= here <= usual * OFF:
        progress.message(
            f"{here:g} faces a video (median), {usual:g} where the model was calibrated: p_fake is "
            "too sure of itself with fewer and not sure enough with more; of videos take as many with "
            "--frames or --stride"
        )


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    counted = table.column(column).value_counts().to_pylist()
    return dict(sorted((v["values"] or "without a verdict", v["counts"]) for v in counted))
