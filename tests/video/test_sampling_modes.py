"""What ``sparse`` leaves undecoded changes no frame; ``nearest`` and ``keyframes`` invent none."""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from dfscan.errors import VideoError
from dfscan.schemas.recipe import SamplingMode
from dfscan.video import READS, DecoderError, Frame, Video, containers, open_video

DFDC = Path("dfdc", "dfdc_train_part_10", "abqwwspghj.mp4")
CLIPS = [
    *(Path("clips", kind, name) for kind in ("fake", "real") for name in (
        "Bateman.mp4", "Clinton.mp4", "Obama.mp4", "Putin.mp4",
    )),
    Path("clips", "several_people_1080p.mp4"),
    DFDC,
]  # fmt: skip
SEVERAL_KEYS = [
    "clips/real/Clinton.mp4",
    "odd/mkv__sample_with_multiple_key_frames.mkv",
    "odd/torchcodec__h265_video.mp4",
    "odd/flv__sample-with-key-frame-index.flv",
    "odd/ts__sample_h264_iframes_only.ts",
    "odd/mp4__sample_vvc.mp4",
]
NEARBY = ["sparse", "pyav"]
LEFT_OUT: list[SamplingMode] = ["nearest", "keyframes"]


def frames_of(
    video: Video, indices: Sequence[int], mode: SamplingMode = "exact"
) -> Iterator[Frame]:
    for batch in video.read(indices, mode):
        yield from batch


def every(video: Video, stride: int) -> range:
    """Indices from an offset, so that most frames asked for are not key frames."""
    return range(min(3, video.count - 1), video.count, stride)


def assert_same_frame(ours: Frame, theirs: Frame, name: object = "") -> None:
    assert (ours.index, ours.pts_s, ours.key_frame) == (
        theirs.index,
        theirs.pts_s,
        theirs.key_frame,
    ), name
    np.testing.assert_array_equal(ours.rgb, theirs.rgb, err_msg=str(name))


def assert_sparse_equals_pyav(data: bytes, stride: int, name: object) -> int:
    """How many frames were compared."""
    ours, theirs = open_video(data, "sparse"), open_video(data, "pyav")
    assert (ours.count, ours.info) == (theirs.count, theirs.info), name
    indices = every(ours, stride)
    found = 0
    pairs = zip(frames_of(ours, indices), frames_of(theirs, indices), strict=True)
    for one, other in pairs:
        assert_same_frame(one, other, name)
        found += 1
    assert found == len(indices), name
    assert (ours.frames_lost, ours.frames_missed, theirs.frames_missed) == (0, 0, 0), name
    if not theirs.frames_lost:
        assert ours.frames_decoded == theirs.frames_decoded == ours.count, name
    return found


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_sparse_gives_the_frames_of_a_full_decoding(samples: Path, clip: Path) -> None:
    data = (samples / clip).read_bytes()
    assert assert_sparse_equals_pyav(data, 7, clip) >= 5


@pytest.mark.parametrize("indices", [[0], [-1], [150], [7, 8, 9], [1, 2, 200]])
def test_sparse_gives_single_frames_from_anywhere(samples: Path, indices: list[int]) -> None:
    data = (samples / "clips" / "real" / "Clinton.mp4").read_bytes()
    ours, theirs = open_video(data, "sparse"), open_video(data, "pyav")
    asked = [index % ours.count for index in indices]
    found = list(frames_of(ours, asked))
    assert [f.index for f in found] == asked
    for one, other in zip(found, frames_of(theirs, asked), strict=True):
        assert_same_frame(one, other)


def test_sparse_equals_a_full_decoding_on_every_odd_file_that_it_reads(samples: Path) -> None:
    compared = 0
    for path in sorted((samples / "odd").iterdir()):
        try:
            compared += assert_sparse_equals_pyav(path.read_bytes(), 7, path.name) > 0
        except (DecoderError, VideoError):
            continue
    assert compared >= 40


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def packet_places(data: bytes) -> list[tuple[int, int]]:
    """Where the packets of the video lie: (begin, size)."""
    container = containers.recognise(data[: containers.HEAD])
    with av.open(io.BytesIO(data), format=container) as opened:
        packets = opened.demux(opened.streams.video[0])
        return [(p.pos, p.size) for p in packets if p.size and p.pos is not None]


