import numpy as np
import pytest
from skimage.data import astronaut

from dfscan.faces.detectors import DETECTORS, load_detector
from dfscan.schemas.recipe import Detector


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_keeps_the_contract(name: str) -> None:
    detector = load_detector(Detector(name=name), "cpu")
    portrait, empty = astronaut(), np.zeros((512, 512, 3), np.uint8)
    found, nothing = detector.detect([portrait, empty], 40)
    assert len(found) == 1
    assert len(nothing) == 0
    assert found.boxes.shape == (1, 4)
    assert found.landmarks.shape == (1, 5, 2)
    assert found.boxes.dtype == found.landmarks.dtype == found.scores.dtype == np.float32
    x0, y0, x1, y1 = found.boxes[0]
    assert 150 < x0 < 200
    assert 40 < y0 < 90
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[0]
    assert x0 < left_eye[0] < nose[0] < right_eye[0] < x1
    assert y0 < left_eye[1] < nose[1] < left_mouth[1] < y1
    assert left_mouth[0] < right_mouth[0]
    alone = detector.detect([portrait], 40)[0]
    np.testing.assert_array_equal(alone.boxes, found.boxes)
