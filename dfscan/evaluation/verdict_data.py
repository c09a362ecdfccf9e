"""The input of an evaluation: verdicts joined with labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import logit

from dfscan.corpora.base import NO_ATTRIBUTES, LabelRecord, part_of
from dfscan.corpora.labels import PART, groups, match, read_truth
from dfscan.errors import SourceError
from dfscan.schemas.status import LABELS
from dfscan.verdicts.table import open_verdicts

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

MARKER: Final = "evaluation.json"
METRICS: Final = "metrics.json"
ROWS: Final = "rows.parquet"
PLOTS: Final = "plots"
"""Files of an evaluation folder; the first marks it as one."""

_SURE: Final = 0.999
"""Above this, a float32 probability determines its logit poorly."""
_STRAIGHT: Final = 0.02
"""Tolerance for logits of p_fake to count as a linear function of the scores."""

_COLUMNS: Final = (
    *("video_id", "uri", "label", "content_sha256", "status", "verdict", "reason", "look"),
    *("score_raw", "p_fake", "llr", "threshold", "calibrated", "width", "height", "face_px"),
    *("frames.score_raw", "tracks.score_raw"),
    *("tracks.p_fake", "custody.config_hash", "custody.models"),
)


@dataclass(frozen=True)
class Frames:
    """Scored faces, (M,) each: index of the video, logit, and the values of :class:`Videos`."""

    video: Places
    scores: Floats
    log_odds: Floats
    llr: Floats


@dataclass(frozen=True)
class Videos:
    """N videos and their verdicts, in one order; NaN or None if missing.

    ``log_odds`` is the logit of ``p_fake``; if the model is not ``calibrated``, it and ``llr`` are
    the score. ``sizes`` are (N, 2) width and height, ``people`` the number of tracks (-1: unknown).
    ``own`` is the label record in each row: label, part and so on. ``models`` are the SHA-256 of
    the models.
    """

    ids: Sequence[str]
    uris: Sequence[str | None]
    contents: Sequence[str | None]
    own: Sequence[LabelRecord]
    statuses: Sequence[str | None]
    verdicts: Sequence[str | None]
    reasons: Sequence[str | None]
    looks: Sequence[str | None]
    scores: Floats
    p_fake: Floats
    log_odds: Floats
    llr: Floats
    thresholds: Floats
    calibrated: npt.NDArray[np.bool_]
    sizes: Floats
    face_px: Floats
    people: Places
    frames: Frames
    models: Sequence[str]


def read_videos(path: str) -> Videos:
    """Read the verdicts of a file or folder.

    :raises SourceError: it holds no verdicts.
    """
    file = open_verdicts(path)
    try:
        table = file.read(_COLUMNS).combine_chunks()
    except (pa.ArrowException, KeyError, OSError) as error:
        detail = " ".join(str(error).split())[:160]
        raise SourceError(
            f"{path} cannot be read ({detail}): score again", code="source.unreadable"
        ) from None
    ids = table.column("video_id").to_pylist()
    if not ids:
        raise SourceError(f"{path} holds no verdict to evaluate", code="source.empty")
    custody = table.column("custody")
    lists = {n: table.column(n).to_pylist() for n in ("label", "status", "look", "uri")}
    config = pc.struct_field(custody, "config_hash").to_pylist()
    ways = np.array([f"{c}\0{k}" for c, k in zip(config, lists["look"], strict=True)])
    models = pc.unique(pc.list_flatten(pc.struct_field(custody, "models"))).to_pylist()
    calibrated = pc.fill_null(table.column("calibrated"), False).to_numpy(zero_copy_only=False)
    scores, p_fake, told = (_floats(table.column(n)) for n in ("score_raw", "p_fake", "llr"))
    prior = _by_way(ways, lambda own: _prior(p_fake[own], told[own]))
    log_odds = np.where(calibrated, np.where(np.isnan(told), _logits(p_fake), told + prior), scores)
    llr = np.where(calibrated, told, scores)
    said = _Said(ways, calibrated, scores, p_fake, prior)
    return Videos(
        ids=ids,
        uris=lists["uri"],
        contents=table.column("content_sha256").to_pylist(),
        own=[_own(i, label) for i, label in zip(ids, lists["label"], strict=True)],
        statuses=lists["status"],
        verdicts=table.column("verdict").to_pylist(),
        reasons=table.column("reason").to_pylist(),
        looks=lists["look"],
        scores=scores,
        p_fake=p_fake,
        log_odds=log_odds,
        llr=llr,
        thresholds=_floats(table.column("threshold")),
        calibrated=calibrated,
        sizes=np.stack([_floats(table.column(n)) for n in ("width", "height")], axis=1),
        face_px=_floats(table.column("face_px")),
        people=pc.fill_null(pc.list_value_length(table.column("tracks")), -1)
        .to_numpy()
        .astype(np.int64),
        frames=_frames(table, said),
        models=sorted(str(m) for m in models if m is not None),
    )


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy()
    return values


def _logits(p_fake: Floats) -> Floats:
    """Logits of probabilities, clipped so that float64 distinguishes them from 0 and 1."""
    found: Floats = logit(np.clip(p_fake, 1e-300, 1 - 1e-16))
    return found


def _own(video_id: str, label: str | None) -> LabelRecord:
    """The label record in a verdict: its label, and the video's folder as its part."""
    part = part_of(video_id)
    about = {PART: part} if part else NO_ATTRIBUTES
    known = LABELS[1] if label == LABELS[1] else LABELS[0] if label == LABELS[0] else None
    return LabelRecord(label=known, labelled=known is not None, attributes=about)


