"""Verdicts in a folder: the same rows as in one file, whatever happens on the way."""

import ast
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from support.reports import CUSTODY, verdict, write_verdicts
from support.verdicts import apart, make_model, verdicts

import dfscan
from dfscan import storage
from dfscan.commands import score as score_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.commands.score.result import ScoreResult
from dfscan.config.report import ReportConfig
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError, OutputError, SourceError
from dfscan.pipeline.progress import Progress
from dfscan.reports import verdicts as report_verdicts
from dfscan.schemas.records import VERDICT_SCHEMA, to_table
from dfscan.verdicts import store as verdict_store
from dfscan.verdicts.history import history_folder
from dfscan.verdicts.parts import parts_folder
from dfscan.verdicts.provenance import records
from dfscan.verdicts.store import MergeResult, VerdictStore
from dfscan.verdicts.table import open_verdicts

ROWS = 4
"""Rows of a file here."""


class KilledError(BaseException):  # no error of a video that a unit gives up
    pass


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_store, "ROWS", ROWS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors", detector="none")


def new_night(source: Path) -> None:
    """Another night at the source: two new, two changed, one moved, one gone."""
    (source / "4a.mp4").write_text("new")
    (source / "z.mp4").write_text("new too")
    (source / "1.mp4").write_text("changed")
    (source / "8.mp4").write_text("changed, too")
    (source / "3.mp4").rename(source / "moved.mp4")
    (source / "6.mp4").unlink()


class Output:
    """Runs into a file or a folder, and what is there afterwards."""

    def __init__(self, out: Path, source: Path, model: Path) -> None:
        self.out = out
        text = str(out) if out.suffix else f"{out}/"
        self._keys = {
            "source": str(source), "model": str(model), "out": text, "inline": True, "frames": 2,
            "max_failed": 1, "allow_gone": True,
        }  # fmt: skip

    def run(self, **keys: Any) -> ScoreResult:
        return score_job.run(ScoreConfig(**(self._keys | keys)), Progress())

    def rows(self) -> dict[str, Any]:
        return verdicts(self.out)

    def history(self) -> list[tuple[str, str]]:
        folder = history_folder(self.out)
        rows = [r for _, table in storage.read_tables(folder) for r in table.to_pylist()]
        assert len({(r["video_id"], r["scanned_at"]) for r in rows}) == len(rows)
        return sorted((r["video_id"], r["version"]) for r in rows)

    def files(self) -> dict[str, tuple[int, int]]:
        return {f.name: (f.stat().st_ino, storage.row_count(f)) for f in self.out.iterdir()}


@pytest.fixture
def both(tmp_path: Path, source: Path, model: Path) -> tuple[Output, Output]:
    """The file, which is what the folder must say too, and the folder."""
    return Output(tmp_path / "v.parquet", source, model), Output(tmp_path / "v", source, model)


def same(one: ScoreResult, other: ScoreResult) -> bool:
    apart_anyway = {"out": "", "elapsed_s": 0}
    return (one.__dict__ | apart_anyway) == (other.__dict__ | apart_anyway)


# ---------------------------------------------------------------- the rows of the file


def test_night_after_night_the_folder_says_what_the_file_says(
    both: tuple[Output, Output], source: Path
) -> None:
    file, folder = both
    later: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: new_night(source),
        lambda: None,
        lambda: (source / "6.mp4").write_text("back"),
    )
    for change in later:
        change()
        one, other = (out.run(diff=True, fail_on="failed") for out in both)
        assert same(one, other)
        assert apart(file.rows(), folder.rows()) == []
        assert file.history() == folder.history()
    one, other = (out.run(min_frames=2, stale="rescan", diff=True) for out in both)
    assert same(one, other)
    assert apart(file.rows(), folder.rows()) == []
    assert file.history() == folder.history()
    assert records(file.out) == records(folder.out)
    (source / "4.mp4").unlink()
    assert same(*(out.run(overwrite=True) for out in both))
    assert apart(file.rows(), folder.rows()) == []
    assert {p.name for p in source.parent.iterdir()} == {
        "src", *(out.out.name for out in both), *(history_folder(out.out).name for out in both),
    }  # fmt: skip


