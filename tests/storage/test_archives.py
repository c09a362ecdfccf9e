import tarfile

import pytest
from support.archives import tar_bytes, zip_bytes

from dfscan.storage import archives
from dfscan.storage.blobs import LocalBlob, Span

CLIP = bytes(range(256)) * 4096  # 1 MiB


class Counting:
    """A blob that says how much of it was read."""

    def __init__(self, data):
        self.data = data
        self.size = len(data)
        self.read = 0

    def read_at(self, offset, count):
        piece = self.data[offset : offset + count]
        self.read += len(piece)
        return piece


def opened(name, data):
    blob = Counting(data)
    return blob, archives.load(name, Span(blob, 0, blob.size))


@pytest.mark.parametrize(("name", "make"), [("a.zip", zip_bytes), ("a.tar", tar_bytes)])
def test_listing_reads_headers_and_no_content(name, make):
    blob, archive = opened(name, make({f"{i}.mp4": CLIP for i in range(5)}))
    assert [m.bytes for m in archive.members()] == [len(CLIP)] * 5
    assert blob.read < 20_000


def test_listing_a_part_within_an_archive_reads_headers_only():
    part = zip_bytes({f"{i}.mp4": CLIP for i in range(3)})
    blob, outer = opened("o.zip", zip_bytes({"p.zip": part, "q.zip": part}))
    inner = archives.load("p.zip", outer.span("p.zip"))
    assert {m.name for m in inner.members()} == {"0.mp4", "1.mp4", "2.mp4"}
    assert blob.read < 2_000


def test_reading_a_member_reads_little_else():
    part = zip_bytes({f"{i}.mp4": CLIP for i in range(3)})
    blob, outer = opened("o.zip", zip_bytes({"p.zip": part}))
    inner = archives.load("p.zip", outer.span("p.zip"))
    before = blob.read
    with inner.open("1.mp4") as file:
        assert file.read() == CLIP
    assert blob.read - before < len(CLIP) + 1_000


