import av
import numpy as np
import pytest
from support.sound import sound_of, with_tone

from dfscan.errors import DfscanError
from dfscan.video import open_video
from dfscan.video.writing import VideoWriter

MJPEG = {
    "codec": "mjpeg",
    "container": "matroska",
    "pixel_format": "yuvj420p",
    "options": {"qmin": "2", "qmax": "2"},
}


def picture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)
    return np.stack(channels, 2).astype(np.uint8)


def write(path, rgb, times, **keys):
    height, width = rgb.shape[:2]
    with VideoWriter(path, width, height, 25.0, **keys) as writer:
        for when in times:
            writer.write(rgb, when)
    return writer


def read(path):
    video = open_video(path.read_bytes(), "pyav")
    return [frame for batch in video.read(range(video.count)) for frame in batch]


@pytest.mark.parametrize(
    ("size", "keys", "matrix", "full"),
    [
        ((320, 240), {}, 5, False),
        ((1280, 720), {}, 1, False),
        ((320, 240), MJPEG, 5, True),
        ((1280, 720), MJPEG, 5, True),
    ],
)
def test_colours_come_back_and_the_file_says_which_they_are(tmp_path, size, keys, matrix, full):
    rgb = picture(*size)
    path = tmp_path / "a.bin"
    write(path, rgb, [0.0, 0.04], **keys)
    difference = read(path)[1].rgb.astype(int) - rgb
    assert np.abs(difference).mean() < 2
    assert np.abs(difference.mean((0, 1))).max() < 2
    with av.open(str(path)) as opened:
        context = opened.streams.video[0].codec_context
        assert context.colorspace == matrix
        assert context.color_range == (2 if full else 1)


def test_time_stamps_stay_where_they_are(tmp_path):
    times = [0.5, 0.54, 0.8, 1.3, 1.31]
    write(tmp_path / "a.mp4", picture(64, 48), times)
    assert [frame.pts_s for frame in read(tmp_path / "a.mp4")] == pytest.approx(times, abs=1e-5)


def test_a_time_that_does_not_go_on_loses_no_frame(tmp_path):
    write(tmp_path / "a.mp4", picture(64, 48), [0.0, 0.04, 0.04, 0.02, 0.08])
    times = [frame.pts_s for frame in read(tmp_path / "a.mp4")]
    assert times == pytest.approx([0.0, 0.04, 0.04, 0.04, 0.08], abs=1e-4)
    assert sorted(set(times)) == times


def test_the_file_begins_where_it_is_told_to(tmp_path):
    write(tmp_path / "a.mp4", picture(64, 48), [7.0, 7.5], start_s=7.0)
    assert [frame.pts_s for frame in read(tmp_path / "a.mp4")] == pytest.approx([0.0, 0.5])


def test_odd_sizes_get_their_last_column_and_row_twice(tmp_path):
    rgb = picture(65, 49)
    write(tmp_path / "a.mp4", rgb, [0.0])
    (frame,) = read(tmp_path / "a.mp4")
    assert frame.rgb.shape == (50, 66, 3)
    assert np.abs(frame.rgb[:49, 65].astype(int) - rgb[:, 64]).mean() < 4
    assert np.abs(frame.rgb[49, :65].astype(int) - rgb[48]).mean() < 4


def test_one_pixel_is_enough(tmp_path):
    write(tmp_path / "a.mp4", np.full((1, 1, 3), 200, np.uint8), [0.0, 1.0])
    assert [frame.rgb.shape for frame in read(tmp_path / "a.mp4")] == [(2, 2, 3)] * 2


