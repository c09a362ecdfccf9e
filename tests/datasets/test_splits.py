import hashlib
import random

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dfscan.corpora import list_videos
from dfscan.datasets.splits import (
    GroupFacts,
    Splits,
    connected_groups,
    fold_groups,
    groups_of,
    regroup,
    split_groups,
)
from dfscan.errors import ConfigError, UsageError


def corpus(groups, start=0):
    """Groups of one original and two fakes, as in DFDC."""
    names = [f"dfdc:{i}" for i in range(start, start + groups)]
    return [(name, label) for name in names for label in ("REAL", "FAKE", "FAKE")]


def mixed(rng, low, high):
    """Some groups of each of some kinds, both labels among them."""
    kinds = rng.choice([["RF"], ["R", "F"], ["RF", "R", "F"], ["RF", "F"]])
    return [
        (f"{kind}{i}", {"R": "REAL", "F": "FAKE"}[letter])
        for kind in kinds
        for i in range(rng.randint(low, high))
        for letter in kind
    ]


def labels_of(members, side):
    return {label for group, label in members if group in side}


def place(group, seed=0):
    digest = hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
    return int(digest[:16], 16) / 2**64


def check_apart(sides, members):
    assert sides.train | sides.validation | sides.test == {group for group, _ in members}
    assert not sides.train & sides.validation
    assert not sides.test & (sides.train | sides.validation)


def test_every_group_lies_on_exactly_one_side():
    members = corpus(200)
    check_apart(split_groups(members, 0.2, 0.0, seed=0), members)
    check_apart(split_groups(members, 0.2, 0.1, seed=0), members)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_large_corpus_is_split_by_the_hash_alone(seed):
    members = corpus(300)
    names = {group for group, _ in members}
    sides = split_groups(members, 0.2, 0.1, seed)
    assert sides.validation == {g for g in names if place(g, seed) < 0.2}
    assert sides.test == {g for g in names if place(g, seed) >= 0.9}


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_about_the_wanted_fraction_is_held_out(fraction):
    sides = split_groups(corpus(2000), fraction, 0.3, seed=0)
    assert len(sides.validation) / 2000 == pytest.approx(fraction, abs=0.03)
    assert len(sides.test) / 2000 == pytest.approx(0.3, abs=0.03)


def test_the_order_of_members_does_not_matter_but_the_seed_does():
    members = corpus(50)
    shuffled = random.Random(0).sample(members, len(members))
    sides = split_groups(members, 0.2, 0.1, seed=0)
    assert sides == split_groups(shuffled, 0.2, 0.1, seed=0)
    assert sides != split_groups(members, 0.2, 0.1, seed=1)


@pytest.mark.parametrize("test", [0.0, 0.1])
def test_videos_added_later_move_none_of_the_old_groups(test):
    old = split_groups(corpus(300), 0.2, test, seed=0)
    new = split_groups(corpus(300) + corpus(300, start=300), 0.2, test, seed=0)
    assert old.train < new.train
    assert old.validation < new.validation
    assert old.test < new.test or not test


def test_without_a_test_side_both_classes_are_on_both_sides_of_small_corpora():
    for seed in range(200):
        rng = random.Random(seed)
        members = mixed(rng, 2, 4)
        sides = split_groups(members, rng.choice([0.01, 0.2, 0.9]), 0.0, seed)
        check_apart(sides, members)
        assert not sides.test
        for side in (sides.train, sides.validation):
            assert labels_of(members, side) == {"REAL", "FAKE"}


def test_with_a_test_side_both_classes_are_on_all_sides_of_small_corpora():
    for seed in range(200):
        rng = random.Random(seed)
        members = mixed(rng, 3, 5)
        validation, test = rng.choice([(0.01, 0.01), (0.2, 0.1), (0.9, 0.05), (0.05, 0.9)])
        sides = split_groups(members, validation, test, seed)
        check_apart(sides, members)
        for side in (sides.train, sides.validation, sides.test):
            assert labels_of(members, side) == {"REAL", "FAKE"}


def test_of_few_groups_training_has_the_first_and_validation_the_second():
    for seed in range(50):
        members = [("a", "REAL"), ("b", "FAKE"), ("c", "FAKE"), *corpus(3)]
        sides = split_groups(members, 0.2, 0.1, seed)
        assert "a" in sides.train
        assert {"b", "c"} & sides.train
        assert {"b", "c"} & sides.validation
        assert [len(s) for s in (sides.train, sides.validation, sides.test)] == [3, 2, 1]


