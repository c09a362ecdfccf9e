import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.faces import face, person, picture, write_faces

from dfscan.commands import train as train_job
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.datasets import face_dataset as facesets
from dfscan.datasets.audit import NO_HASH, perceptual_hash, picture_digest
from dfscan.datasets.splits import SIDES
from dfscan.errors import UsageError
from dfscan.pipeline.progress import Progress
from dfscan.schemas.records import FaceRow
from dfscan.training import audits
from dfscan.training import results as train_results
from dfscan.training.audits import audit_shortcuts, check_videos, read_pictures
from dfscan.training.index import build_index
from dfscan.training.plan import Plan, make_plan

PEOPLE = 10


def rows(people: int = PEOPLE, **changes: Any) -> list[FaceRow]:
    return [row for i in range(people) for row in person(f"p{i:02d}", **changes)]


def config(root: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "faces": (str(root),), "backbone": "meso4", "batch_size": 8, "inline": True, "workers": 1,
        "epochs": 1, "input": InputConfig(size=32),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def plan(root: Path, **changes: Any) -> Plan:
    return make_plan(config(root, **changes), 1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Where nothing is wrong."""
    return plan(write_faces(tmp_path_factory.mktemp("sound") / "f", rows(), units=2).root)


def one_of(made: Plan, side: str, fake: bool = False) -> int:
    """The first face of a side, by its place in :func:`rows`: groups alone say what lies where."""
    positions = made.sides[side]
    return int(positions[made.index.fake[positions] == fake][0])


def copied(made: Plan, source: str, target: str, again: bool = False) -> list[FaceRow]:
    """The rows with a picture of one side on another as well, maybe encoded again."""
    found = rows()
    taken = found[one_of(made, source)].image
    if again:
        sink = io.BytesIO()
        Image.open(io.BytesIO(taken)).save(sink, "JPEG", quality=60)
        taken = sink.getvalue()
    place = one_of(made, target, fake=True)
    found[place] = replace(found[place], image=taken)
    return found


def test_of_sound_sides_nothing_is_said(sound: Plan) -> None:
    leaks = sound.audits["leaks"]
    assert leaks["pictures"] == leaks["hashed"] == len(sound.index) == 6 * PEOPLE
    held = len(sound.sides["validation"]) + len(sound.sides["test"])
    assert (leaks["compared"], leaks["found"], leaks["examples"]) == (held, 0, ())
    assert not any("look like" in note or "leaks" in note for note in sound.notes)


@pytest.mark.parametrize(
    ("source", "target"), [("train", "validation"), ("test", "train"), ("validation", "test")]
)
def test_a_picture_on_two_sides_stops_the_run(
    sound: Plan, tmp_path: Path, source: str, target: str
) -> None:
    damaged = copied(sound, source, target)
    root = write_faces(tmp_path / "f", damaged, units=3).root
    with pytest.raises(UsageError, match=r"1 identical picture\(s\) on two sides") as caught:
        train_job.run(config(root, out=str(tmp_path / "run")), Progress())
    message = str(caught.value)
    assert "\n" not in message
    for side, fake in ((source, False), (target, True)):
        video = damaged[one_of(sound, side, fake)].video_id
        assert f"{video} ({side})" in message
    assert not (tmp_path / "run").exists()  # before anything was begun


@pytest.mark.parametrize("side", SIDES)
def test_a_picture_twice_on_one_side_is_no_leak(sound: Plan, tmp_path: Path, side: str) -> None:
    made = plan(write_faces(tmp_path / "f", copied(sound, side, side)).root)
    assert made.audits["leaks"]["found"] == 0


def test_a_picture_encoded_again_is_told(sound: Plan, tmp_path: Path) -> None:
    damaged = copied(sound, "train", "test", again=True)
    made = plan(write_faces(tmp_path / "f", damaged).root)
    leaks = made.audits["leaks"]
    assert leaks["found"] == 1
    pair = [damaged[one_of(sound, *w)].video_id for w in (("train", False), ("test", True))]
    assert [list(example[:2]) for example in leaks["examples"]] == [pair]
    (said,) = [note for note in made.notes if "look like one of another side" in note]
    assert pair[0] in said
    assert pair[1] in said


def test_one_file_under_two_names_stops_the_run(sound: Plan, tmp_path: Path) -> None:
    found = rows()
    names = [found[one_of(sound, side)].video_id for side in ("train", "validation")]
    root = write_faces(tmp_path / "f", found, digests=dict.fromkeys(names, "0a" * 32)).root
    with pytest.raises(UsageError, match=r"1 identical file\(s\) on two sides") as caught:
        plan(root)
    assert all(name in str(caught.value) for name in names)


def test_groups_of_the_users_own_may_not_part_a_fake_from_its_original(sound: Plan) -> None:
    root = Path(sound.index.datasets[0])
    with pytest.raises(
        UsageError, match=r"original\(s\) with fakes on two sides.*leave --group-by"
    ):
        plan(root, group_by="file")
    assert plan(root, group_by=r"^(p\d\d)").index.groups == sound.index.groups


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("test_fraction", [0.0, 0.1, 0.4])
def test_sides_never_share_a_group(sound: Plan, seed: int, test_fraction: float) -> None:
    made = plan(Path(sound.index.datasets[0]), seed=seed, test_fraction=test_fraction)
    groups = [set(made.index.group[made.sides[side]].tolist()) for side in SIDES]
    assert sum(map(len, groups)) == len(set.union(*groups)) == PEOPLE


def test_sides_that_do_are_refused(sound: Plan) -> None:
    train = sound.sides["train"]
    group = sound.index.group[train[0]]
    video = sound.index.video[train[0]]
    torn = train[(sound.index.group[train] == group) & (sound.index.video[train] != video)]
    assert len(torn)
    sides = {
        "train": np.setdiff1d(train, torn),
        "validation": np.concatenate([sound.sides["validation"], torn]),
        "test": sound.sides["test"],
    }
    with pytest.raises(UsageError, match=r"1 group\(s\) on two sides.*split by group"):
        check_videos(sound.index, sides)


def test_what_is_left_out_of_a_sweep_is_not_compared(sound: Plan) -> None:
    made = plan(Path(sound.index.datasets[0]), sweep=(0.3,))
    assert made.audits["leaks"]["pictures"] == sum(map(len, made.sides.values())) < len(made.index)


# ---------------------------------------------------------------- the pictures


@pytest.fixture
def scattered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of several row groups, with unlabelled faces among the labelled."""
    monkeypatch.setattr(facesets, "ROW_GROUP", 5)
    found: list[FaceRow] = []
    for i in range(6):
        found += [face(f"who{i}.mp4", None, frame) for frame in range(i)]
        found += person(f"p{i}")
    found[8] = replace(found[8], image=b"broken")
    return write_faces(tmp_path / "f", found, units=3).root


@pytest.mark.parametrize("most", [20_000, 20])
def test_each_face_has_the_hashes_of_its_own_picture(
    scattered: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(audits, "HASHED", most)
    index = build_index([facesets.FaceSet(scattered)])
    found = read_pictures(index)
    hashed = 0
    for at in range(len(index)):
        with pq.ParquetFile(index.files[index.file[at]]) as file:
            row = file.read_row_group(int(index.row_group[at])).to_pylist()[index.row[at]]
        image = row["image"]["bytes"]
        assert row["video_id"] == index.videos[index.video[at]].video_id
        assert int(found.digest[at]) == picture_digest(image)
        assert found.size[at] == len(image)
        if most > len(index) or found.perceptual[at] != NO_HASH:
            assert int(found.perceptual[at]) == perceptual_hash(image)
            hashed += 1
    assert hashed == len(index) if most > len(index) else 0 < hashed <= most


# ---------------------------------------------------------------- shortcuts


def encoded(found: Sequence[FaceRow], quality: dict[str, int]) -> list[FaceRow]:
    return [
        replace(r, image=picture(f"{r.video_id} {r.frame_index}", quality[r.label or ""]))
        for r in found
    ]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_results, "_draw", lambda *_: None)


@pytest.mark.usefixtures("no_plots")
def test_a_compression_that_tells_the_label_is_named(tmp_path: Path) -> None:
    alike = rows(24, frames=4)
    notes = {}
    for name, fakes in (("alike", 90), ("telling", 60)):
        told: list[str] = []

        class Told(Progress):
            def message(self, message: str, told: list[str] = told) -> None:
                told.append(message)

        root = write_faces(tmp_path / name, encoded(alike, {"REAL": 90, "FAKE": fakes})).root
        out = tmp_path / f"run-{name}"
        train_job.run(config(root, out=str(out), val_fraction=0.1), Told())
        metrics = json.loads((out / "metrics.json").read_text())
        found = metrics["audits"]["shortcuts"]
        assert found["groups"] == metrics["split"]["train"]["groups"] >= 10
        assert found["faces"] == metrics["split"]["train"]["faces"]
        assert set(found["alone"]) == {
            "frame_index", "key_frame", "crop_width", "crop_height", "bytes", "detector_score",
        }  # fmt: skip
        notes[name] = [n for n in metrics["notes"] if "without any pixels" in n]
        assert notes[name] == [n for n in told if "without any pixels" in n]  # before the start
        if name == "alike":
            assert found["alone"]["bytes"] < 0.7
        else:
            assert found["auc"] > 0.95
            assert next(iter(found["alone"])) == "bytes"
    assert notes["alike"] == []
    (said,) = notes["telling"]
    assert "bytes (AUC" in said
    assert "crop_width" not in said


def test_frames_that_tell_the_label_are_named(tmp_path: Path) -> None:
    found = [
        replace(r, frame_index=r.frame_index * (1 if r.label == "REAL" else 9) + 1)
        for r in rows(24, frames=4)
    ]
    index = build_index([write_faces(tmp_path / "f", found)])
    result, said = audit_shortcuts(index, np.arange(len(index)), read_pictures(index), 0)
    assert next(iter(result["alone"])) == "frame_index"
    assert "frame_index (AUC" in said[0]


def test_only_what_is_trained_on_is_looked_at(tmp_path: Path) -> None:
    found = encoded(rows(24, frames=4), {"REAL": 90, "FAKE": 60})
    index = build_index([write_faces(tmp_path / "f", found)])
    reals = np.flatnonzero(~index.fake)
    result, said = audit_shortcuts(index, reals, read_pictures(index), 0)
    assert (result["auc"], result["faces"], said) == (None, len(reals), [])
    assert "fake faces come from 0 group" in result["note"]
    few = index.where(frozenset(index.groups[:5]))
    result, said = audit_shortcuts(index, few, read_pictures(index), 0)
    assert "10 are needed" in result["note"]
