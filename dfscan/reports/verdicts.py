"""The report on verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit, logit

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.corpora.base import part_of
from dfscan.evaluation.verdict_data import score_map
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import (
    Cell,
    Column,
    Face,
    Gallery,
    Histogram,
    Page,
    Table,
    Tile,
    Timeline,
    Track,
    Videos,
)
from dfscan.reports.tallies import (
    by_reason,
    by_value,
    failed,
    in_words,
    listed,
    resolution,
)
from dfscan.reports.thumbnails import Picture, Spot, Wanted, from_videos
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import LABELS, STATUSES
from dfscan.verdicts.provenance import records
from dfscan.verdicts.table import VerdictTable, open_verdicts, verdict_files

MAX_ROWS: Final = 25_000
"""Largest number of videos on a page, about 200 bytes each."""

MAX_TIMELINES: Final = 10_000
MAX_POINTS: Final = 400_000
"""Largest number of faces in all timelines, about 10 bytes each."""

PEOPLE: Final = 4
"""Largest number of faces per video."""

OUTCOMES: Final = ("FAKE", "UNCERTAIN", "REAL")
_BINS: Final = 25
_BRIEF: Final = (
    *("video_id", "label", "status", "verdict", "reason", "p_fake", "calibrated", "scanned_at"),
    "gone",
)
_CUSTODY: Final = ("config_hash", "dfscan", "models", "decoder", "device", "precision")
_NEAR_ONE: Final = 1e-5
_NONE: Final = "no verdict"

Way = tuple[str | None, str | None]
"""How a row was scored: its ``config_hash`` and its look."""


@dataclass(frozen=True)
class Verdicts:
    """Some rows of verdicts, in the caller's order.

    ``rows`` have all columns but ``frames``, whose values are flattened: row ``i`` has those from
    ``starts[i]`` to ``starts[i + 1]``.
    """

    rows: list[dict[str, Any]]
    starts: npt.NDArray[np.int64]
    pts_s: npt.NDArray[np.float64]
    frame_index: npt.NDArray[np.int64]
    track_id: list[int | None]
    box: npt.NDArray[np.float32]
    score_raw: npt.NDArray[np.float64]
    maps: Mapping[Way, tuple[float, float]]

    @classmethod
    def of(cls, file: VerdictTable, places: Sequence[int]) -> "Verdicts":
        """Read the rows with these indices into memory."""
        table = file.take(places)
        lists = table.column("frames").combine_chunks()
        flat = lists.flatten()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        rows = table.drop_columns(["frames"]).to_pylist()
        return cls(
            rows=rows,
            starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            pts_s=flat.field("pts_s").to_numpy(zero_copy_only=False),
            frame_index=flat.field("frame_index").to_numpy(zero_copy_only=False).astype(np.int64),
            track_id=flat.field("track_id").to_pylist(),
            box=flat.field("box").flatten().to_numpy(zero_copy_only=False).reshape(-1, 4),
            score_raw=flat.field("score_raw").to_numpy(zero_copy_only=False).astype(np.float64),
            maps=_maps(rows),
        )

    def timeline(self, place: int) -> Timeline | None:
        """p_fake of every face of a row, one track per person.

        None if the row has no face, or if the map from score to p_fake is unknown.
        """
        own = range(int(self.starts[place]), int(self.starts[place + 1]))
        row = self.rows[place]
        scale, offset = self._map(row)
        if not own or math.isnan(scale):
            return None
        p_fake = expit(scale * self.score_raw[own.start : own.stop] + offset)
        tracks: dict[int | None, list[int]] = {}
        for at in own:
            if math.isfinite(self.score_raw[at]):
                tracks.setdefault(self.track_id[at], []).append(at)
        lines = []
        for person, places in sorted(tracks.items(), key=lambda item: (item[0] is None, item[0])):
            places.sort(key=lambda at: self.pts_s[at])
            lines.append(
                Track(
                    None if person is None else person + 1,
                    [float(self.pts_s[at]) for at in places],
                    [float(p_fake[at - own.start]) for at in places],
                )
            )
        return Timeline(row["duration_s"], row["threshold"], lines) if lines else None

    def timelines(self, places: Iterable[int | None]) -> list[Timeline | None]:
        """The timelines of rows, in order, up to the page's limit; None for no row."""
        found: list[Timeline | None] = []
        lines, left = MAX_TIMELINES, MAX_POINTS
        for place in places:
            faces = 0 if place is None else int(self.starts[place + 1] - self.starts[place])
            fits = place is not None and lines > 0 and faces <= left
            line = self.timeline(place) if place is not None and fits else None
            if line is not None:
                lines, left = lines - 1, left - faces
            found.append(line)
        return found

    def _map(self, row: Mapping[str, Any]) -> tuple[float, float]:
        if not row["calibrated"]:
            return 1.0, 0.0
        known = self.maps.get(_way(row))
        if known is not None:
            return known
        score, p_fake = row["score_raw"], row["p_fake"]
        if score is None or p_fake is None or not _NEAR_ONE < p_fake < 1 - _NEAR_ONE:
            return 1.0, 0.0
        return 1.0, float(logit(p_fake)) - score

    def spots(self, place: int, lowest: bool = False) -> list[Spot]:
        """The face with the highest (or lowest) score of each person of a row, sorted."""
        sign = 1 if lowest else -1
        best: dict[int | None, int] = {}
        for at in range(int(self.starts[place]), int(self.starts[place + 1])):
            track = self.track_id[at]
            if track not in best or sign * (self.score_raw[at] - self.score_raw[best[track]]) < 0:
                best[track] = at
        ranked = sorted(best.values(), key=lambda at: sign * self.score_raw[at])
        scale, offset = self._map(self.rows[place])
        return [
            Spot(
                frame_index=int(self.frame_index[at]),
                pts_s=float(self.pts_s[at]),
                track_id=self.track_id[at],
                box=tuple(self.box[at].tolist()),
                p_fake=None
                if math.isnan(scale)
                else float(expit(scale * self.score_raw[at] + offset)),
            )
            for at in ranked
        ]