def test_only_files_that_change_are_written_and_none_is_too_large(
    both: tuple[Output, Output], source: Path
) -> None:
    _, folder = both
    (source / "9.mp4").unlink()
    folder.run()
    first = folder.files()
    names = [f"verdicts-{number:05d}.parquet" for number in range(4)]
    assert {name: rows for name, (_, rows) in first.items()} == dict(
        zip(names[:3], (4, 4, 1), strict=True)
    )
    folder.run()
    assert folder.files() == first
    (source / "1.mp4").write_text("changed")
    folder.run()
    second = folder.files()
    assert [n for n in names[:3] if second[n] != first[n]] == names[:1]
    for number in range(5):
        (source / f"a{number}.mp4").write_text(f"new{number}")
    folder.run()
    third = folder.files()
    assert [n for n in names[:3] if third[n] != second[n]] == names[2:3]
    assert {name: rows for name, (_, rows) in third.items()} == dict(
        zip(names, (4, 4, 4, 2), strict=True)
    )


def test_metadata_and_schema_of_every_file(both: tuple[Output, Output]) -> None:
    file, folder = both
    file.run()
    folder.run()
    for path in folder.out.iterdir():
        schema = storage.open_parquet(path).schema_arrow
        assert schema.equals(VERDICT_SCHEMA)
        assert schema.metadata == storage.open_parquet(file.out).schema_arrow.metadata


def test_other_readers_take_the_folder(both: tuple[Output, Output]) -> None:
    file, folder = both
    file.run()
    folder.run()
    ids = sorted(file.rows())
    assert sorted(ds.dataset(folder.out).to_table().column("video_id").to_pylist()) == ids
    assert sorted(pd.read_parquet(folder.out)["video_id"]) == ids
    (counted,) = duckdb.sql(
        f"select count(*), count(distinct video_id) from '{folder.out}/*.parquet'"
    ).fetchall()
    assert counted == (10, 10)


# ---------------------------------------------------------------- deaths


def _dies_before(step: int, patch: pytest.MonkeyPatch, look: Callable[[], None]) -> None:
    """Let a run die before its so-many-th commit or removal, and look at each until then."""
    left = [step]

    def dying(inner: Callable[..., None]) -> Callable[..., None]:
        def stands_in(*args: Any, **more: Any) -> None:
            look()
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            inner(*args, **more)

        return stands_in

    for name in ("commit_table", "remove"):
        patch.setattr(storage, name, dying(getattr(storage, name)))


@pytest.mark.parametrize("then", [{}, {"min_frames": 2, "stale": "rescan"}], ids=["same", "other"])
def test_a_run_that_dies_at_any_step_loses_and_doubles_nothing(
    both: tuple[Output, Output], source: Path, monkeypatch: pytest.MonkeyPatch, then: dict[str, Any]
) -> None:
    file, folder = both
    for out in both:
        out.run()
    first = folder.out.with_name("first")
    shutil.copytree(folder.out, first)
    before = set(folder.rows())
    new_night(source)
    file.run()
    file.run(**then)
    expected, history = file.rows(), file.history()

    def look() -> None:  # at every instant no video twice, and none missing
        assert set(folder.rows()) >= before

    step = 0
    while True:
        for path in (folder.out, history_folder(folder.out)):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(first, folder.out)
        with monkeypatch.context() as patch:
            _dies_before(step, patch, look)
            try:
                folder.run()
            except KilledError:
                died = True
            else:
                died = False
        folder.run(**then)
        assert apart(folder.rows(), expected) == []
        assert not parts_folder(folder.out).exists()
        if not then:
            assert folder.history() == history
        else:  # rows of the run that died may never have been in the output
            assert set(folder.history()) <= set(history)
        if not died:
            break
        step += 1
    assert step > 8


