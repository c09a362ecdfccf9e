import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfscan.corpora.base import LabelRecord
from dfscan.corpora.labels import groups, match, read_labels, read_truth
from dfscan.errors import SourceError


def labelled(path: Path) -> dict[str, str | None]:
    return {name: given.label for name, given in read_labels(str(path)).items()}


def given(**labels: str) -> dict[str, LabelRecord]:
    return {name: LabelRecord(label=label, labelled=True) for name, label in labels.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "video_id,label\nv/a.mp4,FAKE\nv/b.mp4,0\nv/c.mp4,\n",
        "filename,video_id,label\nx.mp4,v/a.mp4,fake\ny.mp4,v/b.mp4,REAL\nz.mp4,v/c.mp4,\n",
        "path,label,group\nv/a.mp4,1,g\nv/b.mp4,real,\nv/c.mp4,,\n",
    ],
)
def test_a_table_names_its_videos_in_the_first_column_that_can(tmp_path: Path, text: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    assert labelled(path) == {"v/a.mp4": "FAKE", "v/b.mp4": "REAL", "v/c.mp4": None}


def test_parquet_and_dfdc_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a", "b"], "label": [1, 0]}), tmp_path / "t.parquet")
    assert labelled(tmp_path / "t.parquet") == {"a": "FAKE", "b": "REAL"}
    truth = {"a.mp4": {"label": "FAKE", "original": "b.mp4"}, "b.mp4": {"label": "REAL"}}
    (tmp_path / "metadata.json").write_text(json.dumps(truth))
    found = read_labels(str(tmp_path / "metadata.json"))
    assert found["a.mp4"] == LabelRecord(label="FAKE", labelled=True, original="b.mp4")
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\n")
    assert labelled(tmp_path / "labels.csv") == {"a.mp4": "FAKE"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "video_id\na\n", "no column label"),
        ("t.csv", "video_id,group\na,g\n", "no column label"),
        ("t.csv", "name,label\na,1\n", "allowed: video_id, path, uri"),
        ("t.csv", "video_id,label\na,maybe\n", "row 2: label 'maybe'; allowed: REAL, FAKE"),
        ("t.csv", "video_id,label\na,1\na,0\n", "'a' is labelled FAKE and REAL"),
        ("t.csv", "video_id,label\n", "has no labels"),
        ("t.json", '{"a": 1}', "not DFDC metadata"),
        ("t.txt", "a", r"must be a file that ends in \.csv, \.parquet, \.json"),
    ],
)
def test_what_is_no_truth_says_so(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_labels(str(path))


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no labels at"):
        read_labels(str(tmp_path / "t.csv"))


def test_a_video_is_found_by_its_id_then_by_a_name_of_its_own() -> None:
    labels = given(**{"v/a.mp4": "FAKE", "b.mp4": "REAL", "old/c.mp4": "REAL", "d.mp4": "FAKE"})
    videos = ["v/a.mp4", "w/a.mp4", "v/b.mp4", "v/c.mp4", "x/d.mp4", "y/d.mp4", "v/e.mp4"]
    found = match(labels, videos)
    assert {v: g.label for v, g in found.records.items()} == {
        "v/a.mp4": "FAKE",
        "v/b.mp4": "REAL",
        "v/c.mp4": "REAL",
    }
    assert found.ambiguous == {"w/a.mp4", "x/d.mp4", "y/d.mp4"}
    assert found.unused == 0
    assert match(given(q="REAL"), videos).unused == 1


def test_lines_that_contradict_each_other_leave_a_name_ambiguous() -> None:
    found = match(given(**{"x/a.mp4": "FAKE", "y/a.mp4": "REAL"}), ["v/a.mp4"])
    assert found.ambiguous == {"v/a.mp4"}
    assert match(given(**{"x/a.mp4": "REAL", "y/a.mp4": "REAL"}), ["v/a.mp4"]).records


def test_members_of_archives_have_names_too() -> None:
    assert match(given(**{"a.mp4": "FAKE"}), ["p.zip!/d/a.mp4"]).records["p.zip!/d/a.mp4"].label


def test_what_shares_an_original_or_its_bytes_is_one_group() -> None:
    told = {
        "v/f.mp4": LabelRecord("FAKE", True, original="r.mp4"),
        "v/g.mp4": LabelRecord("FAKE", True, original="gone.mp4"),
        "v/h.mp4": LabelRecord("FAKE", True, original="gone.mp4"),
        "v/m.mp4": LabelRecord("REAL", True, group="x"),
        "v/n.mp4": LabelRecord("REAL", True, group="x"),
    }
    contents = dict.fromkeys([*told, "v/r.mp4", "v/s.mp4"]) | {"v/s.mp4": "ab", "v/t.mp4": "ab"}
    found = groups(told, contents)
    sets = {frozenset(v for v in found if found[v] == name) for name in found.values()}
    assert sets == {
        frozenset({"v/f.mp4", "v/r.mp4"}),
        frozenset({"v/g.mp4", "v/h.mp4"}),
        frozenset({"v/m.mp4", "v/n.mp4"}),
        frozenset({"v/s.mp4", "v/t.mp4"}),
    }


def test_a_labelled_source_tells_all_that_its_layout_knows(tmp_path: Path) -> None:
    tree = tmp_path / "ffpp"
    real = tree / "original_sequences/youtube/c23/videos/519.mp4"
    fake = tree / "manipulated_sequences/Deepfakes/c23/videos/519_515.mp4"
    for path in (real, fake):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    found = read_truth(str(tree))
    names = {path: f"ffpp/{path.relative_to(tree)}" for path in (real, fake)}
    told = found[names[fake]]
    assert (told.label, told.labelled) == ("FAKE", True)
    assert told.original == names[real]
    assert told.group == found[names[real]].group
    assert told.attributes == {
        "manipulation": "Deepfakes",
        "compression": "c23",
        "part": "manipulated_sequences/Deepfakes",
    }
    with pytest.raises(SourceError, match=r"2 videos and no label \(layout flat\): give --layout"):
        read_truth(str(tree), "flat")


def test_further_columns_of_a_table_are_attributes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("filename,label,part,method\na.mp4,1,p0,swap\nb.mp4,0,,\n")
    found = read_truth(str(tmp_path / "t.csv"))
    assert found["a.mp4"].attributes == {"part": "p0", "method": "swap"}
    assert found["b.mp4"].attributes == {}
