"""Outputs on object storage, against a server of this process on the loopback address."""

import contextlib
import gc
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from dfscan import storage
from dfscan.errors import DfscanError, OutputError, SourceError, StoreError
from dfscan.storage import backend, locking
from dfscan.storage.paths import ObjectPath, as_path

OUT = ObjectPath("s3://clips/out")


@pytest.fixture(autouse=True)
def store(bucket: Callable[[str, bytes], object]) -> Callable[[str, bytes], object]:
    return bucket


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again after a while."""
    monkeypatch.setattr("dfscan.storage.blobs._PAUSES", ())


def keys() -> list[str]:
    """Objects in the bucket; pyarrow keeps a folder by an empty one that ends in a slash."""
    found = boto3.client("s3").list_objects_v2(Bucket="clips").get("Contents", [])
    return [o["Key"] for o in found if not o["Key"].endswith("/")]


def table(*numbers: int) -> pa.Table:
    return pa.table({"n": list(numbers)})


# ---------------------------------------------------------------- places


def test_a_place_is_a_path_or_an_object_with_the_names_of_paths() -> None:
    assert as_path("run") == Path("run")
    assert as_path("file:///a/b%20c") == Path("/a/b c")
    found = as_path("S3://clips//runs/a b/model.v2.safetensors/")
    assert found == ObjectPath("s3://clips/runs/a b/model.v2.safetensors")
    assert (found.name, found.stem, found.suffix) == (
        "model.v2.safetensors", "model.v2", ".safetensors",
    )  # fmt: skip
    assert str(found.parent / "x") == "s3://clips/runs/a b/x"
    assert str(found.with_name(".lock")) == "s3://clips/runs/a b/.lock"
    assert str(as_path("s3://clips").parent) == "s3://clips"
    assert as_path(found) is found
    assert pickle.loads(pickle.dumps(found)) == found  # it goes to workers
    assert not hasattr(found, "__fspath__")


def test_a_uri_that_pathlib_folded_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'s3:/clips/out' is a URI that pathlib has shortened"):
        as_path(Path("s3://clips/out"))
    for uri in ("s3://clips/a//b", "s3://", "gs:///a"):
        with pytest.raises(SourceError, match="has no name between two slashes"):
            as_path(uri)
    with pytest.raises(SourceError, match=r"ftp://.* cannot be used; allowed: paths and s3://"):
        as_path("ftp://host/out")


# ---------------------------------------------------------------- writing and reading


def test_what_is_committed_is_read_again() -> None:
    storage.commit_bytes(OUT / "a.bin", b"12345")
    storage.commit_bytes(OUT / "a.bin", b"123")
    storage.commit_json(OUT / "a.json", {"ä": 1})
    storage.commit_bytes("S3://clips/out/b.bin/", b"from\r\na file")
    assert storage.read_bytes(str(OUT / "a.bin")) == b"123"
    assert storage.read_json(OUT / "a.json") == {"ä": 1}
    assert storage.read_text(OUT / "b.bin") == "from\na file"
    assert storage.read_start(OUT / "b.bin", 4) == b"from"
    assert storage.size(OUT / "a.bin") == 3
    assert storage.size(OUT / "none") == 0
    assert (storage.is_folder(OUT), storage.is_folder(OUT / "a.bin")) == (True, False)
    assert (storage.is_file(OUT), storage.is_file("S3://clips/out/a.bin")) == (False, True)
    assert keys() == ["out/a.bin", "out/a.json", "out/b.bin"]


def test_tables_are_read_whole_in_columns_and_by_row_group() -> None:
    for number in range(40):  # more than are asked for at once
        storage.commit_table(OUT / "units" / f"{number:02}.parquet", table(number, -number))
    storage.commit_bytes(OUT / "units" / ".hidden.parquet", b"")
    storage.commit_bytes(OUT / "units" / "deeper" / "x.parquet", b"")
    assert [p.name for p in storage.parquet_files(OUT / "units")][:2] == [
        "00.parquet",
        "01.parquet",
    ]
    read = list(storage.read_tables(OUT / "units", ["n"]))
    assert [t.column("n").to_pylist() for _, t in read] == [[i, -i] for i in range(40)]
    assert read[7][0] == OUT / "units" / "07.parquet"
    assert storage.row_count(OUT / "units" / "07.parquet") == 2
    assert storage.row_count(OUT / "units" / "none.parquet") == 0
    opened = storage.open_parquet(OUT / "units" / "07.parquet")
    assert opened.read_row_group(0).num_rows == 2
    assert storage.read_row_group(OUT / "units" / "07.parquet", 0, ["n"]).num_rows == 2
    with pytest.raises(FileNotFoundError):
        storage.read_table(OUT / "none.parquet")
    storage.commit_bytes(OUT / "damaged.parquet", b"PAR1 and more PAR1")
    with pytest.raises((pa.ArrowInvalid, OSError)):
        storage.read_table(OUT / "damaged.parquet")


def test_removing_takes_an_object_or_all_of_a_folder_and_nothing_else() -> None:
    for name in ("a/1", "a/b/2", "ab", "c"):
        storage.commit_bytes(OUT / name, b"x")
    storage.remove(OUT / "a")
    storage.remove(OUT / "a")
    storage.remove(OUT / "c")
    storage.remove(OUT / "none")
    assert keys() == ["out/ab"]


def test_files_of_a_library_are_put_when_it_has_written_them(tmp_path: Path) -> None:
    with storage.as_folder(OUT / "events") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "1").write_bytes(b"one")
        assert keys() == []
    assert storage.read_bytes(str(OUT / "events" / "sub" / "1")) == b"one"
    assert not folder.exists()
    with storage.as_folder(tmp_path) as folder:
        assert folder == tmp_path


def test_what_the_check_raises_leaves_the_old_content() -> None:
    storage.commit_bytes(OUT / "a", b"old")

    def refuse() -> None:
        raise DfscanError("another run has taken over")

    with pytest.raises(DfscanError, match="taken over"):
        storage.commit_bytes(OUT / "a", b"new", refuse)
    assert storage.read_bytes(str(OUT / "a")) == b"old"


@dataclass
class Line:
    """A way to the store that breaks off after so many bytes of what is sent in a connection."""

    store: str
    most: int

    def __enter__(self) -> str:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self.door.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.door.close()
        for end in self.ends:
            end.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.door.accept()
                host, port = self.store.removeprefix("http://").split(":")
                server = socket.create_connection((host, int(port)))
                self.ends += [client, server]
                for one, other, most in ((client, server, self.most), (server, client, 1 << 40)):
                    threading.Thread(
                        target=self._pass, args=(one, other, most), daemon=True
                    ).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket, most: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while (data := one.recv(1 << 16)) and passed + len(data) <= most:
                other.sendall(data)
                passed += len(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("size", [2 << 20, 12 << 20], ids=["in one piece", "in parts"])
@pytest.mark.usefixtures("no_pauses")
def test_an_upload_that_breaks_off_leaves_the_old_object(
    monkeypatch: pytest.MonkeyPatch, object_store: str, size: int
) -> None:
    storage.commit_bytes(OUT / "a", b"old")
    with Line(object_store, 1 << 20) as address, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DfscanError, match=r"^cannot write s3://clips/out/a: NETWORK_CONN"):
            storage.commit_bytes(OUT / "a", b"x" * size)
    gc.collect()  # pyarrow completes what an exception left open when it forgets it
    assert storage.read_bytes(str(OUT / "a")) == b"old"
    storage.commit_bytes(OUT / "a", b"x" * size)
    assert storage.size(OUT / "a") == size


@pytest.mark.usefixtures("no_pauses")
def test_trouble_with_a_store_is_one_line_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DfscanError, match=r"cannot write s3://none/a: NO_SUCH_BUCKET, The spec"):
        storage.commit_bytes("s3://none/a", b"")
    storage.commit_table(OUT / "a.parquet", table(1))
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StoreError, match=r"^s3://clips/out/a\.parquet cannot be reached: NETW"):
            storage.exists(OUT / "a.parquet")  # six seconds: the client tries again by itself

    def refuse(path: str) -> None:
        raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")

    monkeypatch.setattr(backend, "filesystem", refuse)
    for ask in (
        storage.exists,
        storage.size,
        storage.is_folder,
        storage.row_count,
        storage.read_table,
        storage.parquet_files,
        storage.read_text,
        lambda p: storage.read_row_group(p, 0, ["n"]),
        lambda p: list(storage.read_tables(p)),
    ):
        with pytest.raises(StoreError, match=r"^s3://clips/out/a\.parquet cannot be reached: NETW"):
            ask(OUT / "a.parquet")
    with pytest.raises(DfscanError, match=r"^cannot remove s3://clips/out/a\.parquet: NETW"):
        storage.remove(OUT / "a.parquet")
    with pytest.raises(OutputError, match=r"^cannot lock faces: NETW"):
        storage.Lock(OUT / "lock", "faces").__enter__()
    with pytest.raises(OutputError, match=r"^cannot make output folder 's3://clips/out': NETW"):
        storage.check_output_folder(OUT, "dataset.json", False, ())


@pytest.mark.usefixtures("no_pauses")
def test_a_store_that_breaks_while_a_table_is_read_is_no_damaged_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.commit_table(OUT / "a.parquet", table(*range(100_000)))
    opened = storage.open_parquet(OUT / "a.parquet")

    def broken(self: Any, start: int, end: int) -> bytes:
        raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28")

    monkeypatch.setattr("dfscan.storage.blobs.RemoteBlob._fetch", broken)
    with pytest.raises(StoreError, match=r"a\.parquet cannot be reached: NETWORK_CONNECTION, curl"):
        opened.read()


def test_what_is_replaced_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length was asked for before: the rest would be cut off."""
    storage.commit_json(OUT / "a.json", 1)
    replaced: list[int] = []
    fetch = backend.RemoteBlob._fetch

    def replacing(self: Any, start: int, end: int) -> bytes:
        if not replaced:
            replaced.append(1)
            storage.commit_json(OUT / "a.json", {"much": "longer"})
        return fetch(self, start, end)

    monkeypatch.setattr("dfscan.storage.blobs.RemoteBlob._fetch", replacing)
    assert storage.read_json(OUT / "a.json") == {"much": "longer"}
    storage.commit_bytes(OUT / "a.txt", b"a")

    def always(self: Any, start: int, end: int) -> bytes:
        replaced.append(1)
        storage.commit_bytes(OUT / "a.txt", b"a" * len(replaced))
        return fetch(self, start, end)

    monkeypatch.setattr("dfscan.storage.blobs.RemoteBlob._fetch", always)
    with pytest.raises(StoreError, match=r"a\.txt is being replaced all the time"):
        storage.read_text(OUT / "a.txt")


