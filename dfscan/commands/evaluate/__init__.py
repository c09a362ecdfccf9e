"""``dfscan evaluate``: verdicts, or faces and a model, against the truth.

An evaluation is a folder:

- ``evaluation.json`` is its marker: what was evaluated, by which dfscan, and whether it is
  ``finished``.
- ``metrics.json``: what was evaluated and every figure, see
  :func:`dfscan.evaluation.summaries.evaluate`, and with ``--against`` the ``comparison``, see
  :func:`dfscan.evaluation.summaries.compare_with`.
- ``rows.parquet``: a row a video, columns of :data:`ROW_SCHEMA`. ``verdict`` is what counted, so
  with ``--threshold`` what that makes of the score. Columns ``other_…`` are of ``--against``.
- ``plots/``: ``roc``, ``pr``, ``reliability``, ``confusion``, ``scores`` as PNG, as far as they exist.
- ``report.html``: the page that :mod:`dfscan.reports.build` makes of the rest.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import expit

from dfscan import __version__, storage
from dfscan.commands.evaluate.face_data import judge_faces, list_faces
from dfscan.config.base import CommandConfig
from dfscan.config.evaluate import EvaluateConfig
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import MARKER as FACES
from dfscan.errors import ConfigError, OutputError, SourceError
from dfscan.evaluation.summaries import (
    FAKE,
    REAL,
    Case,
    Resampling,
    check_names,
    compare_with,
    evaluate,
    same_videos,
    verdicts_of,
)
from dfscan.evaluation.verdict_data import (
    MARKER,
    METRICS,
    PLOTS,
    ROWS,
    Truth,
    Videos,
    find_truth,
    read_videos,
)
from dfscan.pipeline.progress import Progress
from dfscan.rendering import plots
from dfscan.reports import build as report_job
from dfscan.schemas.records import SCHEMA_VERSION
from dfscan.scoring.aggregation import logit_of


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of verdicts or faces against the truth; ``metrics`` is what ``metrics.json`` holds."""

    out: str
    metrics: dict[str, Any]
    elapsed_s: float
    exit_code: int = 0


PAGE: Final = "report.html"
_PRODUCTS: Final = (METRICS, ROWS, PLOTS, PAGE)

_STR, _F32, _I32 = pa.string(), pa.float32(), pa.int32()
ROW_SCHEMA: Final = pa.schema(
    [
        ("video_id", _STR),
        ("uri", _STR),
        ("content_sha256", _STR),
        ("part", _STR),
        ("label", _STR),
        ("original", _STR),
        ("group", _STR),
        ("attributes", pa.list_(pa.struct([("key", _STR), ("value", _STR)]))),
        ("status", _STR),
        ("verdict", _STR),
        ("reason", _STR),
        ("score_raw", _F32),
        ("p_fake", _F32),
        ("llr", _F32),
        ("calibrated", pa.bool_()),
        ("threshold", _F32),
        ("look", _STR),
        ("width", _I32),
        ("height", _I32),
        ("face_px", _F32),
        ("people", _I32),
        ("faces", _I32),
        ("other_verdict", _STR),
        ("other_score_raw", _F32),
        ("other_p_fake", _F32),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION), "dfscan": "evaluation"},
)


def run(config: EvaluateConfig, progress: Progress) -> EvaluateResult:
    """Compute every figure, then write the folder.

    :raises UsageError: there is nothing to evaluate, no truth, nothing of a name in ``by``, or the
        output cannot be used.
    """
    started = time.monotonic()
    out = _output(config)
    sides, truth, notes = _said(config, progress)
    videos = sides[0]
    case = Case(videos, truth, verdicts_of(videos, config.threshold), config.threshold)
    how = Resampling(config.resamples, config.seed)
    metrics: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "kind": "faces" if config.model is not None else "verdicts",
        "path": storage.absolute(config.path),
        "labels": None if config.labels is None else storage.absolute(config.labels),
        "against": None if config.against is None else storage.absolute(config.against),
        "threshold": config.threshold,
        "models": list(videos.models),
        "level": 0.95,
        **how.__dict__,
        **evaluate(case, config.by, how),
    }
    metrics["notes"] = [*notes, *metrics["notes"]]
    places: dict[int, int] = {}
    if len(sides) > 1:
        metrics["comparison"], places = _compared(config, case, sides[1], how)
    _write(out, config, case, metrics, (sides[1], places) if len(sides) > 1 else None)
    page = ReportConfig(
        path=str(out), out=str(out / PAGE), faces=config.faces, gpus=config.gpus, overwrite=True
    )
    report_job.run(page, progress)
    storage.commit_json(out / MARKER, _marker(config, finished=True))
    return EvaluateResult(
        out=str(out), metrics=metrics, elapsed_s=time.monotonic() - started, exit_code=0
    )


