"""What H.264 packets say of themselves, and what may be left out for it."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from dfscan.video import Frame, h264, open_video

SHORT_GOPS = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": "3"}


def packet(pts: int, kind: str) -> h264.Packet:
    """``I`` an IDR picture, ``P`` one that others are predicted from, ``b`` one that none is."""
    return h264.Packet(pts, reference=kind in "IP", idr=kind == "I", parameters=False)


def needed(kinds: str, *wanted: int, parameters: tuple[int, ...] = ()) -> list[int]:
    packets = [
        h264.Packet(i, p.reference, p.idr, i in parameters)
        for i, p in enumerate(packet(i, kind) for i, kind in enumerate(kinds))
    ]
    return sorted(h264.needed(packets, frozenset(wanted)))


@pytest.mark.parametrize(
    ("kinds", "wanted", "expected"),
    [
        ("IPbPbIPb", (3,), [0, 1, 3]),  # what is behind it is left out
        ("IPbPbIPb", (2,), [0, 1, 2]),
        ("IPbPbIPb", (6,), [5, 6]),  # and the pictures before its IDR
        ("IPbPbIPb", (1, 7), [0, 1, 5, 6, 7]),
        ("IPbPbIPb", (0, 5), [0, 5]),
        ("PPbIP", (1,), [0, 1]),  # a stream that begins without an IDR
        ("IPb", (), []),
    ],
)
def test_what_a_wanted_picture_needs(
    kinds: str, wanted: tuple[int, ...], expected: list[int]
) -> None:
    assert needed(kinds, *wanted) == expected


def test_parameter_sets_on_the_way_keep_all_references() -> None:
    assert needed("IPbIPb", 4, parameters=(1,)) == [0, 1, 3, 4]
    assert needed("IPbIPb", 4, parameters=(0,)) == [0, 1, 3, 4]  # the second IDR brings none
    assert needed("IPbIPb", 4, parameters=(0, 3)) == [3, 4]


@pytest.fixture
def short_gops(tmp_path: Path) -> bytes:
    """Sixty frames that differ, a key frame every twelve."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 128 + 60, 3), np.uint8)
    path = tmp_path / "short.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=SHORT_GOPS)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(60):
            picture = np.ascontiguousarray(noise[:, number : number + 128])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def in_transport_stream(data: bytes) -> bytes:
    """The same packets with start codes and parameter sets in the stream."""
    made = io.BytesIO()
    with av.open(io.BytesIO(data)) as given, av.open(made, "w", format="mpegts") as target:
        stream = given.streams.video[0]
        annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        out = target.add_stream_from_template(stream)
        for one in given.demux(stream):
            if one.size:
                for changed in annex_b.filter(one):
                    changed.stream = out
                    target.mux(changed)
    return made.getvalue()


def frames(data: bytes, decoder: str, indices: list[int]) -> list[Frame]:
    return [f for batch in open_video(data, decoder).read(indices) for f in batch]


@pytest.mark.parametrize("change", [bytes, in_transport_stream])
@pytest.mark.parametrize("wanted", [[17], [59], [0, 24, 48], [11, 12, 13], [5, 40], [30, 31, 55]])
def test_frames_behind_left_out_gops_are_those_of_a_full_decoding(
    short_gops: bytes, change: Callable[[bytes], bytes], wanted: list[int]
) -> None:
    data = change(short_gops)
    found, whole = frames(data, "sparse", wanted), frames(data, "pyav", wanted)
    assert [f.index for f in found] == wanted
    for one, other in zip(found, whole, strict=True):
        assert (one.pts_s, one.key_frame) == (other.pts_s, other.key_frame)
        np.testing.assert_array_equal(one.rgb, other.rgb)


def described(data: bytes) -> list[h264.Packet]:
    with av.open(io.BytesIO(data)) as opened:
        stream = opened.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = (p for p in opened.demux(stream) if p.size)
        return [h264.describe(p.pts, memoryview(p), extradata) for p in packets]


@pytest.mark.parametrize("change", [bytes, in_transport_stream])
def test_packets_tell_key_frames_and_those_that_none_depends_on(
    short_gops: bytes, change: Callable[[bytes], bytes]
) -> None:
    data = change(short_gops)
    packets = described(data)
    order = {pts: i for i, pts in enumerate(sorted(p.pts for p in packets))}
    assert [order[p.pts] for p in packets if p.idr] == [0, 12, 24, 36, 48]
    with av.open(io.BytesIO(data)) as opened:
        stream = opened.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        delivered = {order[frame.pts] for frame in opened.decode(stream)}
    assert {order[p.pts] for p in packets if p.reference} == delivered
    assert 5 < len(delivered) < 45
    assert {p.parameters for p in packets if p.idr} == {change is in_transport_stream}


def test_far_fewer_frames_are_decoded(short_gops: bytes) -> None:
    packets = described(short_gops)
    stamps = sorted(p.pts for p in packets)
    assert len(h264.needed(packets, frozenset((stamps[0], stamps[48])))) == 2
