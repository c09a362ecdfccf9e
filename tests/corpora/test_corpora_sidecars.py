import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pytest

from dfscan import storage
from dfscan.corpora import list_videos
from dfscan.errors import SourceError


@pytest.fixture
def shard(tmp_path):
    """``shard({name: content})`` → a tar; dicts become JSON."""

    def make(files, name="s.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            for path, content in files.items():
                data = (json.dumps(content) if isinstance(content, dict) else content).encode()
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return str(tmp_path / name)

    return make


def listed(source, layout="auto"):
    return {r.video_id.split("!/", 1)[1]: r for r in list_videos([source], layout).videos}


def test_labels_lie_beside_the_clips(shard):
    refs = listed(
        shard(
            {
                "d/0.mp4": "clip",
                "d/0.cls": "1\n",
                "d/1.mp4": "clip",
                "d/1.cls": "REAL",
                "d/2.jpg": "picture",
                "d/2.json": {"label": "fake", "original": "1", "group": 7},
                "d/3.mp4": "clip",
                "d/3.json": {"caption": "no label"},
                "d/4.v1.mp4": "clip",
                "d/4.cls": "0",
                "d/5.mp4": "clip",
            }
        )
    )
    assert {p.removeprefix("d/"): r.label for p, r in refs.items()} == {
        "0.mp4": "FAKE",
        "1.mp4": "REAL",
        "2.jpg": "FAKE",
        "3.mp4": None,
        "4.v1.mp4": "REAL",
        "5.mp4": None,
    }
    assert refs["d/2.jpg"].group == "7"


def test_an_original_is_named_with_or_without_its_suffix(shard):
    files = {f"{k}.mp4": "clip" for k in "abcd"}
    files |= {"b.json": {"label": 1, "original": "a.mp4"}, "c.json": {"label": 1, "original": "a"}}
    refs = listed(shard(files))
    assert refs["b.mp4"].original == refs["c.mp4"].original == "s.tar!/a.mp4"
    assert refs["a.mp4"].group == refs["b.mp4"].group == refs["c.mp4"].group != refs["d.mp4"].group


def test_texts_that_cannot_be_written_are_spelt_out(shard):
    files = {"a.mp4": "clip", "b.mp4": "clip", "c.mp4": "clip"}
    files |= {"a.json": {"label": 1, "original": "\ud800", "group": "\udfff"}}
    files |= {"b.json": {"label": 1, "original": "\ud800", "group": float("nan")}}
    refs = listed(shard(files))
    assert refs["a.mp4"].original == refs["b.mp4"].original == "s.tar!/\\ud800.mp4"
    assert refs["a.mp4"].group == "\\udfff"
    pa.array([t for r in refs.values() for t in (r.original, r.group)], pa.string())


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ('{"label": 1, "group": ["x"]}', r"group \['x'\] is neither a text nor a number"),
        ('{"label": 1, "original": {"x": 1}}', r"original \{'x': 1\} is neither"),
        ('{"label": ' + "[" * 900 + "]" * 900 + "}", r"label \[+\.\.\.\]+; allowed"),
    ],
)
def test_labels_and_names_of_another_shape_stop_before_any_work(shard, told, message):
    with pytest.raises(SourceError, match=rf"s\.tar!/0\.json: {message}.*--layout flat") as caught:
        list_videos([shard({"0.mp4": "clip", "0.json": told})])
    assert "\n" not in str(caught.value)


def test_a_sidecar_of_brackets_without_end_says_nothing(shard):
    [ref] = list_videos([shard({"0.mp4": "clip", "0.json": "[" * 200_000})]).videos
    assert ref.label is None


def test_tars_in_a_folder_are_read_too(shard, tmp_path):
    shard({"0.mp4": "clip", "0.cls": "1"}, "a.tar")
    shard({"0.mp4": "clip", "0.cls": "0"}, "b.tar")
    assert [r.label for r in list_videos([str(tmp_path)]).videos] == ["FAKE", "REAL"]


def test_nothing_but_tars_has_sidecars(tree, tmp_path):
    root = tree("clips", {"0.mp4": None, "0.cls": "1"})
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("0.mp4", b"")
        archive.writestr("0.cls", b"1")
    refs = list_videos([root, str(tmp_path / "z.zip")]).videos
    assert [r.label for r in refs] == [None, None]


def test_flat_leaves_sidecars_unread(shard, monkeypatch):
    source = shard({"0.mp4": "clip", "0.cls": "cat"})
    with pytest.raises(
        SourceError, match=r"s\.tar!/0\.cls: label 'cat'; allowed: REAL.*--layout flat"
    ):
        list_videos([source])
    monkeypatch.setattr(storage, "read_bytes", None)
    assert [r.label for r in list_videos([source], "flat").videos] == [None]


def test_a_list_wins_over_sidecars(shard, tmp_path):
    shard({"0.mp4": "clip", "0.cls": "1", "1.mp4": "clip", "1.cls": "1"})
    (tmp_path / "l.csv").write_text("path,label\ns.tar!/0.mp4,REAL\ns.tar!/1.mp4,\n")
    (tmp_path / "l.txt").write_text("s.tar\n")
    assert [r.label for r in list_videos([str(tmp_path / "l.csv")]).videos] == ["REAL", None]
    assert [r.label for r in list_videos([str(tmp_path / "l.txt")]).videos] == ["FAKE", "FAKE"]
