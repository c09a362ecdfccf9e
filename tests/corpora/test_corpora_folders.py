import pytest

from dfscan.corpora import list_videos
from dfscan.corpora.folders import class_of


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("real", "REAL"),
        ("Originals", "REAL"),
        ("0_real", "REAL"),
        ("training-fake", "FAKE"),
        ("DeepFakes", "FAKE"),
        ("Deepfake", "FAKE"),
        ("FakeVideos", "FAKE"),
        ("training_real", "REAL"),
        ("Authentic", "REAL"),
        ("original", "REAL"),
        ("manipulated", "FAKE"),
        ("synthetic2", "FAKE"),
        ("REAL", "REAL"),
        ("real.zip", "REAL"),
        ("fake.tar", "FAKE"),
        ("not_fake", None),
        ("0", None),
        ("1", None),
        ("unreal", None),
        ("real_vs_fake", None),
        ("videos", None),
    ],
)
def test_a_folder_stands_for_a_class_by_its_usual_names(folder, label):
    assert class_of(folder) == label


def test_the_innermost_class_folder_decides(tree):
    root = tree("fakes", {"real/a.mp4": None, "b.mp4": None})
    assert [(r.video_id, r.label) for r in list_videos([root]).videos] == [
        ("fakes/b.mp4", "FAKE"),
        ("fakes/real/a.mp4", "REAL"),
    ]


def test_files_of_one_name_are_one_group_across_classes_and_subsets(tree):
    files = ["train/real/x.mp4", "train/fake/x.mp4", "test/fake/x.avi", "train/real/y.mp4"]
    refs = list_videos([tree("set", dict.fromkeys(files))]).videos
    groups = {r.video_id.removeprefix("set/"): r.group for r in refs}
    assert len({groups[f] for f in files[:3]}) == 1
    assert groups["train/real/y.mp4"] != groups["train/real/x.mp4"]


def test_videos_outside_the_class_folders_are_listed_without_label(tree):
    root = tree("set", {"real/a.mp4": None, "fake/a.mp4": None, "other/a.mp4": None})
    assert [r.label for r in list_videos([root]).videos] == ["FAKE", None, "REAL"]


def test_the_part_is_the_class_folder(tree):
    [ref] = list_videos([tree("set", {"train/real/p/a.mp4": None})]).videos
    assert ref.part == "set/train/real"


def test_class_folders_given_as_two_sources_keep_their_groups(tree):
    sources = [tree("real", {"a.mp4": None, "b.mp4": None}), tree("fake", {"a.mp4": None})]
    refs = {r.video_id: r for r in list_videos(sources).videos}
    assert {r.label for r in refs.values()} == {"REAL", "FAKE"}
    assert refs["real/a.mp4"].group == refs["fake/a.mp4"].group != refs["real/b.mp4"].group


def test_pictures_in_class_folders_have_labels_and_pairs_by_name(tree):
    files = ["training_real/r_1.jpg", "training_fake/easy_1.jpg", "training_fake/r_1.png"]
    listing = list_videos([tree("faces", dict.fromkeys(files))])
    assert listing.layouts == {"faces": "folders"}
    assert [(r.label, r.group) for r in listing.videos] == [
        ("FAKE", "faces:easy_1"),
        ("FAKE", "faces:r_1"),
        ("REAL", "faces:r_1"),
    ]
