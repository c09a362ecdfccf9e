from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faces import BOX, face, person, write_faces

from dfscan.config.train import TrainConfig
from dfscan.errors import UsageError
from dfscan.training.index import FaceIndex, Video, build_index
from dfscan.training.sampling import Sampler, make_sampler, pairs, uniform_shares


def invented(seed: int) -> FaceIndex:
    """Datasets, groups, videos and frames of very unequal sizes; the last dataset has only fakes."""
    random = np.random.default_rng(seed)
    faces: list[tuple[int, int, int, bool, int]] = []
    video = 0
    for dataset in range(3):
        for group in random.choice(20, 5, replace=False):  # some groups in several datasets
            for _ in range(random.integers(1, 5)):
                fake = dataset == 2 or bool(random.random() < 0.7)
                for frame in random.choice(50, random.integers(1, 8), replace=False):
                    faces += [(dataset, group, video, fake, frame)] * random.integers(1, 4)
                video += 1
    table = [faces[i] for i in random.permutation(len(faces))]
    columns = [np.array(column) for column in zip(*table, strict=True)]
    size = len(faces)
    return FaceIndex(
        datasets=("a", "b", "c"),
        files=("f",),
        videos=tuple(Video(f"v{i}", None, {}, None) for i in range(video)),
        groups=tuple(f"g{i}" for i in range(20)),
        dataset=columns[0].astype(np.int16),
        file=np.zeros(size, np.int32),
        row_group=np.zeros(size, np.int32),
        row=np.arange(size, dtype=np.int32),
        video=columns[2].astype(np.int32),
        original=np.full(size, -1, np.int32),
        group=columns[1].astype(np.int32),
        fake=columns[3].astype(bool),
        frame=columns[4].astype(np.int32),
        key_frame=np.zeros(size, bool),
        track=np.full(size, -1, np.int16),
        box=np.tile(np.float32(BOX), (size, 1)),
        crop_box=np.tile(np.float32(BOX), (size, 1)),
        detector_score=np.ones(size, np.float32),
        face_diff=np.full(size, np.nan, np.float32),
    )


