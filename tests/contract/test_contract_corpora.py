"""What every layout promises. A new layout is tested by adding a case to CASES."""

import json
import tarfile
import zipfile
from dataclasses import dataclass

import pytest

from dfscan.corpora import LAYOUTS, detect_layout, list_videos, open_source
from dfscan.corpora.base import Source, video_ref
from dfscan.storage import Entry


@dataclass(frozen=True)
class Case:
    """Files of a small corpus, and which of its videos are (original, fake of it)."""

    files: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, dict], ...] = ()


FFPP_REAL = "original_sequences/youtube/c23/videos"
FFPP_FAKE = "manipulated_sequences/NeuralTextures/c23/videos"
CASES = {
    "dfdc": Case(
        ("p0/a.mp4", "p0/b.mp4", "p1/c.mp4"),
        (("p0/b.mp4", "p0/a.mp4"),),
        (
            (
                "p0/metadata.json",
                {"a.mp4": {"label": "FAKE", "original": "b.mp4"}, "b.mp4": {"label": "REAL"}},
            ),
            ("p1/metadata.json", {"c.mp4": {"label": "REAL"}}),
        ),
    ),
    "ffpp": Case(
        (f"{FFPP_REAL}/001.mp4", f"{FFPP_REAL}/002.mp4", f"{FFPP_FAKE}/001_002.mp4"),
        (
            (f"{FFPP_REAL}/001.mp4", f"{FFPP_FAKE}/001_002.mp4"),
            (f"{FFPP_REAL}/002.mp4", f"{FFPP_FAKE}/001_002.mp4"),
        ),
    ),
    "celebdf": Case(
        (
            "Celeb-real/id0_0000.mp4",
            "Celeb-synthesis/id0_id1_0000.mp4",
            "YouTube-real/00001.mp4",
        ),
        (("Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4"),),
        (("List_of_testing_videos.txt", {}),),
    ),
    "folders": Case(
        ("real/a.mp4", "fake/a.mp4", "fake/b.mp4", "intro.mp4"), (("real/a.mp4", "fake/a.mp4"),)
    ),
    "flat": Case(("a.mp4", "x/a.mp4", "x/b.webm")),
}


@pytest.fixture(params=LAYOUTS)
def case(request):
    return request.param, CASES[request.param]


@pytest.fixture
def folder(case, tmp_path):
    root = tmp_path / "set"
    contents = dict.fromkeys(case[1].files, "video") | {"read me.txt": "not a video"}
    contents |= {path: json.dumps(value) for path, value in case[1].metadata}
    for path, text in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def as_zip(folder):
    return zipped(folder, folder.with_name("set.zip"))


@pytest.fixture
def as_tar(folder):
    path = folder.with_name("set.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".")
    return path


@pytest.fixture
def as_zip_in_zip(as_zip):
    with zipfile.ZipFile(as_zip.with_name("outer.zip"), "w") as archive:
        archive.write(as_zip, "x/set.zip")
    return as_zip.parent / "outer.zip!" / "x" / "set.zip"


ARCHIVES = ["as_zip", "as_tar", "as_zip_in_zip"]


@pytest.fixture(params=["folder", *ARCHIVES])
def source(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=ARCHIVES)
def archive(request):
    return request.getfixturevalue(request.param)


def test_auto_recognises_it(case, source):
    assert detect_layout(open_source(str(source))).name == case[0]


def test_every_video_file_is_one_video_with_an_id_of_its_own(case, source):
    refs = list_videos([str(source)], case[0]).videos
    separator = "!/" if source.suffix else "/"
    assert [r.video_id for r in refs] == sorted(
        f"{source.name}{separator}{f}" for f in case[1].files
    )
    assert [r.uri for r in refs] == [f"{source.parent}/{r.video_id}" for r in refs]


def test_every_video_says_what_is_known_of_it(case, source):
    for ref in list_videos([str(source)], case[0]).videos:
        assert ref.label in {"REAL", "FAKE", None}
        assert ref.group
        assert ref.part
        assert ref.version
        assert ref.bytes == len("video")
        assert all(isinstance(v, str) for v in ref.attributes.values())


def test_an_original_and_its_fakes_share_a_group(case, source):
    refs = list_videos([str(source)], case[0]).videos
    by_file = {r.video_id.removeprefix(source.name).lstrip("!/"): r for r in refs}
    for original, fake in case[1].pairs:
        assert (by_file[original].label, by_file[fake].label) == ("REAL", "FAKE")
        assert by_file[original].group == by_file[fake].group
    by_id = {r.video_id: r for r in refs}
    for ref in refs:
        if ref.original is not None:
            assert by_id[ref.original].group == ref.group
            assert by_id[ref.original].label == "REAL"


def test_unrelated_videos_are_in_more_than_one_group_unless_all_are_related(case, source):
    refs = list_videos([str(source)], case[0]).videos
    related = {file for pair in case[1].pairs for file in pair}
    assert len({r.group for r in refs}) == len(set(case[1].files) - related) + bool(related)


def test_zipping_a_folder_changes_nothing_but_the_prefix_of_the_names(case, folder, archive):
    def told(path):
        def named(text):
            name = path.name
            return text and text.replace(f"{name}!/", "set/").replace(name, "set")

        return [
            (*map(named, (r.video_id, r.part, r.original, r.group)), r.label, r.bytes, r.attributes)
            for r in list_videos([str(path)], case[0]).videos
        ]

    assert sorted(told(folder), key=str) == sorted(told(archive), key=str)


def test_every_text_can_be_written():
    entry = Entry("a.mp4", "/", 1, "1")
    half = "\ud800"
    ref = video_ref(
        Source("set", (entry,)),
        entry,
        part=half,
        label="FAKE",
        group=half,
        original=half,
        attributes={half: half},
    )
    assert {ref.part, ref.group, ref.original, *ref.attributes.items()} == {
        "\\ud800",
        ("\\ud800", "\\ud800"),
    }


def test_listing_again_gives_the_same(case, source):
    assert list_videos([str(source)], case[0]).videos == list_videos([str(source)], case[0]).videos
