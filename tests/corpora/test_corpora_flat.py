import pytest

from dfscan.corpora import list_videos, open_source, recognise
from dfscan.errors import SourceError


def test_videos_lie_anywhere_unlabelled_each_its_own_group(tree):
    root = tree("clips", dict.fromkeys(["b.MP4", "x/a.mkv", "x/notes.txt", "x/.c.mp4"]))
    refs = list_videos([root]).videos
    assert recognise(open_source(root)).name == "flat"
    assert [r.video_id for r in refs] == ["clips/b.MP4", "clips/x/a.mkv"]
    assert {r.label for r in refs} == {None}
    assert len({r.group for r in refs}) == 2


def test_pictures_are_media_as_videos_are(tree):
    root = tree("clips", dict.fromkeys(["a.JPG", "b.png", "c.tiff", "d.psd", "e.mp4"]))
    refs = list_videos([root]).videos
    assert [r.video_id for r in refs] == [
        f"clips/{n}" for n in ("a.JPG", "b.png", "c.tiff", "e.mp4")
    ]


def test_a_listing_says_which_layout_read_each_source(tree):
    sources = [tree("x", {"real/a.mp4": None}), tree("y", {"a.mp4": None})]
    assert list_videos(sources).layouts == {"x": "folders", "y": "flat"}
    assert list_videos(sources, "flat").layouts == {"x": "flat", "y": "flat"}


def test_an_unreadable_archive_is_a_row_and_reported(tree):
    listing = list_videos([tree("clips", {"a.mp4": None, "x/p.zip": "junk", "x/q.tar": "junk"})])
    assert listing.unreadable == ("clips/x/p.zip", "clips/x/q.tar")
    assert [r.video_id for r in listing.videos] == [
        "clips/a.mp4",
        "clips/x/p.zip",
        "clips/x/q.tar",
    ]


def test_videos_without_attributes_share_one_mapping(tree):
    one, two = list_videos([tree("clips", {"a.mp4": None, "b.mp4": None})]).videos
    assert one.attributes == {}
    assert one.attributes is two.attributes


def test_a_file_by_itself_is_a_video_whatever_its_name(tree):
    root = tree("clips", {"recording": None})
    [ref] = list_videos([f"{root}/recording"]).videos
    assert (ref.video_id, ref.uri) == ("recording", f"{root}/recording")


def test_several_sources_are_sorted_together(tree):
    b, a = tree("b", {"1.mp4": None}), tree("a", {"2.mp4": None})
    assert [r.video_id for r in list_videos([b, a]).videos] == ["a/2.mp4", "b/1.mp4"]


def test_two_sources_of_one_name_are_refused_with_a_way_out(tree):
    one, two = tree("x/clips", {"1.mp4": None}), tree("y/clips", {"1.mp4": None})
    with pytest.raises(SourceError, match=r"two sources are called 'clips'.*rename one"):
        list_videos([one, two])


def test_a_source_without_videos_says_what_it_holds(tree):
    root = tree("papers", {"a.pdf": None, "b.pdf": None})
    with pytest.raises(SourceError, match=r"holds no video or picture \(found 2 \.pdf; .*\.mp4"):
        list_videos([root])


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(SourceError, match="found nothing"):
        list_videos([str(tmp_path)])
