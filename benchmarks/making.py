"""Inputs shared by several benchmarks: copies of clips, and models with random weights."""

import shutil
from pathlib import Path

STRIDE = 30


def make_model(backbone: str, size: int, path: Path, detector: str = "mtcnn") -> None:
    """Save a network with random weights: the benchmarks do not use its scores."""
    import torch

    from dfscan.config.train import InputConfig
    from dfscan.models.backbones import create_network, network_input
    from dfscan.models.modelfile import ModelHeader, save_model
    from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride

    torch.manual_seed(0)
    recipe = FaceRecipe(
        sampling=Sampling(stride=Stride(real=STRIDE, fake=STRIDE)),
        detector=Detector(name=detector),
        input=network_input(backbone, InputConfig(size=size)),
    )
    network = create_network(backbone, size)
    save_model(path, network, ModelHeader(backbone=backbone, recipe=recipe))


def copied(clips: list[Path], copies: int, folder: Path) -> Path:
    """Copy the clips ``copies`` times; dfscan processes each copy as a new file."""
    for number in range(copies):
        for clip in clips:
            place = folder / f"{number:03d}_{clip.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, place)
    return folder
