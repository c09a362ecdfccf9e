import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfscan.corpora import base, list_videos, lists
from dfscan.errors import SourceError

BAD_TEXT = pa.StringArray.from_buffers(
    1, pa.py_buffer(b"\0\0\0\0\5\0\0\0"), pa.py_buffer(b"\xff.mp4")
)


def table(*columns, names):
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], names=names), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def folder(tmp_path):
    """``sub/a.mp4`` (3 bytes), ``b.mp4``, and ``p.zip`` with ``x/c.mp4``, ``x/d.txt``."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.mp4").write_bytes(b"123")
    (tmp_path / "b.mp4").write_bytes(b"1")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("x/c.mp4", b"12")
        archive.writestr("x/d.txt", b"12")
    return tmp_path


def write(path, columns):
    """A table as the file that its suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


def listed(source, layout="auto"):
    return {r.video_id.split("/", 1)[1]: r for r in list_videos([source], layout).videos}


def test_a_text_names_files_archives_and_members(folder):
    lines = [
        "./sub/a.mp4",
        "",
        f"{folder}/b.mp4",
        "p.zip",
        "  gone.mp4  ",
        "p.zip!/x/d.txt",
        "b.mp4",
    ]
    (folder / "l.txt").write_text("\r\n".join(lines))
    refs = list_videos([str(folder / "l.txt")]).videos
    absolute = f"{folder}/b.mp4".lstrip("/")
    found = {r.video_id: (r.uri, r.bytes) for r in refs}
    assert found == {
        "l.txt/b.mp4": (f"{folder}/b.mp4", 1),
        "l.txt/gone.mp4": (f"{folder}/gone.mp4", 0),
        f"l.txt/{absolute}": (f"{folder}/b.mp4", 1),
        "l.txt/p.zip!/x/c.mp4": (f"{folder}/p.zip!/x/c.mp4", 2),
        "l.txt/p.zip!/x/d.txt": (f"{folder}/p.zip!/x/d.txt", 2),
        "l.txt/sub/a.mp4": (f"{folder}/sub/a.mp4", 3),
    }


def test_what_is_not_there_is_kept_without_a_version(folder):
    (folder / "l.txt").write_text("gone.mp4\nb.mp4\np.zip!/gone.mp4\ngone.zip\n")
    listing = list_videos([str(folder / "l.txt")])
    assert {r.video_id: r.version == "" for r in listing.videos} == {
        "l.txt/b.mp4": False,
        "l.txt/gone.mp4": True,
        "l.txt/gone.zip": True,
        "l.txt/p.zip!/gone.mp4": True,
    }
    assert listing.unreadable == ()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_gives_labels_originals_groups_and_attributes(folder, kind):
    columns = {
        "Path": ["sub/a.mp4", "./b.mp4", "gone.mp4", "p.zip!/x/c.mp4"],
        "label": ["FAKE", "real", None, "1"],
        "original": ["b.mp4", None, None, "elsewhere.mp4"],
        "group": [None, "p7", None, "p8"],
        "method": ["swap", None, "swap", "lips"],
    }
    refs = listed(write(folder / f"l.{kind}", columns))
    assert {p: r.label for p, r in refs.items()} == {
        "sub/a.mp4": "FAKE",
        "b.mp4": "REAL",
        "gone.mp4": None,
        "p.zip!/x/c.mp4": "FAKE",
    }
    assert refs["sub/a.mp4"].original == refs["b.mp4"].video_id
    assert refs["p.zip!/x/c.mp4"].original == f"l.{kind}/elsewhere.mp4"
    assert refs["sub/a.mp4"].group == refs["b.mp4"].group == "p7"
    assert refs["p.zip!/x/c.mp4"].group == "p8"
    assert refs["gone.mp4"].group not in {"p7", "p8"}
    assert [refs[p].attributes for p in ("sub/a.mp4", "b.mp4")] == [{"method": "swap"}, {}]


