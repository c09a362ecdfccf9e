"""Training and scoring see the same pixels: the promise everything else rests on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.commands import score as score_job
from dfscan.config.extract import ExtractConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.models.backbones import create_network, network_input, normalise
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.pipeline.progress import Progress
from dfscan.training.index import build_index
from dfscan.training.reader import FaceReader

BACKBONES = [("mesoinception4", "stretch"), ("mobilenetv3_small_050", "pad")]


@pytest.mark.parametrize(("backbone", "square"), BACKBONES)
def test_stored_faces_and_scored_frames_give_equal_logits(
    samples: Path, tmp_path: Path, backbone: str, square: str
) -> None:
    source = tmp_path / "src" / "real"
    source.mkdir(parents=True)
    clip = samples / "dfdc" / "dfdc_train_part_0" / "lynaeydofd.mp4"
    (source / "clip.mp4").symlink_to(clip)
    extract = ExtractConfig(
        source=str(tmp_path / "src"),
        out=str(tmp_path / "faces"),
        stride="real=60,fake=60",
        inline=True,
    )
    extract_job.run(extract, Progress())
    dataset = FaceSet(tmp_path / "faces")

    torch.manual_seed(0)
    wanted = InputConfig(square=square, size=128)
    seen = network_input(backbone, wanted)
    network = create_network(backbone, seen.size).eval()
    recipe = dataset.recipe().model_copy(update={"input": seen})
    model = tmp_path / "model.safetensors"
    save_model(model, network, ModelHeader(backbone=backbone, recipe=recipe))

    index = build_index([dataset])
    trained: list[float] = []
    with torch.inference_mode():
        for batch in FaceReader(index, seen).all_batches(np.arange(len(index)), 3):
            trained += network(normalise(batch.pixels, seen)).tolist()

    score = ScoreConfig(
        source=str(tmp_path / "src"), model=str(model), out=str(tmp_path / "v.parquet"),
        stride="real=60,fake=60", inline=True, batch_size=7,
    )  # fmt: skip
    score_job.run(score, Progress())
    rows = storage.read_table(tmp_path / "v.parquet").to_pylist()
    scored = [f["score_raw"] for f in rows[0]["frames"]]
    assert len(scored) == 5
    assert np.std(scored) > 0
    np.testing.assert_allclose(scored, trained, atol=1e-3)