def test_temporaries_are_swept_by_the_clock_of_the_store() -> None:
    for name in (".lock.tmp-1", ".b.lock.tmp-2", "a.parquet", ".lock"):
        storage.commit_bytes(OUT / name, b"x")
    now = backend.modified_s(str(OUT / ".lock"))
    storage.sweep(OUT, now + 10, 20)
    assert len(keys()) == 4
    storage.sweep(OUT, now + 30, 20, name="b.lock")
    assert keys() == ["out/.lock", "out/.lock.tmp-1", "out/a.parquet"]
    storage.sweep(OUT, now + 30, 20)
    assert keys() == ["out/.lock", "out/a.parquet"]


def test_an_output_folder_of_somebody_else_is_refused_and_ours_is_emptied() -> None:
    storage.check_output_folder("s3://clips/new", "dataset.json", False, ())
    storage.commit_bytes(OUT / "theirs", b"x")
    with pytest.raises(OutputError, match=r"'s3://clips/out' is not empty and holds no dataset"):
        storage.check_output_folder(OUT, "dataset.json", True, ("theirs",))
    with pytest.raises(OutputError, match=r"'s3://clips/out/theirs' is a file: give a folder"):
        storage.check_output_folder(OUT / "theirs", "dataset.json", False, ())
    storage.commit_bytes(OUT / "dataset.json", b"{}")
    storage.commit_bytes(OUT / "faces" / "a", b"x")
    storage.check_output_folder(OUT, "dataset.json", True, ("faces", "dataset.json"))
    assert keys() == ["out/theirs"]


