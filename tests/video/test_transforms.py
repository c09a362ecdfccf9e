"""Each condition does what it says, and nothing else."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dfscan.errors import VideoError
from dfscan.video import Frame, Video, open_video
from dfscan.video.transforms import (
    ALTERED,
    BORDER,
    CONDITIONS,
    NOT_APPLICABLE,
    ORIGINAL,
    frame_in_window,
    halve,
    mirror,
    thin_out,
    transformed_picture,
    write_transformed,
)
from dfscan.video.writing import VideoWriter

SIZE = (120, 160)


def scene(seed: int = 0) -> np.ndarray:
    """A smooth picture (120, 160, 3) that is not its own mirror image, with fine grain on it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 40
    waves = [np.sin(x * (1 + c) + y + seed / 5) + np.cos(y * (2 - c / 2)) for c in range(3)]
    grain = np.random.default_rng(seed).normal(0, 6, (*SIZE, 3))
    return np.clip(128 + 45 * np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)


def clip(path: Path, times: list[float], fps: float = 30) -> bytes:
    with VideoWriter(path, SIZE[1], SIZE[0], fps, options={"crf": "5"}) as writer:
        for number, when in enumerate(times):
            writer.write(scene(number), when)
    return path.read_bytes()


def frames(video: Video) -> list[Frame]:
    return [frame for batch in video.read(range(video.count)) for frame in batch]


def under(name: str, data: bytes, folder: Path) -> tuple[Video, list[Frame]]:
    condition = CONDITIONS[name]
    path = folder / f"{name}{condition.suffix(picture=False)}"
    write_transformed(open_video(data, "sparse"), condition, path)
    video = open_video(path.read_bytes(), "sparse")
    return video, frames(video)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_the_table_holds_what_the_command_promises() -> None:
    assert list(CONDITIONS) == [
        "reencoded", "fps15", "half", "crf23", "crf32", "crf40", "jpeg", "border", "mirrored",
    ]  # fmt: skip
    assert ORIGINAL not in CONDITIONS
    assert len({c.settings() for c in ALTERED}) == len(ALTERED)


def test_half_is_half_in_even_numbers() -> None:
    assert halve(scene()).shape == (60, 80, 3)
    assert halve(np.zeros((50, 51, 3), np.uint8)).shape == (24, 26, 3)
    assert halve(np.zeros((2, 3, 3), np.uint8)).shape == (2, 2, 3)
    checked = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    grey = halve(np.repeat(checked[..., None], 3, 2))
    assert abs(grey[4:-4, 4:-4].astype(int) - 127).max() <= 2  # averaged, not every other pixel


def test_a_window_holds_the_picture_pixel_for_pixel() -> None:
    picture = scene()
    canvas = frame_in_window(picture)
    top, left = round(BORDER[0] * 120), round(BORDER[3] * 160)
    assert canvas.shape == (120 + 17 + 10 + 1, 160 + 19 + 19, 3)
    assert (canvas[top : top + 120, left : left + 160] == picture).all()
    assert (
        frame_in_window(scene(1))[0, 0].tolist() == canvas[0, 0].tolist() != canvas[-1, -1].tolist()
    )
    for height in range(40, 47):
        assert all(
            side % 2 == 0 for side in frame_in_window(np.zeros((height, 61, 3), np.uint8)).shape[:2]
        )


def test_a_mirror_undoes_itself() -> None:
    picture = scene()
    assert (mirror(picture)[:, 0] == picture[:, -1]).all()
    assert (mirror(mirror(picture)) == picture).all()


@pytest.mark.parametrize(
    ("fps", "kept"), [(30, [0, 2, 4, 6]), (29.97, [0, 2, 4, 6]), (25, [0, 2, 4, 5, 7]), (15, list(range(8))), (10, list(range(8)))]
)  # fmt: skip
def test_at_most_fifteen_frames_a_second(fps: float, kept: list[int]) -> None:
    rgb = np.zeros((2, 2, 3), np.uint8)
    for rounded in (9, 3):  # as exact as MP4's times, and as Matroska's
        shown = [Frame(i, round(i / fps, rounded), i == 0, rgb) for i in range(8)]
        assert [f.index for f in thin_out(iter(shown), 15)] == kept
        assert [f.index for f in thin_out(iter(shown), None)] == list(range(8))