def test_what_a_player_needs_first_stands_first(tmp_path):
    write(tmp_path / "a.mp4", picture(64, 48), [0.0])
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize(
    ("codec", "container", "becomes"),
    [
        ("aac", "mp4", "aac"),
        ("ac3", "matroska", "ac3"),
        ("pcm_s16le", "mov", "aac"),
        ("aac", "mpegts", "aac"),  # each packet with a header of its own
        ("mp2", "avi", "aac"),
    ],
)
def test_sound_goes_on_as_long_as_the_video(tmp_path, codec, container, becomes):
    source = with_tone(2.0, codec, container)
    start = next(iter(open_video(source, "pyav").read([0])))[0].pts_s
    times = [start + number / 10 for number in range(20)]
    writer = write(tmp_path / "a.mp4", picture(64, 48), times, sound=source, start_s=start)
    name, seconds, loudness = sound_of((tmp_path / "a.mp4").read_bytes())
    assert (name, writer.sound_note, writer.has_sound) == (becomes, None, True)
    assert seconds == pytest.approx(2.0, abs=0.08)
    assert loudness == pytest.approx(8000 / 32768 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_is_cut_where_the_frames_end(tmp_path, codec):
    source = with_tone(3.0, codec, "mov")
    write(tmp_path / "a.mp4", picture(64, 48), [n / 10 for n in range(10)], sound=source)
    _, seconds, _ = sound_of((tmp_path / "a.mp4").read_bytes())
    assert seconds == pytest.approx(1.0, abs=0.08)


def test_copied_sound_is_the_same_to_the_byte(tmp_path):
    source = with_tone(1.0)
    (tmp_path / "source.mp4").write_bytes(source)
    write(tmp_path / "a.mp4", picture(64, 48), [n / 10 for n in range(10)], sound=source)

    def packets(name):
        with av.open(str(tmp_path / name)) as opened:
            return [bytes(p) for p in opened.demux(opened.streams.audio[0]) if p.size]

    copied = packets("a.mp4")
    assert len(copied) > 40
    assert copied == packets("source.mp4")[: len(copied)]


def test_a_video_without_sound_gets_none(tmp_path, write_clip):
    silent = write_clip().read_bytes()
    writer = write(tmp_path / "a.mp4", picture(64, 48), [0.0], sound=silent)
    assert (writer.has_sound, writer.sound_note) == (False, None)
    assert sound_of((tmp_path / "a.mp4").read_bytes()) is None


def test_sound_that_cannot_be_read_is_told_and_the_frames_are_there(tmp_path):
    for damaged in (with_tone(1.0)[:600], b"no video at all"):
        writer = write(tmp_path / "a.mp4", picture(64, 48), [0.0, 0.1], sound=damaged)
        assert writer.sound_note.startswith("the sound cannot be read: ")
        assert len(read(tmp_path / "a.mp4")) == 2


def test_damage_within_the_sound_costs_no_frame(tmp_path):
    source = bytearray(with_tone(2.0, "ac3", "matroska"))
    half = len(source) // 2
    source[half : half + 4000] = np.random.default_rng(0).bytes(4000)
    times = [n / 10 for n in range(20)]
    write(tmp_path / "a.mp4", picture(64, 48), times, sound=bytes(source))
    assert len(read(tmp_path / "a.mp4")) == 20


# ---------------------------------------------------------------- refusals


def test_an_encoder_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(DfscanError, match=r"cannot encode with 'libnope': .*lacks it: install"):
        VideoWriter(tmp_path / "a.mp4", 64, 48, 25.0, codec="libnope")


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(DfscanError, match=r"cannot write .*a\.mp4: No such file or directory"):
        VideoWriter(tmp_path / "none" / "a.mp4", 64, 48, 25.0)


def test_a_frame_of_another_shape_is_refused(tmp_path):
    with (
        VideoWriter(tmp_path / "a.mp4", 64, 48, 25.0) as writer,
        pytest.raises(
            ValueError, match=r"frame must be \(48, 64, 3\) uint8, got \(64, 48, 3\) uint8"
        ),
    ):
        writer.write(np.zeros((64, 48, 3), np.uint8), 0.0)


def test_an_exception_in_the_block_is_the_one_that_comes_out(tmp_path):
    def fail():
        with VideoWriter(tmp_path / "a.mp4", 64, 48, 25.0) as writer:
            writer.write(picture(64, 48), 0.0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