@dataclass(frozen=True)
class _Said:
    """Each row's scoring configuration and pass, and its numbers."""

    ways: npt.NDArray[Any]
    calibrated: npt.NDArray[np.bool_]
    scores: Floats
    p_fake: Floats
    prior: Floats


def _by_way(ways: npt.NDArray[Any], find: Callable[[npt.NDArray[np.bool_]], float]) -> Floats:
    """A number per scoring configuration, repeated for its rows, (N,)."""
    names, inverse = np.unique(ways, return_inverse=True)
    each = np.array([find(inverse == number) for number in range(len(names))], np.float64)
    found: Floats = each[inverse]
    return found


def _prior(p_fake: Floats, llr: Floats) -> float:
    """The log-odds of the share of fakes that ``p_fake`` assumes: its logit minus ``llr``."""
    known = np.isfinite(p_fake) & np.isfinite(llr)
    sure = known & (p_fake > 0) & (p_fake < _SURE)
    rows = sure if sure.any() else known
    return float(np.median(_logits(p_fake[rows]) - llr[rows])) if rows.any() else 0.0


def _frames(table: pa.Table, said: _Said) -> Frames:
    """The faces' scores, with probabilities by the calibration map of the tracks."""
    parents, scores = _elements(table.column("frames"), "score_raw")
    keep = np.isfinite(scores)
    parents, scores = parents[keep], scores[keep]
    owners, track_scores = _elements(table.column("tracks"), "score_raw")
    track_p = _elements(table.column("tracks"), "p_fake")[1]
    slope, offset = np.ones(len(said.ways)), np.zeros(len(said.ways))
    for way in np.unique(said.ways[said.calibrated]):
        own = said.ways == way
        tracks = own[owners] if len(owners) else np.zeros(0, bool)
        slope[own], offset[own] = score_map(
            (track_scores[tracks], track_p[tracks]), (said.scores[own], said.p_fake[own])
        )
    log_odds = slope[parents] * scores + offset[parents]
    prior = np.where(said.calibrated, said.prior, 0.0)
    return Frames(parents, scores, log_odds, log_odds - prior[parents])


def _elements(column: pa.ChunkedArray, name: str) -> tuple[Places, Floats]:
    """Row index and value of each element of a list column."""
    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    return parents, _floats(pc.struct_field(pc.list_flatten(column), name))


def score_map(tracks: tuple[Floats, Floats], rows: tuple[Floats, Floats]) -> tuple[float, float]:
    """Slope and offset of the calibration map; NaN if it cannot be determined.

    The map from scores to logits of ``p_fake`` is linear; rows deviate from it if the number of
    people is part of the map.

    :param tracks: (K,) scores and ``p_fake`` of people scored with one configuration in one pass.
    :param rows: (N,) those of their videos.
    """
    both = (np.concatenate([tracks[0], rows[0]]), np.concatenate([tracks[1], rows[1]]))
    for scores, p_fake in (both, tracks):
        known = (p_fake > 1e-6) & (p_fake < _SURE) & np.isfinite(scores)
        x, y = scores[known], _logits(p_fake[known])
        if len(x) and np.ptp(x) > 1e-3:
            slope, offset = np.polyfit(x, y, 1)
            if np.abs(slope * x + offset - y).max() < _STRAIGHT:
                return float(slope), float(offset)
    return math.nan, math.nan


