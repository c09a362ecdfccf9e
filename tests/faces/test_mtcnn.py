from pathlib import Path

import facenet_pytorch
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from dfscan.faces import mtcnn, pyramid
from dfscan.faces.base import Detections
from dfscan.faces.mtcnn import MTCNN
from dfscan.schemas.recipe import Detector
from dfscan.video import open_video


@pytest.fixture(scope="module")
def ours() -> MTCNN:
    return MTCNN(Detector(min_score=0.0))


def assert_equal_faces(ours: MTCNN, frame: np.ndarray, min_face: int) -> int:
    found = ours.detect([frame], min_face)[0]
    boxes, scores, points = facenet_pytorch.MTCNN(min_face_size=min_face, keep_all=True).detect(
        frame, landmarks=True
    )
    if boxes is None:
        assert len(found) == 0
        return 0
    np.testing.assert_allclose(found.boxes, boxes.astype(np.float32), atol=1e-3)
    np.testing.assert_allclose(found.landmarks, points.astype(np.float32), atol=1e-3)
    np.testing.assert_allclose(found.scores, scores.astype(np.float32), atol=1e-5)
    return len(found)


@pytest.mark.parametrize("min_face", [20, 60])
def test_faces_equal_the_librarys(ours: MTCNN, min_face: int) -> None:
    assert assert_equal_faces(ours, astronaut(), min_face) == 1


def test_several_faces_equal_the_librarys(ours: MTCNN) -> None:
    picture = Image.fromarray(astronaut())
    canvas = Image.new("RGB", (900, 512))
    canvas.paste(picture, (0, 0))
    canvas.paste(picture.resize((300, 300)), (550, 100))
    assert assert_equal_faces(ours, np.asarray(canvas), 30) >= 2


def test_faces_of_real_frames_equal_the_librarys(ours: MTCNN, samples: Path) -> None:
    video = open_video((samples / "clips" / "several_people_1080p.mp4").read_bytes(), "decord")
    frame = next(iter(video.read([50])))[0].rgb
    assert assert_equal_faces(ours, frame, 60) > 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 200, 3), (19, 19, 3), (20, 2000, 3)])
