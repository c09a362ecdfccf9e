import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archives import CLIP, make_zip

from dfscan import storage
from dfscan.errors import SourceError, VideoError
from dfscan.storage.blobs import LocalBlob


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


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("at", [0, 10, 60])
def test_damage_is_told_from_a_store_that_fails(tmp_path, monkeypatch, compression, at):
    path = make_zip(tmp_path / "p.zip", compression, **{"a.mp4": CLIP})
    assert storage.read_bytes(f"{path}!/a.mp4") == CLIP
    data = bytearray(path.read_bytes())
    start = 30 + len("a.mp4") + (4 if compression == zipfile.ZIP_LZMA else 0)  # its version: any
    data[start + at : start + at + 8] = b"\xff" * 8
    path.write_bytes(data)
    for read in (storage.read_bytes, storage.content_sha256):
        with pytest.raises(VideoError, match="damaged") as caught:
            read(f"{path}!/a.mp4")
        assert caught.value.status == "decode_error"

    def fail(blob, offset, count):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LocalBlob, "read_at", fail)
    for _ in range(2):
        with pytest.raises(VideoError) as caught:
            storage.read_bytes(f"{path}!/a.mp4")
        assert caught.value.status == "missing"
        storage.forget()  # then its directory cannot be read either


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_a_member_that_is_not_compressed_as_it_claims_is_a_decode_error(tmp_path, method):
    path = make_zip(tmp_path / "p.zip", **{"a.mp4": CLIP})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.rindex(signature) + offset
        data[at : at + 2] = method.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{path}!/a.mp4")
    assert caught.value.status == "decode_error"


def nested(tmp_path):
    """``o.zip!/p.zip!/d/a.mp4`` and ``t.tar!/a.mp4``, both CLIP."""
    make_zip(tmp_path / "p.zip", zipfile.ZIP_DEFLATED, **{"d/a.mp4": CLIP})
    make_zip(tmp_path / "o.zip", **{"x/p.zip": (tmp_path / "p.zip").read_bytes()})
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        info = tarfile.TarInfo("./a.mp4")
        info.size = len(CLIP)
        archive.addfile(info, io.BytesIO(CLIP))


