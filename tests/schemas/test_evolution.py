"""Tables and documents of other versions."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfscan.errors import SourceError
from dfscan.schemas import evolution
from dfscan.schemas.evolution import (
    Version,
    concat,
    conform,
    read_version,
    stored_columns,
    subset,
    upgrade_keys,
)

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("about", pa.struct([("tool", pa.string()), ("ids", pa.list_(pa.string()))])),
        ("frames", pa.list_(pa.struct([("at_s", pa.float64()), ("logit", pa.float32())]))),
        ("box", pa.list_(pa.float32(), 4)),
    ],
    metadata={"schema_version": "2.0", "dfscan": "toys"},
)


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setattr(evolution, "ALIASES", {"toys": {"bytes": "size", "score": "logit"}})
    monkeypatch.setattr(evolution, "REQUIRED", {"toys": frozenset({"name"})})
    monkeypatch.setattr(
        evolution,
        "KEY_ALIASES",
        {"toy": {"new": "processed", "models.*.min": "min_px", "recipe.crop.context": "margin"}},
    )


OLDER = pa.table(
    {
        "bytes": pa.array([1, 2, 3], pa.int32()),
        "name": ["a", "b", "c"],
        "about": [{"tool": "x"}, None, {"tool": "z"}],
        "frames": [[{"score": 0.5, "at_s": 1.0}, None], None, []],
    }
)


def test_an_older_table_gets_what_it_lacks_by_name_in_structs_and_lists_too():
    table = conform(OLDER, SCHEMA)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    table.validate(full=True)
    assert table.to_pylist() == [
        {
            "name": "a",
            "size": 1,
            "about": {"tool": "x", "ids": None},
            "frames": [{"at_s": 1.0, "logit": 0.5}, None],
            "box": None,
        },
        {"name": "b", "size": 2, "about": None, "frames": None, "box": None},
        {"name": "c", "size": 3, "about": {"tool": "z", "ids": None}, "frames": [], "box": None},
    ]


def test_slices_and_several_chunks_are_conformed_alike():
    whole = conform(OLDER, SCHEMA)
    assert conform(OLDER.slice(1), SCHEMA).to_pylist() == whole.to_pylist()[1:]
    pieces = pa.concat_tables([OLDER.slice(2), OLDER.slice(0, 1), OLDER.slice(0, 0)])
    assert conform(pieces, SCHEMA).to_pylist() == [whole.to_pylist()[i] for i in (2, 0)]
    assert conform(OLDER.slice(0, 0), SCHEMA).num_rows == 0


def test_a_missing_column_may_have_a_default():
    table = conform(OLDER.drop_columns(["bytes"]), SCHEMA, defaults={"size": 7})
    assert table.column("size").to_pylist() == [7, 7, 7]


def _newer():
    rows = conform(OLDER, SCHEMA).to_pylist()
    for number, row in enumerate(rows):
        row["later"] = number
        if row["about"]:
            row["about"]["why"] = "because"
        if row["frames"]:
            row["frames"][0]["sharp"] = 0.25
    return pa.Table.from_pylist(rows).replace_schema_metadata(
        {"schema_version": "2.7", "dfscan": "toys", "theirs": "kept"}
    )


def test_unknown_columns_are_left_out_or_kept_after_ours():
    newer = _newer()
    assert conform(newer, SCHEMA).to_pylist() == conform(OLDER, SCHEMA).to_pylist()
    kept = conform(newer, SCHEMA, keep_unknown=True)
    kept.validate(full=True)
    assert kept.column_names == [*SCHEMA.names, "later"]
    assert [f.name for f in kept.schema.field("about").type] == ["tool", "ids", "why"]
    assert [f.name for f in kept.schema.field("frames").type.value_type] == [
        "at_s", "logit", "sharp",
    ]  # fmt: skip
    assert kept.schema.field("size").type == pa.int64()
    assert kept.to_pylist() == newer.to_pylist()
    assert kept.schema.metadata[b"theirs"] == b"kept"
    assert kept.schema.metadata[b"schema_version"] == b"2.0"


def test_an_old_name_is_not_kept_beside_the_new_one():
    assert conform(OLDER, SCHEMA, keep_unknown=True).column_names == SCHEMA.names


def test_tables_of_several_versions_become_one():
    table = concat([OLDER, _newer()], SCHEMA)
    assert table.num_rows == 6
    assert table.column("later").to_pylist() == [None, None, None, 0, 1, 2]
    assert table.column("size").to_pylist() == [1, 2, 3, 1, 2, 3]
    assert concat([], SCHEMA).schema.equals(SCHEMA, check_metadata=True)


def test_what_is_none_of_ours_is_refused():
    with pytest.raises(pa.ArrowInvalid, match="no column 'name'"):
        conform(pa.table({"size": [1]}), SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        conform(OLDER.set_column(0, "bytes", pa.array(["x", "y", "z"])), SCHEMA)


def test_some_columns_are_asked_for_under_their_stored_names(tmp_path):
    pq.write_table(OLDER, tmp_path / "old.parquet")
    file = pq.ParquetFile(tmp_path / "old.parquet")
    names = ["size", "frames.logit", "about.tool", "about.ids", "box", "name"]
    stored = stored_columns(file.schema_arrow, SCHEMA, names)
    assert stored == ["bytes", "frames.list.element.score", "about.tool", "name"]
    table = conform(file.read(stored), subset(SCHEMA, names))
    assert table.column_names == ["size", "frames", "about", "box", "name"]
    assert table.column("frames").to_pylist() == [[{"logit": 0.5}, None], None, []]
    assert table.column("about").to_pylist()[0] == {"tool": "x", "ids": None}
    assert subset(SCHEMA, ["about.tool", "about"]).field("about").equals(SCHEMA.field("about"))


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        (None, (1, 0)),
        ({}, (1, 0)),
        ({b"schema_version": b"1"}, (1, 0)),
        ({"schema_version": 1}, (1, 0)),
        ({"schema_version": f"{evolution.CURRENT.major}.93"}, (evolution.CURRENT.major, 93)),
    ],
)
def test_older_versions_and_newer_minors_are_read(metadata, version):
    assert read_version(metadata, "x.parquet") == Version(*version)


def test_a_newer_major_version_is_refused_with_what_to_do():
    newer = {b"schema_version": f"{evolution.CURRENT.major + 1}.0".encode()}
    with pytest.raises(
        SourceError, match=r"^x\.parquet has schema_version \d+\.0, .*upgrade dfscan$"
    ):
        read_version(newer, "x.parquet")
    with pytest.raises(SourceError, match=r"must be major\.minor, got 'two'"):
        read_version({"schema_version": "two"}, "x.parquet")


def test_old_keys_are_read_as_new_ones_and_unknown_ones_kept():
    old = {
        "new": 3,
        "models": [{"min": 20, "new": 1}, {"min": 12, "min_px": 40}, 5],
        "recipe": {"crop": {"context": 0.6, "later": True}},
        "later": {"new": 4},
    }
    assert upgrade_keys(old, "toy") == {
        "processed": 3,
        "models": [{"min_px": 20, "new": 1}, {"min": 12, "min_px": 40}, 5],
        "recipe": {"crop": {"margin": 0.6, "later": True}},
        "later": {"new": 4},
    }
    assert old["new"] == 3
    assert upgrade_keys(old, "another kind") == old
    assert upgrade_keys([1], "toy") == [1]