@pytest.mark.parametrize("test", [0.0, 0.3])
def test_neither_training_nor_validation_is_ever_empty(test):
    for seed in range(50):
        sides = split_groups([("a", "REAL"), ("b", "FAKE")], 0.2, test, seed)
        assert len(sides.train) == len(sides.validation) == 1
        assert not sides.test


def test_the_test_side_does_not_depend_on_the_validation_side():
    for members in (corpus(4), corpus(100)):
        tests = {split_groups(members, v, 0.2, seed=3).test for v in (0.05, 0.2, 0.7)}
        assert len(tests) == 1


@pytest.mark.parametrize("members", [[], [("a", "REAL"), ("a", "FAKE")]])
def test_fewer_than_two_groups_is_a_clear_error(members):
    count = len({group for group, _ in members})
    with pytest.raises(UsageError, match=rf"cannot hold anything out: {count} group.*at least 2"):
        split_groups(members, 0.2, 0.0, seed=0)
    with pytest.raises(UsageError, match=rf"cannot hold anything out: {count} group.*at least 2"):
        fold_groups(members, 2, 0, seed=0, test=0.0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UsageError, match=r"0\.6 for validation and 0\.4 for testing leave nothing"):
        split_groups(corpus(9), 0.6, 0.4, seed=0)


@pytest.mark.parametrize("test", [0.0, 0.2])
@pytest.mark.parametrize("groups", [8, 200])
def test_every_group_validates_in_exactly_one_fold_or_tests_in_all(groups, test):
    members = corpus(groups)
    folds = [fold_groups(members, 5, fold, 0, test) for fold in range(5)]
    for sides in folds:
        check_apart(sides, members)
    assert {sides.test for sides in folds} == {split_groups(members, 0.3, test, 0).test}
    validating = [group for sides in folds for group in sides.validation]
    assert sorted(validating) == sorted({g for g, _ in members} - folds[0].test)


def test_both_labels_validate_in_every_fold_wherever_there_are_enough_groups_of_each():
    tried = 0
    for seed in range(300):
        rng = random.Random(seed)
        members, folds = mixed(rng, 1, 6), rng.randint(2, 6)
        rarer = min(len({g for g, x in members if x == label}) for label in ("REAL", "FAKE"))
        if rarer < folds or len(dict(members)) < 2:
            continue
        tried += 1
        for fold in range(folds):
            sides = fold_groups(members, folds, fold, seed, 0.0)
            assert labels_of(members, sides.train) == {"REAL", "FAKE"}
            assert labels_of(members, sides.validation) == {"REAL", "FAKE"}
    assert tried > 50


def test_folds_of_a_large_corpus_are_of_about_one_size_and_keep_their_groups():
    old = [fold_groups(corpus(1000), 5, fold, 0, 0.1) for fold in range(5)]
    new = [fold_groups(corpus(1000) + corpus(300, 1000), 5, f, 0, 0.1) for f in range(5)]
    for before, after in zip(old, new, strict=True):
        assert before.validation < after.validation
        assert before.test < after.test
        assert len(before.validation) == pytest.approx(180, abs=40)


def test_folds_do_not_depend_on_the_order_but_on_the_seed():
    members = corpus(50)
    shuffled = random.Random(0).sample(members, len(members))
    assert fold_groups(members, 4, 1, 0, 0.1) == fold_groups(shuffled, 4, 1, 0, 0.1)
    assert fold_groups(members, 4, 1, 0, 0.1) != fold_groups(members, 4, 1, 9, 0.1)


def test_more_folds_than_groups_of_a_label_is_a_clear_error():
    members = [*corpus(3), ("x", "FAKE"), ("y", "FAKE")]
    with pytest.raises(UsageError, match=r"cannot make 4 folds: .* 3 group.*REAL.*fewer --folds"):
        fold_groups(members, 4, 0, 0, 0.0)
    assert fold_groups(members, 3, 0, 0, 0.0).validation


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_is_none_is_refused(fold):
    with pytest.raises(ConfigError, match=rf"fold: got {fold}; allowed: 0 to 4"):
        fold_groups(corpus(20), 5, fold, 0, 0.0)


def test_connected_groups_are_the_parts_that_scipy_finds():
    rng = np.random.default_rng(0)
    links = rng.integers(400, size=(250, 2))
    names = [f"v{i:03d}" for i in range(400)]
    matrix = coo_array((np.ones(len(links)), links.T), shape=(400, 400))
    count, part = connected_components(matrix, directed=False)
    found = connected_groups(names, [(names[a], names[b]) for a, b in links])
    smallest = {p: min(n for n, q in zip(names, part, strict=True) if q == p) for p in range(count)}
    assert found == [smallest[p] for p in part]
    assert 100 < count < 300