def test_sparse_refuses_what_a_full_decoding_flags(samples: Path) -> None:
    data = (samples / "clips" / "real" / "Obama.mp4").read_bytes()
    flagged = 0
    for begin, size in packet_places(data)[::3]:
        damaged = flipped(data, begin + size // 2)
        full = open_video(damaged, "pyav")
        whole = list(frames_of(full, range(full.count)))
        if not full.frames_lost:
            continue
        flagged += 1
        assert len(whole) < full.count
        fast = open_video(damaged, "sparse")
        with pytest.raises(DecoderError, match=r"damaged|were not delivered"):
            list(frames_of(fast, range(fast.count)))
    assert flagged >= 5


def test_sparse_passes_over_damage_that_no_wanted_frame_depends_on(samples: Path) -> None:
    path = samples / "odd" / "mp4__sample_with_invalid_nalu.mp4"
    data, damaged = path.read_bytes(), 26  # no other frame is predicted from that one
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        packets = list(opened.demux(stream))
        stamps = sorted(p.pts for p in packets if p.size)
        others = [p for p in packets if p.pts != stamps[damaged]]
        frames = [f for p in others for f in p.decode()]
        whole = {stamps.index(f.pts): f.to_ndarray(format="rgb24") for f in frames}
    assert sorted(whole) == [i for i in range(30) if i != damaged]
    for index, rgb in whole.items():
        [found] = frames_of(open_video(data, "sparse"), [index])
        np.testing.assert_array_equal(found.rgb, rgb)
    with pytest.raises(DecoderError, match="damaged"):
        list(frames_of(open_video(data, "sparse"), [damaged]))


def test_sparse_refuses_an_edit_list(samples: Path) -> None:
    data = (samples / "odd" / "mp4__iibbibb_editlist_videoonly.mp4").read_bytes()
    with pytest.raises(DecoderError, match="an edit list hides 1 frames"):
        open_video(data, "sparse")


@pytest.mark.parametrize(
    ("decoder", "mode"), [("decord", "nearest"), ("decord", "keyframes"), ("sparse", "keyframes")]
)
def test_only_pyav_reads_every_mode(
    write_clip: Callable[..., Path], decoder: str, mode: SamplingMode
) -> None:
    assert decoder not in READS[mode]
    video = open_video(write_clip().read_bytes(), decoder)
    with pytest.raises(DecoderError, match=mode):
        next(video.read([0], mode))


def delivered_nonref(data: bytes) -> list[int]:
    """Indices of the frames that PyAV delivers with ``skip_frame="NONREF"``."""
    container = containers.recognise(data[: containers.HEAD])
    with av.open(io.BytesIO(data), format=container) as opened:
        stamps = sorted(p.pts for p in opened.demux(opened.streams.video[0]) if p.size)
    with av.open(io.BytesIO(data), format=container) as opened:
        stream = opened.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        return sorted(stamps.index(frame.pts) for frame in opened.decode(stream))


def key_indices(data: bytes) -> list[int]:
    """Indices of the frames whose packets are marked as key frames."""
    container = containers.recognise(data[: containers.HEAD])
    with av.open(io.BytesIO(data), format=container) as opened:
        packets = [p for p in opened.demux(opened.streams.video[0]) if p.size]
    stamps = sorted(p.pts for p in packets)
    return sorted(stamps.index(p.pts) for p in packets if p.is_keyframe)


def nearest(there: Sequence[int], targets: Sequence[int]) -> list[int]:
    """The one of ``there`` nearest to each target, of two the earlier, each once."""
    return sorted({min(there, key=lambda i: (abs(i - t), i)) for t in targets})


def assert_nearby(
    data: bytes, mode: SamplingMode, there: Sequence[int], stride: int, decoder: str = "pyav"
) -> None:
    video = open_video(data, decoder)
    targets = every(video, stride)
    found = list(frames_of(video, targets, mode))
    assert [f.index for f in found] == nearest(there, targets)
    assert (video.frames_lost, video.frames_missed, video.frames_damaged) == (0, 0, 0)
    assert len(found) <= video.frames_decoded <= len(there)
    exact = frames_of(open_video(data, "pyav"), [f.index for f in found])
    for one, other in zip(found, exact, strict=True):
        assert_same_frame(one, other)


@pytest.mark.parametrize("decoder", NEARBY)
def test_nearest_takes_the_nearest_frames_that_others_depend_on(
    samples: Path, decoder: str
) -> None:
    data = (samples / DFDC).read_bytes()
    there = delivered_nonref(data)
    assert len(there) < 200
    assert_nearby(data, "nearest", there, 30, decoder)


@pytest.mark.parametrize("clip", ["clips/real/Clinton.mp4", "clips/fake/Putin.mp4"])
@pytest.mark.parametrize("stride", [1, 2, 5, 40])
@pytest.mark.parametrize("decoder", NEARBY)
def test_nearest_at_any_stride(samples: Path, clip: str, stride: int, decoder: str) -> None:
    data = (samples / clip).read_bytes()
    assert_nearby(data, "nearest", delivered_nonref(data), stride, decoder)


@pytest.mark.parametrize("clip", SEVERAL_KEYS)
@pytest.mark.parametrize("stride", [1, 9, 1000])
def test_keyframes_takes_the_nearest_key_frames(samples: Path, clip: str, stride: int) -> None:
    data = (samples / clip).read_bytes()
    keys = key_indices(data)
    assert len(keys) >= 2
    assert_nearby(data, "keyframes", keys, stride)
    assert all(f.key_frame for f in frames_of(open_video(data, "pyav"), keys, "keyframes"))


def test_keyframes_of_a_dfdc_clip_are_its_key_frames(samples: Path) -> None:
    data = (samples / DFDC).read_bytes()
    assert_nearby(data, "keyframes", key_indices(data), 30)


@pytest.mark.parametrize("mode", LEFT_OUT)
def test_frames_nearby_of_every_odd_file_are_its_exact_frames(
    samples: Path, mode: SamplingMode
) -> None:
    compared = 0
    for path in sorted((samples / "odd").iterdir()):
        data = path.read_bytes()
        try:
            video = open_video(data, "pyav")
        except VideoError:
            continue
        found = list(frames_of(video, every(video, 40) if video.count else [], mode))
        indices = [f.index for f in found]
        assert indices == sorted(set(indices)), path.name
        if mode == "keyframes":
            assert all(f.key_frame for f in found), path.name
        full = open_video(data, "pyav")
        exact = {f.index: f for f in frames_of(full, indices)}
        for frame in found:
            if frame.index in exact or not full.frames_lost:
                assert_same_frame(frame, exact[frame.index], path.name)
            else:
                assert video.frames_lost + video.frames_missed, path.name
        compared += bool(found)
    assert compared >= 60


def write_other(path: Path, codec: str, options: dict[str, str]) -> bytes:
    """Twenty frames of stripes that move slowly, in a container other than MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.thread_count = 1
        for number in range(20):
            columns = (np.arange(64) * 4 + number * 2) % 256
            picture = np.broadcast_to(columns[None, :, None], (48, 64, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("mode", LEFT_OUT)
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.avi", "mpeg4", {"g": "5"}),
        ("clip.avi", "mpeg4", {"g": "5", "bf": "2"}),
        ("clip.mpg", "mpeg2video", {"g": "5", "bf": "2"}),
        ("clip.flv", "flv1", {"g": "5"}),
        ("clip.m2v", "mpeg2video", {"g": "5", "bf": "2"}),
    ],
)
def test_frames_nearby_have_their_true_index_in_other_containers(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], mode: SamplingMode
) -> None:
    data = write_other(tmp_path / name, codec, options)
    exact = {f.index: f for f in frames_of(open_video(data, "pyav"), range(20))}
    keys = [index for index, frame in exact.items() if frame.key_frame]
    assert len(exact) == 20
    assert 1 < len(keys) < 10
    found = list(frames_of(open_video(data, "pyav"), range(20), mode))
    for frame in found:
        assert_same_frame(frame, exact[frame.index])
    if mode == "keyframes":
        assert [f.index for f in found] == keys
    elif "bf" in options:
        assert len(found) < 20


def remuxed(source: Path, target: Path) -> bytes:
    """An H.264 clip of an MP4 file in an MPEG program stream, whose packets have no times."""
    with av.open(str(source)) as given, av.open(str(target), "w", format="mpeg") as made:
        stream = given.streams.video[0]
        annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        out = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size:
                for changed in annex_b.filter(packet):
                    changed.stream = out
                    made.mux(changed)
    return target.read_bytes()


@pytest.mark.parametrize("mode", LEFT_OUT)
def test_frames_nearby_have_their_true_index_where_packets_have_no_times(
    samples: Path, tmp_path: Path, mode: SamplingMode
) -> None:
    data = remuxed(samples / "clips" / "real" / "Clinton.mp4", tmp_path / "clip.mpg")
    exact = {f.index: f for f in frames_of(open_video(data, "pyav"), range(273))}
    assert len(exact) == 273
    for frame in frames_of(open_video(data, "pyav"), range(3, 273, 30), mode):
        np.testing.assert_array_equal(frame.rgb, exact[frame.index].rgb)


@pytest.mark.parametrize("mode", LEFT_OUT)
@pytest.mark.parametrize(
    "clip", ["clips/real/Clinton.mp4", "odd/mkv__sample_with_multiple_key_frames.mkv"]
)
def test_frames_nearby_of_a_damaged_clip_are_none_that_the_damage_spoiled(
    samples: Path, clip: str, mode: SamplingMode
) -> None:
    data = (samples / clip).read_bytes()
    places, keys = packet_places(data), key_indices(data)
    whole = open_video(data, "pyav")
    original = {f.index: f for f in frames_of(whole, range(whole.count))}
    chance = random.Random(0)
    counted = 0
    for number in range(12):
        begin, size = places[chance.choice([keys, range(len(places))][number % 2])]
        damaged = flipped(data, begin + chance.randrange(size // 4, size))
        full, video = open_video(damaged, "pyav"), open_video(damaged, "pyav")
        intact = {f.index: f for f in frames_of(full, range(full.count))}
        targets = range(1, video.count, 6)
        found = list(frames_of(video, targets, mode))
        for frame in found:  # a full decoding doubts whole frames beside a damaged one
            assert_same_frame(frame, intact.get(frame.index, original[frame.index]), number)
        unseen = video.frames_lost + video.frames_missed
        counted += unseen > 0
        assert len(found) + video.frames_missed <= len(targets), number
        if mode == "keyframes":
            assert unseen or set(keys) <= set(intact), number
    assert counted >= 3
