"""A report on a face dataset."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import (
    Cell,
    Column,
    Counts,
    Face,
    Gallery,
    Histogram,
    Page,
    Tile,
    Videos,
)
from dfscan.reports.tallies import by_reason, by_value, failed, in_words, listed, resolution
from dfscan.reports.thumbnails import rows_at, thumbnail
from dfscan.schemas.records import entries_to_dict
from dfscan.schemas.status import LABELS, STATUSES

MAX_ROWS: Final = 50_000
_BINS: Final = 25
_VALUES: Final = 20
_SHOWN: Final = ("video_id", "label", "frame_index", "pts_s", "track_id", "box", "crop_box")
_VIDEO: Final = (
    *("video_id", "uri", "part", "label", "original", "group", "attributes", "status", "reason"),
    *("content_sha256", "codec", "width", "height", "fps", "duration_s", "frames_sampled"),
    *("faces", "tracks", "decoder"),
)


@dataclass(frozen=True)
class Stored:
    """All N stored faces without their pictures, (N,) each: file, row in it, size in pixels,
    score."""

    files: list[storage.StoragePath]
    file: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    side_px: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    label: npt.NDArray[np.object_]

    @classmethod
    def of(cls, target: FaceSet) -> "Stored":
        """Read from a dataset, without pictures."""
        files = storage.parquet_files(target.faces)
        parts: dict[str, list[Any]] = defaultdict(list)
        for number, path in enumerate(files):
            table = storage.read_table(path, ["box", "detector_score", "label"])
            boxes = table.column("box").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            corners = boxes.reshape(-1, 4).astype(np.float64)
            width, height = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
            parts["side_px"].append(np.sqrt(np.maximum(0, width * height)))
            parts["score"].append(table.column("detector_score").to_numpy().astype(np.float64))
            parts["label"].append(np.array(table.column("label").to_pylist(), object))
            parts["file"].append(np.full(table.num_rows, number, np.int64))
            parts["place"].append(np.arange(table.num_rows, dtype=np.int64))
        names = ("file", "place", "side_px", "score", "label")
        joined: list[Any] = [np.concatenate(parts[n]) if files else np.empty(0) for n in names]
        return cls(files, *joined)


def collect(
    path: storage.StoragePath, about: str, config: ReportConfig, progress: Progress
) -> Page:
    """Collect the report page of a face dataset.

    :raises SourceError: its ``dataset.json`` is damaged, or newer than this dfscan.
    """
    del progress  # not needed: nothing here takes long
    target = FaceSet(path)
    header = target.header()
    rows = _rows(target)
    stored = Stored.of(target)
    places = {row["video_id"]: place for place, row in enumerate(rows[:MAX_ROWS])}
    bad = [row for row in rows if row["status"] != "ok"]
    return Page(
        kind="Face dataset",
        heading=path.name,
        under=f"{len(stored.score):,} faces of {len(rows):,} videos.",
        about=about,
        made=datetime.now(UTC),
        tiles=_tiles(rows, stored),
        notes=_notes(header, rows),
        counts=_counts(rows),
        histograms=_histograms(stored),
        galleries=_galleries(stored, places, config.faces),
        failures=by_reason(
            [r["video_id"] for r in bad], [r["status"] for r in bad], [r["reason"] for r in bad]
        ),
        videos=Videos(_columns(rows[:MAX_ROWS])) if rows else None,
        provenance=_provenance(path, header, rows),
    )


def _rows(target: FaceSet) -> list[dict[str, Any]]:
    tables = storage.read_tables(target.videos, list(_VIDEO))
    rows: list[dict[str, Any]] = [row for _, table in tables for row in table.to_pylist()]
    rows.sort(key=lambda row: str(row["video_id"]))
    return rows


def _tiles(rows: Sequence[Mapping[str, Any]], stored: Stored) -> list[Tile]:
    labels = [row["label"] for row in rows]
    return [
        Tile("videos", len(rows)),
        Tile("real videos", labels.count("REAL"), kind="REAL"),
        Tile("fake videos", labels.count("FAKE"), kind="FAKE"),
        Tile("faces", len(stored.score)),
        Tile("frames sampled", sum(row["frames_sampled"] or 0 for row in rows)),
        Tile("groups", len({row["group"] for row in rows}), "of related videos"),
        Tile("failed", failed(row["status"] for row in rows)),
    ]


def _notes(header: Mapping[str, Any], rows: Sequence[Any]) -> list[str]:
    notes = []
    if not header.get("finished", False):
        notes.append("The extraction has not finished: run the same command again to continue.")
    if len(rows) > MAX_ROWS:
        notes.append(f"The table lists the first {MAX_ROWS:,} videos; the counts include all.")
    return notes


def _counts(rows: Sequence[Mapping[str, Any]]) -> list[Counts]:
    counts = [
        by_value("Videos by status", (row["status"] for row in rows), ("ok", *STATUSES)),
        by_value("Videos by label", (row["label"] for row in rows), LABELS),
    ]
    if len({row["part"] for row in rows}) > 1:
        counts.append(by_value("Videos by part", (row["part"] for row in rows)))
    attributes = [entries_to_dict(row["attributes"]) for row in rows]
    for name in sorted({name for each in attributes for name in each}):
        values = [each.get(name) for each in attributes]
        if len(set(values)) <= _VALUES:
            counts.append(by_value(f"Videos by {name}", values))
    return counts


def _histograms(stored: Stored) -> list[Histogram]:
    """Sizes up to the 99.5th percentile; outliers would squeeze the rest."""
    if not len(stored.side_px):
        return []
    top = max(1.0, float(np.quantile(stored.side_px, 0.995)))
    series: dict[str, list[int]] = {}
    for label in (*LABELS, None):
        mine = stored.side_px[stored.label == label]
        if len(mine):
            bars = np.histogram(np.minimum(mine, top), _BINS, (0, top))[0].tolist()
            series[label or "no label"] = bars
    axis = [f"{top * share:.0f} px" for share in (0, 0.25, 0.5, 0.75, 1)]
    return [Histogram("Face size by label", series, axis, "faces")]


# ---------------------------------------------------------------- faces


def _galleries(stored: Stored, places: Mapping[str, int], budget: int) -> list[Gallery]:
    """An even sample of all faces, those with the lowest detector scores, and the smallest."""
    count = len(stored.score)
    if not budget or not count:
        return []
    odd = budget // 6
    least = np.argsort(stored.score, kind="stable")[:odd]
    small = np.setdiff1d(np.argsort(stored.side_px, kind="stable")[: 2 * odd], least)
    small = small[np.argsort(stored.side_px[small], kind="stable")][:odd]
    rest = np.setdiff1d(np.arange(count), np.concatenate([least, small]))
    spread = rest[np.linspace(0, len(rest) - 1, min(len(rest), budget - 2 * odd)).astype(int)]
    chosen = {
        ("Least sure", "Faces with the lowest detector scores."): least,
        ("Smallest", "The smallest faces; size is the side of a square of equal area."): small,
        ("A sample", "Faces spread evenly over the whole dataset."): spread,
    }
    found = _read(stored, np.concatenate(list(chosen.values())))
    return [
        Gallery(title, intro, [_face(found[int(i)], stored, int(i), places) for i in mine])
        for (title, intro), mine in chosen.items()
    ]


def _read(stored: Stored, chosen: Iterable[int]) -> dict[int, dict[str, Any]]:
    by_file: dict[int, dict[int, int]] = defaultdict(dict)
    for face in chosen:
        by_file[int(stored.file[face])][int(stored.place[face])] = int(face)
    found: dict[int, dict[str, Any]] = {}
    for number, mine in by_file.items():
        rows = rows_at(stored.files[number], list(mine), [*_SHOWN, "image"])
        found |= {mine[place]: row for place, row in rows.items()}
    return found


def _face(row: Mapping[str, Any], stored: Stored, face: int, places: Mapping[str, int]) -> Face:
    picture = thumbnail(row["image"]["bytes"], tuple(row["crop_box"]), tuple(row["box"]))
    score = float(stored.score[face])
    facts: dict[str, Cell] = {
        "detector": round(score, 4) if math.isfinite(score) else None,
        "face, px": round(float(stored.side_px[face])),
        "person": None if row["track_id"] is None else row["track_id"] + 1,
        "at": f"{row['pts_s']:.1f} s",
    }
    return Face(
        name=row["video_id"],
        jpeg=picture.jpeg,
        facts=facts,
        badge=row["label"] or "",
        missing=picture.missing,
        video=places.get(row["video_id"]),
    )


# ---------------------------------------------------------------- the table, provenance


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    def get(name: str) -> list[Cell]:
        return [row[name] for row in rows]

    sizes: list[Cell] = [resolution(row["width"], row["height"]) for row in rows]
    about: list[Cell] = [in_words(entries_to_dict(row["attributes"])) or None for row in rows]
    columns = [
        Column("video", get("video_id")),
        Column("label", get("label"), pill=True),
        Column("status", get("status")),
        Column("reason", get("reason")),
        Column("part", get("part")),
        Column("faces", get("faces"), 0),
        Column("people", get("tracks"), 0),
        Column("frames", get("frames_sampled"), 0),
        Column("length, s", get("duration_s"), 1),
        Column("pixels", sizes),
        Column("codec", get("codec")),
        Column("attributes", about, detail=True),
        Column("original", get("original"), detail=True),
        Column("group", get("group"), detail=True),
        Column("frames a second", get("fps"), 2, detail=True),
        Column("decoder", get("decoder"), detail=True),
        Column("SHA-256", get("content_sha256"), detail=True),
        Column("file", get("uri"), detail=True),
    ]
    return [c for c in columns if c.detail or any(v is not None for v in c.values)]


def _provenance(
    path: storage.StoragePath, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Cell]:
    recipe = FaceSet(path).recipe()
    facts: dict[str, Cell] = {
        "dataset": path.name,
        "made by": f"dfscan {header.get('dfscan', '(not recorded)')}",
        "recipe": recipe.hash(),
        "sampling": in_words(recipe.sampling.model_dump()),
        "detector": in_words(recipe.detector.model_dump()),
        "stored crop": in_words(recipe.crop.model_dump()),
        "boxes from": str(header["config"].get("boxes_from", "detected")),
        "decoders": listed(row["decoder"] for row in rows),
    }
    return facts
