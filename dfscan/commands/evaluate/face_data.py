"""The faces of a dataset, judged by models as scoring would judge their videos."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dfscan import storage
from dfscan.config.evaluate import EvaluateConfig
from dfscan.corpora.base import LabelRecord
from dfscan.corpora.labels import PART
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ConfigError, SourceError
from dfscan.evaluation.verdict_data import Frames, Videos
from dfscan.faces.crops import PictureError, decode
from dfscan.models.face_scorer import FaceScorer, FaceScores, NamedModel
from dfscan.models.modelfile import Model, find_model, load_model
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import cpu_count, pick_device
from dfscan.schemas.fingerprint import differences
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import FaceRow, FrameScore, entries_to_dict, face_rows
from dfscan.schemas.scoring import Evidence
from dfscan.scoring.decision import Decision, DecisionRule, decide, face_px, median_sharpness

_BATCH: Final = 32
_GPU_BATCH: Final = 256
_AHEAD: Final = 8
"""So many batches a thread are in memory."""

_VIDEO: Final = [
    *("video_id", "uri", "part", "label", "original", "group", "attributes", "content_sha256"),
    *("status", "reason", "width", "height", "frames_sampled", "tracks"),
]


@dataclass
class _Scored:
    """A model at work on a dataset; its verdicts so far.

    ``bad`` counts the pictures that do not decode.
    """

    scorer: FaceScorer
    rule: DecisionRule
    decisions: list[Decision] = field(default_factory=list)
    frames: list[list[FrameScore]] = field(default_factory=list)
    bad: int = 0


def list_faces(path: str) -> Videos:
    """The videos of a face dataset, which nobody has judged yet.

    :raises SourceError: there is no dataset, or no video in it.
    """
    dataset = FaceSet(storage.as_path(path).absolute())
    dataset.header()
    rows = [row for _, table in _units(dataset) for row in table.to_pylist()]
    if not rows:
        raise SourceError(
            f"{path} holds no video: there is nothing to evaluate", code="source.empty"
        )
    nothing = [math.nan] * len(rows)
    return Videos(
        ids=[row["video_id"] for row in rows],
        uris=[row["uri"] for row in rows],
        contents=[row["content_sha256"] for row in rows],
        own=[_own(row) for row in rows],
        statuses=[row["status"] for row in rows],
        verdicts=[None] * len(rows),
        reasons=[row["reason"] for row in rows],
        looks=["full" if row["frames_sampled"] else None for row in rows],
        scores=np.array(nothing),
        p_fake=np.array(nothing),
        log_odds=np.array(nothing),
        llr=np.array(nothing),
        thresholds=np.array(nothing),
        calibrated=np.zeros(len(rows), bool),
        sizes=np.stack([_floats([row[n] for row in rows]) for n in ("width", "height")], axis=1),
        face_px=np.array(nothing),
        people=np.array([-1 if row["tracks"] is None else row["tracks"] for row in rows], np.int64),
        frames=Frames(np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3))),
        models=(),
    )


def judge_faces(
    config: EvaluateConfig, videos: Videos, models: Sequence[str], progress: Progress
) -> tuple[list[Videos], list[str]]:
    """What each model says of the videos of the dataset at ``config.path``, and what to know of it.

    Faces are read a few hundred at a time. A stored crop is cut as scoring cuts it, so its logit is
    the same to 1e-3.

    :param videos: those of :func:`list_faces`.
    :raises ConfigError: a model cuts wider than was stored, or both are the same.
    :raises ModelError: there is no model.
    """
    dataset = FaceSet(storage.as_path(config.path).absolute())
    stored, notes = dataset.recipe(), []
    running: list[_Scored] = []
    for given in models:
        path = find_model(given)
        model = load_model(path)
        if any(model.sha256 == one.scorer.models[0].sha256 for one in running):
            raise ConfigError(f"evaluate.against: {given} is the same model as {models[0]}")
        notes += check_recipe(stored, model, given, config.path)
        running.append(_start(config, model, path, stored))
    if dataset.header()["config"].get("boxes_from") == "original":
        notes.append(
            f"boxes in {config.path} come from the originals, which scoring does not have: expect less"
        )
    total = sum(storage.row_count(p) for p in storage.parquet_files(dataset.faces))
    progress.start("judging", total * len(running), "faces")
    for unit, table in _units(dataset):
        for one in running:
            _score_unit(one, table.to_pylist(), dataset.faces / unit.name, progress)
    progress.stop()
    if running[0].bad:
        notes.append(f"{running[0].bad:,} stored picture(s) do not decode and were left out")
    return [_said(videos, one) for one in running], notes


def _units(dataset: FaceSet) -> Iterator[tuple[storage.StoragePath, pa.Table]]:
    """Every committed unit: its file of videos, and what matters of it."""
    for path in storage.parquet_files(dataset.videos):
        yield path, storage.read_table(path, _VIDEO)


def check_recipe(stored: FaceRecipe, model: Model, given: str, path: str) -> list[str]:
    """What differs between how faces were made and what a model expects, as a note.

    :raises ConfigError: the model needs more around the face than was stored.
    """
    wanted = model.header.recipe.input
    assert wanted is not None
    whole = stored.detector.name == "none"  # of a picture taken whole there is nothing around it
    if not whole and wanted.margin > stored.crop.context:
        raise ConfigError(
            f"{given} cuts faces with a margin of {wanted.margin}, and those of {path} were stored "
            f"with a context of {stored.crop.context}: extract again with --set "
            f"extract.crop.context={wanted.margin}, or take another model",
            code="recipe.mismatch",
        )
    changed = differences(_making(model.header.recipe), _making(stored))
    if not changed:
        return []
    return [
        f"{given} learned from faces made otherwise than those of {path} ({'; '.join(changed)}): "
        "scoring would make them its way, and its figures may be others"
    ]


def _making(recipe: FaceRecipe) -> dict[str, Any]:
    """How faces come to be: all but the network's input and how many frames are taken."""
    found = recipe.model_dump(mode="json", exclude={"input", "sampling"})
    return found | {"sampling": recipe.sampling.mode}


