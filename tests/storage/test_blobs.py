import pytest

from dfscan.storage import blobs


class Flaky:
    """An object of a store that cannot be reached now and then."""

    def __init__(self, failures, error=None):
        self.data = bytes(range(256)) * 4096
        self.failures = failures
        self.error = error or OSError("AWS Error NETWORK_CONNECTION")
        self.calls = []

    def size(self):
        return len(self.data)

    def read_at(self, count, offset):
        self.calls.append((offset, count))
        if self.failures:
            self.failures -= 1
            raise self.error
        return self.data[offset : offset + count]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(blobs.time, "sleep", lambda _: None)


def test_trouble_on_the_way_is_tried_again():
    file = Flaky(2)
    assert blobs.RemoteBlob(file).read_at(300_000, 200_000) == file.data[300_000:500_000]
    assert len(file.calls) == 3


def test_lasting_trouble_is_raised():
    with pytest.raises(OSError, match="NETWORK"):
        blobs.RemoteBlob(Flaky(3)).read_at(0, 10)


@pytest.mark.parametrize("error", [OSError("AWS Error ACCESS_DENIED"), FileNotFoundError("gone")])
def test_what_trying_again_does_not_end_is_raised_at_once(error):
    file = Flaky(9, error)
    with pytest.raises(type(error)):
        blobs.RemoteBlob(file).read_at(0, 10)
    assert len(file.calls) == 1


def test_neighbouring_headers_are_one_request():
    file = Flaky(0)
    blob = blobs.RemoteBlob(file)
    for offset in range(100, 60_000, 512):
        assert blob.read_at(offset, 30) == file.data[offset : offset + 30]
    assert file.calls == [(0, 65_536)]


@pytest.mark.parametrize(("offset", "count"), [(65_530, 20), (1_048_570, 50), (2_000_000, 1)])
def test_blocks_do_not_change_what_is_read(offset, count):
    file = Flaky(0)
    assert blobs.RemoteBlob(file).read_at(offset, count) == file.data[offset : offset + count]


def test_a_window_seeks_as_a_file_does_and_says_where_it_is_cut_short():
    file = blobs.RangeReader(blobs.Span(blobs.RemoteBlob(Flaky(0)), 10, 20))
    assert (file.read(2), file.seek(-3, 2), file.read(), file.read(5)) == (
        bytes([10, 11]),
        17,
        bytes([27, 28, 29]),
        b"",
    )
    with pytest.raises(OSError, match="before the start"):
        file.seek(-1)
    short = blobs.RangeReader(blobs.Span(blobs.RemoteBlob(Flaky(0)), 1_048_570, 20))
    with pytest.raises(EOFError, match="14 bytes early"):
        short.read()
