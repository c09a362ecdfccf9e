"""The table of detectors: a new one is one file and one line here."""

import functools
from collections.abc import Callable, Mapping
from typing import Final

from dfscan.faces.base import FaceDetector
from dfscan.faces.mtcnn import MTCNN
from dfscan.recipe import Detector

DETECTORS: Final[Mapping[str, Callable[[Detector, str], FaceDetector]]] = {"mtcnn": MTCNN}


@functools.lru_cache(maxsize=2)
def load_detector(recipe: Detector, device: str) -> FaceDetector:
    """The detector of a recipe; its networks are loaded once a process."""
    return DETECTORS[recipe.name](recipe, device)
