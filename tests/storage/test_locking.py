import json
import os
import socket
import subprocess
import sys
import zipfile

import pytest

from dfscan import storage
from dfscan.errors import OutputError
from dfscan.storage import locking

CLIP = bytes(range(256)) * 40


def paths(source):
    return [e.path for e in storage.list_source(source)]


def make_zip(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (members or {"a.mp4": CLIP}).items():
            archive.writestr(name, data)
    return path


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
    old = path.stat().st_mtime - locking.LEASE_S - 1
    os.utime(path, (old, old))
    with storage.Lock(path, "faces"):
        pass
    assert not path.exists()


def test_a_held_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "LEASE_S", 0.06)
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
