import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.faces import face, person, write_faces

from dfscan.config.train import TrainConfig
from dfscan.datasets import face_dataset as facesets
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import SourceError
from dfscan.faces.crops import crop_for_network
from dfscan.schemas.recipe import NetworkInput
from dfscan.schemas.records import FaceRow
from dfscan.training import reader as reading
from dfscan.training.augment import PRESETS
from dfscan.training.index import FaceIndex, build_index
from dfscan.training.reader import Batch, FaceReader
from dfscan.training.sampling import make_sampler, pairs

INPUT = NetworkInput(size=32)
MARKS = (75.0, 85.0, 105.0, 85.0, 90.0, 100.0, 78.0, 115.0, 102.0, 115.0)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def index(faceset: FaceSet) -> FaceIndex:
    return build_index([faceset])


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaceIndex:
    """More faces than the reader holds at once, in row groups of 4 and two files."""
    monkeypatch.setattr(facesets, "ROW_GROUP", 4)
    monkeypatch.setattr(reading, "ROW_GROUPS", 3)
    monkeypatch.setattr(reading, "SHUFFLE_BUFFER", 10)
    rows = [r for name in "abcde" for r in person(name, frames=12, fakes=2, landmarks=MARKS)]
    return build_index([write_faces(tmp_path / "many", rows, units=2)])


def everything(index: FaceIndex) -> np.ndarray:
    return np.arange(len(index))


def epoch(
    index: FaceIndex,
    items: np.ndarray | None = None,
    batch: int = 8,
    steps: int | None = None,
    seed: int = 0,
    augmentation: str = "none",
    **where: int,
) -> list[Batch]:
    """All batches of an epoch."""
    items = everything(index)[:, None] if items is None else items
    steps = items.size // batch if steps is None else steps
    reader = FaceReader(index, INPUT, **where)
    return list(reader.train_batches(items, batch, steps, seed, augmentation))


def positions(batches: list[Batch]) -> list[int]:
    return [p for b in batches for p in b.position.tolist()]


