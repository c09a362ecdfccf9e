"""The table of detectors: add one with a file and a line here."""

import functools
from collections.abc import Callable, Mapping
from typing import Final

from dfscan.faces.base import FaceDetector
from dfscan.faces.whole import WholePicture
from dfscan.schemas.recipe import Detector


def _mtcnn(recipe: Detector, device: str) -> FaceDetector:
    import torch  # takes seconds and half a gigabyte

    from dfscan.faces.mtcnn import MTCNN

    torch.set_num_threads(1)  # one worker per CPU, and bit-identical boxes on every machine
    torch.backends.cudnn.allow_tf32 = False  # results must not depend on the GPU
    return MTCNN(recipe, device)


DETECTORS: Final[Mapping[str, Callable[[Detector, str], FaceDetector]]] = {"mtcnn": _mtcnn}


@functools.lru_cache(maxsize=2)
def load_detector(recipe: Detector, device: str) -> FaceDetector:
    """The detector of a recipe; its networks are loaded once per process."""
    if recipe.name == "none":
        return WholePicture()
    return DETECTORS[recipe.name](recipe, device)
