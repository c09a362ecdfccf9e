"""What becomes of a video whose decoding hangs, crashes or eats memory, and of the next one."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.corpora import list_videos
from dfscan.errors import VideoError
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import process
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor, end_child
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VideoRef

RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=4, fake=4)))
WHOLE = InProcessExtractor(
    RECIPE.model_copy(update={"detector": Detector(name="none")}), "cpu", 1 << 30
)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """``fault("child.look@bad.mp4=sleep")``: children started from now on have this fault."""

    def arrange(text: str, once: bool = False) -> None:
        monkeypatch.setenv("DFSCAN_FAULTS", text)
        if once:
            monkeypatch.setenv("DFSCAN_FAULTS_DIR", str(tmp_path))
        end_child()

    yield arrange
    end_child()


@pytest.fixture
def refs(write_clip: Callable[..., Path]) -> list[VideoRef]:
    clips = [write_clip(f"clips/{name}.mp4") for name in ("bad", "good")]
    return list_videos([str(clips[0].parent)]).videos


def test_a_child_sees_what_this_process_sees(corpus: Corpus) -> None:
    ref = list_videos([str(corpus.test)]).videos[0]
    extractor = InProcessExtractor(RECIPE, "cpu", 1 << 30)
    inside, outside = (
        extractor.extract(ref, extra_frames=[1]),
        SandboxedExtractor(extractor, Limits(60)).extract(ref, extra_frames=[1]),
    )
    assert outside.row == replace(inside.row, elapsed_s=outside.row.elapsed_s)
    assert outside.times == inside.times
    assert 1 in outside.times
    assert [f.image for f in outside.faces] == [f.image for f in inside.faces]
    assert [f.box for f in outside.faces] == [f.box for f in inside.faces]
    assert (
        SandboxedExtractor(extractor, Limits(60)).sample_frames(ref)
        == extractor.sample_frames(ref)
        != []
    )


@pytest.mark.parametrize(
    ("action", "limits", "status", "reason"),
    [
        ("sleep", Limits(1.0), "timeout", "not done after 1 s"),
        ("spin", Limits(1.0), "timeout", "not done after 1 s"),
        ("eat", Limits(60, 1 << 30), "crashed", "used more than 1.0 GiB of memory"),
        ("kill", Limits(60), "crashed", "the decoder ended by SIGKILL on this video, 3 times"),
        ("exit", Limits(60), "crashed", "the decoder ended by exit status 7 on this video"),
        ("raise", Limits(60), "crashed", "RuntimeError: injected fault"),
    ],
)
def test_what_a_video_does_to_its_child_costs_its_own_row_only(
    refs: list[VideoRef],
    fault: Callable[..., None],
    action: str,
    limits: Limits,
    status: str,
    reason: str,
) -> None:
    fault(f"child.look@bad={action}")
    extractor = SandboxedExtractor(WHOLE, limits)
    bad, good = extractor.extract(refs[0]), extractor.extract(refs[1])
    assert bad.row.status == status
    assert reason in (bad.row.reason or "")
    assert bad.row.elapsed_s is not None
    assert bad.faces == []
    assert good.row.status == "ok"
    assert len(good.faces) == 5


def test_a_child_that_is_killed_once_costs_nothing(
    refs: list[VideoRef], fault: Callable[..., None]
) -> None:
    fault("child.look@bad=kill", once=True)
    seen = SandboxedExtractor(WHOLE, Limits(60)).extract(refs[0])
    assert seen.row.status == "ok"
    assert len(seen.faces) == 5


def test_a_child_is_replaced_after_so_many_videos(refs: list[VideoRef]) -> None:
    end_child()
    extractor = SandboxedExtractor(WHOLE, Limits(60, recycle=2))
    pids = []
    for _ in range(3):
        extractor.extract(refs[0])
        pids.append(process._IDLE[0].pid)
    assert pids[0] == pids[1] != pids[2]


def test_a_survey_of_a_hanging_video_ends(refs: list[VideoRef], fault: Callable[..., None]) -> None:
    fault("child.look@bad=sleep")
    extractor = SandboxedExtractor(WHOLE, Limits(1.0))
    with pytest.raises(VideoError, match="timeout: not done after 1 s"):
        extractor.sample_frames(refs[0])
    assert extractor.sample_frames(refs[1]) == WHOLE.sample_frames(refs[1])


def test_a_child_cannot_speak_of_another_video(refs: list[VideoRef]) -> None:
    seen = SandboxedExtractor(WHOLE, Limits(60)).extract(refs[0])
    read = process._Read(WHOLE, replace(refs[1], label="FAKE"))
    list(read.pieces())
    mine = process._of(read, replace(seen, row=replace(seen.row, content_sha256="lie", bytes=1)))
    assert mine.row.content_sha256 == hashlib.sha256(Path(refs[1].uri).read_bytes()).hexdigest()
    assert mine.row.bytes == refs[1].bytes
    assert {mine.row.video_id, *(f.video_id for f in mine.faces)} == {refs[1].video_id}
    assert {mine.row.label, *(f.label for f in mine.faces)} == {"FAKE"}


def test_memory_is_watched_where_a_process_may_not_be_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root without CAP_SYS_PTRACE, whose child has become nobody."""
    known = process._private_memory(os.getpid(), 0)
    read = Path.read_text

    def closed(path: Path) -> str:
        if path.name == "smaps_rollup":
            raise PermissionError
        return read(path)

    monkeypatch.setattr(Path, "read_text", closed)
    assert process._private_memory(os.getpid(), 0) == pytest.approx(known, rel=0.2)


def test_limits_grow_with_the_file_and_what_fakes_ask_for() -> None:
    limits = Limits(120, 1 << 30)
    assert limits.deadline_s(0) == 120
    assert limits.deadline_s(60_000_000) == 180
    assert limits.deadline_s(0, more_frames=60) == 180
    assert limits.memory_limit(100 << 20) == (1 << 30) + (300 << 20)
    assert 2 << 30 <= Limits(120).memory_limit(0) <= 8 << 30


_PARENT = """
import sys, time
from dfscan.schemas.recipe import *
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import process
extractor = InProcessExtractor(FaceRecipe(sampling=Sampling(frames=1), detector=Detector(name="none")), "cpu", 1)
print(process._take_child(extractor, 9, False).pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until and Path(f"/proc/{child}/stat").exists():
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()