def test_what_only_a_file_system_can_hold_is_refused() -> None:
    assert storage.local("stress", "altered copies") == Path("stress")
    with pytest.raises(
        OutputError, match=r"'s3://clips/x' is on object .*, but altered copies must be on"
    ):
        storage.local("s3://clips/x", "altered copies")


# ---------------------------------------------------------------- locks


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits, and each check asks."""
    monkeypatch.setattr(locking, "_SETTLE_S", 0.0)
    monkeypatch.setattr(locking, "_read_lately", lambda path, second: locking._read(path))


def hold(host: str, pid: int, space: str | None = None) -> None:
    """The lock of another run."""
    space = locking._pid_space() if space is None else space
    owner = {"host": host, "pid": pid, "token": "another", "space": space}
    storage.commit_json(OUT / "lock", owner)


def age(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on locks were last renewed a minute and a half before."""
    modified = backend.modified_s
    monkeypatch.setattr(
        backend, "modified_s", lambda p: modified(p) - (90 if p.endswith("lock") else 0)
    )


@pytest.mark.usefixtures("quick")
def test_a_lock_refuses_a_second_holder_then_is_free_again() -> None:
    with storage.Lock(OUT / "lock", "faces") as lock:
        assert abs(lock.now - time.time()) < 60
        who = rf"faces is in use .*host {socket.gethostname()}, pid {os.getpid()}"
        with pytest.raises(OutputError, match=who), storage.Lock(OUT / "lock", "faces"):
            pass
        lock.lease.check()
    assert keys() == []
    with storage.Lock(OUT / "lock", "faces"):
        assert keys() == ["out/lock"]


