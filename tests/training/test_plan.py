import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faces import RECIPE, face, person, write_faces

from dfscan.config.loading import build
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.datasets.splits import SIDES
from dfscan.errors import ConfigError, SourceError, UsageError
from dfscan.schemas.recipe import Crop, Sampling
from dfscan.training.plan import Plan, make_plan

PEOPLE = 14


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People with two fakes each, whose faces differ from the original's by 0, 0.1, …, 0.5."""
    rows = [row for i in range(PEOPLE) for row in person(f"p{i:02d}", frames=6, fakes=2)]
    root = tmp_path_factory.mktemp("plan") / "faces"
    changed = [
        face(r.video_id, r.label, r.frame_index, group=r.group, original=r.original,
             face_diff=r.frame_index / 10 if r.label == "FAKE" else None)
        for r in rows
    ]  # fmt: skip
    return write_faces(root, changed).root


def plan(*datasets: Path, world: int = 1, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "faces": tuple(map(str, datasets)), "backbone": "meso4", "batch_size": 8,
        "input": InputConfig(size=32),
    }  # fmt: skip
    return make_plan(TrainConfig(**(values | changes)), world)


def groups(made: Plan, side: str) -> set[str]:
    return {made.index.groups[g] for g in made.index.group[made.sides[side]]}


@pytest.mark.parametrize("seed", range(4))
def test_every_group_lies_on_one_side(dataset: Path, seed: int) -> None:
    made = plan(dataset, seed=seed)
    assert tuple(made.sides) == SIDES
    sides = [groups(made, side) for side in SIDES]
    assert all(sides)
    assert len(set.union(*sides)) == sum(map(len, sides)) == PEOPLE
    everything = np.concatenate([made.sides[side] for side in SIDES])
    assert sorted(everything) == list(range(len(made.index)))
    summary = made.summary()
    for side in SIDES:
        fake = made.index.fake[made.sides[side]]
        assert summary[side] == {
            "groups": len(groups(made, side)),
            "videos": 3 * len(groups(made, side)),
            "faces": len(fake),
            "real_faces": int((~fake).sum()),
            "fake_faces": int(fake.sum()),
        }
        assert 0 < fake.sum() < len(fake)


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("test_fraction", [0.0, 0.2])
def test_folds_hold_every_group_out_once(dataset: Path, folds: int, test_fraction: float) -> None:
    made = [plan(dataset, folds=folds, fold=i, test_fraction=test_fraction) for i in range(folds)]
    held = [groups(m, "validation") for m in made]
    tested = groups(plan(dataset, test_fraction=test_fraction), "test")
    assert bool(tested) == bool(test_fraction)
    for m, out in zip(made, held, strict=True):
        assert out
        assert groups(m, "test") == tested
        assert groups(m, "train") == set(m.index.groups) - out - tested
    assert sum(map(len, held)) == len(set.union(*held)) == PEOPLE - len(tested)


def test_a_sweep_takes_from_the_training_groups_alone(dataset: Path) -> None:
    whole = plan(dataset)
    count = len(groups(whole, "train"))
    before: set[str] = set()
    for share in (0.01, 0.25, 0.5, 0.8, 1):
        made = plan(dataset, sweep=(share,))
        for side in ("validation", "test"):
            assert np.array_equal(made.sides[side], whole.sides[side])
        chosen = groups(made, "train")
        assert len(chosen) == max(1, math.ceil(share * count))  # all groups have both classes
        assert before <= chosen <= groups(whole, "train")  # a larger share has all of a smaller
        before = chosen
        mine = np.isin(
            made.index.group[whole.sides["train"]], made.index.group[made.sides["train"]]
        )
        assert np.array_equal(made.sides["train"], whole.sides["train"][mine])


# ---------------------------------------------------------------- untouched faces


def test_faces_of_fakes_that_were_not_touched_are_left_out_of_training(dataset: Path) -> None:
    whole, made = plan(dataset), plan(dataset, min_face_diff=0.3)
    index = made.index
    train, before = made.sides["train"], whole.sides["train"]
    keep = ~index.fake[before] | (index.face_diff[before] >= np.float32(0.3))
    assert np.array_equal(train, before[keep])
    assert index.fake[train].sum() * 2 == index.fake[before].sum()
    for side in ("validation", "test"):
        assert np.array_equal(made.sides[side], whole.sides[side])
    assert set(made.sampler.items[:, 0]) == set(train)


