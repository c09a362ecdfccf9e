import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from safetensors.torch import save_file

from dfscan import storage
from dfscan.config.train import Identities, InputConfig, TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ModelError, UsageError
from dfscan.training.identities import merge_identities
from dfscan.training.index import build_index
from dfscan.training.plan import make_plan


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random ones, under the names of the published file, its classifier of 8,631 people too."""
    torch.manual_seed(0)
    network = InceptionResnetV1(pretrained=None, classify=True, num_classes=10)
    path = tmp_path_factory.mktemp("weights") / "facenet.safetensors"
    save_file(network.state_dict(), str(path))
    return str(path)


def with_a_second_video(faceset: FaceSet, root: Path, person: str) -> FaceSet:
    """The same faces, and those of one real video again as another's of another group."""
    copy = FaceSet(root)
    for number, path in enumerate(storage.parquet_files(faceset.faces)):
        rows = storage.read_table(path).to_pylist()
        again = [
            row | {"video_id": "other.mp4", "group": "other"}
            for row in rows
            if row["group"] == person and row["label"] == "REAL"
        ]
        table = pa.Table.from_pylist(rows + again, schema=storage.read_table(path).schema)
        storage.commit_table(copy.faces / f"u{number}.parquet", table)
    marker = json.loads((faceset.root / "dataset.json").read_text())
    storage.commit_json(copy.root / "dataset.json", marker)
    return copy


def test_videos_of_one_person_join(faceset: FaceSet, tmp_path: Path, weights: str) -> None:
    before = build_index([faceset])
    person = before.groups[2]
    index = build_index([with_a_second_video(faceset, tmp_path / "faces", person)])
    assert len(index.groups) == len(before.groups) + 1
    joined, found = merge_identities(index, Identities(weights=weights, distance=1e-4))
    assert set(joined.groups) == set(before.groups)
    groups = {joined.groups[g] for g in joined.group[index.group == index.groups.index("other")]}
    assert groups == {person}
    assert (found["people"], found["groups"]) == (6, 7)
    assert found["faces"] == 7 * 4
    np.testing.assert_array_equal(joined.fake, index.fake)


def test_a_distance_that_makes_everybody_one_is_refused(faceset: FaceSet, weights: str) -> None:
    with pytest.raises(UsageError, match=r"distance: got 1\.9; 6 of 6 groups come out as one"):
        merge_identities(build_index([faceset]), Identities(weights=weights, distance=1.9))


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"nothing", b""])
def test_weights_that_are_none_are_refused(
    faceset: FaceSet, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="safetensors"):
        merge_identities(build_index([faceset]), Identities(weights=str(path)))


@pytest.mark.parametrize("checked", [True, False])
def test_a_plan_says_whether_people_were_told_apart(
    faceset: FaceSet, tmp_path: Path, weights: str, checked: bool
) -> None:
    settings: dict[str, Any] = {"faces": (str(faceset.root),), "out": str(tmp_path)}
    if checked:
        settings["identities"] = Identities(weights=weights, distance=1e-4)
    config = TrainConfig(**settings, inline=True, input=InputConfig(size=64), val_fraction=0.34)
    found = make_plan(config, 1).audits["identities"]
    assert found["people"] == 6 if checked else found == "not checked"
