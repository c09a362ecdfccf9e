import random

import pytest

from dfscan.corpora import base, detect_layout, list_videos, open_source
from dfscan.errors import SourceError

FILES = [
    "Celeb-real/id0_0000.mp4",
    "Celeb-real/id5_0001.mp4",
    "Celeb-synthesis/id0_id1_0000.mp4",
    "Celeb-synthesis/id1_id2_0003.mp4",
    "YouTube-real/00000.mp4",
    "YouTube-real/00170.mp4",
]
LIST = "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"


def refs_of(root, inside=""):
    return {r.video_id.split("/", 1)[1].removeprefix(inside): r for r in list_videos([root]).videos}


@pytest.mark.parametrize("inside", ["", "Celeb-DF-v2/"])
def test_the_tree_is_recognised_at_its_root_and_one_below(tree, inside):
    root = tree("set", dict.fromkeys(inside + f for f in FILES))
    assert detect_layout(open_source(root)).name == "celebdf"
    refs = refs_of(root, inside)
    assert [refs[f].label for f in FILES] == ["REAL", "REAL", "FAKE", "FAKE", "REAL", "REAL"]
    fake = refs["Celeb-synthesis/id0_id1_0000.mp4"]
    assert fake.original == refs["Celeb-real/id0_0000.mp4"].video_id
    assert fake.part == "Celeb-synthesis"


def test_one_of_its_folders_by_itself_is_recognised(tree):
    [ref] = list_videos([tree("Celeb-synthesis", {"id0_id1_0000.mp4": None})]).videos
    assert (ref.label, ref.original) == ("FAKE", None)


def test_people_who_occur_together_are_one_group(tree):
    files = list(FILES)
    random.Random(3).shuffle(files)
    refs = refs_of(tree("set", dict.fromkeys(files)))
    groups = [refs[f].group for f in FILES]
    assert groups[0] == groups[2] == groups[3]
    assert len(set(groups)) == 4


def test_the_official_list_gives_the_split_and_nothing_else(tree):
    without = refs_of(tree("a", dict.fromkeys(FILES)))
    assert {tuple(r.attributes) for r in without.values()} == {()}
    files = {**dict.fromkeys(FILES), "intro.mp4": None, "List_of_testing_videos.txt": LIST}
    refs = refs_of(tree("b", files))
    intro = refs.pop("intro.mp4")
    assert (intro.label, intro.attributes) == (None, {})
    tests = [f for f in FILES if refs[f].attributes == {"split": "test"}]
    assert tests == ["Celeb-synthesis/id0_id1_0000.mp4", "YouTube-real/00170.mp4"]
    assert {r.attributes["split"] for r in refs.values()} == {"train", "test"}
    assert [refs[f].label for f in FILES] == [without[f].label for f in FILES]


def test_a_list_of_testing_videos_that_is_too_large_is_refused(tree, monkeypatch):
    monkeypatch.setattr(base.content, "__defaults__", (1 << 20,))
    files = {FILES[0]: None, "List_of_testing_videos.txt": LIST + " " * (1 << 20)}
    with pytest.raises(SourceError, match=r"List_of_testing_videos\.txt is larger than 1 MB"):
        list_videos([tree("set", files)])


def test_pictures_in_a_clips_folder_are_of_that_clip(tree):
    images = [
        "Celeb-synthesis/id0_id1_0000/001.jpg",
        "Celeb-real/id0_0000/001.jpg",
        "Celeb-real/id0_0000/002.jpg",
        "Celeb-real/id7_0000.jpg",
        "YouTube-real/00170/001.jpg",
        "YouTube-real/00171/001.jpg",
    ]
    listed = LIST + "1 Celeb-real/id7_0000.mp4\n"
    refs = refs_of(tree("set", {**dict.fromkeys(images), "List_of_testing_videos.txt": listed}))
    fake, real, again, alone, youtube, other = (refs[i] for i in images)
    assert fake.original == real.video_id
    assert fake.group == real.group == again.group
    assert len({fake.group, alone.group, youtube.group, other.group}) == 4
    splits = [r.attributes["split"] for r in (fake, real, alone, youtube, other)]
    assert splits == ["test", "train", "test", "test", "train"]