def test_a_face_whose_difference_is_not_known_stays(tmp_path: Path) -> None:
    rows = [row for i in range(4) for row in person(f"p{i}", frames=4)]
    diffs = {0: 0.05, 1: 0.5, 2: None, 3: 0.2}
    about = [
        face(r.video_id, r.label, r.frame_index, group=r.group, original=r.original,
             face_diff=diffs[r.frame_index] if r.label == "FAKE" else None)
        for r in rows
    ]  # fmt: skip
    made = plan(write_faces(tmp_path / "f", about).root, min_face_diff=0.1, test_fraction=0)
    index, train = made.index, made.sides["train"]
    assert set(index.frame[train[index.fake[train]]]) == {1, 2, 3}
    assert set(index.frame[train[~index.fake[train]]]) == {0, 1, 2, 3}


def test_without_known_differences_the_question_is_refused(dataset: Path, tmp_path: Path) -> None:
    rows = [row for i in range(4) for row in person(f"p{i}")]
    unknown = write_faces(tmp_path / "f", rows).root
    with pytest.raises(UsageError, match=r"train\.min_face_diff: no fake's face was compared"):
        plan(unknown, min_face_diff=0.1)
    with pytest.raises(UsageError, match=r"got 0\.9; every fake's face differs less.*0\.500"):
        plan(dataset, min_face_diff=0.9)


# ---------------------------------------------------------------- what cannot be trained on


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    for label in ("REAL", "FAKE"):
        rows = [face(f"{i}.mp4", label, frame) for i in range(8) for frame in range(4)]
        root = write_faces(tmp_path / label, rows).root
        with pytest.raises(UsageError, match=f"the training side has only {label} faces"):
            plan(root)
    reals = plan(tmp_path / "REAL", augment="sbi")  # it makes the fakes
    assert not reals.index.fake.any()
    assert any(
        "the validation side has only REAL faces: it will have no AUC" in n for n in reals.notes
    )
    with pytest.raises(UsageError, match=r"training side has only FAKE faces|there are none here"):
        plan(tmp_path / "FAKE", augment="sbi")


def test_one_group_cannot_be_split(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "f", person("ann")).root
    with pytest.raises(UsageError, match=r"cannot hold anything out: 1 group\(s\)"):
        plan(root)


def test_more_folds_than_groups_are_refused(dataset: Path) -> None:
    with pytest.raises(UsageError, match="cannot make 14 folds"):
        plan(dataset, folds=14, fold=0)


def test_missing_faces_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no faces: give a face dataset"):
        plan()
    with pytest.raises(SourceError, match="is not a face dataset"):
        plan(tmp_path)


def test_datasets_that_were_made_otherwise_do_not_mix(dataset: Path, tmp_path: Path) -> None:
    for name, other in (
        ("stride", RECIPE.model_copy(update={"sampling": Sampling(frames=9)})),
        ("quality", RECIPE.model_copy(update={"crop": Crop(quality=50)})),
    ):
        root = write_faces(tmp_path / name, person("zoe"), recipe=other).root
        with pytest.raises(
            ConfigError, match=f"extracted differently .*{name}.*extract them alike"
        ):
            plan(dataset, root)


# ---------------------------------------------------------------- steps and weights


