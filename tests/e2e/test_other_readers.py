"""The dataset opens as it is in the tools people use."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from dfscan.datasets.face_dataset import FaceSet


@pytest.fixture(scope="module")
def faces(faceset: FaceSet) -> tuple[str, int]:
    return f"{faceset.faces}/*.parquet", faceset.counts()["faces"]


def test_pandas(faceset: FaceSet) -> None:
    frame = pd.read_parquet(faceset.faces)
    assert len(frame) == faceset.counts()["faces"]
    assert len(frame.iloc[0]["box"]) == 4
    assert frame.iloc[0]["image"]["bytes"][:2] == b"\xff\xd8"
    assert len(pd.read_parquet(faceset.videos)) == 12


def test_polars(faces: tuple[str, int]) -> None:
    frame = pl.read_parquet(faces[0])
    assert frame.height == faces[1]
    assert set(frame["label"].unique()) == {"REAL", "FAKE"}
    assert frame["landmarks"].dtype == pl.Array(pl.Float32, 10)


def test_duckdb(faces: tuple[str, int]) -> None:
    query = f"""
        select count(*), count(distinct video_id), min(detector_score),
               count(map_from_entries(attributes)['manipulation'])
        from '{faces[0]}'
    """
    count, videos, score, manipulations = duckdb.sql(query).fetchall()[0]
    assert (count, videos, manipulations) == (faces[1], 12, 0)
    assert score >= 0.95


def test_hugging_face_datasets(
    faces: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(
        "parquet", data_files=faces[0], split="train", cache_dir=str(tmp_path)
    )
    assert len(loaded) == faces[1]
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].mode == "RGB"
