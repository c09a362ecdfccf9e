import os
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from support.archives import CLIP, make_zip, tar_bytes, zip_bytes

from dfscan import storage
from dfscan.errors import SourceError
from dfscan.storage import listing


def paths(source):
    return [e.path for e in storage.list_source(source)]


def test_a_folder_is_listed_recursively_by_path_and_archives_are_looked_into(tmp_path):
    for name in ("b.mp4", "a/c.mp4", ".hidden.mp4", ".git/d.mp4", "__MACOSX/e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")
    make_zip(tmp_path / "p.ZIP", **{"x/y.mp4": b"1", ".h/z.mp4": b"1", "x/.z.mp4": b"1", "e/": b""})
    (tmp_path / "q.tar").write_bytes(tar_bytes({"./k.mp4": b"1", "__MACOSX/k.mp4": b"1"}))
    assert paths(tmp_path) == ["a/c.mp4", "b.mp4", "p.ZIP!/x/y.mp4", "q.tar!/k.mp4"]


def test_a_file_by_itself_has_an_empty_path(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"1234")
    [entry] = storage.list_source(tmp_path / "b.mp4")
    assert (entry.path, entry.uri, entry.bytes) == ("", str(tmp_path / "b.mp4"), 4)


def test_a_file_uri_is_a_path(tmp_path):
    (tmp_path / "b c.mp4").write_bytes(b"1234")
    [entry] = storage.list_source(f"file://{tmp_path}/b%20c.mp4")
    assert entry.uri == f"{tmp_path}/b c.mp4"


def test_folders_linked_to_are_listed_once_and_circles_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes(CLIP)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert paths(tmp_path) == ["a/x.mp4"]


def test_a_name_that_is_not_utf8_is_escaped_and_still_read(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(CLIP)
    [entry] = storage.list_source(tmp_path)
    assert entry.path == "caf\\xe9.mp4"
    assert storage.read_bytes(entry.uri) == CLIP


@pytest.mark.parametrize("name", ["\ud800", "\ud800\udce9"])
def test_a_name_that_no_file_can_have_is_not_there(name):
    with pytest.raises(SourceError, match="does not exist"):
        storage.list_source(f"/tmp/{name}")


def test_a_version_changes_with_the_content(tmp_path):
    def version():
        return storage.list_source(tmp_path)[0].version

    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"1234")
    os.utime(clip, ns=(1, 1))
    before = version()
    assert version() == before
    os.utime(clip, ns=(2, 2))
    assert version() != before


def test_a_members_version_is_its_checksum_not_its_time(tmp_path):
    def version(name, data):
        return storage.list_source(make_zip(tmp_path / name, **{"a.mp4": data}))[0].version

    assert version("1.zip", b"same") == version("2.zip", b"same")
    assert version("3.zip", b"diff") != version("2.zip", b"same")


def test_a_tar_members_version_is_its_size_and_time(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.mp4": b"1234"}, mtime=17))
    assert [e.version for e in storage.list_source(tmp_path)] == ["4-17"]


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"absent.* does not exist: give a folder, a \.zip"):
        storage.list_source(tmp_path / "absent")


@pytest.mark.parametrize("name", ["p.zip", "p.tar"])
def test_a_damaged_archive_is_an_error_by_name_and_an_entry_within_a_folder(tmp_path, name):
    make_zip(tmp_path / "good.zip")
    (tmp_path / name).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(SourceError, match=rf"{name} is not a readable {name[2:]} archive"):
        storage.list_source(tmp_path / name)
    assert paths(tmp_path) == ["good.zip!/a.mp4", name]


def test_a_damaged_archive_within_an_archive_is_an_entry(tmp_path):
    outer = make_zip(tmp_path / "o.zip", **{"bad.zip": b"junk", "good.zip": zip_bytes({"a": b"1"})})
    assert paths(outer) == ["!/bad.zip", "!/good.zip!/a"]


def test_a_tar_with_a_damaged_header_is_not_listed_by_half(tmp_path):
    data = bytearray(tar_bytes({f"{i}.mp4": b"x" * 512 for i in range(4)}))
    data[2 * 1024 + 5] ^= 0xFF
    (tmp_path / "p.tar").write_bytes(data)
    with pytest.raises(SourceError, match=r"p\.tar is not .*damaged header at byte 2,048"):
        storage.list_source(tmp_path / "p.tar")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.TGZ", "x.7z"])
