"""Sources on object storage, against a server of this process on the loopback address."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archives import tar_bytes, zip_bytes

from dfscan import storage
from dfscan.corpora import list_videos
from dfscan.errors import SourceError, VideoError
from dfscan.storage import blobs

CLIP = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def fetched(monkeypatch):
    """Sizes in bytes of what is fetched from objects."""
    sizes = []
    fetch = blobs.RemoteBlob._fetch

    def counted(self, start, end):
        sizes.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(blobs.RemoteBlob, "_fetch", counted)
    return sizes


def test_a_folder_is_listed_and_read(bucket):
    for key in ("d/b?%20 c.mp4", "d/x/a.mp4", "d/.hidden/a.mp4", "d/", "other/a.mp4"):
        bucket(key, key.encode())
    entries = storage.list_source("s3://clips/d/")
    assert [(e.path, e.uri, e.bytes) for e in entries] == [
        ("b?%20 c.mp4", "s3://clips/d/b?%20 c.mp4", 13),
        ("x/a.mp4", "s3://clips/d/x/a.mp4", 9),
    ]
    assert [storage.read_bytes(e.uri) for e in entries] == [b"d/b?%20 c.mp4", b"d/x/a.mp4"]
    assert [e.path for e in storage.list_source("s3://clips")][-1] == "other/a.mp4"


def test_a_version_changes_with_the_content(bucket):
    versions = set()
    for data in (b"1", b"22"):
        bucket("a.mp4", data)
        [entry] = storage.list_source("s3://clips/a.mp4")
        assert (entry.path, entry.bytes) == ("", len(data))
        versions.add(entry.version)
    assert len(versions) == 2


@pytest.mark.parametrize("make", [zip_bytes, tar_bytes])
def test_listing_a_folder_of_large_archives_fetches_no_content(bucket, fetched, make):
    name = f"d/p.{'zip' if make is zip_bytes else 'tar'}"
    bucket(name, make({"x/a.mp4": CLIP}))
    [entry] = storage.list_source("s3://clips/d")
    assert entry.uri == f"s3://clips/{name}!/x/a.mp4"
    assert sum(fetched) < 200_000
    assert storage.read_bytes(entry.uri) == CLIP
    assert sum(fetched) < len(CLIP) + 400_000


def test_parts_within_one_archive_are_read_by_ranges(bucket, fetched):
    part = zip_bytes({f"d/{i}.mp4": CLIP for i in range(2)})
    bucket("all.zip", zip_bytes({"p0.zip": part, "p1.zip": part}))
    entries = storage.list_source("s3://clips/all.zip")
    assert [e.path for e in entries] == [f"!/p{p}.zip!/d/{i}.mp4" for p in (0, 1) for i in (0, 1)]
    assert sum(fetched) < 400_000
    assert storage.read_bytes(entries[2].uri) == CLIP


def test_a_damaged_archive_in_a_folder_is_an_entry(bucket):
    bucket("d/bad.zip", b"junk")
    bucket("d/good.zip", zip_bytes({"a.mp4": b"1"}))
    assert [e.path for e in storage.list_source("s3://clips/d")] == ["bad.zip", "good.zip!/a.mp4"]
    with pytest.raises(SourceError, match=r"s3://clips/d/bad\.zip is not a readable zip"):
        storage.list_source("s3://clips/d/bad.zip")


def test_lists_name_objects_relative_to_themselves_and_by_uri(bucket):
    bucket("lists/sub/a.mp4", b"1234")
    bucket("b.mp4", b"12")
    bucket("lists/p.zip", zip_bytes({"x/c.mp4": b"1"}))
    lines = ["sub/a.mp4", "s3://clips/b.mp4", "p.zip", "gone.mp4"]
    bucket("lists/l.csv", "\n".join(["path,label", *(f"{line},FAKE" for line in lines)]))
    table = io.BytesIO()
    pq.write_table(pa.table({"path": lines}), table)
    bucket("lists/l.parquet", table.getvalue())
    expected = [
        ("gone.mp4", "s3://clips/lists/gone.mp4", 0),
        ("p.zip!/x/c.mp4", "s3://clips/lists/p.zip!/x/c.mp4", 1),
        ("s3://clips/b.mp4", "s3://clips/b.mp4", 2),
        ("sub/a.mp4", "s3://clips/lists/sub/a.mp4", 4),
    ]
    for name, label in (("l.csv", "FAKE"), ("l.parquet", None)):
        refs = list_videos([f"s3://clips/lists/{name}"]).videos
        assert [(r.video_id.removeprefix(f"{name}/"), r.uri, r.bytes) for r in refs] == expected
        assert {r.label for r in refs} == {label}


def test_a_list_here_may_name_objects_there(bucket, tmp_path):
    bucket("b.mp4", b"12")
    (tmp_path / "l.txt").write_text("s3://clips/b.mp4\ns3://clips/gone.mp4\n")
    refs = list_videos([str(tmp_path / "l.txt")]).videos
    assert [(r.video_id, r.bytes, bool(r.version)) for r in refs] == [
        ("l.txt/s3://clips/b.mp4", 2, True),
        ("l.txt/s3://clips/gone.mp4", 0, False),
    ]


def test_a_corpus_there_is_read_as_one_here(bucket):
    metadata = b'{"a.mp4": {"label": "FAKE", "original": "b.mp4"}, "b.mp4": {"label": "REAL"}}'
    part = {"d/a.mp4": b"", "d/b.mp4": b"", "d/metadata.json": metadata}
    bucket("all.zip", zip_bytes({"p.zip": zip_bytes(part)}))
    listing = list_videos(["s3://clips/all.zip"])
    assert listing.layouts == {"all.zip": "dfdc"}
    assert [(r.video_id, r.label) for r in listing.videos] == [
        ("all.zip!/p.zip!/d/a.mp4", "FAKE"),
        ("all.zip!/p.zip!/d/b.mp4", "REAL"),
    ]
    assert listing.videos[0].original == listing.videos[1].video_id


def test_a_source_there_within_another_is_refused(bucket):
    bucket("d/p.zip", zip_bytes({"a.mp4": b"1"}))
    for outer, inner in (("s3://clips", "s3://clips/d"), ("s3://clips/d/", "s3://clips/d/p.zip")):
        with pytest.raises(SourceError, match=rf"'{inner}' lies in source '{outer}'"):
            list_videos([inner, outer])


@pytest.mark.parametrize("uri", ["s3://clips/none", "s3://no-such-bucket/d", "s3://no-such-bucket"])
def test_a_source_that_is_not_there_is_one_line(bucket, uri):
    with pytest.raises(SourceError, match=rf"source '{uri}' (does not exist|cannot be read)") as e:
        storage.list_source(uri)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "uri", ["s3://clips/none.mp4", "s3://clips/p.zip!/b", "s3://clips/q.zip!/b"]
)
def test_a_vanished_object_is_missing(bucket, uri):
    bucket("p.zip", zip_bytes({"a": b"1"}))
    with pytest.raises(VideoError) as caught:
        storage.read_bytes(uri)
    assert caught.value.status == "missing"


def test_a_store_that_cannot_be_reached_is_one_line(bucket, monkeypatch):
    monkeypatch.setattr(blobs, "_PAUSES", ())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"'s3://clips/d' cannot be read: .*connect") as caught:
        storage.list_source("s3://clips/d")
    assert "\n" not in str(caught.value)


def test_the_limit_holds_there_too(bucket):
    bucket("a.mp4", CLIP)
    assert storage.read_bytes("s3://clips/a.mp4", len(CLIP)) == CLIP
    with pytest.raises(VideoError) as caught:
        storage.read_bytes("s3://clips/a.mp4", len(CLIP) - 1)
    assert caught.value.status == "too_large"