def _output(config: EvaluateConfig) -> storage.StoragePath:
    """The folder; what stands in its way is told before any work.

    :raises OutputError: it is a finished evaluation, or nothing of ours.
    """
    out = storage.as_path(config.out).absolute()
    if storage.exists(out):
        storage.check_output_folder(out, MARKER, overwrite=False, parts=_PRODUCTS)
    if storage.exists(out / MARKER) and not config.overwrite:
        there = storage.read_json(str(out / MARKER))
        if not isinstance(there, dict) or there.get("finished", True):
            raise OutputError(
                f"{config.out} holds an evaluation: give another --out, or --overwrite to replace it",
                code="output.exists",
            )
    return out


def _said(config: EvaluateConfig, progress: Progress) -> tuple[list[Videos], Truth, list[str]]:
    """What is evaluated and what it is compared with, the truth, and what to know of it.

    :raises ConfigError: a model is missing, or one is given for verdicts.
    """
    if storage.exists(storage.as_path(config.path) / FACES):
        if config.model is None:
            raise ConfigError(
                f"{config.path} is a face dataset: say which model judges it, with --model",
                code="config.missing",
            )
        videos = list_faces(config.path)
        truth = _truth(config, videos)
        models = [config.model, *([config.against] if config.against is not None else [])]
        sides, notes = judge_faces(config, videos, models, progress)
        return sides, truth, notes
    if config.model is not None:
        raise ConfigError(
            f"--model judges the faces of a dataset, and {config.path} is none (no {FACES}): leave "
            "it out to evaluate verdicts"
        )
    paths = [config.path, *([config.against] if config.against is not None else [])]
    if len(paths) > 1 and storage.absolute(paths[0]) == storage.absolute(paths[1]):
        raise ConfigError(f"evaluate.against: got {config.against!r}, which is evaluated itself")
    sides = [read_videos(path) for path in paths]
    return sides, _truth(config, sides[0]), []


def _truth(config: EvaluateConfig, videos: Videos) -> Truth:
    """The truth; a name in ``by`` of which there is nothing is told before any work."""
    truth = find_truth(videos, config.labels, config.layout, config.path)
    check_names(truth, config.by)
    return truth


def _compared(
    config: EvaluateConfig, case: Case, other: Videos, how: Resampling
) -> tuple[dict[str, Any], dict[int, int]]:
    """The comparison, and where the same videos are in the other.

    :raises SourceError: there is not one video that both judged.
    """
    places, changed = same_videos(case.videos, other)
    found = compare_with(case, other, places, how)
    if not found["both"]:
        raise SourceError(
            f"{config.against} has a score for none of the labelled videos of {config.path}: score "
            "the same videos with both models",
            code="labels.missing",
        )
    models = {"models": list(other.models), "changed": changed}
    return {"against": config.against, **models, **found}, places


def _marker(config: EvaluateConfig, finished: bool) -> dict[str, Any]:
    """What the folder says of itself; not where it was made, whose environment may hold secrets."""
    where = {*CommandConfig.model_fields, "out"}
    return {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "config": config.model_dump(mode="json", exclude=where),
        "finished": finished,
    }


def _write(
    out: storage.StoragePath,
    config: EvaluateConfig,
    case: Case,
    metrics: Mapping[str, Any],
    other: tuple[Videos, Mapping[int, int]] | None,
) -> None:
    """Everything but the page; the folder is ours, and unfinished, before anything goes."""
    storage.check_output_folder(out, MARKER, overwrite=False, parts=_PRODUCTS)
    storage.commit_json(out / MARKER, _marker(config, finished=False))
    storage.check_output_folder(out, MARKER, overwrite=True, parts=_PRODUCTS)
    storage.commit_json(out / METRICS, metrics)
    storage.commit_table(out / ROWS, _rows(case, other), row_group_rows=1 << 16)
    for name, picture in _drawn(case, metrics, other).items():
        storage.commit_bytes(out / PLOTS / f"{name}.png", picture)