@dataclass(frozen=True)
class Truth:
    """The label of each video, in the order of :class:`Videos`.

    ``labels`` (N,) are REAL, FAKE or None; ``group_numbers`` (N,) number the ``groups``.
    ``counts``: ``labelled``, ``unlabelled``, ``ambiguous``.
    """

    labels: npt.NDArray[Any]
    groups: npt.NDArray[Any]
    group_numbers: Places
    parts: Sequence[str | None]
    originals: Sequence[str | None]
    attributes: Sequence[Mapping[str, str]]
    counts: Mapping[str, int]
    notes: Sequence[str]


def find_truth(videos: Videos, labels: str | None, layout: str, what: str) -> Truth:
    """The label of each video: from ``labels``, otherwise from its row.

    :param labels: see :func:`~dfscan.corpora.labels.read_truth`; None: use the rows' labels.
    :param what: the verdicts or faces, as the user named them.
    :raises SourceError: the labels cannot be read, or no video has one.
    """
    own = dict(zip(videos.ids, videos.own, strict=True))
    told, notes = own, []
    ambiguous: frozenset[str] = frozenset()
    if labels is not None:
        given = read_truth(labels, layout)
        matched = match(given, videos.ids)
        ambiguous = matched.ambiguous
        told = {i: _joined(matched.records.get(i, LabelRecord()), own[i]) for i in videos.ids}
        if matched.unused:
            notes.append(f"{matched.unused:,} label(s) of {labels} name no video of {what}")
        other = sum(
            own[i].label is not None and t.label is not None and own[i].label != t.label
            for i, t in told.items()
        )
        if other:
            notes.append(
                f"{other:,} video(s) have another label in {what}: the one in {labels} is used"
            )
        if ambiguous:
            notes.append(
                f"{len(ambiguous):,} video(s) share a file name, so {labels} is ambiguous: "
                "they count as unlabelled; name them by video_id"
            )
    known = np.array([told[i].label for i in videos.ids], object)
    count = int(np.isin(known, LABELS).sum())
    if not count:
        raise _unlabelled(videos, labels, what, len(ambiguous))
    if not any(each.group or each.original for each in told.values()):
        notes.append(
            "no information on which videos share an original: each counts as a group, and intervals may "
            "be too narrow (--labels SOURCE provides it)"
        )
    named = _named(groups(told, dict(zip(videos.ids, videos.contents, strict=True))), told)
    group = np.array([named[i] for i in videos.ids], object)
    about = [dict(told[i].attributes) for i in videos.ids]
    return Truth(
        labels=known,
        groups=group,
        group_numbers=np.unique(group.astype(str), return_inverse=True)[1],
        parts=[each.pop(PART, None) for each in about],
        originals=[told[i].original for i in videos.ids],
        attributes=about,
        counts={
            "labelled": count,
            "unlabelled": len(known) - count - len(ambiguous),
            "ambiguous": len(ambiguous),
        },
        notes=notes,
    )


def _named(found: Mapping[str, str], told: Mapping[str, LabelRecord]) -> dict[str, str]:
    """Name groups after the labelled group of one of their videos, else after their first video."""
    names: dict[str, str] = {}
    for known in (True, False):
        for video in sorted(found):
            name = told[video].group if known else video
            if name:
                names.setdefault(found[video], name)
    return {video: names[group] for video, group in found.items()}


def _joined(told: LabelRecord, own: LabelRecord) -> LabelRecord:
    """The given record, completed from the row except for the label."""
    return replace(
        told,
        original=told.original or own.original,
        group=told.group or own.group,
        attributes={**own.attributes, **told.attributes},
    )


def _unlabelled(videos: Videos, labels: str | None, what: str, ambiguous: int) -> SourceError:
    rows = f"none of the {len(videos.ids):,} videos of {what} has a label"
    if labels is None:
        return SourceError(
            f"{rows}: give --labels, a table with video_id or filename, and label; metadata.json; or "
            "the labelled source itself"
        )
    example = min(videos.ids)
    if ambiguous:
        return SourceError(
            f"{rows}: {ambiguous:,} file names of {labels} match several videos: name videos by "
            f"video_id, as in {example!r}"
        )
    return SourceError(
        f"{rows}: {labels} names none of them (one is {example!r}), or leaves their labels empty: "
        "check that the labels belong to these videos"
    )
