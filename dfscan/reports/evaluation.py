"""The report on an evaluation: metrics, and the worst mistakes first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import MARKER as FACES
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import SourceError
from dfscan.evaluation.metrics import SCALARS
from dfscan.evaluation.verdict_data import METRICS, PLOTS, ROWS
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import (
    Cell,
    Column,
    Face,
    Gallery,
    Page,
    Table,
    Tile,
    Timeline,
    Videos,
)
from dfscan.reports.figures import breakdown_table, figure, side_table, title_of
from dfscan.reports.tallies import by_reason, by_value, in_words, plots_of, resolution
from dfscan.reports.thumbnails import FaceKey, Picture, from_datasets, from_videos
from dfscan.reports.verdicts import (
    MAX_ROWS,
    Verdicts,
    note_of,
    read_brief,
    wanted_of,
)
from dfscan.schemas.records import entries_to_dict
from dfscan.schemas.status import LABELS, STATUSES
from dfscan.verdicts.table import open_verdicts

FALSE_ALARM: Final = "false alarm"
MISS: Final = "miss"
UNCERTAIN: Final = "uncertain"
RIGHT: Final = "right"
_ORDER: Final = (FALSE_ALARM, MISS, UNCERTAIN, RIGHT, "no verdict", "no label")
_HEADINGS: Final = {
    FALSE_ALARM: ("False alarms", "Real videos called FAKE, the highest p_fake first."),
    MISS: ("Misses", "Fake videos called REAL, the lowest p_fake first."),
    UNCERTAIN: ("Uncertain", "Videos without a decision, the most wrong p_fake first."),
}

_SAME: Final = ("content_sha256", "score_raw", "p_fake")
"""Columns shared by a verdict and the evaluation row made from it."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Source:
    """The evaluated verdicts or face dataset, if still available.

    ``places`` are the indices in ``verdicts`` of videos whose verdict is unchanged.
    """

    verdicts: Verdicts | None
    places: Mapping[str, int]
    faces: storage.StoragePath | None


def collect(
    path: storage.StoragePath, about: str, config: ReportConfig, progress: Progress
) -> Page:
    """Collect the report page of an evaluation.

    :raises SourceError: one of its files is missing or damaged.
    """
    for name in (METRICS, ROWS):
        if not storage.exists(path / name):
            raise SourceError(
                f"{path} holds no {name}: the evaluation has not finished; run dfscan evaluate again",
                code="source.unfinished",
            )
    metrics = storage.read_json(str(path / METRICS))
    rows = sorted(storage.read_table(path / ROWS).to_pylist(), key=_rank)
    source, notes = _source(metrics, _shown(rows, config.faces))
    if len(rows) > MAX_ROWS:
        notes.append(f"The table lists the {MAX_ROWS:,} worst; the counts include all videos.")
    unjudged = [row for row in rows if row["verdict"] is None]
    about_faces = _galleries(rows, source, config, progress)
    return Page(
        kind="Evaluation",
        heading=storage.as_path(str(metrics.get("path") or path.name)).name,
        under=_under(metrics),
        about=about,
        made=datetime.now(UTC),
        tiles=_tiles(metrics, rows),
        notes=[*metrics.get("notes", ()), *notes],
        figures=_figures(metrics),
        counts=[
            by_value("Videos by outcome", map(outcome, rows), _ORDER),
            by_value("Videos by label", (row["label"] for row in rows), LABELS),
            by_value("Videos by status", (row["status"] for row in rows), ("ok", *STATUSES)),
        ],
        plots=plots_of(path / PLOTS, "roc.png"),
        galleries=about_faces,
        failures=by_reason(
            [r["video_id"] for r in unjudged],
            [r["status"] for r in unjudged],
            [r["reason"] for r in unjudged],
        ),
        videos=_videos(rows[:MAX_ROWS], source),
        provenance=_provenance(metrics),
    )


