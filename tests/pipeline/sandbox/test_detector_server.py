"""Several decoding processes and one detector: same faces, and nobody pays for another's video."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.corpora import list_videos
from dfscan.errors import DfscanError, VideoError
from dfscan.faces.base import NO_FACES, Detections
from dfscan.pipeline.concurrency import map_concurrent
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import detector_server, process
from dfscan.pipeline.sandbox.detector_server import (
    DetectorServer,
    RemoteDetector,
    SharedFrameBuffer,
    serve,
)
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor, end_child
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VideoRef

LOOK = InProcessExtractor(
    FaceRecipe(sampling=Sampling(stride=Stride(real=4, fake=4))), "cpu", 1 << 30
)


@pytest.fixture(autouse=True)
def _no_children() -> Iterator[None]:
    end_child()
    yield
    end_child()


@pytest.fixture
def refs(corpus: Corpus) -> list[VideoRef]:
    return list_videos([str(corpus.test)]).videos


def test_three_children_see_what_one_process_sees(refs: list[VideoRef]) -> None:
    extractor = SandboxedExtractor(LOOK, Limits(60), decoders=3)
    assert extractor.max_concurrent == 3
    for ref, seen in zip(refs, map_concurrent(extractor, extractor.extract, refs), strict=True):
        alone = LOOK.extract(ref)
        assert seen.row.video_id == ref.video_id
        assert seen.row.status == alone.row.status == "ok"
        assert [f.box for f in seen.faces] == [f.box for f in alone.faces]
        assert [f.landmarks for f in seen.faces] == [f.landmarks for f in alone.faces]
        assert [f.image for f in seen.faces] == [f.image for f in alone.faces]


def test_pictures_taken_whole_need_no_detector(refs: list[VideoRef]) -> None:
    recipe = LOOK.recipe.model_copy(update={"detector": Detector(name="none")})
    extractor = SandboxedExtractor(
        InProcessExtractor(recipe, "cpu", 1 << 30), Limits(60), decoders=1
    )
    seen = extractor.extract(refs[0])
    assert {f.box_from for f in seen.faces} == {"whole_picture"}


def test_a_hanging_child_costs_its_own_video_only(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", f"child.look@{Path(refs[1].uri).name}=sleep")
    extractor = SandboxedExtractor(LOOK, Limits(8.0), decoders=2)
    status = [seen.row.status for seen in map_concurrent(extractor, extractor.extract, refs)]
    assert status == ["ok", "timeout", *["ok"] * (len(refs) - 2)]


def test_what_nobody_waits_for_is_abandoned(
    refs: list[VideoRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFSCAN_FAULTS", f"child.look@{Path(refs[1].uri).name}=sleep")
    extractor = SandboxedExtractor(LOOK, Limits(600.0), decoders=2)

    def see(ref: VideoRef) -> str:
        if ref == refs[0]:
            raise DfscanError("the disk is full")
        return extractor.extract(ref).row.reason or ""

    with pytest.raises(DfscanError, match="the disk is full"):
        list(map_concurrent(extractor, see, refs[:2]))
    assert not process._BUSY


def test_frames_that_wait_together_pass_together(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[tuple[int, ...]]] = []
    go = threading.Event()

    class Slow:
        def detect(self, frames: list[np.ndarray], min_face: int) -> list[Detections]:
            go.wait(10)
            batches.append([(f.shape[0], int(f[0, 0, 0]), min_face) for f in frames])
            return [
                Detections(np.full((1, 4), f[0, 0, 0], np.float32), NO_FACES.landmarks, np.ones(1))
                for f in frames
            ]

    monkeypatch.setattr(detector_server, "load_detector", lambda recipe, device: Slow())
    server = DetectorServer(Detector(), "cpu")
    answers: dict[int, list[Detections]] = {}

    def ask(number: int, side: int) -> None:
        frames = [np.full((side, 8, 3), number, np.uint8)] * 2
        answers[number] = server.detect(frames, 20, 30)

    threads = [threading.Thread(target=ask, args=(n, 9 if n == 3 else 8)) for n in range(5)]
    threads[0].start()
    while not server._waiting.empty():
        threads[0].join(0.01)
    for thread in threads[1:]:
        thread.start()
        while server._waiting.qsize() < threads.index(thread):
            thread.join(0.01)
    go.set()
    for thread in threads:
        thread.join(10)
    assert [len(batch) for batch in batches] == [2, 6, 2]  # the first; three of one size; the odd
    for number, found in answers.items():
        assert [int(d.boxes[0, 0]) for d in found] == [number, number]


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OutOfMemoryError("CUDA out of memory."), VideoError), (RuntimeError("lost"), DfscanError)],
)
def test_too_much_memory_is_the_videos_and_another_failure_the_runs(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, expected: type[Exception]
) -> None:
    class Broken:
        def detect(self, frames: list[np.ndarray], min_face: int) -> list[Detections]:
            raise error

    monkeypatch.setattr(detector_server, "load_detector", lambda recipe, device: Broken())
    shared = SharedFrameBuffer()
    said = shared.write([np.zeros((4, 4, 3), np.uint8)]) | {"min_face": 20}
    with pytest.raises(expected, match=str(error)) as caught:
        serve(shared, DetectorServer(Detector(), "cpu"), said)
    assert type(caught.value) is expected
    shared.close()


def test_those_who_share_a_batch_do_not_share_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        def detect(self, frames: list[np.ndarray], min_face: int) -> list[Detections]:
            if len(frames) > 2:
                raise OutOfMemoryError("too many")
            return [NO_FACES] * len(frames)

    monkeypatch.setattr(detector_server, "load_detector", lambda recipe, device: Small())
    server = DetectorServer(Detector(), "cpu")
    results: list[int] = []
    frames = [np.zeros((4, 4, 3), np.uint8)] * 2
    threads = [
        threading.Thread(target=lambda: results.append(len(server.detect(frames, 20, 30))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [2] * 6


@pytest.mark.parametrize(
    "said", [{}, {"min_face": 20}, {"min_face": 20, "shape": 5}, {"min_face": 20, "shape": [4]}]
)
def test_a_child_that_says_too_little_is_refused(said: dict[str, object]) -> None:
    shared = SharedFrameBuffer()
    with pytest.raises(VideoError, match="makes no sense"):
        serve(shared, DetectorServer(Detector(name="none"), "cpu"), said)
    shared.close()


@pytest.mark.parametrize("min_face", [[], {}, 1e-300, 0, "20", None, 1 << 40])
def test_a_child_cannot_ask_for_faces_that_nobody_looks_for(min_face: object) -> None:
    shared = SharedFrameBuffer()
    said = shared.write([np.zeros((4, 4, 3), np.uint8)]) | {"min_face": min_face}
    with pytest.raises(VideoError, match="makes no sense"):
        serve(shared, DetectorServer(Detector(name="none"), "cpu"), said)
    shared.close()


def test_a_hanging_detector_stops_the_run_and_blames_no_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()

    class Hanging:
        def detect(self, frames: list[np.ndarray], min_face: int) -> list[Detections]:
            go.wait(30)
            return [NO_FACES] * len(frames)

    monkeypatch.setattr(detector_server, "load_detector", lambda recipe, device: Hanging())
    shared = SharedFrameBuffer()
    said = shared.write([np.zeros((4, 4, 3), np.uint8)]) | {"min_face": 20}
    monkeypatch.setattr(detector_server, "LONGEST_S", 0.2)
    with pytest.raises(DfscanError, match="has not answered"):
        serve(shared, DetectorServer(Detector(), "cpu"), said)
    go.set()
    shared.close()


def test_frames_and_faces_survive_the_way_to_the_worker_and_back() -> None:
    chance = np.random.default_rng(0)
    frames = [chance.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(3)]
    shared = SharedFrameBuffer()
    there = Detections(
        chance.random((2, 4), np.float32), chance.random((2, 5, 2), np.float32),
        chance.random(2, np.float32),
    )  # fmt: skip

    def worker(said: dict[str, object]) -> list[list[object]]:
        assert said["min_face"] == 25
        for sent, got in zip(frames, shared.read(said), strict=True):
            np.testing.assert_array_equal(sent, got)
        return [
            [d.boxes.tolist(), d.landmarks.tolist(), d.scores.tolist()] for d in (there, NO_FACES)
        ]

    back, none = RemoteDetector(shared, worker).detect(frames, 25)
    np.testing.assert_array_equal(back.boxes, there.boxes)
    np.testing.assert_array_equal(back.landmarks, there.landmarks)
    np.testing.assert_array_equal(back.scores, there.scores)
    assert none.boxes.shape == (0, 4)
    shared.close()


@pytest.mark.parametrize(
    "said",
    [
        {"count": 2, "shape": [4, 4, 3]},
        {"count": 1, "shape": [4, 4, 4]},
        {"count": 1, "shape": [4, 12]},
        {"count": 1, "shape": [4.0, 4, 3]},
        {"count": "1", "shape": [4, 4, 3]},
        {"count": -1, "shape": [-4, 4, 3]},
        {"count": 0, "shape": [4, 4, 3]},
        {"count": 1, "shape": [1 << 40, 1 << 40, 3]},
    ],
)
def test_a_child_cannot_make_the_worker_read_what_is_not_there(said: dict[str, object]) -> None:
    shared = SharedFrameBuffer()
    shared.write([np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(VideoError, match="makes no sense"):
        shared.read(said)
    shared.close()


def test_a_child_cannot_cut_the_memory_short_while_it_is_read() -> None:
    shared = SharedFrameBuffer()
    shared.write([np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(PermissionError):
        os.ftruncate(shared.descriptor, 0)
    shared.close()


def test_lanes_take_no_more_than_they_need(refs: list[VideoRef]) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    extractor = SandboxedExtractor(LOOK, Limits(60), decoders=2)
    results = map_concurrent(extractor, lambda number: number * number, numbers())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 7
    assert list(results) == [n * n for n in range(3, 20)]


def test_closed_lanes_have_ended(refs: list[VideoRef]) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        threading.Event().wait(0.3)
        done.append(number)
        return number

    results = map_concurrent(SandboxedExtractor(LOOK, Limits(60), decoders=2), work, range(100))
    assert next(results) == 0
    results.close()
    so_far = list(done)
    threading.Event().wait(0.5)
    assert done == so_far
    assert len(done) <= 4


def test_one_lane_is_a_plain_loop(refs: list[VideoRef]) -> None:
    work: Callable[[VideoRef], str] = lambda ref: ref.video_id  # noqa: E731
    assert list(map_concurrent(LOOK, work, refs)) == [r.video_id for r in refs]