def test_a_compressed_archive_by_name_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(
        SourceError, match=r"cannot be read in place; unpack it, or make it a \.tar"
    ):
        storage.list_source(tmp_path / name)


def test_parts_in_one_archive_list_as_the_parts_do(tmp_path):
    parts = {f"p{i}.zip": {f"d{i}/a.mp4": CLIP, f"d{i}/b.mp4": b"2" * i} for i in range(3)}
    (tmp_path / "parts").mkdir()
    for name, members in parts.items():
        make_zip(tmp_path / "parts" / name, **members)
    outer = make_zip(tmp_path / "all.zip", **{n: zip_bytes(m) for n, m in parts.items()})

    def told(source, before):
        entries = storage.list_source(source)
        return [(e.path.removeprefix(before), e.bytes, e.version) for e in entries]

    assert told(outer, "!/") == told(tmp_path / "parts", "")


@pytest.mark.parametrize("inner", ["zip", "tar"])
@pytest.mark.parametrize("outer", ["zip", "tar"])
def test_archives_lie_within_archives_of_either_kind(tmp_path, outer, inner):
    make = {"zip": zip_bytes, "tar": tar_bytes}
    path = tmp_path / f"o.{outer}"
    path.write_bytes(make[outer]({"first.txt": b"1", f"d/i.{inner}": make[inner]({"x/a": CLIP})}))
    entries = storage.list_source(path)
    assert [e.path for e in entries] == [f"!/d/i.{inner}!/x/a", "!/first.txt"]
    assert storage.read_bytes(entries[0].uri) == CLIP


def test_a_part_within_an_archive_can_be_the_source(tmp_path):
    outer = make_zip(tmp_path / "o.zip", **{"p.zip": zip_bytes({"d/a.mp4": CLIP}), "b.mp4": b"1"})
    [entry] = storage.list_source(f"{outer}!/p.zip")
    assert (entry.path, entry.uri) == ("!/d/a.mp4", f"{outer}!/p.zip!/d/a.mp4")
    [entry] = storage.list_source(f"{outer}!/p.zip!/d/a.mp4")
    assert (entry.path, entry.bytes) == ("", len(CLIP))
    with pytest.raises(SourceError, match="no such member"):
        storage.list_source(f"{outer}!/absent.mp4")


def closed(entries):
    return [(e.path, e.closed) for e in entries if e.closed]


def test_a_compressed_inner_archive_is_an_entry_that_says_the_way_out(tmp_path):
    inner = zip_bytes({"a.mp4": CLIP})
    path = make_zip(tmp_path / "o.zip", zipfile.ZIP_DEFLATED, **{"p.zip": inner, "b.mp4": b"1"})
    advice = (
        f"{path}!/p.zip is compressed or encrypted in the archive that holds it, so it cannot be "
        f"read in place: store it there without compression (zip -0), or unpack the outer archive"
    )
    assert paths(path) == ["!/b.mp4", "!/p.zip"]
    assert closed(storage.list_source(path)) == [("!/p.zip", advice)]
    assert closed(storage.list_source(tmp_path)) == [("o.zip!/p.zip", advice)]
    [listed] = storage.list_paths([(f"{tmp_path}/", "o.zip!/p.zip")])
    assert closed(listed) == [("o.zip!/p.zip", advice)]
    assert storage.read_bytes(listed[0].uri) == inner
    with pytest.raises(SourceError, match=r"o\.zip!/p\.zip is compressed.*zip -0.*or unpack"):
        storage.list_source(f"{path}!/p.zip")


def test_a_third_archive_within_two_is_an_entry_that_says_the_way_out(tmp_path):
    data = zip_bytes({"b.zip": zip_bytes({"c.zip": zip_bytes({"x": b""}), "y": b""})})
    (tmp_path / "a.zip").write_bytes(data)
    assert paths(tmp_path) == ["a.zip!/b.zip!/c.zip", "a.zip!/b.zip!/y"]
    advice = (
        f"{tmp_path}/a.zip!/b.zip!/c.zip: archives can be nested 2 deep at most: "
        f"unpack {tmp_path}/a.zip"
    )
    assert closed(storage.list_source(tmp_path)) == [("a.zip!/b.zip!/c.zip", advice)]
    with pytest.raises(
        SourceError, match=r"b\.zip!/c\.zip: archives can be nested 2 deep .*unpack .*a\.zip$"
    ):
        storage.list_source(f"{tmp_path}/a.zip!/b.zip!/c.zip")