def slow_shares(index: FaceIndex, positions: list[int], mix: Sequence[float]) -> list[float]:
    """The same by going down the tree, one choice after another."""

    def children(faces: list[int], key: Any) -> list[list[int]]:
        found: dict[Any, list[int]] = {}
        for at in faces:
            found.setdefault(key[at], []).append(at)
        return list(found.values())

    shares = dict.fromkeys(positions, 0.0)
    classes = children(positions, index.fake)
    for one in classes:
        sets = children(one, index.dataset)
        weights = [mix[index.dataset[s[0]]] for s in sets]
        for some, weight in zip(sets, weights, strict=True):
            share = weight / sum(weights) / len(classes)
            groups = children(some, index.group)
            for group in groups:
                videos = children(group, index.video)
                for video in videos:
                    frames = children(video, index.frame)
                    for frame in frames:
                        for at in frame:
                            number = len(groups) * len(videos) * len(frames) * len(frame)
                            shares[at] = share / number
    return [shares[at] for at in positions]


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_choosing_step_by_step(seed: int) -> None:
    index = invented(seed)
    random = np.random.default_rng(seed)
    positions = np.sort(random.choice(len(index), len(index) // 2, replace=False))
    for mix in ((1, 1, 1), (0.2, 3, 1)):
        shares = uniform_shares(index, positions, mix)
        np.testing.assert_allclose(shares, slow_shares(index, positions.tolist(), mix), rtol=1e-12)
        assert shares.sum() == pytest.approx(1)
        assert shares[index.fake[positions]].sum() == pytest.approx(0.5)
    only = positions[index.fake[positions]]
    assert uniform_shares(index, only, (1, 1, 1)).sum() == pytest.approx(1)


@pytest.mark.parametrize("count", [7, 100, 1000])
def test_each_face_is_drawn_as_often_as_expected_but_for_rounding(count: int) -> None:
    index = invented(1)
    everything = np.arange(len(index))
    mix = (1.0, 2.0, 0.5)
    sampler = Sampler(index, everything[:, None], "uniform", mix, count)
    expected = uniform_shares(index, everything, mix) * count
    epochs = []
    for seed in range(300):
        drawn = sampler.epoch(seed)
        assert drawn.shape == (count, 1)
        times = np.bincount(drawn[:, 0], minlength=len(index))
        assert (times >= np.floor(expected - 1e-9)).all()
        assert (times <= np.ceil(expected + 1e-9)).all()
        epochs.append(times)
    assert np.array_equal(drawn, sampler.epoch(299))
    assert len({tuple(times) for times in epochs}) > 200  # others each epoch
    mean = np.mean(epochs, axis=0)
    deviation = (expected % 1 * (1 - expected % 1) / len(epochs)) ** 0.5  # of a mean of Bernoullis
    assert (np.abs(mean - expected) < 5 * deviation + 2 / len(epochs)).all()


def sampler_of(index: FaceIndex, positions: Any, **changes: Any) -> Sampler:
    return make_sampler(index, positions, TrainConfig(**changes))


def test_undersampling_shows_every_real_and_as_many_fakes() -> None:
    index = invented(2)
    positions = np.flatnonzero(index.frame % 5 != 0)
    fake = index.fake[positions]
    reals = set(positions[~fake].tolist())
    assert 0 < len(reals) < fake.sum()
    sampler = sampler_of(index, positions, balance="undersample")
    assert sampler.count == 2 * len(reals)
    seen: set[int] = set()
    for seed in range(8):
        drawn = sampler.epoch(seed)[:, 0].tolist()
        assert len(set(drawn)) == len(drawn) == sampler.count
        assert {p for p in drawn if not index.fake[p]} == reals
        before = len(seen)
        seen |= {p for p in drawn if index.fake[p]}
        assert len(seen) > before  # other fakes than in the epochs before
        assert np.array_equal(sampler.epoch(seed)[:, 0], drawn)


def test_undersampling_keeps_all_where_fakes_are_fewer() -> None:
    index = invented(3)
    reals, fakes = (np.flatnonzero(index.fake == side) for side in (False, True))
    few = np.concatenate([reals, fakes[:3]])
    sampler = sampler_of(index, few, balance="undersample")
    assert sorted(sampler.epoch(0)[:, 0]) == sorted(few)


@pytest.mark.parametrize("balance", ["weights", "none"])
def test_without_sampling_every_face_is_shown_once(balance: str) -> None:
    index = invented(4)
    positions = np.flatnonzero(index.frame % 3 != 0)
    sampler = sampler_of(index, positions, balance=balance)
    for seed in range(3):
        assert sorted(sampler.epoch(seed)[:, 0]) == positions.tolist()


@pytest.mark.parametrize("balance", ["uniform", "weights", "undersample", "none"])
def test_an_epoch_may_have_any_number_of_faces(balance: str) -> None:
    index = invented(5)
    everything = np.arange(len(index))
    for wanted in (2, 30, 3 * len(index) + 5):
        sampler = sampler_of(index, everything, balance=balance, epoch_faces=wanted)
        epochs = [sampler.epoch(seed)[:, 0] for seed in range(4)]
        assert [len(e) for e in epochs] == [wanted] * 4
        assert len({tuple(np.sort(e)) for e in epochs}) > 1
        if balance in ("weights", "none"):
            times = np.bincount(epochs[0], minlength=len(index))
            assert set(times.tolist()) <= {wanted // len(index), wanted // len(index) + 1}
        elif wanted > 2:
            assert abs(index.fake[epochs[0]].mean() - 0.5) < 0.25
    assert sampler_of(index, everything, balance="none").count == len(index)


def test_an_epochs_faces_count_both_of_a_pair(tmp_path: Path) -> None:
    index = build_index([write_faces(tmp_path / "f", person("ann", frames=4, fakes=2))])
    everything = np.arange(len(index))
    assert sampler_of(index, everything, paired=True).count == 8
    assert sampler_of(index, everything, paired=True, epoch_faces=6).count == 3
    assert sampler_of(index, everything, augment="sbi", epoch_faces=6).count == 3


def test_a_mix_sets_the_share_of_each_dataset() -> None:
    index = invented(0)
    everything = np.arange(len(index))
    config = TrainConfig(faces=("a", "b", "c"), mix=(1, 3, 4), epoch_faces=4000)
    drawn = make_sampler(index, everything, config).epoch(0)[:, 0]
    counts = Counter(zip(index.fake[drawn].tolist(), index.dataset[drawn].tolist(), strict=True))
    wanted = {(0, 0): 500, (0, 1): 1500, (1, 0): 250, (1, 1): 750, (1, 2): 1000}
    # every face at most one away from its expected count: hence the sums are close, not equal
    assert {k: round(v, -2) for k, v in counts.items()} == {
        k: round(v, -2) for k, v in wanted.items()
    }


# ---------------------------------------------------------------- pairs


def test_a_pair_is_a_fake_and_its_original_at_the_same_frame(tmp_path: Path) -> None:
    rows = person("ann", frames=5, fakes=2) + person("bob", frames=3)
    rows += [face("bob_0.mp4", "FAKE", 9, original="bob.mp4", group="bob")]  # no real at frame 9
    rows += [face("lost.mp4", "FAKE", 0, original="gone.mp4")]
    index = build_index([write_faces(tmp_path / "f", rows)])
    found = pairs(index, np.arange(len(index)))
    assert len(found) == 13
    for fake, real in found.tolist():
        assert index.fake[fake]
        assert not index.fake[real]
        assert index.frame[fake] == index.frame[real]
        assert index.videos[index.video[fake]].original == index.videos[index.video[real]].video_id
    without = np.flatnonzero(~((index.frame == 1) & ~index.fake))
    kept = pairs(index, without)  # an original's face of another side is none
    assert len(kept) == 10
    assert 1 not in index.frame[kept]


def test_of_several_faces_the_one_that_overlaps_is_the_original(tmp_path: Path) -> None:
    left, right = (0.0, 0.0, 40.0, 40.0), (60.0, 0.0, 100.0, 40.0)
    near, half = (62.0, 1.0, 102.0, 41.0), (20.0, 0.0, 60.0, 40.0)
    about = {"original": "a.mp4", "group": "a"}
    rows = [
        face("a.mp4", box=left, group="a"),
        face("a.mp4", box=right, face_index=1, group="a"),
        face("b.mp4", "FAKE", box=near, **about),
        face("c.mp4", "FAKE", box=half, **about),  # over left by a third, IoU: no pair
        face("d.mp4", "FAKE", box=left, **about),
    ]
    index = build_index([write_faces(tmp_path / "f", rows)])
    assert pairs(index, np.arange(5)).tolist() == [[2, 1], [4, 0]]


def test_without_pairs_there_is_nothing_to_pair(tmp_path: Path) -> None:
    rows = [face("a.mp4", "REAL", 1, group="a")]
    rows += [face("b.mp4", "FAKE", 2, group="a", original="a.mp4")]
    index = build_index([write_faces(tmp_path / "f", rows)])
    with pytest.raises(UsageError, match=r"train\.paired: no fake's face has its original's"):
        sampler_of(index, np.arange(2), paired=True)


def test_paired_sampling_draws_pairs(tmp_path: Path) -> None:
    rows = person("ann", frames=2, fakes=4) + person("bob", frames=6)
    index = build_index([write_faces(tmp_path / "f", rows)])
    sampler = sampler_of(index, np.arange(len(index)), paired=True, epoch_faces=4000)
    drawn = sampler.epoch(0)
    assert drawn.shape == (2000, 2)
    known = {tuple(pair) for pair in pairs(index, np.arange(len(index))).tolist()}
    assert {tuple(pair) for pair in drawn.tolist()} == known
    groups = np.bincount(index.group[drawn[:, 0]])
    np.testing.assert_allclose(groups, 1000, atol=8)  # uniform over groups, not faces


# ---------------------------------------------------------------- self-blended


def test_self_blending_takes_only_reals(tmp_path: Path) -> None:
    index = build_index([write_faces(tmp_path / "f", person("ann", frames=4, fakes=3))])
    sampler = sampler_of(index, np.arange(len(index)), augment="sbi")
    assert sampler.count == 4
    assert not index.fake[sampler.epoch(0)[:, 0]].any()
    with pytest.raises(UsageError, match="sbi makes fakes of real faces, and there are none"):
        sampler_of(index, np.flatnonzero(index.fake), augment="sbi")