def _start(
    config: EvaluateConfig, model: Model, path: storage.StoragePath, stored: FaceRecipe
) -> _Scored:
    header = model.header
    calibration = header.calibrated("mean", stored.sampling.mode)
    own = header.threshold
    if calibration is not None and calibration.threshold is not None:
        own = calibration.threshold
    size = config.batch_size
    scorer = FaceScorer(
        models=(NamedModel(path, model.sha256),),
        calibrations=(calibration,),
        device=pick_device(config),
        precision="float32",
        batch_size=size if size != "auto" else _GPU_BATCH if config.gpus else _BATCH,
    )
    rule = DecisionRule(
        calibration=calibration,
        threshold=own if config.threshold is None else config.threshold,
        explicit_threshold=config.threshold is not None
        or header.decides("mean", stored.sampling.mode),
        evidence=Evidence(),
    )
    scorer.load()  # once for all threads
    return _Scored(scorer, rule)


def _score_unit(
    own: _Scored, rows: Sequence[dict[str, Any]], faces: storage.StoragePath, progress: Progress
) -> None:
    """Decide about the videos of one unit by its faces."""
    frames: dict[str, list[FrameScore]] = defaultdict(list)
    sharp: dict[str, list[float]] = defaultdict(list)
    threads = 1 if own.scorer.device == "cuda" else cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        for batches in _batches(faces, own.scorer.batch_size, threads * _AHEAD):
            scored = pool.map(lambda batch: _score_whole(own.scorer, batch), batches)
            for batch, (whole, scores) in zip(batches, scored, strict=True):
                own.bad += len(batch) - len(whole)
                for face, frame in zip(whole, scores.frames(whole), strict=True):
                    frames[face.video_id].append(frame)
                for face, value in zip(whole, scores.sharpness.tolist(), strict=True):
                    sharp[face.video_id].append(value)
                progress.advance(len(batch))
    for row in rows:
        video = row["video_id"]
        own.frames.append(frames[video])
        own.decisions.append(
            decide(
                row["status"],
                row["reason"],
                frames[video],
                own.rule,
                sampled=row["frames_sampled"],
                sharpness=median_sharpness(sharp[video]),
            )
        )


def _batches(path: storage.StoragePath, size: int, many: int) -> Iterator[list[list[FaceRow]]]:
    """So ``many`` batches of faces at a time; a file that is not there has none."""
    if not storage.exists(path):
        return
    for table in storage.open_parquet(path).iter_batches(batch_size=size * many):
        waiting = face_rows(table)
        yield [waiting[start : start + size] for start in range(0, len(waiting), size)]


def _score_whole(
    scorer: FaceScorer, faces: Sequence[FaceRow]
) -> tuple[Sequence[FaceRow], FaceScores]:
    """The faces whose pictures decode, and their scores."""
    try:
        return faces, scorer.score(faces)
    except PictureError:
        whole = [face for face in faces if _decodes(face)]
        return whole, scorer.score(whole)


def _decodes(face: FaceRow) -> bool:
    try:
        decode(face.image)
    except PictureError:
        return False
    return True


def _said(videos: Videos, own: _Scored) -> Videos:
    """The videos with what was said of them."""
    said, fitted = own.decisions, own.rule.calibration
    scores = _floats([j.score_raw for j in said])
    log_odds = scores if fitted is None else np.array([fitted.logit(s) for s in scores.tolist()])
    llr = scores if fitted is None else np.array([fitted.llr(s) for s in scores.tolist()])
    return replace(
        videos,
        verdicts=[j.verdict for j in said],
        reasons=[j.reason for j in said],
        scores=scores,
        p_fake=_floats([j.p_fake for j in said]),
        log_odds=log_odds,
        llr=llr,
        thresholds=_floats([j.threshold for j in said]),
        calibrated=np.array([j.calibrated for j in said], bool),
        face_px=_floats([face_px(frames) for frames in own.frames]),
        frames=_frames(own),
        models=[model.sha256 for model in own.scorer.models],
    )


def _frames(own: _Scored) -> Frames:
    counts = [len(frames) for frames in own.frames]
    scores = np.array([f.score_raw for frames in own.frames for f in frames], np.float64)
    video = np.repeat(np.arange(len(counts)), counts)
    finite = np.isfinite(scores)
    video, scores = video[finite], scores[finite]
    if own.rule.calibration is None:
        return Frames(video, scores, scores, scores)
    map_, zero = (
        own.rule.calibration,
        own.rule.calibration.logit(0.0) - own.rule.calibration.llr(0.0),
    )
    log_odds = map_.scale * scores + map_.offset
    return Frames(video, scores, log_odds, log_odds - zero)


def _floats(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([math.nan if v is None else v for v in values], np.float64)


def _own(row: dict[str, Any]) -> LabelRecord:
    return LabelRecord(
        label=row["label"],
        labelled=row["label"] is not None,
        original=row["original"],
        group=row["group"],
        attributes={**entries_to_dict(row["attributes"]), PART: row["part"]},
    )
