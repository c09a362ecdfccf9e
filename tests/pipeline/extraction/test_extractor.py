from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.corpora import list_videos
from dfscan.pipeline.extraction.extractor import ExtractionResult, InProcessExtractor
from dfscan.schemas.recipe import FaceRecipe, Sampling, SamplingMode, Stride
from dfscan.schemas.records import FaceRow, VideoRow
from dfscan.video import ORDERS, open_video

RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=4, fake=4)))


def extract(path: Path, max_bytes: int = 1 << 30) -> tuple[VideoRow, list[FaceRow]]:
    seen = InProcessExtractor(RECIPE, "cpu", max_bytes).extract(list_videos([str(path)]).videos[0])
    return seen.row, seen.faces


def test_a_clip_becomes_its_faces(corpus: Corpus) -> None:
    row, faces = extract(corpus.test)
    assert row.status == "ok"
    assert row.reason is None
    assert row.frames_claimed == row.frames_decoded == 12
    assert row.frames_sampled == 3
    assert row.frames_lost == 0
    assert row.faces == len(faces) >= 2
    assert row.codec == "h264"
    assert row.decoder is not None
    assert row.decoder.startswith("av ")
    face = faces[0]
    assert face.video_id == row.video_id
    assert face.weight == 12 / 3
    assert face.pts_s == pytest.approx(face.frame_index / 15, abs=1e-3)
    assert face.detector_score >= 0.95
    inside = zip(face.crop_box[:2], face.box[:2], strict=True)
    assert all(crop <= box for crop, box in inside)


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (write(b"hello, I am text\n"), "not_video", "a text file"),
        (write(b""), "not_video", "empty"),
        (lambda p: Image.new("RGB", (9, 9)).save(p, "PNG"), "not_video", "a PNG picture"),
        (write(b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n"), "refused", "HLS playlist"),
        (write(b"\0\0\0\x18ftypmp42" + b"\0" * 64), "decode_error", "cut off or damaged"),
    ],
)
def test_what_is_no_video_ends_as_a_row_with_its_reason(
    tmp_path: Path, make: Callable[[Path], None], status: str, reason: str
) -> None:
    path = tmp_path / "clip.mp4"
    make(path)
    row, faces = extract(path)
    assert row.status == status
    assert reason in (row.reason or "")
    assert row.content_sha256 is not None
    assert faces == []


def test_a_cut_clip_is_partial_with_honest_counts(write_clip: Callable[..., Path]) -> None:
    path = write_clip(frames=60, width=320, height=240, options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    row, _ = extract(path)
    assert row.status == "partial"
    assert row.frames_claimed == 60
    assert (row.frames_decoded or 0) + (row.frames_lost or 0) == 60
    assert 0 < (row.frames_lost or 0) < 60
    assert row.decoder is not None
    assert row.decoder.startswith("av ")


def test_no_face_too_large_and_missing(write_clip: Callable[..., Path]) -> None:
    path = write_clip()
    row, _ = extract(path)
    assert (row.status, row.reason) == ("no_face", "no face in 5 frame(s)")
    row, _ = extract(path, max_bytes=100)
    assert row.status == "too_large"
    ref = list_videos([str(path)]).videos[0]
    path.unlink()
    row = InProcessExtractor(RECIPE, "cpu", 1 << 30).extract(ref).row
    assert (row.status, row.content_sha256) == ("missing", None)


def test_every_odd_file_ends_as_a_row(samples: Path) -> None:
    known = {"ok", "no_face", "partial", "not_video", "refused", "unsupported", "decode_error"}
    sparse = FaceRecipe(sampling=Sampling(stride=Stride(real=60, fake=60)))
    step = InProcessExtractor(sparse, "cpu", 1 << 30)
    for path in sorted((samples / "odd").iterdir()):
        seen = step.extract(list_videos([str(path)]).videos[0])
        assert seen.row.status in known, path.name
        assert (seen.row.status == "ok") == (seen.row.reason is None), path.name
        assert seen.row.faces == len(seen.faces)


def see(path: Path, mode: SamplingMode, stride: int, decoder: str = "auto") -> ExtractionResult:
    sampling = Sampling(mode=mode, stride=Stride(real=stride, fake=stride), phase=3)
    step = InProcessExtractor(FaceRecipe(sampling=sampling), "cpu", 1 << 30, ORDERS[decoder])
    return step.extract(list_videos([str(path)]).videos[0])


@pytest.mark.parametrize("decoder", ORDERS)
@pytest.mark.parametrize("mode", ["nearest", "keyframes"])
def test_frames_nearby_stand_for_all_frames_of_their_clip(
    samples: Path, mode: SamplingMode, decoder: str
) -> None:
    path = samples / "clips" / "real" / "Clinton.mp4"
    seen, exact = see(path, mode, 40, decoder), see(path, "exact", 40)
    row = seen.row
    assert (row.status, row.reason) == ("ok", None)
    assert row.decoder is not None
    assert row.decoder.startswith("av ")
    assert row.frames_sampled == len(seen.times) <= (exact.row.frames_sampled or 0)
    assert {face.frame_index for face in seen.faces} <= set(seen.times)
    assert row.faces == len(seen.faces) > 0
    for face in seen.faces:
        assert face.weight * row.frames_sampled == pytest.approx(273)
        assert face.pts_s == seen.times[face.frame_index]
    whole = open_video(path.read_bytes(), "pyav")
    frames = [f for batch in whole.read(sorted(seen.times)) for f in batch]
    assert {f.index: f.pts_s for f in frames} == seen.times
    if mode == "keyframes":
        assert row.frames_sampled == 2
        assert all(face.key_frame for face in seen.faces)


def test_frames_lost_nearby_make_a_clip_partial(samples: Path, tmp_path: Path) -> None:
    data = bytearray((samples / "clips" / "real" / "Putin.mp4").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 40):
        data[place] ^= 0xFF
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    exact, nearby = see(path, "exact", 5).row, see(path, "nearest", 5).row
    assert exact.status == nearby.status == "partial"
    assert (nearby.frames_lost or 0) > 0
    assert nearby.reason is not None
    assert "frame(s) lost" in nearby.reason


@pytest.mark.parametrize(
    "clip", ["clips/real/Clinton.mp4", "clips/fake/Bateman.mp4", "odd/decord__video_90.mov"]
)
def test_every_order_of_decoders_gives_the_same_faces_to_the_byte(samples: Path, clip: str) -> None:
    auto, decord, pyav = (see(samples / clip, "exact", 40, d) for d in ("auto", "decord", "pyav"))
    assert (auto.row.decoder or "").startswith("av ")
    assert (decord.row.decoder or "").startswith("decord2 ")
    assert (pyav.row.decoder or "").startswith("av ")
    for other in (decord, pyav):
        assert list(other.times) == list(auto.times)
        assert [f.image for f in other.faces] == [f.image for f in auto.faces]
        assert [(f.frame_index, f.face_index, f.box, f.track_id) for f in other.faces] == [
            (f.frame_index, f.face_index, f.box, f.track_id) for f in auto.faces
        ]
        assert (other.row.status, other.row.frames_decoded, other.row.frames_lost) == (
            auto.row.status,
            auto.row.frames_decoded,
            auto.row.frames_lost,
        )
    if clip.startswith("clips"):
        assert auto.faces