def test_an_overwrite_shows_no_video_twice(
    both: tuple[Output, Output], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = both
    folder.run()
    stay = set(folder.rows()) - {"src/0.mp4", "src/5.mp4"}
    for name in ("0.mp4", "5.mp4"):
        (source / name).unlink()
    _dies_before(99, monkeypatch, lambda: seen.append(set(folder.rows())))
    seen: list[set[str]] = []
    folder.run(overwrite=True, min_frames=2)
    assert all(each >= stay for each in seen[-5:])
    assert len(seen) > 5
    assert set(folder.rows()) == stay
    assert folder.history() == []


def test_a_folder_of_few_videos_shrinks_and_fills_again(
    both: tuple[Output, Output], source: Path
) -> None:
    _, folder = both
    folder.run()
    kept = {name: (source / name).read_text() for name in ("4.mp4", "5.mp4", "6.mp4")}
    for file in source.iterdir():
        file.unlink()
    (source / "a.mp4").write_text("another")
    folder.run(overwrite=True)
    assert [n for _, n in sorted(folder.files().values())] == [1]
    for name, text in kept.items():
        (source / name).write_text(text)
    folder.run()
    assert [n for _, n in folder.files().values()] == [4]


def test_rows_that_somebody_doubled_are_mended(both: tuple[Output, Output], source: Path) -> None:
    _, folder = both
    folder.run()
    shutil.copy(folder.out / "verdicts-00000.parquet", folder.out / "copy.parquet")
    (source / "2.mp4").write_text("changed")
    result = folder.run()
    assert (result.new, result.videos) == (1, 10)
    assert len(folder.rows()) == 10
    assert [name for name, _ in folder.history()] == ["src/2.mp4"]


def merge(
    out: Path, parts: list[pa.Table], missing: list[str], replace: bool = False
) -> MergeResult:
    store = VerdictStore(out)
    for number, part in enumerate(parts):
        store.add_part(str(number), part, None)
    record = {CUSTODY.config_hash: {"models": []}}
    return store.merge(pa.array(missing, pa.string()), record, None, replace)


def test_files_are_bounded_by_their_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_store, "FACES", 20)
    rows = [verdict(str(n), {0: [0.1] * faces}) for n, faces in enumerate((9, 9, 9, 50, 1, 1))]
    parts = [to_table(rows[:4], VERDICT_SCHEMA), to_table(rows[4:], VERDICT_SCHEMA)]
    out = tmp_path / "v"
    merged = merge(out, parts, [])
    assert [storage.row_count(f) for f in storage.parquet_files(out)] == [2, 1, 1, 2]
    assert merged.faces.to_pylist() == [9, 9, 9, 50, 1, 1]


def test_random_nights_are_those_of_the_file(tmp_path: Path) -> None:
    """Any rows, new, changed and gone, merged into both; times tell which of two counts."""
    chance = random.Random(0)
    file, folder = tmp_path / "v.parquet", tmp_path / "v"
    for night in range(9):
        names = chance.sample(range(30), chance.randint(1, 9))
        rows = [
            verdict(f"{n:02d}", {0: [chance.random()]}, scanned_at=1e9 + night + chance.random())
            for n in (*names, *names[:1])
        ]
        parts = [to_table(some, VERDICT_SCHEMA) for some in (rows[:3], rows[3:]) if some]
        gone = [f"{n:02d}" for n in chance.sample(range(30), 3)]
        one, other = (merge(out, parts, gone, replace=night == 6) for out in (file, folder))
        assert one.rows.equals(other.rows)
        assert one.faces.to_pylist() == other.faces.to_pylist()
        assert apart(verdicts(file), verdicts(folder)) == []
        lost = [
            sorted((r["video_id"], r["scanned_at"]) for _, t in tables for r in t.to_pylist())
            for tables in (storage.read_tables(history_folder(out)) for out in (file, folder))
        ]
        assert lost[0] == lost[1]
    assert len(storage.parquet_files(folder)) > 2