def test_frames_too_small_for_a_face_have_none(ours: MTCNN, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert len(ours.detect([noise], 20)[0]) == 0


def test_min_score_drops_doubtful_faces() -> None:
    assert len(MTCNN(Detector(min_score=1.0)).detect([np.zeros((99, 99, 3), np.uint8)], 20)[0]) == 0


def test_largest_face_comes_first(ours: MTCNN) -> None:
    picture = Image.fromarray(astronaut())
    canvas = Image.new("RGB", (900, 512))
    canvas.paste(picture.resize((300, 300)), (0, 100))
    canvas.paste(picture, (380, 0))
    boxes = ours.detect([np.asarray(canvas)], 30)[0].boxes
    widths = boxes[:, 2] - boxes[:, 0]
    assert list(widths) == sorted(widths, reverse=True)


def test_pyramid_reaches_down_to_the_receptive_field() -> None:
    found = pyramid.scales(1080, 1920, 60, 0.709)
    assert found[0] == 12 / 60
    assert 1080 * found[-1] >= 12 > 1080 * found[-1] * 0.709
    assert pyramid.scales(10, 10, 20, 0.709) == []


def assert_same_detections(ours: Detections, theirs: Detections) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
    np.testing.assert_allclose(ours.landmarks, theirs.landmarks, atol=1e-3)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


@pytest.fixture(scope="module")
def batch() -> list[np.ndarray]:
    """Frames of one size, all different, two of them without faces in the middle."""
    picture = np.asarray(Image.fromarray(astronaut()).resize((320, 320)))
    two = picture.copy()
    two[160:, 160:] = np.asarray(Image.fromarray(picture).resize((160, 160)))
    noise = np.random.default_rng(0).integers(0, 255, picture.shape, dtype=np.uint8)
    return [
        picture,
        np.roll(picture, 40, axis=1),
        np.zeros_like(picture),
        two,
        noise,
        np.ascontiguousarray(picture[:, ::-1]),
        picture // 3,
    ]


def test_faces_of_a_batch_are_those_of_each_frame_alone(
    ours: MTCNN, batch: list[np.ndarray]
) -> None:
    together = ours.detect(batch, 20)
    assert len(together) == len(batch)
    for found, frame in zip(together, batch, strict=True):
        assert_same_detections(found, ours.detect([frame], 20)[0])
    assert len(together[2]) == len(together[4]) == 0
    assert [len(together[n]) for n in (0, 1, 3, 5, 6)] == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("frames", [0.5, 1, 2, 3])
def test_more_frames_than_pass_together_have_the_same_faces(
    ours: MTCNN, batch: list[np.ndarray], frames: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ours.detect(batch, 40)
    pixels = int(batch[0].shape[0] * batch[0].shape[1] * frames)
    monkeypatch.setattr(mtcnn, "BATCH_PIXELS", {"cpu": pixels, "cuda": pixels})
    found = ours.detect(batch, 40)
    assert len(found) == len(batch)
    for one, other in zip(found, expected, strict=True):
        assert_same_detections(one, other)


def test_a_batch_without_any_face_has_none_each(ours: MTCNN) -> None:
    found = ours.detect([np.full((80, 90, 3), value, np.uint8) for value in (0, 128, 255)], 20)
    assert [len(faces) for faces in found] == [0, 0, 0]
    assert ours.detect([], 20) == []


def test_faces_of_a_batch_equal_the_librarys(ours: MTCNN, batch: list[np.ndarray]) -> None:
    together = ours.detect(batch, 30)
    for found, frame in zip(together, batch, strict=True):
        assert assert_equal_faces(ours, frame, 30) == len(found)


@pytest.mark.parametrize("shade", [2, 6, 12])
def test_faces_of_a_dark_frame_equal_the_librarys(ours: MTCNN, shade: int) -> None:
    assert_equal_faces(ours, astronaut() // shade, 40)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_faces_of_a_turned_frame_equal_the_librarys(ours: MTCNN, quarters: int) -> None:
    frame = np.ascontiguousarray(np.rot90(astronaut()[:, 40:440], quarters))
    assert_equal_faces(ours, frame, 30)


def test_a_tiny_face_equals_the_librarys(ours: MTCNN) -> None:
    canvas = np.full((201, 333, 3), 90, np.uint8)
    canvas[60:160, 100:200] = np.asarray(Image.fromarray(astronaut()).resize((100, 100)))
    assert assert_equal_faces(ours, canvas, 12) == 1
    box = ours.detect([canvas], 12)[0].boxes[0]
    assert box[2] - box[0] < 25


def test_a_face_cut_by_the_edge_equals_the_librarys(ours: MTCNN) -> None:
    assert assert_equal_faces(ours, np.ascontiguousarray(astronaut()[60:, 200:]), 30) == 1


def test_arrays_of_any_layout_have_the_same_faces_and_stay_as_they_are(ours: MTCNN) -> None:
    frame = np.asarray(Image.fromarray(astronaut()).resize((256, 256)))
    expected = ours.detect([frame], 20)[0]
    assert len(expected) == 1
    fixed = frame.copy()
    fixed.setflags(write=False)
    padded = np.zeros((300, 280, 3), np.uint8)
    padded[20:276, 10:266] = frame
    layouts = [
        fixed,
        padded[20:276, 10:266],
        np.asfortranarray(frame),
        frame[:, ::-1].copy()[:, ::-1],
        frame[..., ::-1].copy()[..., ::-1],
    ]
    for found in [*ours.detect(layouts, 20), *(ours.detect([f], 20)[0] for f in layouts)]:
        assert_same_detections(found, expected)
    assert not fixed.flags.writeable
    for layout in layouts:
        np.testing.assert_array_equal(layout, frame)
