"""What the decoding process has given up, and what that costs nobody."""

import contextlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfscan.corpora import list_videos
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import process, seccomp
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor, end_child
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VideoRef

LOOK = InProcessExtractor(
    FaceRecipe(sampling=Sampling(stride=Stride(real=4, fake=4)), detector=Detector(name="none")),
    "cpu",
    1 << 30,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's means")


@pytest.fixture(autouse=True)
def fresh_child() -> Iterator[None]:
    end_child()
    yield
    end_child()


@pytest.fixture
def refs(write_clip: Callable[..., Path]) -> list[VideoRef]:
    clips = [write_clip(f"clips/{name}.mp4") for name in ("bad", "good")]
    return list_videos([str(clips[0].parent)]).videos


def child() -> int:
    [there] = process._IDLE
    return there.pid


def test_a_process_that_has_entered_can_do_nothing_else() -> None:
    """Tried for real: files, sockets, programs, processes, signals."""
    done = subprocess.run(
        [sys.executable, "-m", "dfscan.pipeline.sandbox.seccomp"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = dict(reversed(line.split(maxsplit=1)) for line in done.stdout.splitlines())  # type: ignore[arg-type]
    possible = {what for what, held in said.items() if held == "POSSIBLE"}
    without = seccomp.lacking()
    if not any("Landlock" in line for line in without):
        assert not possible & {"open a file outside the installation", "write a file"}
    if not any("seccomp" in line for line in without):
        assert not possible & {
            "make a socket",
            "start a program",
            "become two processes",
            "signal another process",
        }
    assert len(said) == 1 + len(seccomp._attempts())


@pytest.mark.skipif(bool(seccomp.lacking()), reason="this system lacks some of the means")
def test_what_landlock_does_not_ask_about_is_refused(tmp_path: Path) -> None:
    """Tried by the owner of a file, who keeps files and user: the filter of system calls is alone."""
    program = """
import os, sys
from dfscan.pipeline.sandbox import seccomp
path, there = sys.argv[1], os.open(sys.argv[1], os.O_RDONLY)
me = os.getuid(), os.getgid()
seccomp.enter(1 << 20, keep_files=True)
for attempt in (
    lambda: os.chmod(path, 0o600), lambda: os.fchmod(there, 0o600), lambda: os.utime(path, (1, 1)),
    lambda: os.chown(path, *me), lambda: os.fchown(there, *me), lambda: os.lchown(path, *me),
    lambda: os.setxattr(path, "user.a", b"b"), lambda: os.setxattr(there, "user.a", b"b"),
    lambda: os.removexattr(path, "user.a"), lambda: os.truncate(path, 1),
):
    try:
        attempt()
        print("possible")
    except PermissionError:
        print("refused")
"""
    file = tmp_path / "mine"
    file.write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused"] * 10


def test_what_this_machine_lacks_is_said() -> None:
    program = "from dfscan.pipeline.sandbox import seccomp; seccomp._MACHINES.clear(); print(seccomp.enter(9))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "no seccomp filter for" in done.stdout
    assert "can use the network" in done.stdout


def test_the_child_that_looks_has_entered(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert SandboxedExtractor(LOOK, Limits(60)).extract(refs[0]).row.status == "ok"
    place = Path(f"/proc/{child()}")
    lines = (line.split(":\t") for line in (place / "status").read_text().splitlines())
    status = {pair[0]: pair[-1].split() for pair in lines}
    if not seccomp.lacking():
        assert status["Seccomp"] == ["2"]
        assert status["Threads"] == ["1"], "Landlock holds for threads that come later, not earlier"
    assert status["NoNewPrivs"] == ["1"]
    assert int(status["CapEff"][0], 16) & ~seccomp._READ_SEARCH == 0
    limits = (place / "limits").read_text()
    for name, most in (("open files", 256), ("core file size", 0), ("file size", 1 << 20)):
        assert f"Max {name}".ljust(26) + str(most) in limits
    if os.geteuid() == 0 and os.access("/proc/1/environ", os.R_OK):
        assert status["Uid"] == [str(seccomp.NOBODY)] * 4
        assert status["Groups"] == []
    with contextlib.suppress(PermissionError):
        assert b"secret" not in (place / "environ").read_bytes()


def test_a_child_needs_no_right_to_its_source(refs: list[VideoRef]) -> None:
    """It is handed bytes: what only this user may read is read."""
    Path(refs[0].uri).chmod(0o600)
    Path(refs[0].uri).parent.chmod(0o700)
    assert SandboxedExtractor(LOOK, Limits(60)).extract(refs[0]).row.status == "ok"


def test_processor_time_has_a_limit_of_its_own(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", "child.look@bad=spin")
    monkeypatch.setattr(Limits, "processor_s", lambda self, deadline_s: 1.0)
    extractor = SandboxedExtractor(LOOK, Limits(120))
    row = extractor.extract(refs[0]).row
    assert (row.status, row.reason) == ("timeout", "used more than 1 s of processor time")
    assert [extractor.extract(refs[1]).row.status for _ in range(3)] == ["ok"] * 3


def test_what_outruns_the_watch_on_memory_is_stopped(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", "child.look@bad=eat")
    monkeypatch.setattr(process, "_private_memory", lambda pid, limit: 0)
    row = SandboxedExtractor(LOOK, Limits(60, 1 << 28)).extract(refs[0]).row
    assert (row.status, row.reason) == ("crashed", "used more than 0.3 GiB of memory")


def test_what_cannot_be_read_does_not_cost_the_child(refs: list[VideoRef], tmp_path: Path) -> None:
    """The worker reads, so what is wrong with a source never reaches the child."""
    clip = Path(refs[1].uri).read_bytes()
    archive = tmp_path / "clips.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.mp4", clip + os.urandom(9 << 20))  # more than one piece
    data = bytearray(archive.read_bytes())
    data[-(1 << 20)] ^= 1  # in the last piece, so the first ones are under way by then
    archive.write_bytes(data)
    [broken] = list_videos([str(archive)]).videos
    extractor = SandboxedExtractor(LOOK, Limits(60))
    assert extractor.extract(refs[1]).row.status == "ok"
    before = child()
    Path(refs[0].uri).unlink()
    assert extractor.extract(refs[0]).row.status == "missing"
    row = extractor.extract(broken).row
    assert row.status == "decode_error"
    assert "damaged or encrypted archive member" in (row.reason or "")
    assert extractor.extract(refs[1]).row.status == "ok"
    assert child() == before


def test_a_child_that_takes_nothing_is_not_waited_for(refs: list[VideoRef], tmp_path: Path) -> None:
    extractor = SandboxedExtractor(LOOK, Limits(5.0))
    extractor.extract(refs[1])
    os.kill(child(), signal.SIGSTOP)  # as one that was taken over might behave
    large = tmp_path / "large.mp4"
    large.write_bytes(Path(refs[1].uri).read_bytes() + bytes(1 << 20))
    [ref] = list_videos([str(large)]).videos
    row = extractor.extract(ref).row
    assert (row.status, row.reason) == ("timeout", "not done after 6 s")
    assert extractor.extract(refs[1]).row.status == "ok"


@pytest.mark.parametrize(
    "answer",
    [{}, {"row": 3}, {"row": {"status": "ok"}, "times": [], "faces_s": 0}, {"indices": ["x"]}],
)
def test_an_answer_without_sense_is_a_row(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch, answer: dict[str, object]
) -> None:
    extractor = SandboxedExtractor(LOOK, Limits(60))
    extractor.extract(refs[1])
    monkeypatch.setattr(process._Child, "_receive", lambda self, *_: (answer, b""))
    row = extractor.extract(refs[0]).row
    assert (row.status, row.reason) == ("crashed", process.INVALID_RESPONSE)
