import json
import os
import socket
import subprocess
import sys

import pytest

from dfscan import storage
from dfscan.errors import DfscanError, OutputError
from dfscan.storage import locking


def hold(path, host, pid, space=None):
    space = locking._pid_space() if space is None else space
    path.write_text(json.dumps({"host": host, "pid": pid, "token": "another", "space": space}))


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


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    hold(tmp_path / "lock", socket.gethostname(), child.pid, space="another boot or container")
    with pytest.raises(OutputError, match="in use"), storage.Lock(tmp_path / "lock", "faces"):
        pass


def test_a_lease_says_when_another_run_has_taken_over(tmp_path):
    path = tmp_path / "lock"
    with storage.Lock(path, "faces") as lock:
        lease = lock.lease
        lease.check()
        hold(path, "elsewhere", 7)
        with pytest.raises(DfscanError, match=r"now: host elsewhere, pid 7.*this one stops"):
            lease.check()
        path.unlink()
        with pytest.raises(DfscanError, match="is missing: the lock was removed"):
            lease.check()


def test_after_a_fence_the_old_lease_commits_nothing_and_the_lock_is_still_ours(tmp_path):
    path = tmp_path / "lock"
    with storage.Lock(path, "faces") as lock:
        old = lock.lease
        new = lock.fence()
        new.check()
        with pytest.raises(DfscanError, match="no longer this run's lock"):
            storage.commit_bytes(tmp_path / "late", b"x", old.check)
        assert not (tmp_path / "late").exists()
        storage.commit_bytes(tmp_path / "good", b"x", new.check)
        with pytest.raises(OutputError, match="in use"), storage.Lock(path, "faces"):
            pass
        hold(path, "elsewhere", 7)
        with pytest.raises(DfscanError, match="taken over"):
            lock.fence()
    assert path.exists()  # the other run's
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", "lock"]


def test_old_temporaries_are_swept_and_fresh_ones_left(tmp_path):
    old, fresh = tmp_path / ".a.parquet.tmp-1", tmp_path / ".b.parquet.tmp-2"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (1, 1))
    storage.sweep(tmp_path, fresh.stat().st_mtime)
    assert list(tmp_path.iterdir()) == [fresh]
    storage.sweep(tmp_path, fresh.stat().st_mtime + 1, age_s=0, name="a.parquet")
    assert list(tmp_path.iterdir()) == [fresh]
    storage.sweep(tmp_path, fresh.stat().st_mtime + 1, age_s=0, name="b.parquet")
    assert list(tmp_path.iterdir()) == []


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
