"""The report on a run folder: one training, or a series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.errors import SourceError
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import Cell, Column, Face, Gallery, Page, Table, Tile, Videos
from dfscan.reports.figures import breakdown_table, figure, side_table
from dfscan.reports.tallies import by_value, in_words, plots_of
from dfscan.reports.thumbnails import FaceKey, Picture, from_datasets
from dfscan.schemas.records import entries_to_dict
from dfscan.schemas.status import LABELS

A_VIDEO: Final = 3
"""Largest number of faces per video, so that one video does not fill the page."""

MARKER: Final = "run.json"
_SIDES: Final = ("test", "validation")
_METRICS: Final = "metrics.json"
_MODEL: Final = "model.safetensors"
_PREDICTIONS: Final = "predictions"


@dataclass(frozen=True)
class Held:
    """The faces of a held-out side: key, label and logit, (N,) each; attributes by video."""

    side: str
    keys: list[FaceKey]
    labels: list[str]
    logits: list[float]
    attributes: dict[str, dict[str, str]]

    def wrongness(self, place: int) -> float:
        """How far a face's logit is on the wrong side of 0."""
        return self.logits[place] if self.labels[place] == "REAL" else -self.logits[place]


def collect(
    path: storage.StoragePath, about: str, config: ReportConfig, progress: Progress
) -> Page:
    """Collect the report page of a run folder.

    :raises SourceError: the training has not finished, or its files are damaged.
    """
    if not storage.exists(path / _METRICS):
        raise SourceError(
            f"{path} holds no {_METRICS}: the training has not finished; run the same dfscan train again to continue",
            code="source.unfinished",
        )
    metrics, run = storage.read_json(str(path / _METRICS)), _run(path)
    if "runs" in metrics:
        return _series(path, about, metrics, run)
    held = _held_out(path)
    wanted = _most_wrong(held, config.faces)
    roots = [storage.as_path(p) for p in run.get("faces") or ()]
    progress.message("looking up the held-out faces in the run's datasets")
    pictures = from_datasets(roots, [held.keys[i] for i in wanted]) if held else {}
    videos, places = _videos(held)
    side = next((s for s in _SIDES if metrics.get(s)), "validation")
    return Page(
        kind="Run",
        heading=path.name,
        under=f"{metrics.get('backbone')}, metrics of the held-out side: {side}.",
        about=about,
        made=datetime.now(UTC),
        tiles=_tiles(metrics, metrics.get(side) or {}, side),
        notes=[*metrics.get("notes", ()), *_changed(path, metrics)],
        figures=_figures(metrics),
        counts=[by_value("Held-out faces by label", held.labels, LABELS)] if held else [],
        plots=plots_of(path / "plots", "learning.png"),
        galleries=_galleries(held, wanted, pictures, places),
        videos=videos,
        provenance=_provenance(metrics, run),
    )


def _run(path: storage.StoragePath) -> dict[str, Any]:
    marker = path / MARKER
    content = storage.read_json(str(marker)) if storage.exists(marker) else {}
    config = content.get("config") if isinstance(content, dict) else None
    return config if isinstance(config, dict) else {}


def _series(
    path: storage.StoragePath, about: str, metrics: Mapping[str, Any], run: Mapping[str, Any]
) -> Page:
    """Several runs side by side, and their held-out sides together."""
    runs: Sequence[Mapping[str, Any]] = metrics["runs"]
    names = list(runs[0]) if runs else []
    together = metrics.get("out_of_fold")
    figures = [Table("Runs", names, [[row[n] for n in names] for row in runs])] if runs else []
    if together:
        figures.insert(0, side_table("All folds together", together))
    return Page(
        kind="Series of runs",
        heading=path.name,
        under=f"{len(runs)} runs; each has a folder: run dfscan report on it for its page.",
        about=about,
        made=datetime.now(UTC),
        tiles=[Tile("runs", len(runs))],
        figures=figures,
        provenance={"made by": f"dfscan {metrics.get('dfscan')}", **_settings(run)},
    )


def _tiles(metrics: Mapping[str, Any], ways: Mapping[str, Any], side: str) -> list[Tile]:
    video, frame = ways.get("by_video") or {}, ways.get("by_frame") or {}
    tiles = []
    for title, figures, name in (
        ("AUC by video", video, "auc"),
        ("AUC by frame", frame, "auc"),
        ("log loss by frame", frame, "log_loss"),
        ("recall by video", video, "recall"),
    ):
        value, _, interval = (figure(figures, name) or "–").partition("\u00a0")
        tiles.append(Tile(title, value, interval.strip("()") or side))
    calibrated = metrics.get("calibration") is not None
    return [
        *tiles,
        Tile("threshold", metrics.get("threshold"), f"by {metrics.get('threshold_rule')}"),
        Tile("calibrated", "yes" if calibrated else "no"),
        Tile("parameters", metrics.get("parameters")),
    ]


def _figures(metrics: Mapping[str, Any]) -> list[Table]:
    tables = [
        side_table(f"{side.capitalize()} side", metrics[side])
        for side in _SIDES
        if metrics.get(side)
    ]
    split = metrics.get("split") or {}
    if split:
        names = list(dict.fromkeys(name for counts in split.values() for name in counts))
        rows = [[side, *(counts.get(n) for n in names)] for side, counts in split.items()]
        tables.append(Table("Split", ("side", *(n.replace("_", " ") for n in names)), rows))
    breakdown = metrics.get("breakdown") or {}
    return [*tables, *(breakdown_table(name, values) for name, values in breakdown.items())]


