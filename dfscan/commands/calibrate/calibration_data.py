"""Which rows of a verdict file a model can be fitted on, with their truth and groups."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from dfscan.commands.calibrate.calibration_fit import Videos
from dfscan.config.calibrate import CalibrateConfig
from dfscan.corpora.base import LabelRecord
from dfscan.corpora.labels import Matched, groups, match, read_labels
from dfscan.errors import ConfigError, SourceError
from dfscan.models.modelfile import Model
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.schemas.scoring import AGGREGATIONS
from dfscan.schemas.status import LABELS
from dfscan.scoring.aggregation import TRACK_FACES, aggregate
from dfscan.verdicts.provenance import KEY
from dfscan.verdicts.table import VerdictTable, open_verdicts

ALL_REAL: Final = "REAL"
"""What ``--labels`` says where every video is real."""
_HOW: Final = (
    "--frames N, --every SECONDS or --stride N (and --phase or --sampling where they were given)"
)

_CHECKED: Final = 100
"""So many scores are computed again from their faces."""

_COLUMNS: Final = (
    "video_id",
    "label",
    "content_sha256",
    "score_raw",
    "look",
    "frames.score_raw",
    "frames.track_id",
    "tracks.faces",
    "custody.recipe_hash",
    "custody.config_hash",
    "custody.models",
)


@dataclass(frozen=True)
class CalibrationData:
    """What there is to fit on.

    ``ids`` are the videos' names. ``rows`` counts every row of the file by what became of it: ``used``, or why it was left out.
    """

    videos: Videos
    ids: Sequence[str]
    sampling: Sampling
    rows: Mapping[str, int]
    notes: tuple[str, ...]


def read_calibration_data(config: CalibrateConfig, model: Model) -> CalibrationData:
    """The videos of ``config.verdicts`` that this model scored and whose truth is known.

    :raises SourceError: the verdicts or the labels cannot be read, or none can be used.
    :raises ConfigError: it is not clear how the verdicts were sampled.
    """
    file = open_verdicts(config.verdicts)
    rows = _rows(file)
    state = np.full(len(rows.ids), "used", object)
    # Scores of several models together are no one model's.
    state[[list(models) != [model.sha256] for models in rows.models]] = "other_model"
    state[(state == "used") & ~np.isfinite(rows.scores)] = "no_score"
    mine = state == "used"
    if not mine.any():
        raise _nothing(config, model, state)
    _check_look(config, rows, mine)
    sampling, recipe_hash = _sampling(config, model, _said(file), rows, mine)
    state[mine & (rows.recipes != recipe_hash)] = "other_sampling"
    _check_aggregation(config, rows, np.flatnonzero(state == "used"))
    told, matched = _labels(config, rows)
    label = np.array([told[v].label if v in told else None for v in rows.ids], object)
    state[(state == "used") & ~np.isin(label, LABELS)] = "unlabelled"
    ambiguous = np.array([v in matched.ambiguous for v in rows.ids], bool)
    state[(state == "unlabelled") & ambiguous] = "ambiguous"
    used = state == "used"
    if not used.any():
        raise _nothing(config, model, state)
    group = groups(told, dict(zip(rows.ids, rows.contents, strict=True)))
    videos = Videos(
        scores=rows.scores[used].astype(np.float32),
        fake=label[used] == LABELS[1],
        groups=np.array([group[v] for v in rows.ids], object)[used],
        frames=rows.frames[used],
        people=rows.people[used],
    )
    notes = [
        f"the verdicts were scored on {describe(sampling)} (aggregation: {config.aggregation}): so "
        "the result holds for that"
    ]
    if matched.unused:
        notes.append(
            f"{matched.unused:,} label(s) of {config.labels} name no video of the verdicts"
        )
    counts = {"rows": len(state), **Counter(state.tolist())}
    ids = [name for name, mine in zip(rows.ids, used.tolist(), strict=True) if mine]
    return CalibrationData(videos, ids, sampling, counts, tuple(notes))


def describe(sampling: Sampling) -> str:
    """A sampling in words."""
    if sampling.frames is not None:
        text = f"{sampling.frames} frames, spread evenly"
    elif sampling.every_s is not None:
        text = f"one frame in {sampling.every_s:g} s"
    else:
        assert sampling.stride is not None
        text = f"one frame in {sampling.stride.real}"
        if sampling.stride.real != sampling.stride.fake:
            text = f"frames by stride real={sampling.stride.real},fake={sampling.stride.fake}"
    if sampling.phase != "hash":
        text += f", phase {sampling.phase}"
    return text if sampling.mode == "exact" else f"{text} ({sampling.mode})"


@dataclass(frozen=True)
class _Rows:
    """The columns that matter, (N,) each."""

    ids: Sequence[str]
    labels: Sequence[str | None]
    contents: Sequence[str | None]
    looks: Sequence[str | None]
    scores: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]
    faces: pa.ChunkedArray
    recipes: npt.NDArray[Any]
    configs: npt.NDArray[Any]
    models: Sequence[Sequence[str]]


def _rows(file: VerdictTable) -> _Rows:
    table = file.read(_COLUMNS).combine_chunks()
    custody = {
        name: pc.struct_field(table.column("custody"), name).to_pylist()
        for name in ("recipe_hash", "config_hash", "models")
    }
    scores = pc.fill_null(table.column("score_raw"), float("nan"))
    frames = pc.fill_null(pc.list_value_length(table.column("frames")), 0)
    return _Rows(
        ids=table.column("video_id").to_pylist(),
        labels=table.column("label").to_pylist(),
        contents=table.column("content_sha256").to_pylist(),
        looks=table.column("look").to_pylist(),
        scores=scores.to_numpy().astype(np.float64),
        frames=frames.to_numpy().astype(np.int64),
        people=_people(table.column("tracks")),
        faces=table.column("frames"),
        recipes=np.array(custody["recipe_hash"], object),
        configs=np.array(custody["config_hash"], object),
        models=[models or () for models in custody["models"]],
    )


def _people(tracks: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """How many tracks of each row are long enough to speak for a person, at least 1."""
    parents = pc.list_parent_indices(tracks).to_numpy()
    faces = pc.struct_field(pc.list_flatten(tracks), "faces").to_numpy()
    found = np.bincount(parents[faces >= TRACK_FACES], minlength=len(tracks))
    return np.maximum(found, 1).astype(np.int64)


def _check_look(config: CalibrateConfig, rows: _Rows, mine: npt.NDArray[np.bool_]) -> None:
    """Refuse verdicts of a triage.

    :raises ConfigError: full looks were taken at suspicious videos only, and their reals are not
        like all reals.
    """
    quick = sum(look == "quick" for look, own in zip(rows.looks, mine, strict=True) if own)
    if quick:
        raise ConfigError(
            f"{config.verdicts}: {quick:,} verdict(s) are of --triage, which looks in full at "
            "suspicious videos only: score without it, into another file"
        )


def _check_aggregation(config: CalibrateConfig, rows: _Rows, mine: npt.NDArray[np.int64]) -> None:
    """Compute some scores again from their faces.

    :raises ConfigError: they were aggregated otherwise than is said.
    """
    fits = dict.fromkeys(AGGREGATIONS, 0)
    some = mine[:_CHECKED]
    for number in some.tolist():
        faces = rows.faces[number].as_py() or []
        own = [f["score_raw"] for f in faces], [f["track_id"] for f in faces]
        for how in AGGREGATIONS if faces else ():
            score = aggregate(how, *own)
            same = score is not None and math.isclose(
                score, rows.scores[number], rel_tol=1e-4, abs_tol=1e-4
            )
            fits[how] += same
    if fits[config.aggregation] < len(some):
        likely = max(AGGREGATIONS, key=lambda how: fits[how])
        found = f"{likely} is" if fits[likely] == len(some) else "no way of aggregating is"
        raise ConfigError(
            f"calibrate.aggregation: got {config.aggregation}, and {config.verdicts} was not scored "
            f"with it; {found} what its scores agree with: give --aggregation as score was given it",
            code="recipe.mismatch",
        )


def _said(file: VerdictTable) -> dict[str, Sampling]:
    """What the verdicts say of their samplings, by the hash of their recipe."""
    try:
        entries = [entry for text in file.metadata(KEY) for entry in json.loads(text).values()]
        recipes = [FaceRecipe.model_validate(entry["recipe"]) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:160]
        raise SourceError(
            f"the verdicts' metadata {KEY.decode()} is not what score writes: {detail}",
            code="record.damaged",
        ) from None
    return {recipe.legacy_hash(): recipe.sampling for recipe in recipes}


def _sampling(
    config: CalibrateConfig,
    model: Model,
    said: Mapping[str, Sampling],
    rows: _Rows,
    mine: npt.NDArray[np.bool_],
) -> tuple[Sampling, str]:
    """How the verdicts were sampled, and the hash of the recipe that says so.

    A recipe's hash stands in each row, so that what is said here can be checked, not only believed.
    """
    recipe = model.header.recipe
    there = Counter(rows.recipes[mine].tolist())
    known = [said[name] for name in there if name in said]
    wanted = config.frames_of(recipe.sampling.mode)
    if wanted is None and known:
        if len(there) > 1:
            ways = "; ".join(describe(s) for s in known)
            raise ConfigError(
                f"{config.verdicts} holds verdicts of this model in {len(there)} ways of sampling "
                f"({ways}): name one with {_HOW}",
                code="recipe.mismatch",
            )
        return known[0], next(iter(there))
    wanted = wanted or Sampling(mode=recipe.sampling.mode, frames=32)
    found = recipe.model_copy(update={"sampling": wanted}).legacy_hash()
    if found not in there:
        raise ConfigError(
            f"none of the {mine.sum():,} verdicts of this model in {config.verdicts} was scored on "
            f"{describe(wanted)}: say how they were, with {_HOW}",
            code="recipe.mismatch",
        )
    return wanted, found


def _labels(config: CalibrateConfig, rows: _Rows) -> tuple[dict[str, LabelRecord], Matched]:
    """What is told of each video; nothing of those without a label."""
    own = {
        video: LabelRecord(label="FAKE" if label == LABELS[1] else "REAL", labelled=True)
        for video, label in zip(rows.ids, rows.labels, strict=True)
        if label is not None
    }
    if config.labels is None:
        return own, Matched(own)
    if config.labels == ALL_REAL:
        fakes = sum(given.label == "FAKE" for given in own.values())
        if fakes:
            raise ConfigError(
                f"--labels {ALL_REAL}: {fakes:,} verdict(s) of {config.verdicts} are labelled FAKE; "
                "leave it out to take the verdicts' own labels"
            )
        given = {video: LabelRecord(label="REAL", labelled=True) for video in rows.ids}
        return given, Matched(given)
    matched = match(read_labels(config.labels), rows.ids)
    return dict(matched.records), matched


def _nothing(config: CalibrateConfig, model: Model, state: npt.NDArray[Any]) -> SourceError:
    counts = Counter(state.tolist())
    reasons = {
        "other_model": f"of another model than {model.sha256[:12]}… (score with this one)",
        "no_score": "without a score",
        "other_sampling": "sampled otherwise",
        "unlabelled": "without a label (give --labels FILE, or --labels REAL where all are real)",
        "ambiguous": "with an ambiguous file name (name them by video_id)",
    }
    told = ", ".join(f"{counts[k]:,} {text}" for k, text in reasons.items() if counts[k])
    return SourceError(
        f"none of the {len(state):,} verdicts of {config.verdicts} can be used: {told or 'it is empty'}",
        code="source.empty",
    )
