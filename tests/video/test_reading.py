from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfscan.errors import VideoError
from dfscan.video import DECODERS, DecoderError, Frame, open_video, reading


def read(data: bytes, decoder: str, stride: int = 1) -> tuple[list[Frame], int, int]:
    video = open_video(data, decoder)
    frames = [f for batch in video.read(range(0, video.count, stride)) for f in batch]
    return frames, video.frames_decoded, video.frames_lost


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_frame_once_in_order_with_its_time(
    write_clip: Callable[..., Path], decoder: str
) -> None:
    frames, decoded, lost = read(write_clip(frames=20, fps=10).read_bytes(), decoder)
    assert [f.index for f in frames] == list(range(20))
    assert [f.pts_s for f in frames] == pytest.approx([i / 10 for i in range(20)])
    assert frames[0].key_frame
    assert not frames[5].key_frame
    assert (decoded, lost) == (20, 0)
    assert frames[3].rgb.shape == (48, 64, 3)


def test_decoders_agree_to_the_pixel(samples: Path) -> None:
    for clip in sorted((samples / "clips" / "real").glob("*.mp4"))[:2]:
        data = clip.read_bytes()
        ours, theirs = read(data, "decord", 20)[0], read(data, "pyav", 20)[0]
        assert [(f.index, f.key_frame) for f in ours] == [(f.index, f.key_frame) for f in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.pts_s == pytest.approx(b.pts_s, abs=1e-3)
            np.testing.assert_array_equal(a.rgb, b.rgb)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("decoder", DECODERS)
def test_rotation_is_applied_once(samples: Path, degrees: int, decoder: str) -> None:
    data = (samples / "odd" / f"decord__video_{degrees}.mov").read_bytes()
    video = open_video(data, decoder)
    frame = next(iter(video.read([0])))[0].rgb
    upright = (320, 568) if degrees % 180 == 0 else (568, 320)
    assert video.info.rotation == degrees
    assert frame.shape == (*upright, 3)
    assert (video.info.height, video.info.width) == upright


def test_a_cut_clip_keeps_its_frames_and_counts_the_rest(write_clip: Callable[..., Path]) -> None:
    whole = write_clip(frames=60, width=320, height=240, options={"movflags": "faststart"})
    data = whole.read_bytes()
    data = data[: int(len(data) * 0.7)]
    with pytest.raises(DecoderError):
        read(data, "decord")
    frames, decoded, lost = read(data, "pyav")
    assert 5 < decoded < 60
    assert decoded + lost == 60
    assert len({f.index for f in frames}) == len(frames) == decoded


def test_a_clip_without_its_index_cannot_be_read(write_clip: Callable[..., Path]) -> None:
    data = write_clip(frames=60).read_bytes()
    with pytest.raises(VideoError, match="cut off or damaged") as caught:
        open_video(data[: len(data) // 2], "decord")
    assert caught.value.status == "decode_error"


def test_ten_bits_go_to_the_decoder_that_gets_them_right(samples: Path) -> None:
    data = (samples / "odd" / "torchcodec__h264_10bits.mp4").read_bytes()
    with pytest.raises(DecoderError, match="10 bits"):
        open_video(data, "decord")
    assert len(read(data, "pyav")[0]) == 30


def test_sound_alone_is_no_video(samples: Path) -> None:
    data = (samples / "odd" / "mp4__sample_audio_only_15s.mp4").read_bytes()
    with pytest.raises(VideoError, match="no video stream") as caught:
        open_video(data, "decord")
    assert caught.value.status == "not_video"


def test_what_an_edit_list_hides_is_not_lost(samples: Path) -> None:
    data = (samples / "odd" / "mp4__iibbibb_editlist_videoonly.mp4").read_bytes()
    with pytest.raises(DecoderError, match="12 are to be shown"):
        open_video(data, "decord")
    frames, decoded, lost = read(data, "pyav")
    assert len(frames) == decoded == 12
    assert lost == 0


def test_frames_of_another_size_are_another_batch() -> None:
    shapes = [(4, 4, 3), (4, 4, 3), (4, 8, 3), (4, 4, 3)]
    frames = [Frame(i, i / 10, False, np.zeros(s, np.uint8)) for i, s in enumerate(shapes)]
    batches = [[f.index for f in batch] for batch in reading._in_batches(iter(frames))]
    assert batches == [[0, 1], [2], [3]]


def test_a_batch_holds_no_more_bytes_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 100)
    frames = [Frame(i, 0.0, False, np.zeros((4, 4, 3), np.uint8)) for i in range(5)]
    batches = [[f.index for f in batch] for batch in reading._in_batches(iter(frames))]
    assert batches == [[0, 1], [2, 3], [4]]