@pytest.mark.usefixtures("quick")
def test_the_lock_of_a_dead_process_or_an_old_one_is_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    hold(socket.gethostname(), child.pid)
    with storage.Lock(OUT / "lock", "faces"):
        assert storage.read_json(OUT / "lock")["pid"] == os.getpid()
    hold(socket.gethostname(), child.pid, "another boot or container")
    with pytest.raises(OutputError, match="in use"), storage.Lock(OUT / "lock", "faces"):
        pass
    age(monkeypatch)
    with storage.Lock(OUT / "lock", "faces"):
        pass


def test_two_runs_within_a_second_are_two_runs() -> None:
    for _ in range(2):
        with storage.Lock(OUT / "lock", "faces") as lock:
            lock.lease.check()
            lock.fence().check()


@pytest.mark.usefixtures("quick")
def test_a_lease_says_when_another_run_has_taken_over() -> None:
    with storage.Lock(OUT / "lock", "faces") as lock:
        old = lock.lease
        lock.fence().check()
        with pytest.raises(DfscanError, match="no longer this run's lock"):
            storage.commit_bytes(OUT / "late", b"x", old.check)
        hold("elsewhere", 7)
        with pytest.raises(DfscanError, match=r"now: host elsewhere, pid 7.*this one stops"):
            lock.lease.check()
    assert keys() == ["out/lock"]  # the other run's
    storage.remove(OUT / "lock")
    with pytest.raises(DfscanError, match="is missing: the lock was removed"):
        old.check()


@pytest.mark.usefixtures("quick")
def test_a_renewal_brings_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the token before a fence, nor a lock that was removed, nor its own over another run's."""
    put, begun = backend.put, threading.Event()

    def slow(path: str, data: bytes) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.2)
        put(path, data)

    with storage.Lock(OUT / "lock", "faces") as lock:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "put", slow)
            renewal = threading.Thread(target=lock._file.renew)
            renewal.start()
            begun.wait()
            fenced = lock.fence()
            renewal.join()
        fenced.check()
        for content, left in ((None, []), (b"garbage", ["out/lock"]), (b"{}", ["out/lock"])):
            storage.remove(OUT / "lock")
            if content is not None:
                storage.commit_bytes(OUT / "lock", content)
            turns = iter([False, True])
            monkeypatch.setattr(lock._stop, "wait", lambda s, turns=turns: next(turns))
            lock._renew()
            assert keys() == left
            assert content is None or storage.read_bytes(str(OUT / "lock")) == content


@pytest.mark.usefixtures("quick")
def test_a_lock_that_is_no_lock_is_freed_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    storage.commit_bytes(OUT / "lock", b"garbage")
    with pytest.raises(OutputError, match="in use"), storage.Lock(OUT / "lock", "faces"):
        pass
    age(monkeypatch)
    with storage.Lock(OUT / "lock", "faces"):
        pass


def test_of_two_runs_that_begin_at_once_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen no lock and both have put theirs: the later one has it."""
    other = json.dumps({"host": "elsewhere", "pid": 7, "token": "another"}).encode()
    monkeypatch.setattr(time, "sleep", lambda s: backend.put(str(OUT / "lock"), other))
    with (
        pytest.raises(OutputError, match=r"in use by another dfscan run \(host elsewhere, pid 7"),
        storage.Lock(OUT / "lock", "faces"),
    ):
        pass
    assert storage.read_json(OUT / "lock")["token"] == "another"
