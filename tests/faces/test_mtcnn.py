from pathlib import Path

import facenet_pytorch
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from dfscan.faces import pyramid
from dfscan.faces.mtcnn import MTCNN
from dfscan.recipe import Detector
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
