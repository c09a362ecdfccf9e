import os

import pytest

from dfscan import storage
from dfscan.errors import DfscanError, OutputError


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


def test_a_file_that_is_written_in_steps_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.bin"

    def write(path, breaks=False):
        path.write_bytes(b"first ")
        if breaks:
            raise KeyError("half way")
        with path.open("ab") as file:
            file.write(b"second")

    with pytest.raises(KeyError, match="half way"):
        storage.commit_file(target, lambda path: write(path, breaks=True))
    assert list(target.parent.iterdir()) == []
    storage.commit_file(target, write)
    with pytest.raises(KeyError, match="half way"):
        storage.commit_file(target, lambda path: write(path, breaks=True))
    assert target.read_bytes() == b"first second"
    assert list(target.parent.iterdir()) == [target]


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


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe' is a device or a pipe: give a file"):
        storage.commit_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