def test_conditions_on_a_clip(tmp_path: Path) -> None:
    """Sizes, codecs, rates and times; the picture itself within the codec's error."""
    times = [0.0, 1 / 30, 2 / 30, 3 / 30, 0.2, 0.25, 0.5, 16 / 30]  # of variable rate
    data = clip(tmp_path / "clip.mp4", times)
    before = frames(open_video(data, "sparse"))
    lost = {}
    for name in CONDITIONS:
        video, after = under(name, data, tmp_path)
        expected = list(thin_out(iter(before), 15)) if name == "fps15" else before
        assert [f.pts_s for f in after] == pytest.approx([f.pts_s for f in expected], abs=1e-3), (
            name
        )
        assert video.info.codec == ("mjpeg" if name == "jpeg" else "h264")
        change = CONDITIONS[name].change or (lambda rgb: rgb)
        wanted = [change(f.rgb) for f in expected]
        assert [f.rgb.shape for f in after] == [w.shape for w in wanted]
        lost[name] = np.mean([error(f.rgb, w) for f, w in zip(after, wanted, strict=True)])
    assert lost["crf40"] > lost["crf32"] > lost["crf23"] > lost["reencoded"] > 0
    assert (
        max(lost[name] for name in ("reencoded", "fps15", "half", "border", "mirrored", "jpeg")) < 6
    )
    _, (mirrored, *_) = under("mirrored", data, tmp_path)
    assert error(mirrored.rgb, before[0].rgb) > 4 * lost["mirrored"]
    keys = [f.key_frame for f in under("jpeg", data, tmp_path)[1]]
    assert all(keys)


def test_frames_between_key_frames_are_predicted(tmp_path: Path) -> None:
    """Else compression would be that of single pictures."""
    data = clip(tmp_path / "clip.mp4", [i / 30 for i in range(30)])
    assert [f.key_frame for f in under("crf32", data, tmp_path)[1]] == [True] + 29 * [False]


def test_a_phone_clip_is_turned_once(samples: Path, tmp_path: Path) -> None:
    video = open_video((samples / "odd" / "decord__video_90.mov").read_bytes(), "sparse")
    assert video.info.rotation
    first = next(video.read([0]))[0].rgb
    altered, after = under(
        "reencoded", (samples / "odd" / "decord__video_90.mov").read_bytes(), tmp_path
    )
    assert altered.info.rotation == 0
    assert after[0].rgb.shape == first.shape
    assert error(after[0].rgb, first) < 6 < error(after[0].rgb, first[::-1])


def test_pictures(tmp_path: Path) -> None:
    picture = scene()
    for name, condition in CONDITIONS.items():
        if name in ("half", "jpeg", "border", "mirrored"):
            stored = Image.open(io.BytesIO(transformed_picture(picture, condition)))
            wanted = condition.change(picture) if condition.change else picture
            assert stored.format == ("JPEG" if name == "jpeg" else "PNG")
            difference = error(np.asarray(stored), wanted)
            assert 0 < difference < 6 if name == "jpeg" else difference == 0
        else:
            with pytest.raises(VideoError, match="for videos") as caught:
                transformed_picture(picture, condition)
            assert (caught.value.status, caught.value.reason) == ("unsupported", NOT_APPLICABLE)


def test_nothing_to_decode_is_said(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    data = bytearray(write_clip(frames=4).read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4]) - 8
    data[start : start + size] = bytes(size)
    with pytest.raises(VideoError, match="no frame could be decoded"):
        write_transformed(
            open_video(bytes(data), "pyav"), CONDITIONS["crf23"], tmp_path / "out.mp4"
        )


def test_frames_that_come_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    data = clip(tmp_path / "a.mp4", [n / 30 for n in range(6)])
    video = open_video(data, "sparse")
    usual = video.read

    def read(*asked: Any) -> Iterator[list[Frame]]:
        for batch in usual(*asked):
            yield batch[::-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "read", read)
        write_transformed(video, CONDITIONS["reencoded"], tmp_path / "b.mp4")
    after = frames(open_video((tmp_path / "b.mp4").read_bytes(), "sparse"))
    assert len(after) == 6
    apart = [[error(f.rgb, scene(n)) for n in range(6)] for f in after]
    assert [int(np.argmin(row)) for row in apart] == list(range(6))


def test_the_same_frames_become_the_same_bytes(tmp_path: Path) -> None:
    data = clip(tmp_path / "clip.mp4", [i / 30 for i in range(12)])
    found = set()
    for _ in range(6):
        under("half", data, tmp_path)
        found.add((tmp_path / "half.mp4").read_bytes())
    assert len(found) == 1
