import io
import json
import zipfile

import pyarrow as pa
import pytest

from dfscan.corpora import base, detect_layout, dfdc, list_videos, open_source
from dfscan.errors import SourceError

METADATA = {
    "a.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},
    "b.mp4": {"label": "REAL", "split": "train", "original": None},
    "d.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},
}

METADATA_TEXT = {"metadata.json": json.dumps(METADATA), "labels.csv": "filename,label\na.mp4,1\n"}


def by_name(refs):
    return {r.video_id.rsplit("/", 1)[-1]: r for r in refs}


def test_a_part_has_labels_originals_and_groups(tree):
    root = tree("part_0", {**dict.fromkeys(METADATA), "metadata.json": METADATA})
    refs = by_name(list_videos([root]).videos)
    assert {n: r.label for n, r in refs.items()} == {
        "a.mp4": "FAKE",
        "b.mp4": "REAL",
        "d.mp4": "FAKE",
    }
    assert refs["a.mp4"].original == "part_0/b.mp4" == refs["b.mp4"].video_id
    assert refs["b.mp4"].original is None
    assert len({r.group for r in refs.values()}) == 1


def test_a_zipped_part_has_the_ids_of_the_contract(tmp_path):
    path = tmp_path / "dfdc_train_part_00.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dfdc_train_part_0/metadata.json", json.dumps(METADATA))
        for name in METADATA:
            archive.writestr(f"dfdc_train_part_0/{name}", b"")
    fake = list_videos([str(path)]).videos[0]
    assert fake.video_id == "dfdc_train_part_00.zip!/dfdc_train_part_0/a.mp4"
    assert fake.uri == f"{tmp_path}/dfdc_train_part_00.zip!/dfdc_train_part_0/a.mp4"
    assert fake.original == "dfdc_train_part_00.zip!/dfdc_train_part_0/b.mp4"
    assert fake.part == "dfdc_train_part_0"


