import zipfile

import pytest

from dfscan.corpora import detect_layout, list_videos, open_source
from dfscan.errors import SourceError


def test_videos_lie_anywhere_unlabelled_each_its_own_group(tree):
    root = tree("clips", dict.fromkeys(["b.MP4", "x/a.mkv", "x/notes.txt", "x/.c.mp4"]))
    refs = list_videos([root]).videos
    assert detect_layout(open_source(root)).name == "flat"
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


def zipped(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path.read_bytes()


@pytest.fixture
def compressed(tmp_path):
    """``d/o.zip`` with ``p.zip`` compressed in it and, if asked for, more beside that."""

    def make(**members):
        (tmp_path / "d").mkdir(exist_ok=True)
        part = zipped(tmp_path / "p.zip", **{"a.mp4": b"1"})
        zipped(tmp_path / "d" / "o.zip", zipfile.ZIP_DEFLATED, **{"p.zip": part, **members})
        return tmp_path / "d"

    return make


def test_an_archive_that_must_be_unpacked_is_a_row_and_reported(compressed):
    folder = compressed(**{"b.mp4": b"1"})
    (folder / "l.txt").write_text("o.zip\n")
    for source, name in ((folder, "d/o.zip"), (folder / "o.zip", "o.zip"), (folder / "l.txt", "")):
        listing = list_videos([str(source)])
        before = name or "l.txt/o.zip"
        assert listing.unreadable == (f"{before}!/p.zip",)
        assert [r.video_id for r in listing.videos] == [f"{before}!/b.mp4", f"{before}!/p.zip"]


def test_a_source_of_nothing_but_archives_that_must_be_unpacked_is_refused(compressed):
    folder = compressed(**{"READ.ME": b"1"})
    (folder / "l.txt").write_text("o.zip\n")
    for source in (folder, folder / "o.zip", folder / "o.zip!" / "p.zip", folder / "l.txt"):
        with pytest.raises(SourceError, match=r"o\.zip!/p\.zip is compressed.*zip -0.*or unpack"):
            list_videos([str(source)])


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("cd", "cd/real"),
        ("cd", "cd/real/a.mp4"),
        ("cd", "cd/p.zip"),
        ("cd", "cd/p.zip!/x.mp4"),
        ("cd/p.zip", "cd/p.zip!/x.mp4"),
        ("cd/wow!", "cd/wow!/b.mp4"),
        ("cd/", "cd/../cd/real/"),
    ],
)
def test_a_source_within_another_is_refused(tree, tmp_path, outer, inner):
    tree("cd", {"real/a.mp4": None, "wow!/b.mp4": None})
    zipped(tmp_path / "cd" / "p.zip", **{"x.mp4": b"1"})
    for pair in ([outer, inner], [inner, outer]):
        with pytest.raises(
            SourceError, match=r"lies in source .* two video_ids; give one"
        ) as caught:
            list_videos([f"{tmp_path}/{p}" for p in pair])
        assert str(caught.value).index(f"{inner}'") < str(caught.value).index(f"{outer}'")


def test_a_source_given_twice_is_refused(tree):
    root = tree("cd", {"a.mp4": None})
    with pytest.raises(SourceError, match=r"is given twice .*give it once"):
        list_videos([root, f"{root}/"])


def test_sources_with_names_that_begin_alike_are_apart(tree):
    sources = [tree(n, {"a.mp4": None}) for n in ("cd", "cd2", "cd.x", "cd!")]
    assert len(list_videos(sources).videos) == 4


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