def pixels(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([b.pixels.numpy() for b in batches])


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_a_side(index: FaceIndex, world: int) -> None:
    side = everything(index)[::2]
    rows = {path: pq.read_table(path).to_pylist() for path in index.files}
    seen: list[int] = []
    for rank in range(world):
        reader = FaceReader(index, INPUT, rank=rank, world=world, threads=2)
        for batch in reader.all_batches(side, 4):
            assert len(batch.position) <= 4
            np.testing.assert_array_equal(batch.fake.numpy() > 0, index.fake[batch.position])
            for position, shown in zip(batch.position, batch.pixels.numpy(), strict=True):
                row = rows[index.files[index.file[position]]][
                    64 * index.row_group[position] + index.row[position]
                ]
                seen_by_scoring = crop_for_network(
                    row["image"]["bytes"], row["crop_box"], row["box"], INPUT
                )
                np.testing.assert_array_equal(shown, seen_by_scoring)
            seen += batch.position.tolist()
    assert seen == side.tolist()  # in file order, and every face once


def test_a_side_without_faces_gives_no_batch(index: FaceIndex) -> None:
    reader = FaceReader(index, INPUT)
    assert list(reader.all_batches(np.zeros(0, np.int64), 4)) == []


# ---------------------------------------------------------------- an epoch


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_take_as_many_steps_with_other_faces(many: FaceIndex, world: int) -> None:
    share = 6
    steps = len(many) // world // share
    seen = []
    for rank in range(world):
        batches = epoch(many, batch=share, steps=steps, seed=5, rank=rank, world=world)
        assert [len(b.position) for b in batches] == [share] * steps
        seen.append(set(positions(batches)))
        assert len(seen[-1]) == share * steps
    assert len(set.union(*seen)) == sum(map(len, seen)) == world * share * steps


def test_an_epoch_larger_than_the_buffer_shows_each_face_once_and_shuffled(
    many: FaceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []
    original = reading._read_row_group

    def counting(file: str, number: int) -> object:
        read.append((file, number))
        return original(file, number)

    monkeypatch.setattr(reading, "_read_row_group", counting)
    monkeypatch.setattr(reading, "AHEAD", 1)
    order = positions(epoch(many, batch=6))
    assert sorted(order) == everything(many).tolist()
    groups = [(int(many.file[p]), int(many.row_group[p])) for p in order]
    together = sum(a == b for a, b in pairwise(groups))
    assert together < len(order) / 4
    assert len(read) <= 2 * len(set(read)) + 12  # a row group once a class, and what is ahead
    assert order != positions(epoch(many, batch=6, seed=1))


@pytest.mark.parametrize("batch", [4, 6, 10])
def test_classes_are_spread_evenly_over_the_batches(many: FaceIndex, batch: int) -> None:
    share = many.fake.mean()
    assert share == pytest.approx(2 / 3)
    for rank in range(2):
        for one in epoch(many, batch=batch, steps=60 // batch, rank=rank, world=2):
            assert abs(float(one.fake.sum()) - share * batch) <= 1
            np.testing.assert_array_equal(one.fake.numpy() > 0, many.fake[one.position])


@pytest.mark.parametrize("batch", [3, 8])
def test_a_uniform_epoch_has_as_many_reals_as_fakes_in_each_batch(
    many: FaceIndex, batch: int
) -> None:
    sampler = make_sampler(many, everything(many), TrainConfig(balance="uniform"))
    for seed in range(3):
        items = sampler.epoch(seed)
        for one in epoch(many, items, batch=batch, seed=seed):
            assert abs(float(one.fake.sum()) - batch / 2) <= 1


@pytest.mark.parametrize("augmentation", sorted(PRESETS.keys() - {"sbi"}))
def test_the_seed_alone_decides_about_the_pixels(many: FaceIndex, augmentation: str) -> None:
    one = epoch(many, seed=3, augmentation=augmentation)
    for threads in (2, 5):
        other = epoch(many, seed=3, augmentation=augmentation, threads=threads)
        assert positions(one) == positions(other)
        np.testing.assert_array_equal(pixels(one), pixels(other))
    again = epoch(many, seed=4, augmentation=augmentation)
    assert positions(one) != positions(again)
    shown = [
        {p: x.tobytes() for p, x in zip(positions(e), pixels(e), strict=True)} for e in (one, again)
    ]
    changed = np.mean([shown[0][p] != shown[1][p] for p in shown[0].keys() & shown[1].keys()])
    assert (changed == 0) if augmentation == "none" else changed > 0.3


def test_each_copy_of_a_face_is_augmented_anew(many: FaceIndex) -> None:
    batches = epoch(many, np.zeros((40, 1), np.int64), steps=5, augmentation="classic")
    assert set(positions(batches)) == {0}
    assert len({x.tobytes() for x in pixels(batches)}) > 30


def test_flip_mirrors_about_half_of_the_faces(many: FaceIndex) -> None:
    plain, mixed = epoch(many, seed=3), epoch(many, seed=3, augmentation="flip")
    assert positions(plain) == positions(mixed)
    before, after = pixels(plain), pixels(mixed)
    mirrored = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert 0.35 < np.mean(mirrored) < 0.65
    np.testing.assert_array_equal(after[mirrored], before[mirrored][:, :, ::-1])


def test_what_was_read_is_counted_and_no_thread_stays(many: FaceIndex) -> None:
    before = threading.active_count()
    reader = FaceReader(many, INPUT, threads=2)
    batches = reader.train_batches(everything(many)[:, None], 6, 30, 0, "flip")
    next(batches)
    batches.close()  # in the middle
    assert reader.pictures >= 6
    assert reader.core_s > 0
    assert threading.active_count() == before


@pytest.mark.parametrize("augmentation", ["light", "sbi"])
def test_decoding_while_the_consumer_waits_gives_the_same_batches(
    tmp_path: Path, index: FaceIndex, augmentation: str
) -> None:
    if augmentation == "light":
        rows = broken(person("ann", frames=20), {1, 5, 14, 30, 31})
        index = build_index([write_faces(tmp_path / "f", rows)])
    reals = np.flatnonzero(~index.fake)[:, None]
    found = []
    for ahead in (True, False):
        reader = FaceReader(index, NetworkInput(size=64), threads=2, ahead=ahead)
        epoch = list(reader.train_batches(reals, 6, 9, 1, augmentation))
        side = list(reader.all_batches(everything(index), 4))
        assert len(epoch) == 9
        found.append([*epoch, *side])
    assert positions(found[0]) == positions(found[1])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("ahead", [True, False])
def test_an_epoch_may_end_in_the_middle_of_what_was_decoded(many: FaceIndex, ahead: bool) -> None:
    reader = FaceReader(many, INPUT, ahead=ahead)
    found = pairs(many, everything(many))
    for steps in (1, 2, 3):  # a chunk of pairs makes two batches
        assert len(list(reader.train_batches(found, 6, steps, 0, "none"))) == steps
    assert "dfscan-reader" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("ahead", [True, False])
def test_faces_are_decoded_beside_a_gpu_and_between_the_steps_of_a_cpu(
    many: FaceIndex, ahead: bool
) -> None:
    reader = FaceReader(many, INPUT, ahead=ahead)
    batches = reader.train_batches(everything(many)[:, None], 6, 10, 0, "none")
    for number in range(1, 5):
        next(batches)
        deadline = time.monotonic() + 5
        while ahead and reader.pictures < 6 * (number + reading.AHEAD):
            assert time.monotonic() < deadline
        time.sleep(0.05)
        assert ahead or reader.pictures == 6 * number
    batches.close()


# ---------------------------------------------------------------- damage


def broken(rows: list[FaceRow], which: set[int]) -> list[FaceRow]:
    return [replace(r, image=b"broken") if i in which else r for i, r in enumerate(rows)]


@pytest.mark.parametrize("world", [1, 2])
def test_a_picture_that_does_not_decode_is_skipped_and_named(tmp_path: Path, world: int) -> None:
    rows = broken(person("ann", frames=12), {1, 5, 14})
    index = build_index([write_faces(tmp_path / "f", rows)])
    seen: list[int] = []
    named: list[str] = []
    for rank in range(world):
        reader = FaceReader(index, INPUT, rank=rank, world=world)
        seen += positions(list(reader.all_batches(everything(index), 4)))
        named += reader.bad
        steps = len(index) // world // 4
        batches = list(reader.train_batches(everything(index)[:, None], 4, steps, 0, "none"))
        assert len(batches) == steps  # no rank waits for another
        assert not {1, 5, 14} & set(positions(batches))
        assert all(len(b.position) == len(b.fake) == len(b.pixels) for b in batches)
    assert sorted(seen) == [p for p in range(len(index)) if p not in {1, 5, 14}]
    assert sorted(named) == sorted(index.name(p) for p in (1, 5, 14))
    assert [rows[p].video_id in name for p, name in zip((1, 5, 14), named, strict=True)] == [
        True, True, True,
    ]  # fmt: skip


def test_a_rank_whose_share_is_broken_repeats_the_rest(tmp_path: Path) -> None:
    rows = person("ann", frames=30)
    bad = {i for i in range(60) if i % 30 not in (4, 17)}
    index = build_index([write_faces(tmp_path / "f", broken(rows, bad))])
    for rank in range(2):
        batches = epoch(index, batch=4, steps=7, rank=rank, world=2)
        assert len(batches) == 7
        assert not bad & set(positions(batches))


@pytest.mark.parametrize("batch", [2, 5, 10, 60])
@pytest.mark.parametrize("paired", [False, True])
def test_where_nothing_decodes_that_is_said(tmp_path: Path, batch: int, paired: bool) -> None:
    rows = broken(person("ann", frames=7), set(range(14)))
    index = build_index([write_faces(tmp_path / "f", rows)])
    items = pairs(index, everything(index)) if paired else everything(index)[:, None]
    reader = FaceReader(index, INPUT)
    with pytest.raises(
        SourceError, match=r"no picture decodes; the first: ann.*\.mp4, frame \d+ \("
    ):
        list(reader.train_batches(items, batch, 3, 0, "none"))
    assert list(reader.all_batches(everything(index), 4)) == []


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("augmentation", sorted(PRESETS.keys() - {"sbi"}))
def test_a_fake_and_its_original_stay_together_and_change_alike(
    tmp_path: Path, augmentation: str
) -> None:
    rows = [r for name in "abc" for r in person(name, frames=8, landmarks=MARKS)]
    shown = {(r.group, r.frame_index): r.image for r in rows if r.label == "REAL"}
    rows = [replace(r, image=shown[r.group, r.frame_index]) for r in rows]  # a perfect forgery
    index = build_index([write_faces(tmp_path / "f", rows)])
    found = pairs(index, everything(index))
    batches = epoch(index, found, batch=6, augmentation=augmentation, threads=3)
    assert [len(b.position) for b in batches] == [6] * 8
    for batch in batches:
        assert batch.fake.tolist() == [1, 0] * 3
        assert {tuple(p) for p in batch.position.reshape(-1, 2).tolist()} <= {
            tuple(p) for p in found.tolist()
        }
        seen = batch.pixels.numpy()
        np.testing.assert_array_equal(seen[::2], seen[1::2])
    assert sorted(positions(batches)) == sorted(found.ravel())


def test_where_one_of_a_pair_is_broken_neither_is_shown(tmp_path: Path) -> None:
    rows = broken(person("ann", frames=6), {0, 7})  # the first real, the second fake
    index = build_index([write_faces(tmp_path / "f", rows)])
    found = pairs(index, everything(index))
    batches = epoch(index, found, batch=4, steps=9)
    counts = Counter(positions(batches))
    assert counts.keys() == {2, 3, 4, 5, 8, 9, 10, 11}
    assert all(counts[p] == counts[p + 6] for p in (2, 3, 4, 5))


# ---------------------------------------------------------------- self-blended


@pytest.mark.parametrize("world", [1, 2])
def test_self_blending_shows_each_real_as_real_and_as_fake(index: FaceIndex, world: int) -> None:
    reals = np.flatnonzero(~index.fake)[:, None]
    share = 6
    steps = 2 * len(reals) // world // share
    seen: list[int] = []
    differ = []
    for rank in range(world):
        reader = FaceReader(index, NetworkInput(size=64), rank=rank, world=world)
        batches = list(reader.train_batches(reals, share, steps, 1, "sbi"))
        assert len(batches) == steps
        for batch in batches:
            assert batch.fake.tolist() == [0, 1] * (len(batch.fake) // 2)
            assert batch.position[::2].tolist() == batch.position[1::2].tolist()
            seen += batch.position[::2].tolist()
            shown = batch.pixels.numpy().astype(int)
            differ += np.abs(shown[::2] - shown[1::2]).mean(axis=(1, 2, 3)).tolist()
        assert reader.unblended == 0
    assert not index.fake[seen].any()
    assert len(set(seen)) == len(seen) > 0.7 * len(reals)
    assert np.mean([0 < d < 12 for d in differ]) > 0.9  # one face, augmented alike, blended once


def test_self_blending_depends_on_the_seed_alone(index: FaceIndex) -> None:
    reals = np.flatnonzero(~index.fake)[:, None]
    one, other = (
        epoch(index, reals, steps=3, seed=2, augmentation="sbi", threads=t) for t in (1, 4)
    )
    np.testing.assert_array_equal(pixels(one), pixels(other))


def test_faces_without_landmarks_cannot_be_blended(tmp_path: Path) -> None:
    index = build_index([write_faces(tmp_path / "f", [face("a.mp4", "REAL", i) for i in range(9)])])
    reader = FaceReader(index, INPUT)
    with pytest.raises(
        SourceError, match=r"sbi needs landmarks .* extract with the detector mtcnn"
    ):
        list(reader.train_batches(everything(index)[:, None], 4, 3, 0, "sbi"))
    assert reader.unblended >= 9
    assert reader.bad == []