def test_an_encrypted_inner_archive_is_not_taken_for_a_stored_one():
    data = bytearray(zip_bytes({"p.zip": zip_bytes({"a.mp4": b"1"})}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the outer directory
    outer = opened("o.zip", bytes(data))[1]
    with pytest.raises(archives.CompressedError, match="compressed or encrypted"):
        outer.span("p.zip")


def test_bytes_before_a_zip_do_not_shift_its_members():
    inner = zip_bytes({"a.mp4": CLIP})
    blob = Counting(b"#!/bin/sh\n" + zip_bytes({"p.zip": inner}))
    span = archives.load("x.zip", Span(blob, 0, blob.size)).span("p.zip")
    assert span.read_at(0, span.size) == inner


def test_an_archive_cut_after_an_inner_one_is_not_taken_for_that_one():
    inner = zip_bytes({"a.mp4": b"1" * 100})
    outer = zip_bytes({"p.zip": inner, "q.zip": inner})
    end_of_first = outer.index(inner) + len(inner)
    for cut in (end_of_first + 1, end_of_first + 20):
        with pytest.raises(archives.ArchiveError, match="cut short"):
            opened("o.zip", outer[:cut])


@pytest.mark.parametrize(
    ("uri", "chain"),
    [
        ("/a/b.mp4", ["/a/b.mp4"]),
        ("/a/wow!/b.mp4", ["/a/wow!/b.mp4"]),
        ("/a/x.zip!/wow!/b.mp4", ["/a/x.zip", "wow!/b.mp4"]),
        ("s3://b/x.ZIP!/p.tar!/d/a.mp4", ["s3://b/x.ZIP", "p.tar", "d/a.mp4"]),
    ],
)
def test_a_uri_is_a_file_and_members(uri, chain):
    assert archives.split(uri) == chain


@pytest.mark.parametrize("at", [0, 26, 28, 42, -22, -12, -10, -6])
def test_damaged_bytes_are_an_archive_error_or_change_nothing(at):
    data = bytearray(zip_bytes({"p.zip": zip_bytes({"a.mp4": b"1" * 100})}))
    data[at] ^= 0xFF
    try:
        outer = opened("o.zip", bytes(data))[1]
        names = [
            [x.name for x in archives.load(m.name, outer.span(m.name)).members()]
            for m in outer.members()
        ]
    except archives.ArchiveError:
        return
    assert names == [["a.mp4"]]


def header(name, size=0, kind=tarfile.REGTYPE, pax=None):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


PAD = bytes(2048)
SPARSE = bytearray(header("a.mp4", 512, tarfile.GNUTYPE_SPARSE))
SPARSE[482] = 1  # more of its map follows, which it does not
SPARSE[148:156] = b"%06o\0 " % (sum(SPARSE[:148]) + 8 * 32 + sum(SPARSE[156:]))


@pytest.mark.parametrize(
    "headers",
    [
        header("a.mp4") + header("b.mp4", -512) + PAD,
        header("a.mp4") + header("b.mp4", 1 << 20, pax={"size": "-512"}) + PAD,
        header("a.mp4") + header("b.mp4", -512, tarfile.GNUTYPE_LONGNAME) + PAD,
        header("n", 2, tarfile.GNUTYPE_LONGNAME) * 3000,
        header("a.mp4") + header("b.mp4", pax={"GNU.sparse.realsize": "1" + "0" * 30}) + PAD,
        header("a.mp4") + bytes(SPARSE),
    ],
    ids=["points back", "pax points back", "long name", "chain", "no file's size", "sparse"],
)
def test_a_tar_whose_headers_lead_nowhere_is_damaged(headers):
    with pytest.raises(archives.ArchiveError):
        opened("a.tar", headers)


def test_a_header_of_a_tar_that_claims_much_is_not_read():
    headers = header("n", 512 << 20, tarfile.GNUTYPE_LONGNAME)

    class Huge(Counting):
        def read_at(self, offset, count):
            assert count <= 1 << 20
            return headers[offset:][:count].ljust(count, b"\0")

    blob = Huge(headers)
    blob.size = 1 << 30
    with pytest.raises(archives.ArchiveError, match="claims a directory of 536,870,912 bytes"):
        archives.load("a.tar", Span(blob, 0, blob.size))


def test_a_size_that_no_file_has_is_damage():
    data = bytearray(zip_bytes({"a.mp4": b"1"}))
    directory = data.index(b"PK\x01\x02")
    extra = b"\1\0\x08\0" + b"\xff" * 8  # of zip64: the size
    data[directory + 24 : directory + 28] = b"\xff" * 4
    data[directory + 30] = len(extra)
    data[directory + 46 + len("a.mp4") : directory + 46 + len("a.mp4")] = extra
    data[-10] += len(extra)  # the directory's size
    with pytest.raises(archives.ArchiveError, match=r"'a\.mp4' claims a size that no file has"):
        opened("o.zip", bytes(data))


def test_a_directory_of_absurd_size_is_not_read():
    end = zip_bytes({"a": b""})[-22:]
    claims = end[:12] + (2 << 30).to_bytes(4, "little") + end[16:]

    class Huge(Counting):
        def read_at(self, offset, count):
            assert count < 1 << 20
            start = self.size - len(claims)
            return bytes(max(0, min(count, start - offset))) + (
                claims[max(0, offset - start) :][:count] if offset + count > start else b""
            )

    blob = Huge(claims)
    blob.size = 4 << 30
    with pytest.raises(archives.ArchiveError, match="claims a directory"):
        archives.load("x.zip", Span(blob, 0, blob.size))


def test_few_archives_stay_open(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.zip").write_bytes(zip_bytes({"a": b"1"}))
        archives.open_archive(f"{tmp_path}/{i}.zip")
    first = archives.open_archive(f"{tmp_path}/29.zip")
    assert archives.open_archive(f"{tmp_path}/29.zip") is first
    assert archives._open.cache_info().currsize <= 8
    archives.forget()
    assert archives._open.cache_info().currsize == 0


def test_a_span_ends_where_it_ends(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    span = Span(LocalBlob(str(tmp_path / "f")), 2, 5)
    assert (span.read_at(0, 3), span.read_at(3, 99), span.read_at(9, 1)) == (b"234", b"56", b"")
