"""A small model whose scores differ from face to face, and verdict files compared."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.faces import picture
from torch import nn

from dfscan import storage
from dfscan.config.train import InputConfig
from dfscan.faces.crops import decode
from dfscan.models.backbones import create_network, network_input, normalise
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.scoring.calibration import Calibration

TIMES = ("scanned_at", "elapsed_s")
SAMPLING = Sampling(stride=Stride(real=30, fake=30))


def make_model(path: Path, detector: str = "mtcnn", seed: int = 0) -> Path:
    """A calibrated MesoInception-4 that has learned nothing."""
    torch.manual_seed(seed)
    shape = network_input("mesoinception4", InputConfig(size=64))
    network = create_network("mesoinception4", 64)
    pictures = np.stack([decode(picture(str(number), size=64)) for number in range(16)])
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(pictures), shape))
    header = ModelHeader(
        backbone="mesoinception4",
        recipe=FaceRecipe(sampling=SAMPLING, detector=Detector(name=detector), input=shape),
        calibration=Calibration(scale=1.0, offset=0.0, reals=8, fakes=8, sampling=SAMPLING),
    )
    save_model(path, network, header)
    return path


def verdicts(path: Path) -> dict[str, dict[str, Any]]:
    """All rows of a verdict file without their times, by ``video_id``, which each has to itself."""
    rows = storage.read_table(path).drop_columns(TIMES).to_pylist()
    found = {row["video_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def apart(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two values differ, numbers by more than 1e-5."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [d for k in keys for d in apart(one.get(k), other.get(k), f"{at}/{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for n, (a, b) in pairs for d in apart(a, b, f"{at}/{n}")]
    if isinstance(one, float) and isinstance(other, float):
        close = math.isclose(one, other, rel_tol=0, abs_tol=1e-5)
    else:
        close = one == other
    return [] if close else [f"{at}: {one!r}, {other!r}"]
