"""What a finished training says of itself: metrics, threshold, calibration, plots, model card."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from dfscan import __version__, storage
from dfscan.evaluation.metrics import (
    by_attribute,
    by_video,
    choose_threshold,
    collapsed,
    groups_by_video,
    measure,
)
from dfscan.models.backbones import count_parameters
from dfscan.models.modelfile import FILE_NAME, load_model, save_model
from dfscan.rendering import plots
from dfscan.rendering.model_card import model_card
from dfscan.schemas.fingerprint import json_hash
from dfscan.schemas.records import SCHEMA_VERSION, entries_to_dict
from dfscan.schemas.scoring import AGGREGATIONS, Aggregation
from dfscan.scoring import calibration
from dfscan.scoring.aggregation import aggregate, long_tracks
from dfscan.scoring.calibration import Calibration
from dfscan.training.index import FaceIndex
from dfscan.training.loop import HISTORY, PREDICTIONS
from dfscan.training.plan import Plan

METRICS: Final = "metrics.json"
CARD: Final = "README.md"
PLOTS: Final = "plots"
SERIES: Final = "series.csv"
PRODUCTS: Final = (METRICS, CARD, PLOTS, SERIES)

_VALUES: Final = 20
"""An attribute with more values than this is a name, nothing to break figures down by."""


@dataclass(frozen=True)
class Outputs:
    """Logits of one side by face and by video, with their truth and groups.

    ``attributes`` are those of each video, ``faces_a_video`` how many were judged, ``bad`` names pictures
    that did not decode, ``by_video`` are the logits and tracks of each video's faces.
    """

    faces: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[Any]]
    videos: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[Any]]
    attributes: Sequence[Mapping[str, str]]
    faces_a_video: npt.NDArray[np.int64]
    bad: tuple[str, ...]
    by_video: Sequence[tuple[list[float], list[int | None]]]


def read_outputs(out: storage.StoragePath, side: str) -> Outputs | None:
    """What the network said of a side; None where it was not asked."""
    path = out / PREDICTIONS / f"{side}.parquet"
    if not storage.exists(path):
        return None
    table = storage.read_table(path)
    logits = table["score_raw"].to_numpy()
    fake = np.array(table["label"].to_pylist(), object) == "FAKE"
    names, groups = table["video_id"].to_pylist(), np.array(table["group"].to_pylist())
    videos, video_logits, video_fake = by_video(names, logits, fake)
    attributes = dict(zip(names, table["attributes"].to_pylist(), strict=True))
    said = (table.schema.metadata or {}).get(b"bad", b"").decode()
    faces: dict[str, tuple[list[float], list[int | None]]] = {name: ([], []) for name in videos}
    for name, logit, track in zip(
        names, logits.tolist(), table["track_id"].to_pylist(), strict=True
    ):
        faces[name][0].append(logit)
        faces[name][1].append(None if track < 0 else track)
    return Outputs(
        faces=(logits, fake, groups),
        videos=(video_logits, video_fake, groups_by_video(names, groups)),
        attributes=[entries_to_dict(attributes[name]) for name in videos],
        faces_a_video=np.unique(names, return_counts=True)[1],
        bad=tuple(said.splitlines()),
        by_video=[faces[name] for name in videos],
    )


def read_history(path: storage.StoragePath) -> list[dict[str, Any]]:
    """``history.csv`` as numbers, None where a metric does not exist."""
    rows = csv.DictReader(storage.read_text(path).splitlines())
    return [
        {
            k: None if v == "" else int(v) if k in ("epoch", "phase") else float(v)
            for k, v in row.items()
        }
        for row in rows
    ]


def finalize_run(out: storage.StoragePath, plan: Plan) -> dict[str, Any]:
    """Write everything that a run folder says of its model; returns what ``metrics.json`` holds."""
    sides = {side: read_outputs(out, side) for side in ("validation", "test")}
    outputs = {side: found for side, found in sides.items() if found is not None}
    held_out = outputs["validation"]
    model = load_model(out / FILE_NAME)
    best_epoch = model.header.training["epoch"]
    fitted = _calibrated(held_out, "mean", plan)
    others = (_calibrated(held_out, how, plan) for how in AGGREGATIONS if how != "mean")
    logit = choose_threshold(*held_out.videos[:2], plan.config.threshold)
    results = {side: _measured(found, logit or 0.0) for side, found in outputs.items()}
    training = {
        "epoch": best_epoch,
        "config": _config(plan),
        "pretrained": plan.pretrained,
        "split": plan.summary(),
        **results,
    }
    threshold = 0.5 if logit is None else _probability(logit, fitted)
    header = model.header.model_copy(
        update={
            "calibration": fitted,
            "calibrations": tuple(found for found in others if found is not None),
            "threshold": threshold,
            "training": training,
        }
    )
    digest = save_model(out / FILE_NAME, model.network, header)
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "model_sha256": digest,
        "backbone": header.backbone,
        "parameters": count_parameters(model.network),
        "recipe_hash": header.recipe.hash(),
        "config_hash": json_hash(training["config"]),
        "best_epoch": best_epoch,
        "chosen_by": _chosen_by(outputs["validation"], plan.config.choose),
        "split": plan.summary(),
        **results,
        "breakdown": _breakdown(outputs.get("test", held_out), logit or 0.0),
        "threshold": threshold,
        "threshold_logit": logit,
        "threshold_rule": plan.config.threshold,
        "calibration": fitted.model_dump(mode="json") if fitted else None,
        "audits": plan.audits,
        "identities": plan.audits["identities"],
        "notes": _notes(plan, outputs, fitted, logit, read_history(out / HISTORY)),
    }
    storage.commit_json(out / METRICS, metrics)
    _draw(out, outputs, metrics, fitted)
    card = model_card(_facts(plan, metrics, fitted))
    storage.commit_bytes(out / CARD, card.encode())
    return metrics


def finalize_series(out: storage.StoragePath, names: Sequence[str]) -> dict[str, Any]:
    """A table of several runs and, over folds, the figures of all their held-out sides together."""
    rows = []
    for name in names:
        metrics = storage.read_json(str(out / name / METRICS))
        side = "test" if metrics.get("test") and name.startswith("share") else "validation"
        rows.append({"run": name, "side": side, **_row(metrics, side)})
    header = list(rows[0])
    lines = [",".join(header), *(",".join(_text(row[k]) for k in header) for row in rows)]
    storage.commit_bytes(out / SERIES, ("\n".join(lines) + "\n").encode())
    result: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "dfscan": __version__, "runs": rows}
    if names[0].startswith("fold"):
        result |= _together(out, names)
    storage.commit_json(out / METRICS, result)
    return result


def _together(out: storage.StoragePath, names: Sequence[str]) -> dict[str, Any]:
    """Every video's score by the model that has not seen it.

    Verdicts are those at logit 0: a fold's own threshold was chosen on these very videos.
    """
    found = [read_outputs(out / name, "validation") for name in names]
    result = {}
    for kind, by in (("faces", "by_frame"), ("videos", "by_video")):
        parts = [getattr(side, kind) for side in found if side is not None]
        scores, fake, groups = (np.concatenate([p[i] for p in parts]) for i in range(3))
        result[by] = measure(scores, fake, groups)
    return {"out_of_fold": result}


def _calibrated(held_out: Outputs, how: Aggregation, plan: Plan) -> Calibration | None:
    """The map for one way of aggregating, with its operating point; None where there is too little.

    ``max_track`` knows nothing of videos without a track that is long enough.
    """
    scores = [aggregate(how, *faces) for faces in held_out.by_video]
    there = np.array([score is not None for score in scores], bool)
    found = np.array([score for score in scores if score is not None], np.float64)
    fake = held_out.videos[1][there]
    people = None
    if how == "max_track":
        counts = np.array([len(long_tracks(*faces)) for faces in held_out.by_video], np.int64)
        people = counts[there]
    fitted = calibration.fit(
        found,
        fake,
        plan.recipe.sampling,
        frames=held_out.faces_a_video[there],
        aggregation=how,
        people=people,
    )
    if fitted is None:
        return None
    many = people if people is not None else np.ones(len(found), int)
    logits = np.array([fitted.logit(*pair) for pair in zip(found, many.tolist(), strict=True)])
    point = choose_threshold(logits, fake, plan.config.threshold)
    return fitted.model_copy(update={"threshold": None if point is None else float(expit(point))})


def _chosen_by(held_out: Outputs, choose: str) -> str:
    if choose == "last":
        return "being the last"
    if len(np.unique(held_out.faces[1])) < 2:
        return "being the last: the validation side lacks a class"
    if choose == "auc":
        return "validation AUC by video"
    return "validation log loss by frame, both classes weighed alike"


def _row(metrics: Mapping[str, Any], side: str) -> dict[str, Any]:
    counts, by = metrics["split"]["train"], metrics[side]
    row = {
        "groups": counts["groups"],
        "faces": counts["faces"],
        "best_epoch": metrics["best_epoch"],
    }
    for kind in ("by_frame", "by_video"):
        for name in ("auc", "log_loss", "accuracy", "f1"):
            row[f"{kind.removeprefix('by_')}_{name}"] = by[kind][name]
    return row


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _measured(outputs: Outputs, threshold: float) -> dict[str, Any]:
    return {
        "by_frame": measure(*outputs.faces, threshold),
        "by_video": measure(*outputs.videos, threshold),
    }


def _probability(logit: float, fitted: Calibration | None) -> float:
    """A threshold on ``p_fake``, which is what a verdict is compared with."""
    return float(expit(logit)) if fitted is None else fitted.p_fake(logit)


def _config(plan: Plan) -> dict[str, Any]:
    exclude = {"faces", "out", "inline", "workers", "gpus", "overwrite"}
    exclude |= {"ray_address", "ship_code", "runtime_env"}
    return plan.config.model_dump(mode="json", exclude=exclude)


def _breakdown(outputs: Outputs, threshold: float) -> dict[str, Any]:
    """Figures by each attribute that has a few values."""
    logits, fake, groups = outputs.videos
    found = {}
    for name in sorted({name for attributes in outputs.attributes for name in attributes}):
        values = [attributes.get(name) for attributes in outputs.attributes]
        if len(set(values)) <= _VALUES:
            each = by_attribute(values, logits, fake, threshold, groups)
            if len(each) > 1:
                found[name] = each
    return found


def _notes(
    plan: Plan,
    outputs: Mapping[str, Outputs],
    fitted: Calibration | None,
    threshold: float | None,
    history: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = list(plan.notes)
    skipped = int(max(row["skipped"] for row in history))
    if skipped:
        notes.append(
            f"up to {skipped} faces an epoch were left out of training, and others shown instead: "
            "they do not decode, or cannot be blended (too small, or without landmarks)"
        )
    if fitted is None:
        notes.append(
            f"not calibrated: fewer than {calibration.MIN_PER_CLASS} held-out videos of a class, "
            "or scores that do not rise with fakes; score says UNCERTAIN unless --threshold is given"
        )
    for side, found in outputs.items():
        said = collapsed(found.faces[0], threshold or 0.0, found.faces[1])
        if said:
            notes.append(f"{side}: {said}")
    bad = sorted({name for found in outputs.values() for name in found.bad})
    if bad:
        notes.append(f"{len(bad)} picture(s) did not decode and were skipped: {bad[:5]}")
    return notes


def _draw(
    out: storage.StoragePath,
    outputs: Mapping[str, Outputs],
    metrics: Mapping[str, Any],
    fitted: Calibration | None,
) -> None:
    """A picture for everything that is there to be drawn."""
    made = {
        "learning.png": plots.learning_curves(read_history(out / HISTORY), metrics["best_epoch"])
    }
    for side, found in outputs.items():
        kinds = {"by frame": found.faces[:2], "by video": found.videos[:2]}
        logits, fake = found.videos[:2]
        at = metrics["threshold_logit"]
        counts = metrics[side]["by_video"]["confusion"]
        made[f"{side}_confusion.png"] = plots.confusion(counts, f"Verdicts by video, {side}")
        made[f"{side}_scores.png"] = plots.score_histogram(logits, fake, at)
        if 0 < fake.sum() < len(fake):
            made[f"{side}_roc.png"] = plots.roc(kinds, f"ROC, {side}")
            made[f"{side}_pr.png"] = plots.precision_recall(kinds, f"Precision and recall, {side}")
            after = None if fitted is None else expit(fitted.scale * logits + fitted.offset)
            prior = None if fitted is None else fitted.prior
            made[f"{side}_reliability.png"] = plots.reliability_diagram(
                expit(logits), fake, after, prior=prior
            )
    for name, picture in made.items():
        storage.commit_bytes(out / PLOTS / name, picture)


def _facts(plan: Plan, metrics: Mapping[str, Any], fitted: Calibration | None) -> dict[str, Any]:
    """What the model card is told."""
    config = plan.config
    index = plan.index
    datasets = []
    for number, root in enumerate(index.datasets):
        mine = index.dataset == number
        datasets.append(
            {
                "name": storage.as_path(root).name,
                "videos": len(np.unique(index.video[mine])),
                "faces": int(mine.sum()),
                "groups": len(np.unique(index.group[mine])),
                "attributes": _attributes(
                    index, np.intersect1d(plan.sides["train"], np.flatnonzero(mine))
                ),
            }
        )
    leaks, found = plan.audits["leaks"], plan.audits["shortcuts"]
    told = found["note"] or f"AUC {found['auc']:.2f} (0.50 would be none)"
    audits = (
        {
            "name": "leaks",
            "passed": True,
            "found": f"no group, original, video or picture of {leaks['pictures']} on two sides",
        },
        {
            "name": "near-duplicates",
            "passed": leaks["found"] == 0 if leaks["compared"] else None,
            "found": f"{leaks['found']} of {leaks['compared']} held-out faces look like one of "
            "another side",
        },
        {
            "name": "shortcuts",
            "passed": None if found["auc"] is None else not found["told"],
            "found": f"fakes told from reals by everything but the pixels: {told}",
        },
    )
    keys = ("backbone", "balance", "paired", "augment", "loss", "batch_size", "ema", "precision")
    settings = {k: v for k, v in json.loads(config.model_dump_json()).items() if k in keys}
    return {
        "name": f"{config.backbone} ({metrics['model_sha256'][:12]})",
        "dfscan": __version__,
        "backbone": config.backbone,
        "parameters": metrics["parameters"],
        "pretrained": plan.pretrained or config.weights is not None,
        "model_sha256": metrics["model_sha256"],
        "recipe": plan.recipe,
        "datasets": datasets,
        "split": {
            "sides": plan.summary(),
            "how": "by group" if config.group_by is None else f"by {config.group_by}",
            "seed": config.seed,
            "audits": audits,
            "identities": _people(plan.audits["identities"]),
        },
        "training": {
            "phases": [phase.model_dump(mode="json") for phase in config.stages()],
            "settings": settings,
            "best_epoch": metrics["best_epoch"],
            "chosen_by": metrics["chosen_by"],
        },
        "results": {side: metrics[side] for side in ("validation", "test") if side in metrics},
        "breakdown": metrics["breakdown"],
        "threshold": {
            "logit": metrics["threshold_logit"],
            "p_fake": metrics["threshold"],
            "rule": config.threshold,
            "chosen_on": "validation videos",
        },
        "calibration": fitted,
        "notes": metrics["notes"],
    }


def _people(found: Any) -> str | None:
    """How it was checked that no person lies on two sides; None where it was not."""
    if isinstance(found, str):
        return None
    return (
        f"{found['people']} people in {found['groups']} groups of reals, told apart by "
        f"InceptionResnetV1 ({found['weights_sha256'][:12]}) at a distance of {found['distance']}"
    )


def _attributes(index: FaceIndex, positions: npt.NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """How many of these faces have which value of an attribute with few values."""
    found: dict[str, Counter[str]] = {}
    videos, counts = np.unique(index.video[positions], return_counts=True)
    for video, count in zip(videos.tolist(), counts.tolist(), strict=True):
        for name, value in index.videos[video].attributes.items():
            found.setdefault(name, Counter())[value] += count
    return {name: dict(values) for name, values in found.items() if len(values) <= _VALUES}