def facts(*paths, layout):
    refs = list_videos([str(path) for path in paths], layout).videos
    return [GroupFacts(r.video_id, r.group, r.original, r.attributes) for r in refs]


def clips(folder, *names):
    for name in names:
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"clip")
    return folder


def group_by_stem(rows):
    groups = groups_of(rows)
    return {r.video_id.rsplit("/", 1)[-1][:-4]: g for r, g in zip(rows, groups, strict=True)}


def test_people_of_faceforensics_are_joined_over_two_sources(tmp_path):
    real = "original_sequences/youtube/c23/videos/"
    reals = clips(tmp_path / "reals", real + "033", real + "097", real + "500")
    fakes = clips(tmp_path / "fakes", "manipulated_sequences/Deepfakes/c23/videos/033_097")
    rows = facts(reals, fakes, layout="ffpp")
    assert len({row.group for row in rows}) == 3  # the layout cannot see over the source
    assert group_by_stem(rows) == {
        "033": "ffpp:033", "097": "ffpp:033", "033_097": "ffpp:033", "500": "ffpp:500",
    }  # fmt: skip


def test_actors_of_deepfakedetection_are_joined_and_kept_apart_from_clips(tmp_path):
    reals = clips(tmp_path / "reals", "original_sequences/actors/c23/videos/02__talking")
    other = clips(tmp_path / "other", "original_sequences/youtube/c23/videos/02")
    scene = "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__talking__ABCD"
    rows = facts(reals, other, clips(tmp_path / "fakes", scene), layout="ffpp")
    assert group_by_stem(rows) == {
        "02__talking": "ffpp:actor-01", "01_02__talking__ABCD": "ffpp:actor-01", "02": "ffpp:02",
    }  # fmt: skip


def test_people_of_celeb_df_are_joined_over_two_sources(tmp_path):
    reals = clips(tmp_path / "reals", *(f"Celeb-real/id{i}_0000" for i in (1, 2, 3)))
    fakes = clips(tmp_path / "fakes", "Celeb-synthesis/id1_id2_0000")
    assert group_by_stem(facts(reals, fakes, layout="celebdf")) == {
        "id1_0000": "celebdf:id1", "id2_0000": "celebdf:id1", "id1_id2_0000": "celebdf:id1",
        "id3_0000": "celebdf:id3",
    }  # fmt: skip


def test_groups_of_one_source_keep_the_layouts_names(tmp_path):
    real, fake = (
        "original_sequences/youtube/raw/videos/",
        "manipulated_sequences/FaceSwap/raw/videos/",
    )
    tree = clips(
        tmp_path / "tree", *(real + n for n in ("1", "2", "3")), fake + "2_1", fake + "3_9"
    )
    rows = facts(tree, layout="ffpp")
    assert groups_of(rows) == [row.group for row in rows]


def test_fakes_of_one_original_are_joined_even_where_it_is_missing():
    rows = [
        GroupFacts("b/f1.mp4", "z", "a/o.mp4", {}),
        GroupFacts("c/f2.mp4", "y", "a/o.mp4", {}),
        GroupFacts("d/f3.mp4", "x", "b/f1.mp4", {}),
        GroupFacts("e/r.mp4", "w", None, {}),
    ]
    assert groups_of(rows) == ["x", "x", "x", "w"]
    assert groups_of(rows[::-1]) == ["w", "x", "x", "x"]


def test_groups_by_a_pattern():
    ids = ["crops/real/003_0.png", "crops/fake/003_000_0.png", "crops/fake/024_073_2.png"]
    assert regroup(ids, r"/(\d+)_") == ["003", "003", "024"]
    assert regroup(ids, r"real|fake") == ["real", "fake", "fake"]
    assert regroup(ids, "file") == ids
    assert regroup(ids, r"^.*$") == ids


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        (r"fake/(\d+)", r"names no group for 2 of 3 videos, the first: 'r/a.mp4'"),
        (r"(x)?", r"names no group for 3 of 3 videos, the first: 'r/a.mp4'"),
        (r"(", r"'\(' is no regular expression \(.*unterminated.*allowed: a pattern such as"),
    ],
)
def test_a_pattern_that_names_no_group_is_refused(pattern, match):
    with pytest.raises(ConfigError, match=match):
        regroup(["r/a.mp4", "r/b.mp4", "fake/1.mp4"], pattern)


def test_sides_have_no_test_side_unless_told():
    assert Splits(frozenset("a"), frozenset("b")).test == frozenset()
