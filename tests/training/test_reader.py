import shutil

import numpy as np
import pyarrow as pa
import pytest

from dfscan.errors import SourceError
from dfscan.facesets import FaceSet
from dfscan.recipe import NetworkInput
from dfscan.training.reader import FaceIndex, FaceReader, build_index

INPUT = NetworkInput(size=32)


@pytest.fixture(scope="module")
def index(faceset: FaceSet) -> FaceIndex:
    return build_index([faceset])


def everything(index: FaceIndex) -> np.ndarray:
    return np.arange(len(index))


def test_index_knows_every_face(index: FaceIndex, faceset: FaceSet) -> None:
    assert len(index) == faceset.counts()["faces"]
    assert len(index.video_ids) == 12
    assert len(index.groups) == 6
    assert 0.4 * len(index) < index.fake.sum() < 0.6 * len(index)


def test_groups_choose_faces(index: FaceIndex) -> None:
    chosen = index.where(frozenset(index.groups[:1]))
    assert set(index.group[chosen]) == {0}
    assert len(index.where(frozenset(index.groups))) == len(index)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_validation_side(index: FaceIndex, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        reader = FaceReader(index, everything(index), INPUT, rank=rank, world=world)
        for batch in reader.all_batches(4):
            assert batch.pixels.shape[1:] == (32, 32, 3)
            np.testing.assert_array_equal(batch.fake.numpy() > 0, index.fake[batch.position])
            seen += batch.position.tolist()
    assert sorted(seen) == list(range(len(index)))


def test_an_epoch_gives_each_rank_as_many_other_faces(index: FaceIndex) -> None:
    seen: list[int] = []
    steps = len(index) // 2 // 4
    for rank in range(2):
        reader = FaceReader(index, everything(index), INPUT, rank=rank, world=2)
        batches = list(reader.train_batches(4, steps, seed=5, flip=False))
        assert len(batches) == steps
        seen += [p for b in batches for p in b.position.tolist()]
    assert len(set(seen)) == len(seen) == steps * 8


def test_epochs_are_shuffled_anew_and_repeatably(index: FaceIndex) -> None:
    def order(seed: int) -> list[int]:
        reader = FaceReader(index, everything(index), INPUT)
        batches = reader.train_batches(8, len(index) // 8, seed=seed, flip=False)
        return [p for b in batches for p in b.position.tolist()]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != sorted(order(1))


def test_flip_mirrors_some_faces(index: FaceIndex) -> None:
    def pixels(flip: bool) -> dict[int, np.ndarray]:
        reader = FaceReader(index, everything(index), INPUT)
        batches = reader.train_batches(8, len(index) // 8, seed=3, flip=flip)
        return {
            p: x
            for b in batches
            for p, x in zip(b.position.tolist(), b.pixels.numpy(), strict=True)
        }

    plain, mixed = pixels(False), pixels(True)
    mirrored = [p for p in mixed if not np.array_equal(mixed[p], plain.get(p, mixed[p]))]
    assert 0 < len(mirrored) < len(mixed)
    assert all(np.array_equal(mixed[p], plain[p][:, ::-1]) for p in mirrored)


def test_a_picture_that_does_not_decode_is_skipped_and_named(
    index: FaceIndex, faceset: FaceSet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dfscan import storage

    source = storage.parquet_files(faceset.faces)[0]
    rows = storage.read_table(source)
    images = rows.column("image").to_pylist()
    images[1] = {"bytes": b"broken", "path": None}
    place = rows.schema.get_field_index("image")
    rows = rows.set_column(
        place, rows.schema.field("image"), pa.array(images, rows.schema.field("image").type)
    )
    damaged = FaceSet(tmp_path_factory.mktemp("damaged"))
    storage.commit_table(damaged.faces / "u.parquet", rows)
    other = build_index([damaged])
    reader = FaceReader(other, everything(other), INPUT)
    seen = [p for b in reader.all_batches(4) for p in b.position.tolist()]
    assert seen == [p for p in range(len(other)) if p != 1]
    assert len(reader.bad) == 1
    assert rows.column("video_id")[1].as_py() in reader.bad[0]
    steps = len(other) // 4
    shuffled = FaceReader(other, everything(other), INPUT)
    batches = list(shuffled.train_batches(4, steps, seed=0, flip=False))
    assert len(batches) == steps  # every rank takes as many steps, whatever it had to skip


def test_the_same_video_in_two_datasets_is_refused(
    faceset: FaceSet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "faces"
    shutil.copytree(faceset.root, copy)
    with pytest.raises(SourceError, match="would count twice"):
        build_index([faceset, FaceSet(copy)])


def test_unlabelled_faces_are_no_training_material(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    empty = FaceSet(tmp_path_factory.mktemp("empty"))
    with pytest.raises(SourceError, match="no labelled face"):
        build_index([empty])
