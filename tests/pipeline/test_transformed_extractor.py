"""Videos seen under a condition: rows of the original, and no file that stays behind."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dfscan import storage
from dfscan.corpora import list_videos
from dfscan.errors import DfscanError
from dfscan.pipeline.extraction.extractor import ExtractionResult, InProcessExtractor
from dfscan.pipeline.sandbox import transcoding
from dfscan.pipeline.sandbox.process import Limits
from dfscan.pipeline.transformed_extractor import TransformedExtractor
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling
from dfscan.schemas.records import VideoRef
from dfscan.video.transforms import NOT_APPLICABLE

RECIPE = FaceRecipe(sampling=Sampling(frames=4), detector=Detector(name="none"))
WHOLE = InProcessExtractor(RECIPE, "cpu", 1 << 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "altered"
    path.mkdir()
    return path


@pytest.fixture
def ref(write_clip: Callable[..., Path]) -> VideoRef:
    return only(write_clip("clips/clip.mp4", frames=24, fps=24))


def only(path: Path) -> VideoRef:
    (found,) = list_videos([str(path)]).videos
    return found


def extractor(condition: str, folder: Path, limits: Limits = Limits(60)) -> TransformedExtractor:  # noqa: B008
    return TransformedExtractor(WHOLE, condition, folder, limits, 1 << 30, WHOLE.decoders)


def names(seen: ExtractionResult) -> list[str]:
    return [seen.row.uri, *(face.uri for face in seen.faces)]


def test_a_row_speaks_of_the_original(ref: VideoRef, folder: Path) -> None:
    before = WHOLE.extract(ref)
    seen = extractor("half", folder).extract(ref)
    half = {"width": 32, "height": 24, "elapsed_s": seen.row.elapsed_s}
    assert seen.row == replace(before.row, **half)
    assert names(seen) == names(before)
    assert dict(seen.times) == pytest.approx(dict(before.times), abs=1e-4)
    assert not list(folder.iterdir())


def test_moments_do_not_depend_on_the_condition(ref: VideoRef, folder: Path) -> None:
    before = WHOLE.extract(ref)
    for condition in ("fps15", "crf40", "jpeg"):
        after = extractor(condition, folder).extract(ref)
        apart = zip(before.times.values(), after.times.values(), strict=True)
        assert max(abs(one - other) for one, other in apart) <= 1 / 15, condition
    fifteen = extractor("fps15", folder).extract(ref).row
    assert fifteen.frames_decoded == 15
    assert fifteen.fps == pytest.approx(15, abs=1)
    assert extractor("fps15", folder).sample_frames(ref) == [1, 5, 9, 13]


def test_what_cannot_be_altered_is_a_row(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "picture.png")
    text, picture = only(tmp_path / "text.mp4"), only(tmp_path / "picture.png")
    row = extractor("crf23", folder).extract(text).row
    assert (row.status, row.reason) == ("not_video", "a text file, not a video")
    assert (row.uri, row.version) == (text.uri, text.version)
    gone = replace(text, uri=text.uri + ".gone")
    assert extractor("crf23", folder).extract(gone).row.status == "missing"
    row = extractor("crf23", folder).extract(picture).row
    assert (row.status, row.reason) == ("unsupported", NOT_APPLICABLE)
    row = extractor("border", folder).extract(picture).row
    assert (row.status, row.codec, row.width, row.faces) == ("ok", "png", 80, 1)
    assert row.content_sha256 == storage.sha256((tmp_path / "picture.png").read_bytes())
    large = replace(text, bytes=2 << 30)
    assert extractor("crf23", folder).extract(large).row.status == "too_large"
    assert not list(folder.iterdir())


def test_lost_frames_are_not_forgotten(write_clip: Callable[..., Path], folder: Path) -> None:
    path = write_clip("clips/hurt.mp4", frames=40, options={"g": "10"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4]) - 8
    data[start + size * 6 // 10 : start + size * 7 // 10] = bytes(size * 7 // 10 - size * 6 // 10)
    path.write_bytes(data)
    before, after = (
        WHOLE.extract(only(path)).row,
        extractor("crf23", folder).extract(only(path)).row,
    )
    assert before.status == after.status == "partial"
    assert after.reason == f"{before.frames_lost} frame(s) lost before re-encoding"


@pytest.mark.parametrize(
    ("action", "limits", "status", "reason"),
    [
        ("sleep", Limits(0.5), "timeout", "not re-encoded after 3 s"),
        ("kill", Limits(60), "crashed", "re-encoding ended by SIGKILL on this video, 3 times"),
        ("exit", Limits(60), "crashed", "re-encoding ended by exit status 7 on this video"),
        ("eat", Limits(60, 1 << 28), "crashed", "used more than 1.3 GiB of memory"),
        ("raise", Limits(60), "crashed", "RuntimeError: injected fault"),
    ],
)
def test_what_a_video_does_to_its_child_costs_its_own_row_only(
    ref: VideoRef,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    limits: Limits,
    status: str,
    reason: str,
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", f"child.alter@clip={action}")
    row = extractor("crf23", folder, limits).extract(ref).row
    assert (row.status, row.uri) == (status, ref.uri)
    assert (row.reason or "").startswith(reason)
    assert not list(folder.iterdir())


def test_a_child_killed_from_outside_is_replaced(
    ref: VideoRef, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", "child.alter@clip=kill")
    monkeypatch.setenv("DFSCAN_FAULTS_DIR", str(tmp_path))
    assert extractor("crf23", folder).extract(ref).row.status == "ok"


def test_what_other_threads_wait_for_can_be_given_up(
    ref: VideoRef, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", "child.alter@clip=sleep")
    looking, rows = extractor("crf23", folder), list[ExtractionResult]()
    thread = threading.Thread(target=lambda: rows.append(looking.extract(ref)))
    thread.start()
    while not transcoding._RUNNING:
        time.sleep(0.05)
    looking.abandon()
    thread.join(20)
    assert [seen.row.reason for seen in rows] == ["given up"]


def test_where_nothing_can_be_written_the_run_ends(ref: VideoRef, tmp_path: Path) -> None:
    with pytest.raises(DfscanError, match="cannot write"):
        extractor("crf23", tmp_path / "nowhere").extract(ref)


def test_where_the_encoder_is_missing_the_run_ends(
    ref: VideoRef, folder: Path, taken_over: Callable[[str], None]
) -> None:
    taken_over(
        """
        from dataclasses import replace
        there = transcoding_worker.CONDITIONS
        crf23 = there["crf23"]
        there["crf23"] = replace(crf23, encoding=replace(crf23.encoding, codec="libnowhere"))
        """
    )
    with pytest.raises(DfscanError, match=r"'libnowhere'.*install PyAV from PyPI"):
        extractor("crf23", folder).extract(ref)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "said",
    [
        *("", "[]", "{}", '{"made": 3}', '{"made": {"lost": "x"}}', "\xff"),
        *('{"failed": ["fine", "x"]}', '{"failed": ["ok"]}', '{"failed": ["crashed", 3]}'),
    ],
)
def test_an_answer_that_makes_no_sense(
    said: str, ref: VideoRef, folder: Path, says: Callable[[str], None]
) -> None:
    says(said)
    row = extractor("crf23", folder).extract(ref).row
    assert row.status == "crashed"
    assert "makes no sense" in (row.reason or "")
    assert not list(folder.iterdir())
