"""No detector: each frame or picture is used whole."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dfscan.faces.base import Detections, FaceDetector


class WholePicture(FaceDetector):
    """One box per frame: the whole frame, with score 1 and NaN landmarks."""

    box_from: ClassVar[str] = "whole_picture"

    def detect(self, frames: Sequence[npt.NDArray[np.uint8]], min_face: int) -> list[Detections]:
        """See :meth:`FaceDetector.detect`; ``min_face`` does not matter."""
        del min_face
        return [_whole(*frame.shape[:2]) for frame in frames]


def _whole(height: int, width: int) -> Detections:
    return Detections(
        boxes=np.array([[0, 0, width, height]], np.float32),
        landmarks=np.full((1, 5, 2), np.nan, np.float32),
        scores=np.ones(1, np.float32),
    )
