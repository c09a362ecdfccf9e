"""Lists, labels, metadata and configurations that someone else wrote: any content at all.

Whatever stands there, the answer is a result or one line that says what is wrong; never a traceback,
and nothing is written. The examples are the same in every run.
"""

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfscan.config.extract import ExtractConfig
from dfscan.config.loading import resolve, section_name
from dfscan.config.score import ScoreConfig
from dfscan.config.train import TrainConfig
from dfscan.corpora import Listing, list_videos
from dfscan.corpora.labels import read_labels
from dfscan.errors import UsageError
from dfscan.storage.backend import is_remote

bounded = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

HOSTILE = st.sampled_from(
    [
        "../../../../etc/passwd", "/etc/passwd", "/etc", "~/.ssh/id_rsa", "a/../b.mp4", ".", "..",
        "", " ", "\\\\server\\share\\a.mp4", "C:\\a.mp4", "file:///etc/passwd", "http://127.0.0.1/a",
        "concat:a.mp4|b.mp4", "pipe:0", "subfile,,start,0,end,9,,:/etc/passwd",
        "data:video/mp4;base64,AA", "$(id)", "`id`", "%s%n", "a.mp4\x00.txt", "a\nb.mp4", "a.zip!/b",
        "b.zip!/../../etc/passwd", "b.zip!/c.zip!/d.zip!/e", "!/", "a.mp4!/b", "x" * 300 + ".mp4",
        "/dev/zero", "/dev/stdin", "/proc/self/environ", "<script>alert(1)</script>.mp4",
        "=cmd|' /C calc'!A0", "\u202egpj.exe", "\ud800", "é.mp4", "\N{COMBINING ACUTE ACCENT}",
    ]
)  # fmt: skip
PATH = st.one_of(HOSTILE, st.just("a.mp4"), st.text(max_size=20))
CELL = st.one_of(
    PATH,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["REAL", "FAKE", "0", "1", "real", "nan"]),
)
JSON = st.recursive(
    CELL,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@contextmanager
def answers() -> Iterator[None]:
    """A result, or one line."""
    said = "one line"
    try:
        yield
    except UsageError as error:
        said = str(error)
    assert "\n" not in said
    assert 0 < len(said) < 2000


@contextmanager
def folder() -> Iterator[Path]:
    """One file ``a.mp4``; nothing else may be there afterwards than what the test put."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "inside"
        place.mkdir()
        (place / "a.mp4").write_bytes(b"video")
        yield place
        assert [p.name for p in Path(name).iterdir()] == ["inside"]


def check(listing: Listing) -> None:
    """Every video has a name of its own, which can be written, and a place on disk."""
    ids = [v.video_id for v in listing.videos]
    assert len(set(ids)) == len(ids)
    for video in listing.videos:
        video.video_id.encode()
        video.uri.encode()
        assert is_remote(video.uri) or video.uri.startswith("/")
        assert video.label in ("REAL", "FAKE", None)


def put(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@bounded
@given(st.lists(PATH, max_size=6))
def test_any_text_is_a_list_or_is_refused(lines: list[str]) -> None:
    with folder() as place:
        put(place / "l.txt", "\n".join(lines))
        with answers():
            check(list_videos([str(place / "l.txt")]))


COLUMNS = st.lists(
    st.sampled_from(["path", "uri", "file", "label", "original", "group", "manipulation", "x"]),
    min_size=1, max_size=4,
)  # fmt: skip


@bounded
@given(COLUMNS, st.lists(st.lists(CELL, max_size=5), max_size=5))
def test_any_table_is_a_list_or_is_refused(names: list[str], rows: list[list[object]]) -> None:
    sink = io.StringIO()
    csv.writer(sink).writerows([names, *rows])
    with folder() as place:
        put(place / "l.csv", sink.getvalue())
        with answers():
            check(list_videos([str(place / "l.csv")]))
        with answers():
            read_labels(str(place / "l.csv"))


@bounded
@given(st.text(max_size=80))
def test_any_text_is_a_table_or_is_refused(text: str) -> None:
    with folder() as place:
        put(place / "l.csv", text)
        with answers():
            check(list_videos([str(place / "l.csv")]))


@bounded
@given(COLUMNS, st.lists(st.tuples(PATH, CELL), min_size=1, max_size=4), st.binary(max_size=9))
def test_any_parquet_file_is_a_list_or_is_refused(
    names: list[str], rows: list[tuple[str, object]], noise: bytes
) -> None:
    paths = [p.encode("utf-8", "replace").decode() for p, _ in rows]
    others = [repr(v).encode("utf-8", "replace").decode() for _, v in rows]
    table = pa.table({"path": paths, "label": others} | {n: paths for n in names if n != "path"})
    with folder() as place:
        target = place / "l.parquet"
        pq.write_table(table, target)
        with answers():
            check(list_videos([str(target)]))
        data = bytearray(target.read_bytes())
        for at, value in enumerate(noise):
            data[-1 - (value * 7 + at) % len(data)] ^= value
        target.write_bytes(data)
        with answers():
            check(list_videos([str(target)]))


@bounded
@given(
    st.dictionaries(st.one_of(st.just("a.mp4"), HOSTILE), JSON, max_size=4),
    st.sampled_from(["auto", "dfdc"]),
)
def test_any_metadata_is_believed_or_refused(metadata: dict[str, object], layout: str) -> None:
    with folder() as place:
        (place / "metadata.json").write_text(json.dumps(metadata))
        with answers():
            check(list_videos([str(place)], layout))


@bounded
@given(
    st.dictionaries(
        st.sampled_from(["label", "split", "original", "is_fake"]), JSON, min_size=1, max_size=4
    )
)
def test_any_entry_of_a_clip_is_believed_or_refused(entry: dict[str, object]) -> None:
    with folder() as place:
        (place / "metadata.json").write_text(json.dumps({"a.mp4": entry}))
        with answers():
            check(list_videos([str(place)], "dfdc"))


@bounded
@given(st.lists(st.tuples(PATH, CELL), max_size=5), st.sampled_from(["filename", "file", "label"]))
def test_any_labels_are_believed_or_refused(rows: list[tuple[str, object]], name: str) -> None:
    sink = io.StringIO()
    csv.writer(sink).writerows([(name, "label"), *rows])
    with folder() as place:
        put(place / "labels.csv", sink.getvalue())
        for layout in ("auto", "dfdc"):
            with answers():
                check(list_videos([str(place)], layout))


VERBS_TRIED = (ExtractConfig, ScoreConfig, TrainConfig)


@bounded
@given(st.sampled_from(VERBS_TRIED), st.data())
def test_any_value_is_taken_or_refused(verb: type, data: st.DataObject) -> None:
    name = section_name(verb)
    keys = st.one_of(st.sampled_from(sorted(verb.model_fields)), st.text(max_size=8))  # type: ignore[attr-defined]
    section = data.draw(st.dictionaries(keys, JSON, max_size=3))
    with folder() as place:
        text = yaml.safe_dump({name: json.loads(json.dumps(section))})
        (place / "dfscan.yaml").write_text(text)
        with answers():
            resolve(verb, {}, config_file=place / "dfscan.yaml")


@bounded
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_any_file_is_a_configuration_or_is_refused(content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    with folder() as place:
        (place / "dfscan.yaml").write_bytes(data)
        with answers():
            resolve(ExtractConfig, {}, config_file=place / "dfscan.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "extract: !!python/object/apply:os.system ['touch HARM']",
        "extract: !!python/name:os.system",
        "a: &a [x, x]\nb: &b [*a, *a]\nextract: {source: *b}",
    ],
)
def test_a_configuration_runs_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "dfscan.yaml").write_text(text)
    with pytest.raises(UsageError):
        resolve(ExtractConfig, {}, config_file=tmp_path / "dfscan.yaml")
    assert not Path("HARM").exists()


@bounded
@given(st.text(max_size=40))
def test_any_setting_is_taken_or_refused(text: str) -> None:
    for setting in (text, f"extract.{text}", f"extract.source={text}", f"extract.stride={text}"):
        with answers():
            resolve(ExtractConfig, {}, sets=[setting])
