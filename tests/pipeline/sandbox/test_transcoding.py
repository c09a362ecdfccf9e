"""The process that makes one file of another: what it cannot do, and what becomes of what it dies of."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.sound import with_tone

from dfscan.errors import DfscanError, VideoError
from dfscan.pipeline.sandbox import seccomp, transcoding
from dfscan.pipeline.sandbox.transcoding import DRAWING, TRANSFORMING, transcode
from dfscan.rendering.drawing import Drawing, Drawn, Face, Person, draw_picture, draw_video
from dfscan.schemas.recipe import NetworkInput
from dfscan.video import open_video
from dfscan.video.writing import X264

FRAMES = 20

LOOKS_AROUND = """
import os
from pathlib import Path
from dfscan.errors import VideoError
from dfscan.pipeline.sandbox import seccomp
from dfscan.rendering import drawing

canary = Path({canary!r})

def look_around(data, decoder):
    held = seccomp.refused()
    for name, attempt in (
        ("read the canary", canary.read_text),
        ("write the canary", lambda: canary.write_text("mine")),
        ("read the original", Path({original!r}).read_bytes),
        ("write beside", canary.with_name("beside").touch),
        ("list the folder", lambda: os.listdir(canary.parent)),
        ("remove the file", Path({out!r}).unlink),
    ):
        try:
            attempt()
            held[name] = False
        except OSError:
            held[name] = True
    held["see a secret"] = "AWS_SECRET_ACCESS_KEY" not in os.environ
    possible = [name for name, refused in held.items() if not refused]
    raise VideoError("unsupported", f"{{len(held)}} tried, user {{os.getuid()}}: {{possible}}")

transcoding_worker.open_video = drawing.open_video = look_around
"""


def face(pts_s: float, score_raw: float = 1.0, **keys: Any) -> Face:
    return Face(
        pts_s=pts_s, box=(10 + 10 * pts_s, 8, 40 + 10 * pts_s, 38), score_raw=score_raw, **keys
    )


def drawing(*faces: Face, deadline_s: float = 60.0) -> Drawing:
    person = Person(
        number=0, verdict="FAKE", label="FAKE\np_fake 0.80", threshold=0.5, drawn=True, faces=faces
    )
    return Drawing(
        heading="FAKE, p_fake 0.80", people=(person,) if faces else (), scale=0.5, offset=0.1,
        every_s=0.5, input=NetworkInput(size=32), seen_by="the network", deadline_s=deadline_s,
    )  # fmt: skip


def draw(
    original: Path,
    out: Path,
    what: Drawing,
    deadline_s: float = 60.0,
    watch: Callable[[int, int], None] = lambda done, frames: None,
) -> Drawn:
    request = {
        "uri": str(original),
        "paths": [str(out)] * 2,
        "drawing": what.model_dump_json(),
        "memory": 4 << 30,
    }
    data = original.read_bytes()
    return transcode(DRAWING, request, lambda: [data], deadline_s, Drawn.model_validate, watch)


def alter(original: Path, out: Path) -> int:
    request = {
        "uri": str(original),
        "paths": [str(out)] * 2,
        "condition": "crf23",
        "decoders": ["sparse", "pyav"],
        "memory": 4 << 30,
    }
    return transcode(
        TRANSFORMING, request, lambda: [original.read_bytes()], 60, lambda said: int(said["lost"])
    )


@pytest.fixture
def clip(write_clip: Callable[..., Path]) -> Path:
    return write_clip("in/clip.mp4", frames=FRAMES, width=90, height=64)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "a.mp4"


@pytest.mark.skipif(bool(seccomp.lacking()), reason="this system lacks some of the means")
@pytest.mark.parametrize("make", [alter, lambda clip, out: draw(clip, out, drawing())])
def test_a_child_that_a_video_took_over_can_do_nothing_else(
    make: Callable[[Path, Path], object],
    clip: Path,
    out: Path,
    tmp_path: Path,
    taken_over: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    canary = tmp_path / "canary.txt"
    canary.write_text("alive")
    places = {"canary": str(canary), "original": str(clip), "out": str(out)}
    taken_over(LOOKS_AROUND.format(**places))
    with pytest.raises(VideoError) as told:
        make(clip, out)
    tried = len(seccomp._attempts()) + 7
    user = os.getuid()
    if user == 0 and seccomp._can_kill():
        user = seccomp.NOBODY
    assert told.value.reason == f"{tried} tried, user {user}: []"
    assert canary.read_text() == "alive"
    assert [path.name for path in out.parent.iterdir()] == ["a.mp4"]


def test_frames_and_sound_are_those_of_this_process(
    clip: Path,
    out: Path,
    tmp_path: Path,
    taken_over: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Encoded without loss, since x264 decides otherwise from one time to the next."""
    monkeypatch.setitem(X264, "crf", "0")  # type: ignore[misc]
    taken_over("from dfscan.video import writing; writing.X264['crf'] = '0'")
    sounding = tmp_path / "sounding.mp4"
    sounding.write_bytes(with_tone(2.0))
    what = drawing(*(face(n / 2, 3.0 - n) for n in range(5)))
    for original in (clip, sounding):
        told, here = list[int](), tmp_path / "here.mp4"
        drawn = draw(original, out, what, watch=lambda done, _, told=told: told.append(done))
        assert drawn == draw_video(original.read_bytes(), what, here, lambda *at: None)
        assert told == list(range(drawn.frames + 1))
        ours, theirs = pixels(here), pixels(out)
        assert (ours == theirs).all()
        assert np.abs(ours - pixels(original)).mean() > 1
        assert sound(here) == sound(out) == (sound(out) if original is sounding else [])
        assert sound(out) or original is clip
        head = out.read_bytes()
        assert head.index(b"moov") < head.index(b"mdat"), "it plays before all of it is there"


