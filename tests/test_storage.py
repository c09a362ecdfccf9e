import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from dfscan import storage
from dfscan.errors import DfscanError, OutputError, SourceError, VideoError

CLIP = bytes(range(256)) * 40


def paths(source):
    return [e.path for e in storage.list_source(source)]


def make_zip(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (members or {"a.mp4": CLIP}).items():
            archive.writestr(name, data)
    return path


# ---------------------------------------------------------------- listing


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


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_in_place(tmp_path, compression):
    make_zip(tmp_path / "p.zip", compression, **{"x/a.mp4": CLIP})
    [entry] = storage.list_source(tmp_path)
    assert entry.bytes == len(CLIP)
    assert storage.read_bytes(entry.uri) == CLIP
    assert [p.name for p in tmp_path.iterdir()] == ["p.zip"]


def test_an_archive_replaced_under_its_name_is_opened_anew(tmp_path):
    for data, when in ((b"old", 1), (b"new!", 2)):
        path = make_zip(tmp_path / "p.zip", **{"a.mp4": data})
        os.utime(path, ns=(when, when))
        [entry] = storage.list_source(path)
        assert entry.bytes == len(data)
        assert storage.read_bytes(entry.uri) == data


def test_a_folder_may_end_in_an_exclamation_mark(tmp_path):
    (tmp_path / "wow!").mkdir()
    (tmp_path / "wow!" / "a.mp4").write_bytes(CLIP)
    [entry] = storage.list_source(tmp_path)
    assert storage.read_bytes(entry.uri) == CLIP


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_a_decode_error(tmp_path, compression):
    path = make_zip(tmp_path / "p.zip", compression)
    data = bytearray(path.read_bytes())
    data[30 + len("a.mp4")] ^= 0xFF  # the first byte after the local header
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{path}!/a.mp4")
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize("gone", ["a.mp4", "p.zip!/other.mp4", "q.zip!/a.mp4"])
def test_what_is_gone_is_missing(tmp_path, gone):
    make_zip(tmp_path / "p.zip")
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{tmp_path}/{gone}")
    assert caught.value.status == "missing"


@pytest.mark.parametrize("name", ["a.mp4", "p.zip!/a.mp4"])
def test_more_than_the_limit_is_too_large(tmp_path, name):
    (tmp_path / "a.mp4").write_bytes(CLIP)
    make_zip(tmp_path / "p.zip", zipfile.ZIP_DEFLATED)
    assert storage.read_bytes(f"{tmp_path}/{name}", limit=len(CLIP)) == CLIP
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{tmp_path}/{name}", limit=len(CLIP) - 1)
    assert caught.value.status == "too_large"
    assert "10,239" in caught.value.reason


def test_what_is_not_json_is_named(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(SourceError, match=r"m\.json is not valid JSON"):
        storage.read_json(str(tmp_path / "m.json"))


def test_only_committed_tables_are_read(tmp_path):
    for name in ("b.parquet", "a.parquet", ".a.parquet.tmp-1"):
        storage.commit_table(tmp_path / name, pa.table({"x": [name], "y": [1]}))
    read = [(Path(p).name, t.to_pydict()) for p, t in storage.read_tables(tmp_path, ["x"])]
    assert read == [("a.parquet", {"x": ["a.parquet"]}), ("b.parquet", {"x": ["b.parquet"]})]
    assert list(storage.read_tables(tmp_path / "absent")) == []


# ---------------------------------------------------------------- committing


def test_a_commit_makes_its_folders_and_leaves_nothing_else(tmp_path):
    storage.commit_json(tmp_path / "a" / "b.json", {"k": "é"})
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8") == '{\n  "k": "é"\n}\n'
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_commit_that_fails_leaves_the_old_content_and_no_temporary(tmp_path, monkeypatch, broken):
    target = tmp_path / "a.bin"
    storage.commit_bytes(target, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(DfscanError, match=r"cannot write .*a\.bin: No space left.*free space"):
        storage.commit_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((tmp_path / "a.bin").exists()))
    storage.commit_bytes(tmp_path / "a.bin", b"new")
    assert seen == [False, True]


def test_remove_takes_files_folders_and_nothing(tmp_path):
    storage.commit_bytes(tmp_path / "d" / "f", b"")
    storage.remove(tmp_path / "d")
    storage.remove(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_refused_even_to_overwrite(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"not empty and holds no dataset\.json"):
            storage.check_output_folder(tmp_path, "dataset.json", overwrite, ("holiday.jpg",))
    assert (tmp_path / "holiday.jpg").exists()


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file: give a folder"):
        storage.check_output_folder(tmp_path / "out", "m", overwrite=False, parts=())


def test_overwriting_removes_our_parts_only(tmp_path):
    for name in ("dataset.json", "faces/a", "notes.txt"):
        storage.commit_bytes(tmp_path / name, b"")
    storage.check_output_folder(tmp_path, "dataset.json", False, ("faces",))
    assert (tmp_path / "faces").exists()
    storage.check_output_folder(tmp_path, "dataset.json", True, ("faces", "dataset.json"))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_new_or_empty_folder_is_made_ready(tmp_path):
    for _ in range(2):
        storage.check_output_folder(tmp_path / "a" / "b", "m", overwrite=False, parts=())
    assert (tmp_path / "a" / "b").is_dir()


# ---------------------------------------------------------------- locking


def hold(path, host, pid):
    path.write_text(json.dumps({"host": host, "pid": pid, "token": "another"}))


def test_a_lock_refuses_a_second_holder_by_host_and_pid_then_is_free_again(tmp_path):
    path = tmp_path / "lock"
    with storage.Lock(path, "faces"):
        who = rf"faces is in use .*host {socket.gethostname()}, pid {os.getpid()}"
        with pytest.raises(OutputError, match=who), storage.Lock(path, "faces"):
            pass
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with storage.Lock(path, "faces"):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    hold(tmp_path / "lock", socket.gethostname(), child.pid)
    with storage.Lock(tmp_path / "lock", "faces"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_is_kept_until_its_lease_runs_out(tmp_path):
    path = tmp_path / "lock"
    hold(path, "elsewhere", 1)
    with pytest.raises(OutputError, match="host elsewhere, pid 1"), storage.Lock(path, "faces"):
        pass
    old = path.stat().st_mtime - storage.LEASE_S - 1
    os.utime(path, (old, old))
    with storage.Lock(path, "faces"):
        pass
    assert not path.exists()


def test_a_held_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "LEASE_S", 0.06)
    path = tmp_path / "lock"
    with storage.Lock(path, "faces") as lock:
        os.utime(path, (1, 1))
        assert lock._stop.wait(0.3) is False
        assert path.stat().st_mtime > 1


def test_a_lock_that_another_run_took_over_is_not_removed(tmp_path):
    path = tmp_path / "lock"
    with storage.Lock(path, "faces"):
        hold(path, "elsewhere", 1)
    assert path.exists()


def test_a_lock_is_freed_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), storage.Lock(tmp_path / "lock", "faces"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").touch()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    assert [e.path for e in storage.list_source(tmp_path / "source")] == ["linked/a.mp4"]


def test_a_limit_far_above_the_file_costs_no_memory(tmp_path):
    (tmp_path / "small").write_bytes(b"abc")
    assert storage.read_bytes(str(tmp_path / "small"), limit=10**15) == b"abc"