def read_brief(file: VerdictTable) -> pa.Table:
    """Read the columns that are counted over all rows, without the large nested ones."""
    columns = [*_BRIEF, *(f"custody.{name}" for name in _CUSTODY)]
    return file.read(columns).combine_chunks()


def _ranked(brief: pa.Table) -> list[int]:
    """Row indices by descending p_fake, those without one last; ties by name."""
    columns = (brief.column(name).to_pylist() for name in ("p_fake", "video_id"))
    keys = [(-(-1.0 if p is None else p), name) for p, name in zip(*columns, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _way(row: Mapping[str, Any]) -> Way:
    """The row's scoring configuration; a quick pass has its own calibration."""
    return (row["custody"] or {}).get("config_hash"), row["look"]


def _maps(rows: Sequence[Mapping[str, Any]]) -> dict[Way, tuple[float, float]]:
    """Slope and offset from a score to the logit of p_fake, see :func:`score_map`.

    Omits configurations with a single video that does not determine the map.
    """
    ways: dict[Way, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["calibrated"]:
            ways.setdefault(_way(row), []).append(row)
    found = {}
    for way, mine in ways.items():
        tracks = [track for row in mine for track in row["tracks"] or ()]
        slope, offset = score_map(_pairs(tracks), _pairs(mine))
        if len(mine) > 1 or not math.isnan(slope):
            found[way] = (slope, offset)
    return found


def _pairs(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N,) scores and p_fake; NaN if missing."""
    scores, p_fake = (np.array([r[n] for r in rows], np.float64) for n in ("score_raw", "p_fake"))
    return scores, p_fake


def collect(
    path: storage.StoragePath, about: str, config: ReportConfig, progress: Progress
) -> Page:
    """Collect the report page of verdicts.

    :raises UsageError: there are no verdicts, or the record is damaged.
    """
    file = open_verdicts(path)
    brief = read_brief(file)
    verdicts = Verdicts.of(file, _ranked(brief)[:MAX_ROWS])
    shown = range(len(verdicts.rows))
    galleries, notes = galleries_of(verdicts, shown, config, progress)
    rows = brief.select(_BRIEF).to_pylist()
    outcomes = [row["verdict"] or _NONE for row in rows]
    unjudged = [row for row in rows if row["verdict"] is None]
    custody = brief.column("custody")
    return Page(
        kind="Verdicts",
        heading=path.name,
        under=_under(rows),
        about=about,
        made=datetime.now(UTC),
        tiles=_tiles(rows, outcomes),
        notes=[*_notes(rows, custody), *notes],
        figures=[t for t in (_truth(rows, outcomes),) if t],
        counts=_counts(rows, outcomes),
        histograms=_histograms(rows),
        galleries=galleries,
        failures=by_reason(
            [r["video_id"] for r in unjudged],
            [r["status"] for r in unjudged],
            [r["reason"] for r in unjudged],
        ),
        videos=_videos(verdicts),
        provenance=_provenance(path, rows, custody),
    )


def _under(rows: Sequence[Mapping[str, Any]]) -> str:
    times = [row["scanned_at"] for row in rows if row["scanned_at"]]
    if not times:
        return f"{len(rows):,} videos"
    first, last = f"{min(times):%Y-%m-%d}", f"{max(times):%Y-%m-%d}"
    when = first if first == last else f"{first} to {last}"
    return f"{len(rows):,} videos, scored {when}. The most suspicious come first."


def _tiles(rows: Sequence[Mapping[str, Any]], outcomes: Sequence[str]) -> list[Tile]:
    total = max(1, len(rows))
    tiles = [Tile("videos", len(rows))]
    for name in (*OUTCOMES, _NONE):
        count = outcomes.count(name)
        tiles.append(Tile(name, count, f"{100 * count / total:.1f} %", name))
    gone = sum(bool(row["gone"]) for row in rows)
    bad = failed(row["status"] for row in rows)
    tiles.append(Tile("failed", bad, f"{gone:,} gone from the source" if gone else ""))
    return tiles


def _notes(rows: Sequence[Mapping[str, Any]], custody: pa.ChunkedArray) -> list[str]:
    notes = []
    raw = sum(row["p_fake"] is not None and not row["calibrated"] for row in rows)
    if raw:
        notes.append(
            f"{raw:,} videos were scored by a model without a calibration: their p_fake ranks them "
            "but is not a probability (dfscan calibrate makes it one)."
        )
    ways = _different(custody, "config_hash")
    if len(ways) > 1:
        notes.append(
            f"The rows were made by {len(ways)} configurations: their p_fake may not be comparable "
            "(dfscan score --stale rescan scores them with one)."
        )
    if len(rows) > MAX_ROWS:
        notes.append(
            f"The table lists the {MAX_ROWS:,} most suspicious; the counts include all videos."
        )
    return notes


def _truth(rows: Sequence[Mapping[str, Any]], outcomes: Sequence[str]) -> Table | None:
    """Label against verdict, if the rows have labels."""
    if all(row["label"] is None for row in rows):
        return None
    names = (*OUTCOMES, _NONE)
    lines: list[list[Cell]] = []
    for label in (*LABELS, None):
        mine = [o for row, o in zip(rows, outcomes, strict=True) if row["label"] == label]
        if mine:
            lines.append([label or "no label", *(mine.count(name) for name in names), len(mine)])
    note = "dfscan evaluate computes metrics with intervals."
    return Table("Label and verdict", ("label", *names, "all"), lines, note)


def _counts(rows: Sequence[Mapping[str, Any]], outcomes: Sequence[str]) -> list[Any]:
    counts = [
        by_value("Videos by verdict", outcomes, (*OUTCOMES, _NONE)),
        by_value("Videos by status", (row["status"] for row in rows), ("ok", *STATUSES)),
    ]
    if any(row["label"] is not None for row in rows):
        counts.append(by_value("Videos by label", (row["label"] for row in rows), LABELS))
    parts = [part_of(row["video_id"]) for row in rows]
    if len(set(parts)) > 1:
        counts.append(by_value("Videos by part", parts))
    return counts


def _histograms(rows: Sequence[Mapping[str, Any]]) -> list[Histogram]:
    series = {}
    for name in OUTCOMES:
        values = [r["p_fake"] for r in rows if r["verdict"] == name and r["p_fake"] is not None]
        if values:
            series[name] = np.histogram(values, _BINS, (0, 1))[0].tolist()
    if not series:
        return []
    return [Histogram("p_fake by verdict", series, ("0", "0.25", "0.5", "0.75", "1"))]


# ---------------------------------------------------------------- faces


def galleries_of(
    verdicts: Verdicts, places: Sequence[int], config: ReportConfig, progress: Progress
) -> tuple[list[Gallery], list[str]]:
    """The faces of the most suspicious rows, and separately those of uncertain ones.

    :returns: the galleries, and warnings about missing pictures.
    """
    unsure, sure = _chosen(verdicts, places, config.faces)
    chosen = [*sure, *unsure]
    spots = _with_more_people(verdicts, chosen, config.faces)
    rows = verdicts.rows
    wanted = [wanted_of(rows[place], spots[place]) for place in chosen]
    pictures = dict(zip(chosen, from_videos(wanted, config, progress), strict=True))
    there = [
        (
            "Most suspicious",
            "The face with the highest score of each video: those called FAKE, then the rest, the "
            "highest p_fake first.",
            sure,
        ),
        (
            "Uncertain",
            "Videos with too little evidence for a verdict, the highest p_fake first.",
            unsure,
        ),
    ]
    galleries = [
        Gallery(
            title,
            intro,
            [
                _face(verdicts, place, spot, picture)
                for place in mine
                for spot, picture in zip(spots[place], pictures[place], strict=True)
            ],
        )
        for title, intro, mine in there
    ]
    missing = [p.missing for each in pictures.values() for p in each if p.jpeg is None]
    notes = []
    if missing:
        why = ", ".join(f"{missing.count(m):,} × {m}" for m in dict.fromkeys(missing[:1000]))
        notes.append(f"{len(missing):,} faces cannot be shown ({why[:300]}).")
    return galleries, notes


def _chosen(verdicts: Verdicts, places: Sequence[int], budget: int) -> tuple[list[int], list[int]]:
    """Rows whose faces are shown: uncertain ones (at least a quarter of the budget) and decided
    ones."""
    rows, starts = verdicts.rows, verdicts.starts
    able = [
        place
        for place in places
        if starts[place + 1] > starts[place] and rows[place]["width"] and rows[place]["height"]
    ]
    unsure = [place for place in able if rows[place]["verdict"] == "UNCERTAIN"]
    sure = [place for place in able if rows[place]["verdict"] in LABELS]
    sure.sort(
        key=lambda place: rows[place]["verdict"] != "FAKE"
    )  # stable: keeps the order by p_fake
    room = max(budget // 4, budget - len(sure))
    unsure = unsure[:room]
    return unsure, sure[: budget - len(unsure)]


def _with_more_people(
    verdicts: Verdicts, chosen: Sequence[int], budget: int
) -> dict[int, tuple[Spot, ...]]:
    """One face per video; if there is room, further people of the first videos."""
    room = budget - len(chosen)
    found = {}
    for place in chosen:
        spots = verdicts.spots(place)[:PEOPLE]
        more = min(room, len(spots) - 1)
        room -= more
        found[place] = tuple(spots[: 1 + more])
    return found


def wanted_of(row: Mapping[str, Any], spots: tuple[Spot, ...]) -> Wanted:
    """The faces to crop from a row's video."""
    ref = VideoRef(
        video_id=row["video_id"], uri=row["uri"], part="", label=row["label"], original=None,
        group="", bytes=row["bytes"], version=row["version"],
    )  # fmt: skip
    return Wanted(ref, row["content_sha256"], row["width"], row["height"], spots)


def _face(verdicts: Verdicts, place: int, spot: Spot, picture: Picture) -> Face:
    row = verdicts.rows[place]
    facts: dict[str, Cell] = {
        "p_fake": _rounded(row["p_fake"]),
        "this face": _rounded(spot.p_fake),
        "score": _rounded(row["score_raw"]),
    }
    if row["label"] is not None:
        facts["label"] = row["label"]
    if row["tracks"] and len(row["tracks"]) > 1 and spot.track_id is not None:
        facts["person"] = spot.track_id + 1
    facts["at"] = f"{spot.pts_s:.1f} s"
    x0, y0, x1, y1 = spot.box
    facts["face, px"] = round(math.sqrt(max(0.0, (x1 - x0) * (y1 - y0))))
    return Face(
        name=row["video_id"],
        jpeg=picture.jpeg,
        facts=facts,
        badge=row["verdict"] or "",
        missing=picture.missing,
        video=place,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# ---------------------------------------------------------------- the table


def _videos(verdicts: Verdicts) -> Videos:
    rows = verdicts.rows
    timelines = verdicts.timelines(range(len(rows)))
    note = note_of(timelines, np.diff(verdicts.starts).tolist())
    columns = columns_of(rows)
    faces = np.diff(verdicts.starts)[: len(rows)].tolist()
    columns.insert(-6, Column("faces", faces, 0))
    return Videos(columns, timelines, "p_fake", note)


def note_of(timelines: Sequence[Timeline | None], faces: Iterable[int]) -> str:
    """A note if not all videos with faces have a timeline."""
    count = sum(line is not None for line in timelines)
    able = sum(number > 0 for number in faces)
    return "" if count >= able else f"The first {count:,} of {able:,} with faces have a timeline."


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of a table of verdicts; the last six are shown only in a video's details."""

    def get(name: str) -> list[Cell]:
        return [row[name] for row in rows]

    parts: list[Cell] = [part_of(row["video_id"]) for row in rows]
    sizes: list[Cell] = [resolution(row["width"], row["height"]) for row in rows]
    people: list[Cell] = [None if row["tracks"] is None else len(row["tracks"]) for row in rows]
    when: list[Cell] = [
        f"{row['scanned_at']:%Y-%m-%d %H:%M}" if row["scanned_at"] else None for row in rows
    ]
    columns = [
        Column("video", get("video_id")),
        Column("verdict", get("verdict"), pill=True),
        Column("p_fake", get("p_fake"), 3),
        Column("score", get("score_raw"), 3),
        Column("label", get("label"), pill=True),
        Column("status", get("status")),
        Column("reason", get("reason")),
        Column("part", parts),
        Column("length, s", get("duration_s"), 1),
        Column("pixels", sizes),
        Column("face, px", get("face_px"), 0),
        Column("people", people, 0),
        Column("threshold", get("threshold"), 4, detail=True),
        Column("look", get("look"), detail=True),
        Column("gone", ["yes" if row["gone"] else None for row in rows], detail=True),
        Column("scored", when, detail=True),
        Column("SHA-256", get("content_sha256"), detail=True),
        Column("file", get("uri"), detail=True),
    ]
    empty = {c.title for c in columns[:-6] if all(v is None for v in c.values)}
    if len(set(parts)) < 2:
        empty.add("part")
    return [column for column in columns if column.title not in empty - {"video"}]


# ---------------------------------------------------------------- provenance


def _different(custody: pa.ChunkedArray, name: str) -> list[Any]:
    return [v for v in pc.unique(pc.struct_field(custody, name)).to_pylist() if v is not None]


def _files(path: storage.StoragePath) -> dict[str, Cell]:
    """The name of the verdict file or folder, and a digest to detect changes."""
    if not storage.is_folder(path):
        digest = storage.content_sha256(str(path))
        return {"verdict file": path.name, "SHA-256 of the file": digest}
    files = verdict_files(path)
    lines = [f"{storage.content_sha256(str(file))}  {file.name}\n" for file in files]
    return {
        "verdict folder": path.name,
        "files": len(files),
        "sha256sum *.parquet | sha256sum": storage.sha256("".join(lines).encode()),
    }


def _provenance(
    path: storage.StoragePath, rows: Sequence[Mapping[str, Any]], custody: pa.ChunkedArray
) -> dict[str, Cell]:
    times = [row["scanned_at"] for row in rows if row["scanned_at"]]
    models = pc.unique(pc.list_flatten(pc.struct_field(custody, "models"))).to_pylist()
    facts: dict[str, Cell] = {
        **_files(path),
        "scored by": f"dfscan {listed(_different(custody, 'dfscan'))}",
        "models (SHA-256)": listed(models),
        "decoders": listed(_different(custody, "decoder")),
        "device": listed(_different(custody, "device")),
        "precision": listed(_different(custody, "precision")),
    }
    if times:
        facts["scored"] = f"{min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} UTC"
    for name, record in records(path).items():
        recipe = record.get("recipe")
        decided = {k: v for k, v in record.items() if k not in ("recipe", "models", "calibrations")}
        facts[f"configuration {name}"] = in_words(decided)
        for key, value in recipe.items() if isinstance(recipe, dict) else ():
            if value:
                facts[f"{key} ({name})"] = (
                    in_words(value) if isinstance(value, dict) else str(value)
                )
    return facts