# ---------------------------------------------------------------- readers


@pytest.fixture
def readable(tmp_path: Path) -> tuple[str, str]:
    """The same verdicts in a file and in a folder, there in another order."""
    rows = [
        verdict(
            f"{n:02d}.mp4", {0: [n / 9 - 1, n / 7 - 1], 1: [0.2]}, label="FAKE" if n % 3 else "REAL"
        )
        for n in range(19)
    ]
    write_verdicts(tmp_path / "v.parquet", rows)
    for number in range(3):
        write_verdicts(tmp_path / "v" / f"{number}.parquet", rows[number::3])
    return str(tmp_path / "v.parquet"), f"{tmp_path / 'v'}/"


def test_evaluating_and_comparing(readable: tuple[str, str], tmp_path: Path) -> None:
    found = []
    for number, path in enumerate(readable):
        out, other = str(tmp_path / f"e{number}"), readable[1 - number]
        metrics = dfscan.evaluate(path, out=out, against=other, resamples=100, faces=0).metrics
        metrics["comparison"].pop("against")
        found.append({k: v for k, v in metrics.items() if k not in ("path", "against")})
    assert apart(*found) == []
    assert found[0]["comparison"]["both"] == 19


def test_reporting_and_inspecting(readable: tuple[str, str], tmp_path: Path) -> None:
    pages = [
        report_verdicts.collect(Path(path), "v", ReportConfig(faces=0), Progress())
        for path in readable
    ]
    for name in ("tiles", "counts", "histograms", "figures", "notes", "failures", "videos"):
        assert getattr(pages[0], name) == getattr(pages[1], name)
    one, other = (page.provenance for page in pages)
    assert other["files"] == 3
    lines = subprocess.run(
        "sha256sum *.parquet | sha256sum", shell=True, cwd=readable[1], check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert other["sha256sum *.parquet | sha256sum"] == lines.split()[0]
    assert list(one)[2:] == list(other)[3:]
    assert dfscan.report(readable[1], faces=0).out == str(tmp_path / "report.html")
    assert len(pd.read_parquet(readable[1])) == 19
    with pytest.raises(OutputError, match="a folder for verdicts only"):
        dfscan.report(readable[1], faces=0, out=f"{readable[1]}/page.html")
    about = [dfscan.inspect(path) for path in readable]
    assert about[1].kind == "folder of verdicts"
    assert about[1].facts["files"] == 3
    for name in ("rows", "verdict", "status", "label", "gone from the source", "schema version"):
        assert about[0].facts[name] == about[1].facts[name]


def test_purging(both: tuple[Output, Output], source: Path) -> None:
    _, folder = both
    folder.run()
    (source / "1.mp4").write_text("changed")
    folder.run()
    first = folder.files()
    result = dfscan.purge(f"{folder.out}/", "src/1.mp4", "src/none.mp4")
    assert (result.rows, result.missing) == (2, ["src/none.mp4"])
    assert "src/1.mp4" not in folder.rows()
    assert folder.history() == []
    assert [name for name in first if folder.files()[name] != first[name]] == [
        "verdicts-00000.parquet"
    ]
    assert folder.run().new == 1
    assert len(folder.rows()) == 10


def test_faces_are_verified_and_moved_clips_recognised(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    with zipfile.ZipFile(corpus.test) as part:
        part.extractall(clips)
    file, folder = (Output(tmp_path / name, clips, model) for name in ("v.parquet", "v"))
    for out in (file, folder):
        out.run()
    moved = next(clips.rglob("*.mp4"))
    moved.rename(clips / "moved.mp4")
    assert same(*(out.run() for out in (file, folder)))
    rows = folder.rows()
    assert rows["clips/moved.mp4"]["frames"]
    assert apart(file.rows(), rows) == []
    found = [dfscan.verify(str(out.out), model=str(model), inline=True) for out in (file, folder)]
    assert found[0].videos == found[1].videos
    assert found[1].counts["agrees"] == 4


# ---------------------------------------------------------------- where verdicts go


@pytest.mark.parametrize(("out", "error", "message"), [
    ("v", ConfigError, r"got '.*v'; must be a file .* or a folder of files, with / at its end"),
    ("v.parquet/", ConfigError, "one file is what ends in .parquet.* another output"),
    ("one.parquet/", ConfigError, "one file is what ends in .parquet.* another output"),
    ("folder.parquet", ConfigError, "one file is what ends in .parquet.* another output"),
    ("file/", ConfigError, "that is a file: a folder of files is another output"),
    ("other/", OutputError, "is not empty and holds no verdicts"),
    ("other", ConfigError, "must be a file .* or a folder"),
])  # fmt: skip
def test_what_can_hold_no_verdicts_is_refused(
    source: Path, model: Path, tmp_path: Path, out: str, error: type[Exception], message: str
) -> None:
    for name in ("other", "folder.parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "one.parquet").touch()
    before = sorted(tmp_path.rglob("*"))
    for more in ({}, {"dry_run": True}, {"overwrite": True}):
        with pytest.raises(error, match=message):
            Output(tmp_path / "x", source, model).run(out=str(tmp_path / "x")[:-1] + out, **more)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bucket_is_no_folder_of_verdicts() -> None:
    with pytest.raises(ConfigError, match="a folder below it"):
        VerdictStore.open("s3://clips/", create=True)


def test_a_log_does_not_lie_among_verdicts(both: tuple[Output, Output]) -> None:
    _, folder = both
    with pytest.raises(OutputError, match="a folder for verdicts only"):
        folder.run(log=str(folder.out / "log.jsonl"))


def test_a_folder_once_made_needs_no_slash(both: tuple[Output, Output]) -> None:
    _, folder = both
    plan = folder.run(dry_run=True)
    assert plan.new == 10
    assert not folder.out.exists()
    folder.run()
    assert folder.run(out=str(folder.out)).new == 0
    for file in folder.out.iterdir():
        file.write_bytes(b"no table")
    with pytest.raises(OutputError, match="holds no verdicts"):
        folder.run()


def test_files_of_other_columns_are_read_together(readable: tuple[str, str]) -> None:
    path = Path(readable[1]) / "2.parquet"
    table = storage.read_table(path)
    storage.commit_table(path, table.drop_columns(["llr"]).append_column("more", table["uri"]))
    assert dfscan.inspect(readable[1]).facts["rows"] == 19
    table = open_verdicts(readable[1]).read()
    assert table.schema.equals(VERDICT_SCHEMA)
    assert table.column("video_id").to_pylist() == [f"{n:02d}.mp4" for n in range(19)]


def test_on_object_storage(bucket: Any, source: Path, model: Path, tmp_path: Path) -> None:
    file, folder = Output(tmp_path / "v.parquet", source, model), "s3://clips/night/v/"
    stored = Output(tmp_path / "v", source, model)
    for change in (lambda: None, lambda: new_night(source)):
        change()
        assert same(file.run(), stored.run(out=folder))
    place = storage.as_path(folder)
    assert [f.name for f in storage.in_folder(place.parent, "*")] == ["v", "v.history"]
    table = open_verdicts(folder).read()
    assert table.column("video_id").to_pylist() == list(file.rows())
    assert len(storage.parquet_files(place)) == 4
    assert dfscan.inspect(folder).facts["rows"] == 13
    assert dfscan.purge(folder, "src/1.mp4").rows == 2


# ---------------------------------------------------------------- files of other schemas


def _of_an_older_dfscan(folder: Path) -> None:
    """Every file without a column and a field that were added later, one with a column of others."""
    for number, path in enumerate(storage.parquet_files(folder)):
        table = storage.read_table(path).drop_columns(["llr"])
        custody = table.column("custody").combine_chunks()
        fields = [field for field in custody.type if field.name != "precision"]
        older = pa.StructArray.from_arrays([custody.field(f.name) for f in fields], fields=fields)
        table = table.set_column(table.schema.get_field_index("custody"), "custody", older)
        if number == 1:
            table = table.append_column("note", pa.array(["mine"] * table.num_rows))
        storage.commit_table(path, table)


def _schemas(folder: Path) -> list[pa.Schema]:
    return [storage.open_parquet(path).schema_arrow for path in storage.parquet_files(folder)]


def test_the_first_merge_upgrades_every_file(both: tuple[Output, Output], source: Path) -> None:
    _, folder = both
    folder.run()
    before = folder.rows()
    _of_an_older_dfscan(folder.out)
    older = folder.files()
    (source / "1.mp4").write_text("changed")
    assert folder.run().new == 1
    assert folder.files().keys() == older.keys()
    now = _schemas(folder.out)
    assert all(schema.equals(now[0]) for schema in now)
    assert now[0].names == [*VERDICT_SCHEMA.names, "note"]
    rows = folder.rows()
    assert sorted(rows) == sorted(before)
    assert sorted(row["note"] or "" for row in rows.values()) == [""] * 6 + ["mine"] * 4
    assert [name for name, _ in folder.history()] == ["src/1.mp4"]
    upgraded = folder.files()
    folder.run()
    assert folder.files() == upgraded


def test_an_upgrade_that_is_cut_short_is_finished(
    both: tuple[Output, Output], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = both
    folder.run()
    _of_an_older_dfscan(folder.out)
    first = folder.out.with_name("first")
    shutil.copytree(folder.out, first)
    (source / "9.mp4").unlink()
    steps = 0
    while True:
        shutil.rmtree(folder.out)
        shutil.copytree(first, folder.out)
        with monkeypatch.context() as patch:
            _dies_before(steps, patch, lambda: None)
            try:
                folder.run()
            except KilledError:
                assert open_verdicts(folder.out).read().num_rows == 10
            else:
                break
        folder.run()
        now = _schemas(folder.out)
        assert all(schema.equals(now[0]) for schema in now)
        assert [name for name, row in folder.rows().items() if row["gone"]] == ["src/9.mp4"]
        steps += 1
    assert steps >= 3


def test_purging_upgrades_every_file(both: tuple[Output, Output]) -> None:
    _, folder = both
    folder.run()
    _of_an_older_dfscan(folder.out)
    assert dfscan.purge(f"{folder.out}/", "src/1.mp4").rows == 1
    now = _schemas(folder.out)
    assert all(schema.equals(now[0]) for schema in now)
    assert now[0].names == [*VERDICT_SCHEMA.names, "note"]
    assert len(folder.rows()) == 9


def test_verdicts_of_a_newer_dfscan_are_refused(both: tuple[Output, Output]) -> None:
    file, _ = both
    file.run()
    table = storage.read_table(file.out)
    newer = {**table.schema.metadata, b"schema_version": b"9.0"}
    storage.commit_table(file.out, table.replace_schema_metadata(newer))
    content = file.out.read_bytes()
    for use in (file.run, lambda: dfscan.inspect(str(file.out))):
        with pytest.raises(SourceError, match=r"schema_version 9\.0.*upgrade dfscan"):
            use()
    assert file.out.read_bytes() == content


# ---------------------------------------------------------------- who writes


def test_only_this_package_writes_verdicts() -> None:
    """Elsewhere no module both makes tables of the verdicts' schema and commits tables."""
    package = Path(dfscan.__file__).parent
    writers = []
    for module in package.rglob("*.py"):
        names = {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.Name | ast.Attribute)
        }
        commits = names & {"commit_table", "write_table", "ParquetWriter"}
        makes = names & {"VERDICT_SCHEMA", "Verdict", "with_records"}
        if commits and makes:
            writers.append(module.relative_to(package).parts[0])
    assert set(writers) == {"verdicts"}
