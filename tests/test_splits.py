import random

import pytest

from dfscan.errors import UsageError
from dfscan.splits import split_groups


def corpus(groups, start=0):
    """Groups of one original and two fakes, as in DFDC."""
    names = [f"dfdc:{i}" for i in range(start, start + groups)]
    return [(name, label) for name in names for label in ("REAL", "FAKE", "FAKE")]


def labels_of(members, side):
    return {label for group, label in members if group in side}


def test_every_group_lies_on_exactly_one_side():
    members = corpus(200)
    train, val = split_groups(members, 0.2, seed=0)
    assert train | val == {group for group, _ in members}
    assert not train & val


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_about_the_wanted_fraction_is_held_out(fraction):
    _, val = split_groups(corpus(2000), fraction, seed=0)
    assert len(val) / 2000 == pytest.approx(fraction, abs=0.03)


def test_the_order_of_members_does_not_matter_but_the_seed_does():
    members = corpus(50)
    shuffled = random.Random(0).sample(members, len(members))
    assert split_groups(members, 0.2, seed=0) == split_groups(shuffled, 0.2, seed=0)
    assert split_groups(members, 0.2, seed=0) != split_groups(members, 0.2, seed=1)


def test_videos_added_later_move_none_of_the_old_groups():
    old_train, old_val = split_groups(corpus(300), 0.2, seed=0)
    train, val = split_groups(corpus(300) + corpus(300, start=300), 0.2, seed=0)
    assert old_train < train
    assert old_val < val


def test_both_classes_are_on_both_sides_of_small_corpora():
    for seed in range(200):
        rng = random.Random(seed)
        kinds = rng.choice([["RF"], ["R", "F"], ["RF", "R", "F"]])
        members = [
            (f"{kind}{i}", {"R": "REAL", "F": "FAKE"}[letter])
            for kind in kinds
            for i in range(rng.randint(2, 4))
            for letter in kind
        ]
        for side in split_groups(members, rng.choice([0.01, 0.2, 0.9]), seed):
            assert labels_of(members, side) == {"REAL", "FAKE"}


def test_neither_side_is_ever_empty():
    for seed in range(50):
        train, val = split_groups([("a", "REAL"), ("b", "FAKE")], 0.2, seed)
        assert len(train) == len(val) == 1


@pytest.mark.parametrize("members", [[], [("a", "REAL"), ("a", "FAKE")]])
def test_fewer_than_two_groups_is_a_clear_error(members):
    count = len({group for group, _ in members})
    with pytest.raises(UsageError, match=rf"cannot hold anything out: {count} group.*at least 2"):
        split_groups(members, 0.2, seed=0)