def test_members_of_nested_archives_and_tars_are_read_in_place(tmp_path):
    nested(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    uris = [e.uri for e in storage.list_source(tmp_path)]
    assert [u.removeprefix(f"{tmp_path}/") for u in uris] == [
        "o.zip!/x/p.zip!/d/a.mp4",
        "p.zip!/d/a.mp4",
        "t.tar!/a.mp4",
    ]
    assert [storage.read_bytes(u) for u in uris] == [CLIP] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_outer_archive_replaced_under_its_name_is_opened_anew(tmp_path):
    for data, when in ((b"old", 1), (b"new!", 2)):
        make_zip(tmp_path / "p.zip", **{"a.mp4": data})
        outer = make_zip(tmp_path / "o.zip", **{"p.zip": (tmp_path / "p.zip").read_bytes()})
        os.utime(outer, ns=(when, when))
        assert storage.read_bytes(f"{outer}!/p.zip!/a.mp4") == data


@pytest.mark.parametrize("name", ["o.zip!/x/p.zip!/d/a.mp4", "t.tar!/a.mp4"])
def test_the_limit_holds_in_every_archive(tmp_path, name):
    nested(tmp_path)
    assert storage.read_bytes(f"{tmp_path}/{name}", len(CLIP)) == CLIP
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{tmp_path}/{name}", len(CLIP) - 1)
    assert caught.value.status == "too_large"


@pytest.mark.parametrize("cut", ["t.tar", "o.zip"])
def test_an_archive_cut_short_after_it_was_listed_is_a_decode_error(tmp_path, cut):
    nested(tmp_path)
    [uri] = [e.uri for e in storage.list_source(tmp_path / cut)]
    data = (tmp_path / cut).read_bytes()
    (tmp_path / cut).write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(uri)
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar", "o.zip!/bad.zip"])
def test_an_unreadable_archive_is_read_as_the_file_it_is(tmp_path, name):
    for path in ("bad.zip", "bad.tar"):
        (tmp_path / path).write_bytes(b"junk")
    make_zip(tmp_path / "o.zip", **{"bad.zip": b"junk"})
    assert storage.read_bytes(f"{tmp_path}/{name}") == b"junk"


def test_a_store_that_fails_while_reading_is_missing(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("When reading\n 'a': AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(storage.backend, "open_file", fail)
    with pytest.raises(VideoError) as caught:
        storage.read_bytes("s3://bucket/a.mp4")
    assert caught.value.status == "missing"
    assert caught.value.reason == "cannot be read: When reading 'a': AWS Error NETWORK_CONNECTION"


NESTED_AND_GONE = ["o.zip!/x/q.zip!/a.mp4", "o.zip!/x/p.zip!/d/b.mp4", "t.tar!/b.mp4", "u.tar!/a"]


@pytest.mark.parametrize("gone", NESTED_AND_GONE)
def test_what_is_gone_from_a_nested_archive_is_missing(tmp_path, gone):
    nested(tmp_path)
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{tmp_path}/{gone}")
    assert caught.value.status == "missing"


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


def test_a_members_own_name_that_is_not_utf8_is_a_decode_error(tmp_path):
    path = make_zip(tmp_path / "p.zip", **{"é.mp4": CLIP})
    data = bytearray(path.read_bytes())
    data[30] = 0xFF  # in the local header
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(f"{path}!/é.mp4")
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize("text", ["[", '{"a":'])
def test_brackets_without_end_are_not_json(tmp_path, text):
    (tmp_path / "m.json").write_text(text * 200_000)
    with pytest.raises(SourceError, match=r"m\.json is not valid JSON: .*too deep") as caught:
        storage.read_json(str(tmp_path / "m.json"))
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("rows", [0, 5, 500])
@pytest.mark.parametrize("columns", [None, ["n", "name"], ["name", "inner.hash"]])
def test_a_table_reads_the_same_however_many_row_groups_it_has(tmp_path, rows, columns):
    content = [{"name": f"v{i}", "n": i, "inner": {"hash": "h", "x": i}} for i in range(rows)]
    inner = pa.struct([("hash", pa.string()), ("x", pa.int64())])
    fields = [("name", pa.string()), ("n", pa.int64()), ("inner", inner)]
    schema = pa.schema(fields, metadata={"kind": "test"})
    path = tmp_path / "t.parquet"
    storage.commit_table(path, pa.Table.from_pylist(content, schema), row_group_rows=3)
    found = storage.read_table(path, columns)
    assert found.equals(
        pq.read_table(path, columns=columns, partitioning=None), check_metadata=True
    )
    assert found.column("name").to_pylist() == [row["name"] for row in content]
    assert found.num_columns == len(columns or fields)


@pytest.mark.parametrize("rows", [5, 500])
def test_a_column_that_a_table_lacks_is_an_error(tmp_path, rows):
    storage.commit_table(tmp_path / "t.parquet", pa.table({"x": range(rows)}), row_group_rows=3)
    with pytest.raises(pa.ArrowInvalid, match="absent"):
        storage.read_table(tmp_path / "t.parquet", ["x", "absent"])


def test_a_table_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    storage.commit_table(path, pa.table({"x": [1]}))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(pa.ArrowInvalid, match=r"t\.parquet"):
        storage.read_table(path)
    with pytest.raises(FileNotFoundError):
        storage.read_table(tmp_path / "gone.parquet")


def test_a_limit_far_above_the_file_costs_no_memory(tmp_path):
    (tmp_path / "small").write_bytes(b"abc")
    assert storage.read_bytes(str(tmp_path / "small"), limit=10**15) == b"abc"


def test_content_is_hashed_in_place(tmp_path):
    make_zip(tmp_path / "p.zip", **{"a.mp4": CLIP})
    [entry] = storage.list_source(tmp_path)
    assert storage.content_sha256(entry.uri) == storage.sha256(CLIP)
    with pytest.raises(VideoError, match="too_large"):
        storage.content_sha256(entry.uri, len(CLIP) - 1)
    with pytest.raises(VideoError, match="missing"):
        storage.content_sha256(str(tmp_path / "gone.mp4"))