def outcome(row: Row) -> str:
    """The outcome of a verdict: right, false alarm, miss or uncertain."""
    label, verdict = row["label"], row["verdict"]
    if verdict is None:
        return "no verdict"
    if label not in LABELS:
        return "no label"
    if verdict not in LABELS:
        return UNCERTAIN
    if verdict == label:
        return RIGHT
    return FALSE_ALARM if verdict == "FAKE" else MISS


def wrong_by(row: Row) -> float | None:
    """The distance of p_fake from the label, 0 to 1; None if either is unknown."""
    if row["p_fake"] is None or row["label"] not in LABELS:
        return None
    p_fake = float(row["p_fake"])
    return p_fake if row["label"] == "REAL" else 1 - p_fake


def _rank(row: Row) -> tuple[int, float, str]:
    """Sort key: mistakes first, then uncertain videos; the most wrong first."""
    kind = outcome(row)
    group = 0 if kind in (FALSE_ALARM, MISS) else _ORDER.index(kind)
    return group, -(wrong_by(row) or 0.0), row["video_id"]


def _shown(rows: Sequence[Row], faces: int) -> list[Row]:
    """The rows of the table, and others whose faces may be shown."""
    shown, rest = list(rows[:MAX_ROWS]), rows[MAX_ROWS:]
    for kind in _HEADINGS:
        shown += [row for row in rest if outcome(row) == kind][:faces]
    return shown


def _source(metrics: Mapping[str, Any], rows: Sequence[Row]) -> tuple[_Source, list[str]]:
    """Find the evaluated data, and check that it is unchanged.

    :param rows: the rows shown; only their verdicts are read.
    """
    path = storage.as_path(str(metrics.get("path")))
    if metrics.get("kind") == "faces":
        there = storage.exists(path / FACES)
        note = [] if there else [f"The face dataset {path} is missing: no face can be shown."]
        return _Source(None, {}, path if there else None), note
    if not storage.exists(path):
        return _Source(None, {}, None), [f"The verdicts {path} are missing: no face can be shown."]
    try:
        file = open_verdicts(path)
    except SourceError as error:
        return _Source(None, {}, None), [f"No face can be shown: {error}."]
    names = read_brief(file).column("video_id").to_pylist()
    at = {name: place for place, name in enumerate(names)}
    verdicts = Verdicts.of(file, [at[r["video_id"]] for r in rows if r["video_id"] in at])
    said = {row["video_id"]: row for row in rows}
    places = {
        own["video_id"]: place
        for place, own in enumerate(verdicts.rows)
        if all(own[name] == said[own["video_id"]][name] for name in _SAME)
    }
    others = len(rows) - len(places)
    notes = [
        f"{others:,} videos now have another verdict in {path}, or none: their faces and "
        "timelines are not shown."
    ]
    return _Source(verdicts, places, None), notes if others else []


# ---------------------------------------------------------------- figures


def _under(metrics: Mapping[str, Any]) -> str:
    videos = metrics.get("videos") or {}
    what = "Faces scored by a model" if metrics.get("kind") == "faces" else "Verdicts"
    return (
        f"{what} against the labels: {videos.get('labelled', 0):,} labelled videos in "
        f"{videos.get('groups', 0):,} groups. The worst mistakes come first."
    )


def _tiles(metrics: Mapping[str, Any], rows: Sequence[Row]) -> list[Tile]:
    by_video, by_frame = metrics.get("by_video") or {}, metrics.get("by_frame") or {}
    tiles = []
    for title, figures, name in (
        ("AUC by video", by_video, "auc"),
        ("AUC by frame", by_frame, "auc"),
        ("log loss by video", by_video, "log_loss"),
        ("equal error rate", by_video, "eer"),
    ):
        value, _, interval = (figure(figures, name) or "–").partition("\u00a0")
        tiles.append(Tile(title, value, interval.strip("()")))
    kinds = [outcome(row) for row in rows]
    reals = sum(row["label"] == "REAL" for row in rows)
    fakes = sum(row["label"] == "FAKE" for row in rows)
    return [
        *tiles,
        Tile("false alarms", kinds.count(FALSE_ALARM), f"of {reals:,} reals", "FAKE"),
        Tile("misses", kinds.count(MISS), f"of {fakes:,} fakes", "FAKE"),
        Tile("uncertain", kinds.count(UNCERTAIN), "not counted as either", "UNCERTAIN"),
        Tile("no verdict", kinds.count("no verdict"), "counted, not dropped"),
    ]