def test_links_in_archives_are_not_followed(tmp_path):
    (tmp_path / "t.tar").write_bytes(tar_bytes({"a.mp4": b""}, type=tarfile.SYMTYPE, linkname="/x"))
    (tmp_path / "h.tar").write_bytes(tar_bytes({"a.mp4": b""}, type=tarfile.LNKTYPE, linkname="/x"))
    link = zipfile.ZipInfo("a.mp4")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert paths(tmp_path) == []


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"newer")
    (tmp_path / "t.tar").write_bytes(tar_bytes({"./b": b"old", "b": b"newer"}))
    entries = storage.list_source(tmp_path)
    assert [e.path for e in entries] == ["t.tar!/b", "z.zip!/a"]
    assert [storage.read_bytes(e.uri) for e in entries] == [b"newer", b"newer"]


def test_thousands_of_members_are_listed_in_little_time(tmp_path):
    part = [zip_bytes({f"d{p}/{i:05}.mp4": b"" for i in range(2000)}) for p in range(3)]
    outer = make_zip(tmp_path / "o.zip", **{f"p{i}.zip": data for i, data in enumerate(part)})
    started = time.perf_counter()
    entries = storage.list_source(outer)
    assert time.perf_counter() - started < 2  # 0.05 s on two cores
    assert len({e.uri for e in entries}) == 6000
    assert len({id(e.root) for e in entries}) == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://example.org/a.mp4", r"cannot be used; allowed: paths and s3://, gs://"),
        ("s3://key:secret@bucket/a", r"@bucket with credentials .*set AWS_ACCESS_KEY_ID"),
    ],
)
def test_uris_that_are_not_read_are_refused(uri, message):
    with pytest.raises(SourceError, match=message) as caught:
        storage.list_source(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_many_places_are_looked_at_in_order(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(listing, "_AT_ONCE", at_once)
    (tmp_path / "a.mp4").write_bytes(b"1234")
    members = {"p.zip": zip_bytes({"d/x.mp4": b"12", "d/y.mp4": b"1"}), "b.mp4": b"123"}
    make_zip(tmp_path / "o.zip", **members)
    (tmp_path / "bad.zip").write_bytes(b"junk")
    root = f"{tmp_path}/"
    wanted = [
        "o.zip!/p.zip",
        "gone.mp4",
        "a.mp4",
        "o.zip!/b.mp4",
        "o.zip!/gone.mp4",
        "bad.zip",
        "bad.zip!/x",
        "gone.zip!/x",
        "o.zip",
    ]
    found = [
        [(e.path, e.bytes, bool(e.version)) for e in entries]
        for entries in storage.list_paths([(root, path) for path in wanted])
    ]
    inner = [("o.zip!/p.zip!/d/x.mp4", 2, True), ("o.zip!/p.zip!/d/y.mp4", 1, True)]
    assert found == [
        inner,
        [("gone.mp4", 0, False)],
        [("a.mp4", 4, True)],
        [("o.zip!/b.mp4", 3, True)],
        [("o.zip!/gone.mp4", 0, False)],
        [("bad.zip", 4, True)],
        [("bad.zip!/x", 0, False)],
        [("gone.zip!/x", 0, False)],
        [("o.zip!/b.mp4", 3, True), *inner],
    ]


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").touch()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    assert [e.path for e in storage.list_source(tmp_path / "source")] == ["linked/a.mp4"]


def test_when_a_file_was_changed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    os.utime(tmp_path / "a.mp4", ns=(0, 1_500_000_000))
    make_zip(tmp_path / "p.zip", **{"x.mp4": b"1"})
    (tmp_path / "q.tar").write_bytes(tar_bytes({"k.mp4": b"1"}))
    times = [storage.modified_s(e.uri, e.version) for e in storage.list_source(tmp_path)]
    assert times == [1.5, None, 0]
    assert storage.modified_s("/gone.mp4", "") is None