def _changed(path: storage.StoragePath, metrics: Mapping[str, Any]) -> list[str]:
    """A warning if the model file is not the one that was measured."""
    model = path / _MODEL
    if not storage.exists(model):
        return [f"{_MODEL} is gone."]
    if storage.content_sha256(str(model)) != metrics.get("model_sha256"):
        return [f"{_MODEL} has changed since these metrics were computed."]
    return []


# ---------------------------------------------------------------- held-out faces


def _held_out(path: storage.StoragePath) -> Held | None:
    """The predictions for the test side, or else for the validation side."""
    for side in _SIDES:
        file = path / _PREDICTIONS / f"{side}.parquet"
        if storage.exists(file):
            table = storage.read_table(file)
            names, frames, tracks, labels, logits, attributes = (
                table.column(n).to_pylist()
                for n in ("video_id", "frame_index", "track_id", "label", "score_raw", "attributes")
            )
            persons = [None if track is None or track < 0 else track for track in tracks]
            own = dict(zip(names, attributes, strict=True))
            return Held(
                side,
                list(zip(names, frames, persons, strict=True)),
                labels,
                logits,
                {name: entries_to_dict(entries) for name, entries in own.items()},
            )
    return None


def _most_wrong(held: Held | None, budget: int) -> list[int]:
    """Faces, the most wrong first, half of each class if possible."""
    if held is None:
        return []
    found = []
    for label in LABELS:
        mine = [i for i in range(len(held.keys)) if held.labels[i] == label]
        mine.sort(key=lambda i: -held.wrongness(i))
        taken: dict[str, int] = {}
        kept = []
        for i in mine:
            name = held.keys[i][0]
            taken[name] = taken.get(name, 0) + 1
            if taken[name] <= A_VIDEO:
                kept.append(i)
        found += kept[: budget // 2]
    return found


def _galleries(
    held: Held | None,
    wanted: Sequence[int],
    pictures: Mapping[FaceKey, Picture],
    places: Mapping[str, int],
) -> list[Gallery]:
    if held is None:
        return []
    lost = Picture(None, "no longer in the run's datasets")
    told = {
        "REAL": ("Reals that look most fake", "Held-out real faces, the highest score first."),
        "FAKE": ("Fakes that look most real", "Held-out fake faces, the lowest score first."),
    }
    galleries = []
    for label, (title, intro) in told.items():
        faces = []
        for i in wanted:
            if held.labels[i] == label:
                name, frame, person = held.keys[i]
                picture = pictures.get(held.keys[i], lost)
                facts: dict[str, Cell] = {
                    "score": round(held.logits[i], 3), "frame": frame, "person": None if person is None else person + 1,
                }  # fmt: skip
                facts = {**facts, **held.attributes[name], **facts}
                faces.append(Face(name, picture.jpeg, facts, label, picture.missing, places[name]))
        galleries.append(Gallery(title, intro, faces))
    return galleries


def _videos(held: Held | None) -> tuple[Videos | None, dict[str, int]]:
    """The held-out videos, the most wrong first, and the index of each."""
    if held is None:
        return None, {}
    scores: dict[str, list[float]] = {}
    labels: dict[str, str] = {}
    for (name, _, _), label, logit in zip(held.keys, held.labels, held.logits, strict=True):
        scores.setdefault(name, []).append(logit)
        labels[name] = label
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    wrong = {name: mean if labels[name] == "REAL" else -mean for name, mean in means.items()}
    names = sorted(means, key=lambda name: (-wrong[name], name))
    about: list[Cell] = [in_words(held.attributes[name]) or None for name in names]
    columns = [
        Column("video", names),
        Column("label", [labels[n] for n in names], pill=True),
        Column("wrong by", [wrong[n] for n in names], 3),
        Column("score", [means[n] for n in names], 3),
        Column("lowest", [min(scores[n]) for n in names], 3),
        Column("highest", [max(scores[n]) for n in names], 3),
        Column("faces", [len(scores[n]) for n in names], 0),
        Column("attributes", about),
    ]
    shown = [c for c in columns if any(v is not None for v in c.values)]
    note = f"Videos of the {held.side} side, sorted by how far the mean logit is on the wrong side of 0."
    return Videos(shown, (), "wrong by", note), {name: i for i, name in enumerate(names)}


# ---------------------------------------------------------------- provenance


def _provenance(metrics: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Cell]:
    calibration = metrics.get("calibration")
    audits = metrics.get("audits") or {}
    people = metrics.get("identities")
    return {
        "made by": f"dfscan {metrics.get('dfscan')}",
        "model (SHA-256)": metrics.get("model_sha256"),
        "backbone": metrics.get("backbone"),
        "recipe": metrics.get("recipe_hash"),
        "configuration": metrics.get("config_hash"),
        "weights": f"epoch {metrics.get('best_epoch')}, chosen by {metrics.get('chosen_by')}",
        "identities": in_words(people) if isinstance(people, Mapping) else people,
        "shortcuts": in_words(audits.get("shortcuts") or {}),
        "leaks": in_words(audits.get("leaks") or {}),
        "calibration": in_words(calibration) if isinstance(calibration, dict) else "none",
        **_settings(run),
    }


def _settings(run: Mapping[str, Any]) -> dict[str, Cell]:
    return {"settings": in_words({k: v for k, v in run.items() if v not in ([], None, False)})}