@pytest.mark.parametrize(
    ("changes", "world", "faces", "together"),
    [
        ({"balance": "none"}, 1, "all", 1),
        ({"balance": "none"}, 3, "all", 1),
        ({"balance": "undersample"}, 2, "twice the reals", 1),
        ({"epoch_faces": 50}, 2, 50, 1),
        ({"paired": True}, 1, "twice the fakes", 2),
        ({"paired": True, "batch_size": 7}, 1, "twice the fakes", 2),
        ({"augment": "sbi", "batch_size": 9}, 2, "twice the reals", 2),
        ({"batch_size": 5000}, 2, "all", 1),
    ],
)
def test_steps_are_those_of_the_faces(
    dataset: Path, changes: dict[str, Any], world: int, faces: Any, together: int
) -> None:
    made = plan(dataset, world=world, **changes)
    fake = made.index.fake[made.sides["train"]]
    counts = {
        "all": len(fake), "twice the reals": 2 * (~fake).sum(), "twice the fakes": 2 * fake.sum(),
    }  # fmt: skip
    number = int(counts.get(faces, faces))
    batch = changes.get("batch_size", 8)
    assert made.share % together == 0
    assert made.share == min(batch // world, number // world) // together * together
    assert made.steps == number // world // made.share
    assert made.steps * made.share * world <= number
    assert made.epochs == 10


def test_too_few_faces_for_the_workers_are_refused(dataset: Path) -> None:
    for changes in ({"batch_size": 1}, {"epoch_faces": 2, "batch_size": 8}):
        with pytest.raises(UsageError, match="leave fewer than 2 a step: fewer --workers"):
            plan(dataset, world=2, **changes)


@pytest.mark.parametrize("balance", ["uniform", "weights", "undersample", "none"])
def test_weights_even_out_the_classes_and_nothing_else_does(dataset: Path, balance: str) -> None:
    made = plan(dataset, balance=balance, min_face_diff=0.15)
    fake = made.index.fake[made.sides["train"]]
    assert fake.sum() != (~fake).sum()
    if balance == "weights":
        assert made.fake_weight * fake.sum() == pytest.approx((~fake).sum())
    else:
        assert made.fake_weight == 1


def test_a_mix_reaches_the_sampler(dataset: Path, tmp_path: Path) -> None:
    rows = [row for i in range(6) for row in person(f"q{i}", frames=2)]
    second = write_faces(tmp_path / "f", rows).root
    made = plan(dataset, second, mix=(1, 4), epoch_faces=2000)
    drawn = made.sampler.epoch(0)[:, 0]
    assert abs((made.index.dataset[drawn] == 1).mean() - 0.8) < 0.03
    assert set(drawn) <= set(made.sides["train"])
    equal = plan(dataset, second, epoch_faces=2000).sampler.epoch(0)[:, 0]
    assert abs((made.index.dataset[equal] == 1).mean() - 0.5) < 0.03


# ---------------------------------------------------------------- conflicts


CONFLICTS: Sequence[tuple[dict[str, Any], str]] = [
    ({"phases": [{"epochs": 2}], "lr": 0.1}, r"phases say lr themselves: leave lr out"),
    (
        {"phases": [{}], "epochs": 1, "schedule": "step"},
        "phases say epochs and schedule themselves",
    ),
    ({"faces": ["a", "b"], "mix": "1,2,3"}, "mix has 3 weights for 2 datasets: give one for each"),
    ({"mix": 1, "balance": "none"}, "mix needs balance: uniform, got none"),
    ({"paired": True, "balance": "weights"}, "paired shows each .* use balance: uniform"),
    ({"paired": True, "balance": "undersample"}, "second remedy for unequal classes"),
    (
        {"loss": {"apart": True}, "balance": "weights"},
        r"loss\.apart and balance: weights both even",
    ),
    ({"augment": "sbi", "paired": True}, "sbi makes a fake of each real.* leaves paired nothing"),
    ({"augment": "sbi", "balance": "weights"}, "leaves balance: weights nothing to do"),
    ({"fold": 2}, "fold must be below folds, got fold 2 of None"),
    ({"folds": 3, "fold": 3}, "fold must be below folds, got fold 3 of 3"),
    ({"sweep": "0.5,1.5"}, "sweep names shares from above 0 to 1, got 1.5"),
    ({"sweep": 0.5, "folds": 2}, "sweep and folds exclude each other"),
    ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
    ({"balance": "both"}, r"train\.balance: got 'both'; should be 'uniform', 'weights'"),
    ({"loss": {"name": "hinge"}}, r"train\.loss\.name: got 'hinge'; should be 'bce' or 'focal'"),
    ({"loss": {"aprt": True}}, r"unknown key 'train\.loss\.aprt': did you mean 'apart'"),
    ({"phases": [{"train": "last:0"}]}, r"train\.phases\.0\.train: got 'last:0'"),
    ({"phases": [{"epoch": 3}]}, r"'train\.phases\.0\.epoch': did you mean 'epochs'"),
    ({"mix": [0]}, r"train\.mix\.0: got 0; should be greater than 0"),
    ({"threshold": "fpr=1.5"}, r"train\.threshold: got 'fpr=1\.5'"),
    ({"augment": "strong"}, r"train\.augment: got 'strong'; should be 'none', 'flip'"),
    ({"precision": "fp8"}, r"train\.precision: got 'fp8'; should be 'auto'"),
    ({"ema": 1.0}, r"train\.ema: got 1\.0; should be less than 1"),
]


@pytest.mark.parametrize(("values", "message"), CONFLICTS, ids=[str(v) for v, _ in CONFLICTS])
def test_what_contradicts_itself_is_one_clear_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(TrainConfig, values)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(("train", "unknown key 'train."))


def test_what_does_not_contradict_itself_is_taken() -> None:
    two = build(TrainConfig, {"phases": [{"train": "head", "epochs": 2, "lr": 0.1}, {"epochs": 3}]})
    assert [phase.epochs for phase in two.stages()] == [2, 3]
    (one,) = build(TrainConfig, {"epochs": 4, "lr": 0.2, "optimizer": "sgd"}).stages()
    assert (one.train, one.epochs, one.lr, one.optimizer) == ("all", 4, 0.2, "sgd")
    mixed = build(TrainConfig, {"faces": ["a", "b"], "mix": "1,2", "paired": True})
    assert mixed.mix == (1, 2)
    build(TrainConfig, {"loss": {"apart": True}, "balance": "none", "augment": "sbi"})
    build(TrainConfig, {"loss": {"name": "focal", "apart": True}, "balance": "undersample"})