def pixels(path: Path) -> Any:
    video = open_video(path.read_bytes(), "pyav")
    return np.array([frame.rgb for batch in video.read(range(video.count)) for frame in batch], int)


def sound(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as opened:
        packets = opened.demux(opened.streams.audio) if opened.streams.audio else ()
        return [(packet.pts, bytes(packet)) for packet in packets if packet.pts is not None]


def test_a_picture_is_that_of_this_process(tmp_path: Path, out: Path) -> None:
    picture, here = tmp_path / "picture.png", tmp_path / "here.png"
    Image.effect_noise((90, 64), 60).convert("RGB").save(picture)
    seen = face(0.0, image=picture.read_bytes(), crop_box=(0, 0, 90, 64))
    for what in (drawing(), drawing(seen)):
        drawn = draw(picture, out, what)
        assert drawn == draw_picture(picture.read_bytes(), what, here)
        assert out.read_bytes() == here.read_bytes()


def test_a_score_without_bounds_travels() -> None:
    what = drawing(face(0.0, float("-inf"), image=b"\xff\x00"))
    there = Drawing.model_validate_json(what.model_dump_json())
    assert there == what
    assert there.now(float("-inf")) == 0.0


def test_a_child_that_hangs_within_a_frame_is_ended(
    clip: Path, out: Path, taken_over: Callable[[str], None]
) -> None:
    taken_over(
        """
        import time
        from dfscan.rendering import drawing
        drawing.in_order = lambda video: time.sleep(1e9)
        """
    )
    with pytest.raises(VideoError, match="timeout: not drawn after 3 s"):
        draw(clip, out, drawing(), deadline_s=3)


def test_a_child_that_takes_nothing_is_not_waited_for(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcoding, "_CHILD", ("-c", "import time; time.sleep(1e9)"))
    large = clip.with_name("large.mp4")
    large.write_bytes(bytes(1 << 20))  # more than a pipe holds
    with pytest.raises(VideoError, match="timeout: not drawn after 1 s"):
        draw(large, out, drawing(), deadline_s=1)


def test_what_it_writes_to_stderr_does_not_hold_it_up(
    clip: Path, out: Path, taken_over: Callable[[str], None]
) -> None:
    taken_over("import sys; print('x' * (1 << 20), file=sys.stderr)")
    assert draw(clip, out, drawing()).frames == FRAMES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's means")
def test_a_file_that_grows_too_large_is_told_in_one_line(
    clip: Path, out: Path, taken_over: Callable[[str], None]
) -> None:
    taken_over("transcoding_worker.LARGEST = 3000")
    with pytest.raises(DfscanError, match=r"^cannot write .*a\.mp4: File too large$"):
        draw(clip, out, drawing())


@pytest.mark.parametrize(
    "said",
    [
        *("", "[]", '{"made": {}}', '{"made": {"frames": "x", "seconds": null, "notes": []}}'),
        *(
            '{"at": 3}',
            '{"at": [0, 1]}',
            '{"at": [0, -1]}\n',
            "[" * 100_000,
            "x" * 100_000,
            '{"fatal": ["x"]}',
        ),
    ],
)
def test_an_answer_that_makes_no_sense(
    said: str, clip: Path, out: Path, says: Callable[[str], None]
) -> None:
    says(said)
    with pytest.raises(VideoError, match="the answer of the drawing process makes no sense"):
        draw(clip, out, drawing())


def test_what_a_child_makes_of_half_a_file_does_not_count(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """if True:
        import os
        os.close(0)
        print('{"made": {"frames": 1, "seconds": 1.0, "notes": []}}')
    """
    monkeypatch.setattr(transcoding, "_CHILD", ("-c", program))
    large = clip.with_name("large.mp4")
    large.write_bytes(bytes(1 << 20))
    with pytest.raises(VideoError, match="makes no sense"):
        draw(large, out, drawing())


def test_no_bar_is_drawn_again_and_again(
    clip: Path, out: Path, says: Callable[[str], None]
) -> None:
    says('{"at": [0, 9]}\n' * 1000)
    told = list[int]()
    with pytest.raises(VideoError, match="makes no sense"):
        draw(clip, out, drawing(), watch=lambda done, _: told.append(done))
    assert told == [0]


def test_what_it_says_is_a_line_that_can_be_shown(
    clip: Path, out: Path, says: Callable[[str], None]
) -> None:
    says('{"fatal": "\\u001b[2J\\nx"}')
    with pytest.raises(DfscanError, match=r"^\?\[2J\?x$"):
        draw(clip, out, drawing())
