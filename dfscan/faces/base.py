"""The interface of face detectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces of one frame, largest first.

    ``boxes`` (N, 4) float32, x0 y0 x1 y1 in pixels of the frame; ``landmarks`` (N, 5, 2)
    float32, x y of left eye, right eye, nose, left and right corner of the mouth as the viewer
    sees them; ``scores`` (N,) float32 in [0, 1].
    """

    boxes: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector(ABC):
    """Finds faces in frames of equal size. ``box_from`` is recorded in each face's row."""

    box_from: ClassVar[str] = "detected"

    @abstractmethod
    def detect(self, frames: Sequence[npt.NDArray[np.uint8]], min_face: int) -> list[Detections]:
        """One :class:`Detections` per frame.

        :param frames: (H, W, 3) uint8 RGB each, all of one size.
        :param min_face: smallest face to find, in pixels of these frames.
        """


NO_FACES: Final = Detections(
    np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
)