def _figures(metrics: Mapping[str, Any]) -> list[Table]:
    ways = {name: metrics.get(name) for name in ("by_video", "by_frame")}
    tables = [_truth(metrics.get("truth_by_verdict") or {}), side_table("Figures", ways)]
    if "comparison" in metrics:
        tables.append(_comparison(metrics["comparison"]))
    breakdown = metrics.get("breakdown") or {}
    tables += (breakdown_table(name, values) for name, values in breakdown.items())
    competition = metrics.get("competition")
    if competition:
        said = (
            f"Where each of the {competition['filled_in']:,} videos without a score counts as 0.5, "
            "as in the competition; it is not a metric of the model alone."
        )
        rows = [[f"{competition['videos']:,} videos", competition["log_loss"]]]
        tables.append(Table("Log loss of the DFDC competition", ("over", "log loss"), rows, said))
    return [table for table in tables if table.rows]


def _truth(counts: Mapping[str, Mapping[str, int]]) -> Table:
    names = list(dict.fromkeys(name for verdicts in counts.values() for name in verdicts))
    rows: list[list[Cell]] = [
        [truth, *(verdicts.get(name, 0) for name in names), sum(verdicts.values())]
        for truth, verdicts in counts.items()
    ]
    return Table("Truth and verdict", ("truth", *names, "all"), rows)


def _comparison(found: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [title_of(name), *(figure(found[side], name) for side in ("first", "second", "difference"))]
        for name in (*SCALARS, "cllr_min")
        if found["difference"].get(name) is not None
    ]
    test = found["difference"].get("mcnemar") or {}
    note = f"{found['both']:,} videos scored by both."
    if test:
        note += (
            f" Of {test['rows']:,} that both decided {test['only_first']:,} are right only here and "
            f"{test['only_second']:,} only there: McNemar's exact test gives p = {test['p']:.3g}."
        )
    columns = ("figure", "these", "the others", "difference")
    return Table(f"Against {found.get('against')}", columns, rows, note)


# ---------------------------------------------------------------- faces


def _galleries(
    rows: Sequence[Row], source: _Source, config: ReportConfig, progress: Progress
) -> list[Gallery]:
    """The faces of mistakes and uncertain videos; each kind gets a third, or what the others
    leave."""
    if not config.faces or (source.verdicts is None and source.faces is None):
        return []
    kinds = [outcome(row) for row in rows]
    each = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in _HEADINGS}
    room = config.faces
    chosen: dict[str, list[int]] = {}
    for left, name in zip((3, 2, 1), sorted(each, key=lambda n: len(each[n])), strict=True):
        chosen[name] = each[name][: math.ceil(room / left)]
        room -= len(chosen[name])
    places = [i for name in _HEADINGS for i in chosen[name]]
    pictures = _pictures([rows[i] for i in places], source, config, progress)
    found = dict(zip(places, pictures, strict=True))
    return [
        Gallery(title, intro, [_face(rows[i], i, found[i]) for i in chosen[name]])
        for name, (title, intro) in _HEADINGS.items()
    ]


def _pictures(
    rows: Sequence[Row], source: _Source, config: ReportConfig, progress: Progress
) -> list[Picture]:
    """One face per video: the most wrong one of verdicts, the middle one of a dataset."""
    lost = Picture(None, "missing or replaced")
    if source.faces is not None:
        keys = _middle_faces(source.faces, {row["video_id"] for row in rows})
        found = from_datasets([source.faces], keys.values())
        return [found.get(keys.get(row["video_id"], ("", 0, None)), lost) for row in rows]
    assert source.verdicts is not None
    wanted = []
    for row in rows:
        place = source.places.get(row["video_id"])
        if place is None:
            continue
        own = source.verdicts.rows[place]
        spots = source.verdicts.spots(place, lowest=row["label"] == "FAKE")
        if spots and own["width"] and own["height"]:
            wanted.append(wanted_of(own, (spots[0],)))
    found_by_id = {
        one.ref.video_id: pictures[0]
        for one, pictures in zip(wanted, from_videos(wanted, config, progress), strict=True)
    }
    return [found_by_id.get(row["video_id"], lost) for row in rows]