@pytest.mark.parametrize("column", ["path", "uri", "filename", "file", "video"])
def test_the_column_of_paths_has_any_of_the_usual_names(folder, column):
    assert set(listed(write(folder / "l.csv", {"n": ["1"], column: ["b.mp4"]}))) == {"b.mp4"}


@pytest.mark.parametrize("values", [[0, 1, None], [False, True, None], [0.0, 1.0, float("nan")]])
def test_labels_in_parquet_may_be_numbers(folder, values):
    columns = {"path": ["b.mp4", "sub/a.mp4", "gone.mp4"], "label": values, "frames": [1, 2, 3]}
    refs = listed(write(folder / "l.parquet", columns))
    assert [refs[p].label for p in columns["path"]] == ["REAL", "FAKE", None]
    assert refs["b.mp4"].attributes == {}


def test_fakes_of_an_original_that_is_not_listed_share_a_group(folder):
    columns = {"path": ["b.mp4", "sub/a.mp4", "c.mp4"], "original": ["o.mp4", "o.mp4", ""]}
    refs = listed(write(folder / "l.csv", columns | {"label": ["FAKE", "FAKE", "FAKE"]}))
    assert refs["b.mp4"].group == refs["sub/a.mp4"].group != refs["c.mp4"].group


def test_what_the_list_says_wins_over_the_layout(folder):
    for name in ("real", "fake"):
        (folder / name).mkdir()
        (folder / name / "a.mp4").write_bytes(b"1")
    paths = ["real/a.mp4", "fake/a.mp4"]
    unlabelled = listed(write(folder / "l.csv", {"path": paths, "note": ["x", "y"]}))
    assert [unlabelled[p].label for p in paths] == ["REAL", "FAKE"]
    labelled = listed(write(folder / "l.csv", {"path": paths, "label": ["fake", None]}))
    assert [labelled[p].label for p in paths] == ["FAKE", None]


def test_what_is_said_of_an_archive_holds_for_its_members(folder):
    columns = {"path": ["p.zip"], "label": ["FAKE"], "original": ["b.mp4"], "m": ["swap"]}
    refs = listed(write(folder / "l.csv", columns))
    assert {p: (r.label, r.original, r.attributes) for p, r in refs.items()} == {
        "p.zip!/x/c.mp4": ("FAKE", None, {"m": "swap"})
    }


def test_a_real_listed_as_its_own_original_has_none(folder):
    columns = {"path": ["b.mp4"], "label": ["REAL"], "original": ["b.mp4"]}
    assert listed(write(folder / "l.csv", columns))["b.mp4"].original is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "clip,label\na.mp4,1\n", r"l\.csv has no text column with paths.*allowed: path, uri, .* it has clip, label"),
        ("l.csv", "path,label\na.mp4,1\nb.mp4,MAYBE\n", r"l\.csv, row 3: label 'MAYBE'; allowed: REAL, FAKE, 0, 1"),
        ("l.csv", "path,label\n,1\n", r"l\.csv, row 2: no path"),
        ("l.csv", "path,label\na,b.mp4,1\n", r"l\.csv, row 2: 3 values for 2 columns"),
        ("l.csv", "path,label\nb.mp4,1\n./b.mp4,0\n", r"row 3: 'b\.mp4' is labelled REAL here and FAKE in row 2"),
        ("l.csv", b"path\ncaf\xe9.mp4\n", r"l\.csv is not UTF-8 text \(byte 8\)"),
        ("l.txt", b"\xff\xfe", r"l\.txt is not UTF-8"),
        ("l.txt", "https://example.org/a.mp4\n", r"l\.txt, row 1: 'https.*cannot be used; allowed"),
        ("l.txt", "sub\n", r"/sub is a folder: list its files, or give it as a SOURCE"),
        ("l.txt", "\n", r"holds no video or picture \(found nothing"),
        ("l.parquet", b"PAR1 junk", r"l\.parquet is not a readable Parquet file"),
        ("l.csv", f"path,label\nb.mp4,{'1' * 200_000}\n", r"l\.csv, row 2: field larger than"),
        ("l.csv", f"path,label\nb.mp4,{'1' * 100_000}\n", r"l\.csv, row 2: label '1+\.\.\.1+'; allowed"),
        ("l.csv", '"a\nb",c\n', r"l\.csv has no text column .* it has a b, c"),
        ("l.txt", "a.mp4\n".encode("utf-16-le"), r"row 1: .* holds a zero byte; save .* as UTF-8"),
        ("l.parquet", table(BAD_TEXT, names=["path"]), r"l\.parquet is not a readable Parquet .*utf-8"),
        ("l.parquet", table(["a"], ["b"], names=["path"] * 2), r"not a readable Parquet .* 2 times"),
        ("l.parquet", table(["a"], [[{"x": 1}]], names=["path", "label"]), r"row 1: label \[\{'x': 1"),
    ],
)  # fmt: skip
def test_bad_lists_stop_before_any_work(folder, name, content, message):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=message) as caught:
        list_videos([str(folder / name)])
    assert "\n" not in str(caught.value)


