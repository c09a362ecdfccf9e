import os
import zipfile

import pytest

from dfscan import storage
from dfscan.errors import SourceError

CLIP = bytes(range(256)) * 40


def paths(source):
    return [e.path for e in storage.list_source(source)]


def make_zip(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (members or {"a.mp4": CLIP}).items():
            archive.writestr(name, data)
    return path


def test_a_folder_is_listed_recursively_by_path_and_zips_are_looked_into(tmp_path):
    for name in ("b.mp4", "a/c.mp4", ".hidden.mp4", ".git/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")
    make_zip(tmp_path / "p.zip", **{"x/y.mp4": b"1", ".h/z.mp4": b"1", "x/.z.mp4": b"1", "e/": b""})
    assert paths(tmp_path) == ["a/c.mp4", "b.mp4", "p.zip!/x/y.mp4"]


def test_a_file_by_itself_has_an_empty_path(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"1234")
    [entry] = storage.list_source(tmp_path / "b.mp4")
    assert (entry.path, entry.uri, entry.bytes) == ("", str(tmp_path / "b.mp4"), 4)


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


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"absent.* does not exist: give a folder, a \.zip"):
        storage.list_source(tmp_path / "absent")


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "p.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(SourceError, match=r"p\.zip is not a readable zip archive"):
        storage.list_source(tmp_path)