def test_parts_in_one_archive_keep_to_themselves(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as outer:
        for number in (0, 1):
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as part:
                part.writestr(f"dfdc_train_part_{number}/metadata.json", json.dumps(METADATA))
                for name in METADATA:
                    part.writestr(f"dfdc_train_part_{number}/{name}", b"")
            outer.writestr(f"dfdc_train_part_0{number}.zip", inner.getvalue())
    refs = list_videos([str(tmp_path / "all.zip")]).videos
    assert refs[3].video_id == "all.zip!/dfdc_train_part_01.zip!/dfdc_train_part_1/a.mp4"
    assert [r.part for r in refs] == ["dfdc_train_part_0"] * 3 + ["dfdc_train_part_1"] * 3
    ids = {r.video_id: r for r in refs}
    for ref in refs:
        assert ref.label == METADATA[ref.video_id.rsplit("/", 1)[-1]]["label"]
        assert ref.original is None or ids[ref.original].part == ref.part


def test_metadata_of_the_test_set_says_is_fake(tree):
    metadata = {"a.mp4": {"is_fake": 1, "augmentations": []}, "b.mp4": {"is_fake": 0}}
    root = tree("test", {"a.mp4": None, "b.mp4": None, "metadata.json": metadata})
    listing = list_videos([root])
    assert listing.layouts == {"test": "dfdc"}
    assert [r.label for r in listing.videos] == ["FAKE", "REAL"]


def test_a_labels_csv_of_another_shape_is_not_taken_for_dfdc(tree):
    root = tree("p", {"a.mp4": None, "labels.csv": "clip,truth\na.mp4,1\n"})
    assert detect_layout(open_source(root)).name == "flat"


def test_several_parts_in_a_folder_keep_their_own_metadata(tree):
    root = tree(
        "dfdc",
        {
            "part_0/x.mp4": None,
            "part_0/metadata.json": {"x.mp4": {"label": "REAL"}},
            "part_1/y.mp4": None,
            "part_1/metadata.json": {"y.mp4": {"label": "FAKE", "original": "z.mp4"}},
        },
    )
    found = [(r.part, r.label, r.original) for r in list_videos([root]).videos]
    assert found == [("part_0", "REAL", None), ("part_1", "FAKE", "dfdc/part_1/z.mp4")]


def test_metadata_may_lie_one_folder_up(tree):
    root = tree("dfdc", {"videos/b.mp4": None, "metadata.json": METADATA})
    assert [r.label for r in list_videos([root]).videos] == ["REAL"]


def test_metadata_may_lie_beside_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("b.mp4", b"")
    (tmp_path / "metadata.json").write_text(json.dumps(METADATA))
    assert [r.label for r in list_videos([str(tmp_path)]).videos] == ["REAL"]


def test_the_released_test_set_has_labels_csv(tree):
    root = tree(
        "test",
        {"a.mp4": None, "b.mp4": None, "labels.csv": "\ufefffilename,label\na.mp4,1\nb.mp4,0\n"},
    )
    assert [(r.label, r.original) for r in list_videos([root]).videos] == [
        ("FAKE", None),
        ("REAL", None),
    ]


def test_a_clip_that_metadata_does_not_name_has_no_label_but_is_listed(tree):
    root = tree("p", {"b.mp4": None, "new.mp4": None, "metadata.json": METADATA})
    assert by_name(list_videos([root]).videos)["new.mp4"].label is None


def test_metadata_of_another_shape_is_not_taken_for_dfdc(tree):
    root = tree("p", {"a.mp4": None, "metadata.json": {"camera": "x"}})
    assert detect_layout(open_source(root)).name == "flat"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.json": {"a.mp4": {"label": "MAYBE"}}}, "'a.mp4': label 'MAYBE'; allowed: R"),
        ({"metadata.json": {"a.mp4": {"label": ["x" * 999]}}}, r"label \['x+\.\.\.x+'\]; allowed"),
        (
            {"metadata.json": {"a\n": {"label": 1, "original": ["b"]}}},
            r"'a\\n': original \['b'\] is",
        ),
        ({"metadata.json": "[" * 200_000}, "metadata.json is not valid JSON: .*too deep"),
        ({"labels.csv": f"filename,label\na.mp4,{'1' * 200_000}\n"}, "not a readable table: field"),
        ({"labels.csv": f"filename,label,{'x' * 200_000}\n"}, "not a readable table: field"),
        ({"metadata.json": "{"}, "metadata.json is not valid JSON"),
        ({"metadata.json": {"camera": "x"}}, "not DFDC metadata; expected"),
        ({"labels.csv": "file,truth\na.mp4,1\n"}, r"expected the columns filename,label, got"),
    ],
)
def test_wrong_labels_stop_before_any_work(tree, files, message):
    with pytest.raises(SourceError, match=message) as caught:
        list_videos([tree("p", {"a.mp4": None, **files})], layout="dfdc")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "files",
    [{"metadata.json": "[" * 200_000}, {"labels.csv": f"filename,label,{'x' * 200_000}\n"}],
)
def test_what_cannot_be_read_is_not_taken_for_dfdc(tree, files):
    assert detect_layout(open_source(tree("p", {"a.mp4": None, **files}))).name == "flat"


@pytest.mark.parametrize(
    ("original", "expected"),
    [("5", "p/5"), ('"\\ud800.mp4"', "p/\\ud800.mp4"), ("NaN", None), ("[]", None), ("0", None)],
)
def test_an_original_of_another_kind_is_written_as_text(tree, original, expected):
    metadata = f'{{"a.mp4": {{"label": "FAKE", "original": {original}}}}}'
    [ref] = list_videos([tree("p", {"a.mp4": None, "metadata.json": metadata})]).videos
    assert ref.original == expected
    pa.array([ref.original, ref.group], pa.string())


@pytest.mark.parametrize("name", ["metadata.json", "labels.csv"])
def test_metadata_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(dfdc, "LARGEST", 1 << 20)
    monkeypatch.setattr(base.content, "__defaults__", (1 << 20,))
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", b"")
        archive.writestr(name, METADATA_TEXT[name] + " " * (1 << 20))
    with pytest.raises(SourceError, match=rf"{name}.* than"):
        list_videos([str(tmp_path / "p.zip")], "dfdc")
    assert detect_layout(open_source(str(tmp_path / "p.zip"))).name == "flat"