def test_a_list_that_is_too_large_is_refused(folder, monkeypatch):
    monkeypatch.setattr(base.content, "__defaults__", (1 << 20,))
    (folder / "l.txt").write_text("b.mp4\n" * 200_000)
    with pytest.raises(SourceError, match=r"l\.txt is larger than 1 MB"):
        list_videos([str(folder / "l.txt")])


def write_alike(path, text, rows, groups=1):
    """A Parquet file with ``groups`` times ``rows`` rows that all hold one text, stored once a group."""
    column = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])
    with pq.ParquetWriter(path, pa.schema({"path": column.type}), store_schema=False) as file:
        for _ in range(groups):
            file.write_table(pa.table({"path": column}), rows)
    return path


def test_a_parquet_list_of_any_number_of_rows_is_refused_unread(folder, monkeypatch):
    path = write_alike(folder / "l.parquet", "b.mp4", 10**6, groups=100)
    assert path.stat().st_size < 300_000
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    with pytest.raises(SourceError, match=r"l\.parquet has more than 20,000,000 rows or 4 GiB"):
        list_videos([str(path)])


def test_a_parquet_list_that_unfolds_to_any_size_is_refused_in_time(folder, monkeypatch):
    path = write_alike(folder / "l.parquet", "b" * (1 << 17), 50_000)  # 6 GB of text
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(lists, "MOST_TEXT", 1 << 26)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(SourceError, match=r"l\.parquet has more than .* rows or 0 GiB of text"):
            list_videos([str(path)])
    finally:
        pa.set_memory_pool(before)
    assert 1 << 25 <= pool.max_memory() < 1 << 28


def test_a_parquet_list_of_any_number_of_columns_is_refused(folder):
    columns = {"path": ["b.mp4"]} | {f"c{i}": ["x"] for i in range(lists.MOST_COLUMNS)}
    pq.write_table(pa.table(columns), folder / "l.parquet")
    with pytest.raises(SourceError, match=r"l\.parquet has 1,001 text columns, more than 1,000"):
        list_videos([str(folder / "l.parquet")])


def test_a_table_whose_paths_are_no_text_is_refused(folder):
    pq.write_table(pa.table({"path": [1, 2]}), folder / "l.parquet")
    with pytest.raises(SourceError, match=r"no text column with paths; .* it has path"):
        list_videos([str(folder / "l.parquet")])


def test_two_paths_with_one_id_are_refused(folder):
    (folder / "l.txt").write_text("data/a.mp4\n/data/a.mp4\n")
    with pytest.raises(SourceError, match=r"row 2: '/data/a\.mp4' and '/.*/data/a\.mp4' of row 1"):
        list_videos([str(folder / "l.txt")])


def test_a_folder_that_is_called_like_a_list_is_a_folder(tree):
    assert set(listed(tree("clips.csv", {"a.mp4": None}))) == {"a.mp4"}