def _middle_faces(root: storage.StoragePath, video_ids: set[str]) -> dict[str, FaceKey]:
    keys: dict[str, list[FaceKey]] = {}
    columns = ["video_id", "frame_index", "track_id"]
    for _, table in storage.read_tables(FaceSet(root).faces, columns):
        for key in zip(*(table.column(name).to_pylist() for name in columns), strict=True):
            if key[0] in video_ids:
                keys.setdefault(key[0], []).append(key)
    return {name: mine[len(mine) // 2] for name, mine in keys.items()}


def _face(row: Row, place: int, picture: Picture) -> Face:
    facts: dict[str, Cell] = {
        "label": row["label"],
        "p_fake": _rounded(row["p_fake"]),
        "score": _rounded(row["score_raw"]),
        "wrong by": _rounded(wrong_by(row)),
    }
    # A column of labels does not affect the metrics.
    facts = {**facts, **entries_to_dict(row["attributes"]), **facts}
    video = place if place < MAX_ROWS else None
    badge = row["verdict"] or ""
    return Face(row["video_id"], picture.jpeg, facts, badge, picture.missing, video)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# ---------------------------------------------------------------- the table, provenance


def _videos(rows: Sequence[Row], source: _Source) -> Videos:
    def get(name: str) -> list[Cell]:
        return [row[name] for row in rows]

    sizes: list[Cell] = [resolution(row["width"], row["height"]) for row in rows]
    about: list[Cell] = [in_words(entries_to_dict(row["attributes"])) or None for row in rows]
    columns = [
        Column("video", get("video_id")),
        Column("outcome", [outcome(row) for row in rows]),
        Column("verdict", get("verdict"), pill=True),
        Column("label", get("label"), pill=True),
        Column("p_fake", get("p_fake"), 3),
        Column("wrong by", [wrong_by(row) for row in rows], 3),
        Column("score", get("score_raw"), 3),
        Column("other verdict", get("other_verdict"), pill=True),
        Column("other p_fake", get("other_p_fake"), 3),
        Column("status", get("status")),
        Column("reason", get("reason")),
        Column("part", get("part")),
        Column("attributes", about),
        Column("pixels", sizes),
        Column("face, px", get("face_px"), 0),
        Column("people", get("people"), 0),
        Column("faces", get("faces"), 0),
        Column("group", get("group"), detail=True),
        Column("original", get("original"), detail=True),
        Column("threshold", get("threshold"), 4, detail=True),
        Column("SHA-256", get("content_sha256"), detail=True),
        Column("file", get("uri"), detail=True),
    ]
    shown = [c for c in columns if c.detail or any(v is not None for v in c.values)]
    note = "Mistakes first, then uncertain videos; each sorted by how wrong p_fake is."
    timelines: list[Timeline | None] = [None] * len(rows)
    if source.verdicts is not None:
        timelines = source.verdicts.timelines(source.places.get(row["video_id"]) for row in rows)
        left = note_of(timelines, (row["faces"] or 0 for row in rows))
        note += f" {left}" if left else ""
    return Videos(shown, timelines, None, note)


def _provenance(metrics: Mapping[str, Any]) -> dict[str, Cell]:
    how = f"{metrics.get('resamples')} resamples of groups, seed {metrics.get('seed')}"
    threshold = metrics.get("threshold")
    return {
        "evaluated": metrics.get("path"),
        "labels": metrics.get("labels") or "the rows' own",
        "against": metrics.get("against"),
        "threshold": "each verdict's own" if threshold is None else threshold,
        "models (SHA-256)": ", ".join(str(m) for m in metrics.get("models") or ()),
        "intervals": how,
        "made by": f"dfscan {metrics.get('dfscan')}",
    }