def _rows(case: Case, other: tuple[Videos, Mapping[int, int]] | None) -> pa.Table:
    """A row a video, see :data:`ROW_SCHEMA`."""
    videos, truth = case.videos, case.truth
    size = len(videos.ids)
    columns: dict[str, Any] = {
        "video_id": videos.ids,
        "uri": videos.uris,
        "content_sha256": videos.contents,
        "part": truth.parts,
        "label": truth.labels.tolist(),
        "original": truth.originals,
        "group": truth.groups.tolist(),
        "attributes": [[{"key": k, "value": a[k]} for k in sorted(a)] for a in truth.attributes],
        "status": videos.statuses,
        "verdict": case.verdicts.tolist(),
        "reason": videos.reasons,
        "score_raw": videos.scores,
        "p_fake": videos.p_fake,
        "llr": np.where(videos.calibrated, videos.llr, math.nan),
        "calibrated": videos.calibrated,
        "threshold": videos.thresholds if case.threshold is None else np.full(size, case.threshold),
        "look": videos.looks,
        "width": videos.sizes[:, 0],
        "height": videos.sizes[:, 1],
        "face_px": videos.face_px,
        "people": np.where(videos.people < 0, math.nan, videos.people),
        "faces": np.bincount(videos.frames.video, minlength=size),
    }
    columns |= _columns_of_other(case, other)
    arrays = [_array(columns[f.name], f.type) for f in ROW_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=ROW_SCHEMA)


def _columns_of_other(case: Case, other: tuple[Videos, Mapping[int, int]] | None) -> dict[str, Any]:
    size = len(case.videos.ids)
    if other is None:
        return dict.fromkeys(("other_verdict", "other_score_raw", "other_p_fake"), [None] * size)
    videos, places = other
    verdicts = verdicts_of(videos, case.threshold)
    at = [places.get(place) for place in range(size)]
    return {
        "other_verdict": [None if p is None else verdicts[p] for p in at],
        "other_score_raw": np.array([math.nan if p is None else videos.scores[p] for p in at]),
        "other_p_fake": np.array([math.nan if p is None else videos.p_fake[p] for p in at]),
    }


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """A column; NaN is null."""
    if isinstance(values, np.ndarray):
        return pa.array(values, from_pandas=True).cast(kind, safe=False)
    return pa.array(values, kind)


def _drawn(
    case: Case, metrics: Mapping[str, Any], other: tuple[Videos, Mapping[int, int]] | None
) -> dict[str, bytes]:
    """Every picture that can be drawn, by name."""
    counts = metrics["truth_by_verdict"]
    table = {str(truth): counts[truth] for truth in (REAL, FAKE)}
    made = {"confusion": plots.truth_by_verdict(table, "Verdicts by video")}
    scored = case.scored
    fake = case.fake[scored]
    log_odds = case.videos.log_odds[scored]
    if not len(fake):
        return made
    made["scores"] = plots.score_histogram(log_odds, fake, _threshold(case))
    if fake.all() or not fake.any():
        return made
    faces, _ = case.faces()
    sides = {"by video": (log_odds, fake), "by frame": (faces.scores, faces.fake)}
    if other is not None:
        sides["against, by video"] = _side_of(case, *other)
    made["roc"] = plots.roc(sides)
    made["pr"] = plots.precision_recall(sides)
    after = expit(log_odds) if case.videos.calibrated[scored].all() else None
    made["reliability"] = plots.reliability_diagram(expit(case.videos.scores[scored]), fake, after)
    return made


def _side_of(
    case: Case, other: Videos, places: Mapping[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scores and truth of the videos that the other judged."""
    known = np.flatnonzero(case.labelled).tolist()
    pairs = [(a, places[a]) for a in known if a in places]
    pairs = [(a, b) for a, b in pairs if np.isfinite(other.log_odds[b])]
    mine, theirs = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    return other.log_odds[theirs], case.fake[mine]


def _threshold(case: Case) -> float | None:
    """The logit of p_fake from which videos are FAKE, where it is one for all."""
    limits = case.videos.thresholds[case.scored]
    known = {case.threshold} if case.threshold is not None else set(limits.tolist())
    limit = known.pop() if len(known) == 1 else None
    return logit_of(limit) if limit is not None and 0 < limit < 1 else None
