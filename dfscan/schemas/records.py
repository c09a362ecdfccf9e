"""The rows dfscan reads and writes: frozen dataclasses, and their Arrow schemas beside them.

A schema is the file format. Columns that nothing fills yet are null. Each schema carries
``schema_version`` in its metadata; readers accept older ones.

``attributes`` is stored as ``list<struct<key, value>>``, which in Parquet is the same bytes on
disk as a map, because Hugging Face ``datasets`` refuses Arrow's map type; DuckDB reads it with
``map_from_entries(attributes)['manipulation']``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import pyarrow as pa

from dfscan.schemas.status import Label

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class VideoRef:
    """One video of a corpus before it is opened: where it is and what is known of it.

    ``bytes`` is the size of the file in bytes; ``version`` identifies its content without
    reading it (size and mtime_ns, or the archive's crc32) and is only ever used to skip work.
    """

    video_id: str
    uri: str
    part: str
    label: Label | None
    original: str | None
    group: str
    bytes: int
    version: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VideoRow:
    """What became of one video: a row for every video of a source, whatever happened to it.

    ``frames_claimed`` is the count in the container, ``frames_decoded`` what the decoder
    delivered or, with exact sampling, passed over, ``frames_lost`` those that are missing or damaged.
    """

    video_id: str
    uri: str
    part: str
    bytes: int
    version: str
    label: str | None
    original: str | None
    group: str
    attributes: Mapping[str, str]
    status: str
    reason: str | None = None
    content_sha256: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    frames_claimed: int | None = None
    frames_decoded: int | None = None
    frames_sampled: int | None = None
    frames_lost: int | None = None
    faces: int = 0
    tracks: int | None = None
    decoder: str | None = None
    elapsed_s: float | None = None
    unit: str | None = None
    committed_at: float | None = None


@dataclass(frozen=True, slots=True)
class FaceRow:
    """One face of one sampled frame.

    ``box`` and ``crop_box`` are (x0, y0, x1, y1) in pixels of the displayed frame (after
    rotation); ``landmarks`` are five (x, y) pairs: left eye, right eye, nose, left and right
    corner of the mouth, as seen by the viewer (null where no detector looked). ``image`` is the
    encoded crop. ``track_id`` is one number a person a video. ``face_diff`` is 1 − SSIM of a
    fake's face against the original's at the same place and frame. ``weight`` is how many frames
    of its video the sampled frame stands for.
    """

    video_id: str
    uri: str
    part: str
    label: str | None
    original: str | None
    group: str
    attributes: Mapping[str, str]
    frame_index: int
    pts_s: float
    key_frame: bool
    face_index: int
    box: tuple[float, float, float, float]
    landmarks: tuple[float, ...] | None
    detector_score: float
    box_from: str
    crop_box: tuple[float, float, float, float]
    image: bytes
    weight: float = 1.0
    track_id: int | None = None
    face_diff: float | None = None


@dataclass(frozen=True, slots=True)
class FrameScore:
    """The score of one face in one frame; ``score_raw`` is a logit, higher = more fake.

    ``logits``: of several models each one's own, uncalibrated, in the order of ``custody.models``;
    None for one model.
    """

    pts_s: float
    frame_index: int
    track_id: int | None
    box: tuple[float, float, float, float]
    score_raw: float
    logits: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Custody:
    """What a verdict was made with; enough to compute it again."""

    dfscan: str
    recipe_hash: str
    config_hash: str
    models: tuple[str, ...]
    decoder: str | None
    device: str
    precision: str
    libraries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict for one video. ``verdict`` is null where there is nothing to judge.

    ``frames_sampled`` (frames in which faces were searched for) and ``median_sharpness`` (of the
    faces, see :func:`dfscan.faces.quality.sharpness`) are what decides about UNCERTAIN beside
    ``frames`` and ``face_px``.
    """

    video_id: str
    uri: str
    bytes: int
    version: str
    status: str
    verdict: str | None
    reason: str | None
    score_raw: float | None
    p_fake: float | None
    calibrated: bool
    threshold: float | None
    custody: Custody
    label: str | None = None
    content_sha256: str | None = None
    llr: float | None = None
    look: str | None = None
    tracks: tuple[Mapping[str, Any], ...] | None = None
    frames: tuple[FrameScore, ...] = ()
    top_frames_s: tuple[float, ...] = ()
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    face_px: float | None = None
    frames_sampled: int | None = None
    median_sharpness: float | None = None
    scanned_at: float | None = None
    elapsed_s: float | None = None
    gone: bool = False


_STR = pa.string()
_I16, _I32, _I64 = pa.int16(), pa.int32(), pa.int64()
_F32, _F64 = pa.float32(), pa.float64()
_BOX = pa.list_(_F32, 4)
_ENTRIES = pa.list_(pa.struct([("key", _STR), ("value", _STR)]))
_TIME = pa.timestamp("us", tz="UTC")


def _schema(kind: str, columns: list[tuple[str, pa.DataType]], **metadata: str) -> pa.Schema:
    version = {"schema_version": str(SCHEMA_VERSION), "dfscan": kind}
    return pa.schema(columns, metadata=version | metadata)


FACE_SCHEMA: Final = _schema(
    "faces",
    [
        ("video_id", _STR),
        ("uri", _STR),
        ("part", _STR),
        ("label", _STR),
        ("original", _STR),
        ("group", _STR),
        ("attributes", _ENTRIES),
        ("frame_index", _I32),
        ("pts_s", _F64),
        ("key_frame", pa.bool_()),
        ("face_index", _I16),
        ("track_id", _I16),
        ("box", _BOX),
        ("landmarks", pa.list_(_F32, 10)),
        ("detector_score", _F32),
        ("box_from", _STR),
        ("crop_box", _BOX),
        ("image", pa.struct([("bytes", pa.binary()), ("path", _STR)])),
        ("face_diff", _F32),
        ("weight", _F32),
    ],
    huggingface=json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}),
)

