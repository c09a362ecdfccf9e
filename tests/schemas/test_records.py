from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from dfscan.schemas import records, status
from dfscan.schemas.records import (
    FACE_SCHEMA,
    VERDICT_SCHEMA,
    VIDEO_SCHEMA,
    Custody,
    FaceRow,
    FrameScore,
    Verdict,
    VideoRow,
    entries_to_dict,
    to_table,
)

BOX = (1.0, 2.0, 3.5, 4.5)
KNOWN = {"video_id": "s/a.mp4", "uri": "/s/a.mp4", "part": "s", "group": "g"}
CUSTODY = Custody("0.1", "r" * 16, "c" * 16, ("m" * 64,), "decord", "cpu", "fp32", {"torch": "2"})

BARE_VIDEO = VideoRow(
    **KNOWN, bytes=5, version="5-1", label=None, original=None, attributes={}, status="missing"
)
FULL_VIDEO = VideoRow(
    **KNOWN,
    bytes=2**40,
    version="5-1",
    label="FAKE",
    original="s/b.mp4",
    attributes={"manipulation": "Deepfakes", "compression": "c23"},
    status="ok",
    reason="r",
    content_sha256="ab" * 32,
    codec="h264",
    width=1920,
    height=1080,
    rotation=90,
    fps=29.97,
    duration_s=10.01,
    frames_claimed=300,
    frames_decoded=299,
    frames_sampled=10,
    frames_lost=1,
    faces=12,
    tracks=2,
    decoder="decord",
    elapsed_s=1.5,
    unit="u",
    committed_at=1_700_000_000.25,
)
BARE_FACE = FaceRow(
    **KNOWN,
    label=None,
    original=None,
    attributes={},
    frame_index=30,
    pts_s=1.001,
    key_frame=False,
    face_index=0,
    box=BOX,
    landmarks=tuple(float(i) for i in range(10)),
    detector_score=0.5,
    box_from="detected",
    crop_box=(0.0, 0.0, 8.0, 8.0),
    image=b"\xff\xd8jpeg",
    weight=30.0,
)
BARE_VERDICT = Verdict(
    video_id="s/a.mp4",
    uri="/s/a.mp4",
    bytes=0,
    version="0-0",
    status="missing",
    verdict=None,
    reason="gone",
    score_raw=None,
    p_fake=None,
    calibrated=False,
    threshold=None,
    custody=CUSTODY,
)
TRACK = {
    "track_id": 1,
    "first_s": 0.0,
    "last_s": 9.5,
    "faces": 12,
    "score_raw": 2.0,
    "p_fake": 0.875,
    "box": list(BOX),
}


def round_trip(row, schema, path):
    pq.write_table(to_table([row], schema), path / "x.parquet")
    table = pq.read_table(path / "x.parquet")
    assert table.schema.equals(schema)
    assert table.schema.metadata == schema.metadata
    return table.to_pylist()[0]


@pytest.mark.parametrize(
    ("row", "schema"),
    [(FaceRow, FACE_SCHEMA), (VideoRow, VIDEO_SCHEMA), (Verdict, VERDICT_SCHEMA)],
)
def test_fields_of_a_row_are_the_columns_of_its_file(row, schema):
    assert {f.name for f in fields(row)} == set(schema.names)


@pytest.mark.parametrize("schema", [FACE_SCHEMA, VIDEO_SCHEMA, VERDICT_SCHEMA])
def test_every_file_says_its_schema_version(schema):
    assert schema.metadata[b"schema_version"] == str(records.SCHEMA_VERSION).encode()


def test_nested_columns_have_the_fields_of_their_dataclasses():
    frame = VERDICT_SCHEMA.field("frames").type.value_type
    assert {frame.field(i).name for i in range(frame.num_fields)} == {
        f.name for f in fields(FrameScore)
    }
    custody = VERDICT_SCHEMA.field("custody").type
    assert {custody.field(i).name for i in range(custody.num_fields)} == {
        f.name for f in fields(Custody)
    }


def test_a_full_video_row_survives_the_file(tmp_path):
    read = round_trip(FULL_VIDEO, VIDEO_SCHEMA, tmp_path)
    assert entries_to_dict(read.pop("attributes")) == FULL_VIDEO.attributes
    assert read.pop("committed_at") == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert read == {name: getattr(FULL_VIDEO, name) for name in read}


def test_a_bare_video_row_is_null_where_nothing_is_known(tmp_path):
    read = round_trip(BARE_VIDEO, VIDEO_SCHEMA, tmp_path)
    assert {k for k, v in read.items() if v is not None} == {
        *KNOWN,
        "bytes",
        "version",
        "attributes",
        "status",
        "faces",
    }
    assert read["attributes"] == []
    assert read["faces"] == 0


def test_a_face_row_survives_the_file(tmp_path):
    read = round_trip(BARE_FACE, FACE_SCHEMA, tmp_path)
    assert read["image"] == {"bytes": BARE_FACE.image, "path": None}
    assert read["box"] == list(BOX)
    assert read["landmarks"] == list(BARE_FACE.landmarks)
    assert (read["frame_index"], read["pts_s"], read["weight"]) == (30, 1.001, 30.0)
    assert [read[n] for n in ("label", "original", "track_id", "face_diff")] == [None] * 4


def test_a_bare_verdict_has_no_score(tmp_path):
    read = round_trip(BARE_VERDICT, VERDICT_SCHEMA, tmp_path)
    assert [read[n] for n in ("verdict", "score_raw", "p_fake", "tracks")] == [None] * 4
    assert read["frames"] == []
    assert read["custody"]["models"] == ["m" * 64]
    assert entries_to_dict(read["custody"]["libraries"]) == {"torch": "2"}


def test_a_full_verdict_survives_the_file(tmp_path):
    values = {name: getattr(BARE_VERDICT, name) for name in VERDICT_SCHEMA.names}
    frame = FrameScore(
        1.0, frame_index=30, track_id=None, box=BOX, score_raw=2.5, logits=(2.0, 3.0)
    )
    full = Verdict(
        **values
        | {"frames": (frame,), "tracks": (TRACK,), "top_frames_s": (1.0,)}
        | {"verdict": "FAKE", "p_fake": 0.75, "scanned_at": 0.5}
    )
    read = round_trip(full, VERDICT_SCHEMA, tmp_path)
    assert read["frames"] == [
        {"pts_s": 1.0, "frame_index": 30, "track_id": None, "box": list(BOX), "score_raw": 2.5}
        | {"logits": [2.0, 3.0]}
    ]
    assert read["tracks"] == [TRACK]
    assert read["top_frames_s"] == [1.0]
    assert (read["verdict"], read["p_fake"]) == ("FAKE", 0.75)


def test_no_rows_make_an_empty_table_of_the_schema():
    table = to_table([], FACE_SCHEMA)
    assert table.num_rows == 0
    assert table.schema.equals(FACE_SCHEMA)


def test_rows_are_frozen():
    with pytest.raises(FrozenInstanceError):
        BARE_VIDEO.status = "ok"


def test_healthy_statuses_are_those_of_the_contract():
    assert sorted(status.SUCCEEDED) == ["no_face", "ok", "partial"]
    assert set(status.STATUSES) > status.SUCCEEDED
