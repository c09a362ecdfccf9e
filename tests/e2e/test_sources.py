"""The same clips from every kind of source: equal faces, whichever way they lie."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfscan import extract, storage
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.pipeline.sandbox.process import end_child


@pytest.fixture(autouse=True)
def new_child() -> Iterator[None]:
    """No decoding process keeps the address of this test's object store."""
    yield
    end_child()


def faces(source: str, out: Path) -> list[tuple[Any, ...]]:
    """(name, label, frame, picture) of every face; each video must be ok."""
    result = extract(source, out=str(out), inline=True, stride=4, detector={"name": "none"})
    assert result.status == {"ok": 6}  # type: ignore[union-attr]
    rows = [r for _, t in storage.read_tables(out / "faces") for r in t.to_pylist()]
    return sorted(
        (Path(r["video_id"]).name, r["label"], r["frame_index"], r["image"]["bytes"]) for r in rows
    )


def nested(part: bytes) -> bytes:
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("dfdc_train_part_00.zip", part)
    return outer.getvalue()


def sharded(part: bytes) -> bytes:
    shard = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(part)) as archive,
        tarfile.open(fileobj=shard, mode="w") as tar,
    ):
        for name in archive.namelist():
            info = tarfile.TarInfo(name)
            info.size = len(archive.read(name))
            tar.addfile(info, io.BytesIO(archive.read(name)))
    return shard.getvalue()


@pytest.fixture
def expected(corpus: Corpus, tmp_path: Path) -> list[tuple[Any, ...]]:
    with zipfile.ZipFile(corpus.parts[0]) as archive:
        archive.extractall(tmp_path / "unpacked")
    return faces(str(tmp_path / "unpacked"), tmp_path / "expected")


def test_archives_and_lists_give_the_faces_of_the_folder(
    corpus: Corpus, tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    part = corpus.parts[0].read_bytes()
    (tmp_path / "all.zip").write_bytes(nested(part))
    (tmp_path / "shard.tar").write_bytes(sharded(part))
    labels = {name: label for name, label, *_ in expected}
    lines = [f"{p},{labels[p.name]}" for p in sorted((tmp_path / "unpacked").rglob("*.mp4"))]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    for name in ("all.zip", "shard.tar", "clips.csv"):
        assert faces(str(tmp_path / name), tmp_path / f"faces-{name}") == expected


def test_object_storage_gives_the_faces_of_the_folder(
    corpus: Corpus,
    tmp_path: Path,
    expected: list[tuple[Any, ...]],
    bucket: Callable[[str, bytes], object],
) -> None:
    end_child()  # a new one, with the address of this store in its environment
    part = corpus.parts[0].read_bytes()
    bucket("dfdc/part_00.zip", part)
    bucket("all.zip", nested(part))
    for path in (tmp_path / "unpacked").rglob("*.*"):
        bucket(f"folder/{path.name}", path.read_bytes())
    for number, source in enumerate(("dfdc", "all.zip", "folder")):
        assert faces(f"s3://clips/{source}", tmp_path / str(number)) == expected
    assert extract("s3://clips/dfdc", out=str(tmp_path / "0"), inline=True, stride=4,
                   detector={"name": "none"}).new == 0  # type: ignore[union-attr]  # fmt: skip
