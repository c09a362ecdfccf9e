from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.faces import face, person, write_faces

from dfscan.datasets import face_dataset as facesets
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ConfigError, SourceError
from dfscan.training.index import FaceIndex, build_index

BOXES = {"box": (1.5, 2.0, 30.0, 40.25), "crop_box": (0.0, 1.0, 50.0, 60.0)}


def rows_of(dataset: FaceSet) -> Iterator[tuple[tuple[str, int, int], dict[str, Any]]]:
    """Every row as pyarrow reads it, with its file, row group and place there."""
    for path in sorted(dataset.faces.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for row, content in enumerate(file.read_row_group(group).to_pylist()):
                    yield (str(path), group, row), content


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """Files of several row groups; among the labelled faces some without a label."""
    monkeypatch.setattr(facesets, "ROW_GROUP", 4)
    rows = person("ann", frames=5, fakes=2, attributes={"compression": "c23"})
    rows += [face("who.mp4", None, i) for i in range(3)]
    rows += person("bob", frames=3, fakes=1, detector_score=0.5, **BOXES)
    rows += [face("left.mp4", "FAKE", 7, original="gone.mp4", face_diff=0.25, key_frame=True)]
    return write_faces(tmp_path / "made", rows, units=3, digests={"ann.mp4": "ab", "bob.mp4": "cd"})


def check(index: FaceIndex, datasets: list[FaceSet]) -> None:
    """Every value of the index is that of the row that it names, and every labelled row is named."""
    rows = {}
    for number, dataset in enumerate(datasets):
        rows |= {place: (number, row) for place, row in rows_of(dataset) if row["label"]}
    labelled = {row["video_id"] for _, row in rows.values()}
    named = set()
    for at in range(len(index)):
        place = (index.files[index.file[at]], int(index.row_group[at]), int(index.row[at]))
        named.add(place)
        number, row = rows[place]
        video = index.videos[index.video[at]]
        assert index.datasets[index.dataset[at]] == str(datasets[number].root)
        assert video.video_id == row["video_id"]
        assert video.original == row["original"]
        assert video.attributes == {e["key"]: e["value"] for e in row["attributes"] or ()}
        assert index.fake[at] == (row["label"] == "FAKE")
        assert index.frame[at] == row["frame_index"]
        assert index.key_frame[at] == row["key_frame"]
        assert index.box[at].tolist() == row["box"]
        assert index.crop_box[at].tolist() == row["crop_box"]
        assert index.detector_score[at] == np.float32(row["detector_score"])
        if row["face_diff"] is None:
            assert np.isnan(index.face_diff[at])
        else:
            assert index.face_diff[at] == np.float32(row["face_diff"])
        found = None if index.original[at] < 0 else index.videos[index.original[at]].video_id
        assert found == (row["original"] if row["original"] in labelled else None)
        assert place[0] in index.name(at)
        assert row["video_id"] in index.name(at)
    assert named == rows.keys()
    assert len(index) == len(rows)  # no row twice
    assert len({v.video_id for v in index.videos}) == len(index.videos) == len(labelled)


def test_every_labelled_face_is_there_once_with_what_its_row_says(made: FaceSet) -> None:
    index = build_index([made])
    assert len(index) == 22
    assert len(index.files) == 3
    assert index.row_group.max() > 0
    check(index, [made])


def test_an_extracted_dataset_is_what_its_rows_say(faceset: FaceSet) -> None:
    index = build_index([faceset])
    check(index, [faceset])
    assert len(index) == faceset.counts()["faces"]
    by_row = {row["video_id"]: row["group"] for _, row in rows_of(faceset)}
    found = {
        index.videos[v].video_id: index.groups[g]
        for v, g in zip(index.video, index.group, strict=True)
    }
    assert found == by_row
    assert len(index.groups) == 6
    assert (index.original[index.fake] >= 0).all()
    assert (index.original[~index.fake] == -1).all()


def test_the_digests_are_those_of_the_videos(made: FaceSet, faceset: FaceSet) -> None:
    digests = {v.video_id: v.content_sha256 for v in build_index([made]).videos}
    assert digests == dict.fromkeys(digests) | {"ann.mp4": "ab", "bob.mp4": "cd"}
    wanted = {}
    for path in faceset.videos.glob("*.parquet"):
        table = pq.read_table(path, columns=["video_id", "content_sha256"])
        wanted |= {row["video_id"]: row["content_sha256"] for row in table.to_pylist()}
    assert {v.video_id: v.content_sha256 for v in build_index([faceset]).videos} == wanted
    assert None not in wanted.values()


def test_two_datasets_are_one_index_and_related_videos_one_group(
    made: FaceSet, tmp_path: Path
) -> None:
    rows = person("cyd", frames=2)
    rows += [face("other.mp4", "FAKE", i, original="bob.mp4", group="x") for i in range(2)]
    second = write_faces(tmp_path / "second", rows)
    index = build_index([made, second])
    check(index, [made, second])
    assert index.dataset.tolist() == [0] * 22 + [1] * 6
    group = {v: index.groups[g] for v, g in zip(index.video, index.group, strict=True)}
    named = {index.videos[v].video_id: name for v, name in group.items()}
    assert named["other.mp4"] == named["bob.mp4"] == named["bob_0.mp4"]
    assert len(set(named.values())) == 4  # ann, bob, cyd, left


def test_groups_choose_faces(made: FaceSet) -> None:
    index = build_index([made])
    bob = index.where(frozenset(["bob"]))
    assert {index.videos[v].video_id for v in index.video[bob]} == {"bob.mp4", "bob_0.mp4"}
    assert len(index.where(frozenset(index.groups))) == len(index)
    assert len(index.where(frozenset())) == 0
    assert index.members() == {
        ("ann", "REAL"), ("ann", "FAKE"), ("bob", "REAL"), ("bob", "FAKE"), ("left.mp4", "FAKE"),
    }  # fmt: skip


def test_groups_may_follow_from_the_names(made: FaceSet) -> None:
    index = build_index([made], group_by=r"^(\w)")
    assert index.groups == ("a", "b", "l")
    for group, video in zip(index.group, index.video, strict=True):
        assert index.videos[video].video_id.startswith(index.groups[group])
    alone = build_index([made], group_by="file")
    assert alone.groups == tuple(sorted(v.video_id for v in alone.videos))
    with pytest.raises(ConfigError, match=r"names no group for 3 of 6 videos"):
        build_index([made], group_by=r"^\w+_")
    with pytest.raises(ConfigError, match="is no regular expression"):
        build_index([made], group_by="(")


def test_the_same_video_in_two_datasets_is_refused(made: FaceSet, tmp_path: Path) -> None:
    copy = write_faces(tmp_path / "copy", [*person("dan"), face("bob.mp4", "REAL", 9)])
    with pytest.raises(SourceError, match=r"bob\.mp4 is in .*copy.*would count twice"):
        build_index([made, copy])


def test_unlabelled_faces_are_no_training_material(tmp_path: Path) -> None:
    nobody = write_faces(tmp_path / "nobody", [face("who.mp4", None, i) for i in range(4)])
    empty = write_faces(tmp_path / "empty", [])
    for datasets in ([nobody], [empty], [nobody, empty]):
        with pytest.raises(SourceError, match=r"no labelled face in .*(nobody|empty).*--layout"):
            build_index(datasets)
