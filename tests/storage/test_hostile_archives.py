"""Archives made to do harm: they are read in place, so nothing of them ever gets a path on disk."""

import contextlib
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dfscan import storage
from dfscan.errors import SourceError, VideoError

NAMES = ["../../../etc/passwd.mp4", "/etc/passwd.mp4", "a/../../b.mp4", "..\\c.mp4", "C:\\d.mp4"]


def zipped(members, how=zipfile.ZIP_STORED):
    """``members``: (name, content) in order; a name may come twice."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(members):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


MAKE = {"zip": zipped, "tar": tarred}


@pytest.fixture
def write(tmp_path):
    def put(name, data):
        path = tmp_path / "source" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return put


def read_all(source):
    return {e.path: storage.read_bytes(e.uri) for e in storage.list_source(source)}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_out_of_an_archive_lead_nowhere(write, tmp_path, kind):
    """``..`` is left out as every name with a dot in front is; an absolute name is below its archive."""
    source = write(f"x.{kind}", MAKE[kind]([(name, name.encode()) for name in NAMES]))
    before = sorted(tmp_path.rglob("*"))
    read = read_all(source)
    assert read == {"!/etc/passwd.mp4": b"/etc/passwd.mp4", "!/C:\\d.mp4": b"C:\\d.mp4"}
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(VideoError, match="missing"):
        storage.read_bytes(f"{source}!/../../../../../../etc/passwd")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd"])
def test_links_in_archives_are_not_followed(write, target):
    link = zipfile.ZipInfo("link.mp4")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    assert read_all(write("x.zip", zipped([(link, target), ("a.mp4", b"a")]))) == {"!/a.mp4": b"a"}
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, type_ in (("s.mp4", tarfile.SYMTYPE), ("h.mp4", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, target
            archive.addfile(info)
        for name, type_ in (("fifo.mp4", tarfile.FIFOTYPE), ("dev.mp4", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type = type_
            archive.addfile(info)
        info = tarfile.TarInfo("a.mp4")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
    assert read_all(write("x.tar", sink.getvalue())) == {"!/a.mp4": b"a"}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_one_member_the_last(write, kind):
    """As every unpacker leaves it; which of them was read is in its hash."""
    source = write(f"x.{kind}", MAKE[kind]([("a.mp4", b"first"), ("a.mp4", b"second")]))
    assert read_all(source) == {"!/a.mp4": b"second"}


def test_a_bomb_stops_at_the_limit_and_takes_no_memory(write):
    """A hundred megabytes of zeros in a hundred kilobytes."""
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.mp4", "w") as member,
    ):
        for _ in range(96):
            member.write(bytes(1 << 20))
    source = write("x.zip", sink.getvalue())
    assert Path(source).stat().st_size < 2 << 20
    program = (
        "import resource, sys; from dfscan import storage; from dfscan.errors import VideoError\n"
        "[e] = storage.list_source(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: storage.read_bytes(e.uri, 16 << 20)\n"
        "except VideoError as error: print(error.status)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    status, grown = subprocess.run(
        [sys.executable, "-c", program, source], capture_output=True, text=True, check=True
    ).stdout.split()
    assert status == "too_large"
    assert int(grown) < 80 << 10, "kilobytes: no more than twice what was let through"


@pytest.mark.parametrize("claimed", [0, 1, 10_000, 0xFFFFFFF0])
def test_a_size_that_is_not_so_is_damage(write, claimed):
    """The directory's word for a member's size; never more bytes than there are, nor others."""
    content = b"content of the member"
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = bytearray(zipped([("a.mp4", content), ("b.mp4", b"other")], how))
        entry = data.index(b"PK\x01\x02")
        struct.pack_into("<I", data, entry + 24, claimed)
        [a, b] = storage.list_source(write("x.zip", bytes(data)))
        assert storage.read_bytes(b.uri) == b"other"
        with contextlib.suppress(VideoError):  # the checksum tells, except of nothing at all
            read = storage.read_bytes(a.uri)
            assert read == content[: min(claimed, len(content))]


def test_a_place_before_the_start_is_damage(write):
    """A piece is missing: what follows lies earlier than the directory says."""
    data = zipped([("a.mp4", os.urandom(3000)), ("b.mp4", b"other")])
    entries = storage.list_source(write("x.zip", data[2000:]))
    assert [e.path for e in entries] == ["!/a.mp4", "!/b.mp4"]
    with pytest.raises(VideoError, match=r"decode_error: damaged .* before the start"):
        storage.read_bytes(entries[0].uri)


def test_encrypted_members_are_damage(write):
    data = bytearray(zipped([("a.mp4", b"content")]))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    [entry] = storage.list_source(write("x.zip", bytes(data)))
    with pytest.raises(VideoError, match=r"decode_error: damaged or encrypted .*encrypted"):
        storage.read_bytes(entry.uri)


@pytest.mark.parametrize("kind", MAKE)
def test_archives_too_deep_within_one_another_are_not_opened(write, kind):
    data = MAKE[kind]([("a.mp4", b"a")])
    for depth in range(40):
        data = MAKE[kind]([(f"{depth}.{kind}", data)])
    source = write(f"x.{kind}", data)
    [entry] = storage.list_source(source)
    assert entry.path.count("!/") == 2
    assert "archives can be nested 2 deep at most" in entry.closed
    with pytest.raises(SourceError, match="archives can be nested 2 deep"):
        storage.list_source(entry.uri)


def test_what_is_written_has_the_mode_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        storage.commit_bytes(tmp_path / "new" / "a.parquet", b"a")
        storage.commit_json(tmp_path / "new" / "a.json", {})
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes == {"new": 0o750, "a.parquet": 0o640, "a.json": 0o640}


@pytest.mark.parametrize("place", ["key:secret@clips/a", "key%3Asecret@clips/a"])
@pytest.mark.parametrize("scheme", ["s3", "gs", "abfss", "hdfs", "https"])
def test_a_uri_with_a_password_is_refused_without_repeating_it(place, scheme):
    for use in (storage.list_source, storage.as_path, storage.absolute):
        with pytest.raises(SourceError, match="with credentials") as caught:
            use(f"{scheme}://{place}")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["abfss://clips@account.dfs.core.windows.net/a", "hdfs://me@host:9/a"]
)
def test_a_uri_may_name_a_container_or_a_user(uri):
    assert storage.absolute(uri) == uri