VIDEO_SCHEMA: Final = _schema(
    "videos",
    [
        ("video_id", _STR),
        ("uri", _STR),
        ("part", _STR),
        ("content_sha256", _STR),
        ("bytes", _I64),
        ("version", _STR),
        ("label", _STR),
        ("original", _STR),
        ("group", _STR),
        ("attributes", _ENTRIES),
        ("status", _STR),
        ("reason", _STR),
        ("codec", _STR),
        ("width", _I32),
        ("height", _I32),
        ("rotation", _I32),
        ("fps", _F64),
        ("duration_s", _F64),
        ("frames_claimed", _I32),
        ("frames_decoded", _I32),
        ("frames_sampled", _I32),
        ("frames_lost", _I32),
        ("faces", _I32),
        ("tracks", _I32),
        ("decoder", _STR),
        ("elapsed_s", _F64),
        ("unit", _STR),
        ("committed_at", _TIME),
    ],
)

VERDICT_SCHEMA: Final = _schema(
    "verdicts",
    [
        ("video_id", _STR),
        ("uri", _STR),
        ("label", _STR),
        ("content_sha256", _STR),
        ("bytes", _I64),
        ("version", _STR),
        ("status", _STR),
        ("verdict", _STR),
        ("reason", _STR),
        ("score_raw", _F32),
        ("p_fake", _F32),
        ("calibrated", pa.bool_()),
        ("threshold", _F32),
        ("llr", _F32),
        ("look", _STR),
        (
            "tracks",
            pa.list_(
                pa.struct(
                    [
                        ("track_id", _I16),
                        ("first_s", _F64),
                        ("last_s", _F64),
                        ("faces", _I32),
                        ("score_raw", _F32),
                        ("p_fake", _F32),
                        ("box", _BOX),
                    ]
                )
            ),
        ),
        (
            "frames",
            pa.list_(
                pa.struct(
                    [
                        ("pts_s", _F64),
                        ("frame_index", _I32),
                        ("track_id", _I16),
                        ("box", _BOX),
                        ("score_raw", _F32),
                        ("logits", pa.list_(_F32)),
                    ]
                )
            ),
        ),
        ("top_frames_s", pa.list_(_F64)),
        ("width", _I32),
        ("height", _I32),
        ("fps", _F64),
        ("duration_s", _F64),
        ("face_px", _F32),
        ("frames_sampled", _I32),
        ("median_sharpness", _F32),
        (
            "custody",
            pa.struct(
                [
                    ("dfscan", _STR),
                    ("recipe_hash", _STR),
                    ("config_hash", _STR),
                    ("models", pa.list_(_STR)),
                    ("decoder", _STR),
                    ("device", _STR),
                    ("precision", _STR),
                    ("libraries", _ENTRIES),
                ]
            ),
        ),
        ("scanned_at", _TIME),
        ("elapsed_s", _F64),
        ("gone", pa.bool_()),
    ],
)

_ENTRY_COLUMNS = frozenset({"attributes", "libraries"})
_TIME_COLUMNS = frozenset({"committed_at", "scanned_at"})


def _plain(name: str, value: Any) -> Any:
    """A dataclass value as pyarrow wants it: rows → dicts, mappings → sorted entries."""
    if name in _ENTRY_COLUMNS:
        return [{"key": k, "value": value[k]} for k in sorted(value)]
    if name in _TIME_COLUMNS:
        return None if value is None else round(value * 1e6)
    if name == "image":
        return {"bytes": value, "path": None}
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(f.name, getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain("", v) for v in value]
    return value


def to_table(rows: Iterable[VideoRow | FaceRow | Verdict], schema: pa.Schema) -> pa.Table:
    """Rows of one kind as a table with exactly ``schema`` (an empty table for no rows)."""
    columns = list(rows)
    data = {name: [_plain(name, getattr(row, name)) for row in columns] for name in schema.names}
    arrays = [pa.array(data[f.name], type=f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def face_rows(table: pa.Table) -> list[FaceRow]:
    """The rows of a table of :data:`FACE_SCHEMA`: the inverse of :func:`to_table`."""
    rows = []
    for values in table.to_pylist():
        values["attributes"] = entries_to_dict(values["attributes"])
        values["image"] = values["image"]["bytes"]
        for name in ("box", "crop_box", "landmarks"):
            values[name] = None if values[name] is None else tuple(values[name])
        rows.append(FaceRow(**values))
    return rows


def entries_to_dict(entries: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """``[{"key": k, "value": v}]`` as read from a file → ``{k: v}``."""
    return {e["key"]: e["value"] for e in entries or ()}
