"""Scoring the same source again and again: what is read, what is kept, what is told."""

import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from dfscan import purge, storage
from dfscan.cli.renderers.scoring import show_score
from dfscan.commands import score as score_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.commands.score import event_log as score_log
from dfscan.commands.score.result import ScoreResult
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError, DfscanError, OutputError
from dfscan.execution import executor
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import TimeLimit
from dfscan.pipeline.work_units import Unit, UnitResult, make_unit
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VERDICT_SCHEMA, VideoRef
from dfscan.verdicts.history import history_folder
from dfscan.verdicts.summary import latest_per_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    recipe = FaceRecipe(
        sampling=Sampling(stride=Stride(real=30, fake=30)),
        input=network_input("mesoinception4", InputConfig(size=64)),
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    header = ModelHeader(backbone="mesoinception4", recipe=recipe)
    save_model(path, create_network("mesoinception4", 64), header)
    return path


@pytest.fixture
def clips(corpus: Corpus, tmp_path: Path) -> Path:
    """Four clips with faces."""
    folder = tmp_path / "clips"
    with zipfile.ZipFile(corpus.test) as part:
        for number, name in enumerate(sorted(n for n in part.namelist() if n.endswith(".mp4"))):
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.mp4").write_bytes(part.read(name))
    return folder


class Night:
    """The same command, night after night."""

    def __init__(self, source: Path, model: Path, **keys: Any) -> None:
        self.out = source.parent / "v.parquet"
        self._keys = {
            "source": str(source), "model": str(model), "out": str(self.out), "inline": True,
            "frames": 2, "max_failed": 1,
        } | keys  # fmt: skip

    def run(self, **keys: Any) -> ScoreResult:
        return score_job.run(ScoreConfig(**(self._keys | keys)), Progress())

    def rows(self) -> dict[str, dict[str, Any]]:
        return {r["video_id"]: r for r in storage.read_table(self.out).to_pylist()}

    def history(self) -> list[dict[str, Any]]:
        folder = history_folder(self.out)
        return [r for _, table in storage.read_tables(folder) for r in table.to_pylist()]


@pytest.fixture
def night(source: Path, model: Path) -> Night:
    return Night(source, model)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read only to hash them."""
    names: list[str] = []
    inner = storage.content_sha256

    def listen(uri: str, limit: int | None = None) -> str:
        names.append(Path(uri).name)
        return inner(uri, limit)

    monkeypatch.setattr(storage, "content_sha256", listen)
    return names


_OPENED: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED is not None:
        _OPENED.append(str(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that is opened."""
    global _OPENED  # noqa: PLW0603  (an audit hook stays until the process ends)
    if _OPENED is None:
        sys.addaudithook(_audit)
    _OPENED = []
    yield _OPENED
    _OPENED = None


# ---------------------------------------------------------------- what is read


def test_a_run_with_nothing_new_opens_nothing_and_writes_nothing(
    night: Night, source: Path, opened: list[str]
) -> None:
    night.run()
    before, content = night.out.stat(), night.out.read_bytes()
    opened.clear()
    result = night.run(diff=True)
    assert not [name for name in opened if name.startswith(str(source))]
    assert (night.out.stat().st_ino, night.out.stat().st_mtime_ns) == (
        before.st_ino, before.st_mtime_ns,
    )  # fmt: skip
    assert night.out.read_bytes() == content
    assert (result.new, result.recognised, result.changes) == (0, 0, [])


def test_a_moved_clip_keeps_its_verdict(clips: Path, model: Path, hashed: list[str]) -> None:
    night = Night(clips, model)
    night.run()
    before = night.rows()
    (clips / "sub").mkdir()
    (clips / "0.mp4").rename(clips / "sub" / "new.mp4")
    (clips / "other.mp4").write_bytes((clips / "1.mp4").read_bytes() + b"one byte more")
    result = night.run()
    assert (result.new, result.recognised, result.gone) == (1, 1, 1)
    assert hashed == ["new.mp4"]  # no other has the size of a known one
    after = night.rows()
    old, new = before["clips/0.mp4"], after["clips/sub/new.mp4"]
    own = {"video_id", "uri", "version", "scanned_at", "gone"}
    assert {k: v for k, v in new.items() if k not in own} == {
        k: v for k, v in old.items() if k not in own
    }
    assert new["frames"]
    assert new["uri"] == str(clips / "sub" / "new.mp4")
    assert new["scanned_at"] > old["scanned_at"]
    assert after["clips/0.mp4"]["gone"]
    assert night.run().recognised == 0


def test_a_touched_file_keeps_its_verdict(night: Night, source: Path) -> None:
    night.run()
    before = night.rows()["src/3.mp4"]
    os.utime(source / "3.mp4", (1, 1))
    result = night.run(fail_on="failed", diff=True)
    assert (result.new, result.recognised, result.found, result.changes) == (0, 1, 0, [])
    assert night.rows()["src/3.mp4"]["version"] == "33-1000000000"
    assert [r["version"] for r in night.history()] == [before["version"]]


def test_a_copy_that_would_be_read_otherwise_is_not_recognised(night: Night, source: Path) -> None:
    night.run()
    shutil.copy(source / "3.mp4", source / "copy.jpg")
    shutil.copy(source / "3.mp4", source / "copy.mkv")
    result = night.run()
    assert (result.new, result.recognised) == (1, 1)


@pytest.mark.parametrize(("stride", "recognised"), [("30", 1), ("real=30,fake=60", 0)])
def test_labels_matter_where_strides_differ(
    source: Path, model: Path, stride: str, recognised: int
) -> None:
    for label in ("real", "fake"):
        (source / label).mkdir()
    shutil.move(source / "1.mp4", source / "real")
    shutil.move(source / "2.mp4", source / "fake")
    night = Night(source, model, layout="folders", stride=stride, frames=None)
    night.run()
    shutil.copy(source / "real" / "1.mp4", source / "fake" / "copy.mp4")
    assert night.run().recognised == recognised
    assert night.rows()["src/fake/copy.mp4"]["label"] == "FAKE"


@pytest.mark.parametrize(("status", "recognised"), [("not_video", 1), ("timeout", 0)])
def test_a_verdict_by_chance_is_not_taken_over(
    night: Night, source: Path, status: str, recognised: int
) -> None:
    night.run()
    table = storage.read_table(night.out)
    place = table.schema.get_field_index("status")
    other = pa.array([status] * table.num_rows)
    storage.commit_table(night.out, table.set_column(place, "status", other))
    shutil.copy(source / "3.mp4", source / "copy.mp4")
    assert night.run().recognised == recognised


def test_moving_everything_is_no_unmounted_disk(night: Night, source: Path) -> None:
    night.run()
    (source / "sub").mkdir()
    for file in source.glob("*.mp4"):
        file.rename(source / "sub" / file.name)
    result = night.run()
    assert (result.new, result.recognised, result.gone) == (0, 10, 10)
    for file in list((source / "sub").iterdir())[:3]:
        file.unlink()
    with pytest.raises(OutputError, match="3 of the 10 videos"):
        night.run()


# ---------------------------------------------------------------- stale, since, limit


def test_stale_verdicts_are_scored_again_after_new_videos(
    night: Night, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.run()
    (source / "a_new.mp4").write_text("new")
    (source / "z_new.mp4").write_text("newer")
    kept = night.run(min_frames=2, limit_time=1e-9)
    assert (kept.new, kept.stale, kept.left) == (0, 10, 2)
    order: list[str] = []
    work = executor._work

    def listen(task: Any, unit: Unit) -> UnitResult:
        order.extend(v.video_id for v in unit.videos)
        return work(task, unit)

    monkeypatch.setattr(executor, "_work", listen)
    result = night.run(min_frames=2, stale="rescan", unit_size=3)
    assert (result.new, result.stale) == (12, 0)
    assert order[:2] == ["src/a_new.mp4", "src/z_new.mp4"]
    assert len(night.history()) == 10
    assert {r["custody"]["config_hash"] for r in night.history()} != {
        r["custody"]["config_hash"] for r in night.rows().values()
    }


def test_only_files_changed_since_are_worked_on(night: Night, source: Path) -> None:
    day = 86400
    os.utime(source / "1.mp4", (time.time() - 3 * day,) * 2)
    assert night.run(since="7d").videos == 10
    night.out.unlink()
    assert night.run(since="48h").videos == 9
    moment = datetime.fromtimestamp(time.time() - 4 * day).isoformat()
    assert night.run(since=moment).new == 1


def test_a_zip_does_not_know_when_its_members_changed(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"score\.since: nothing tells when .*\.zip!/"):
        Night(corpus.test, model, out=str(tmp_path / "v.parquet")).run(since="24h")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"limit_time": "6"}, r"limit_time: got '6'; must be a number with its unit: 90s"),
        ({"since": "yesterday"}, r"since: got 'yesterday'; must be a date \(2026-11-01\)"),
        ({"since": "2999-01-01"}, "lies in the future"),
        ({"fail_on": "fakes"}, r"fail_on.*got 'fakes'"),
        ({"stale": "scan"}, r"stale: got 'scan'"),
        ({"overwrite": True, "limit_time": "1h"}, "overwrite begins anew each time"),
    ],
)
def test_bad_keys_are_one_clear_line(keys: dict[str, Any], message: str) -> None:
    from dfscan import score

    with pytest.raises(ConfigError, match=message):
        score("x", **keys)


def test_a_date_in_yaml_is_a_moment() -> None:
    when = datetime(2026, 1, 2)
    assert ScoreConfig(since=when.date()).since == when.timestamp()
    assert ScoreConfig(limit_time="1.5h").limit_time == 5400


class CountingTask:
    """Does nothing, and says how often."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, unit: Unit) -> UnitResult:
        self.done += 1
        return UnitResult(len(unit.videos), 0)

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        raise NotImplementedError

    def split(self, unit: Unit) -> list[Unit]:
        raise NotImplementedError


def test_no_unit_begins_after_the_limit(tmp_path: Path) -> None:
    units = [
        make_unit([VideoRef(str(i), "", "", None, None, "", 1, "1")], "config") for i in range(5)
    ]
    task = CountingTask()
    with storage.Lock(tmp_path / "lock", tmp_path) as lock:
        done = executor.run_units(
            task, units, ScoreConfig(inline=True), Progress(), lock.lease, lambda: task.done >= 2
        )
    assert (task.done, done.videos) == (2, 2)


def test_a_run_at_its_limit_keeps_what_it_has_and_the_next_continues(
    night: Night, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([False, False, True])
    monkeypatch.setattr(TimeLimit, "__call__", lambda self: next(calls, True))
    first = night.run(unit_size=2)
    assert (first.new, first.left, first.videos, first.exit_code) == (4, 6, 4, 6)
    monkeypatch.undo()
    second = night.run(unit_size=2)
    assert (second.new, second.left, second.videos, second.exit_code) == (6, 0, 10, 0)


# ---------------------------------------------------------------- history


class KilledError(Exception):
    pass


def test_changed_files_leave_their_verdict_in_the_history(night: Night, source: Path) -> None:
    night.run()
    before = night.rows()["src/1.mp4"]
    (source / "1.mp4").write_text("changed")
    assert night.run().new == 1
    assert night.history() == [before]
    (source / "1.mp4").write_text("changed again")
    night.run()
    versions = {r["version"] for r in (*night.history(), *night.rows().values())}
    assert len(night.history()) == 2
    assert len(versions) == 12


@pytest.mark.parametrize("then", [{}, {"min_frames": 2}], ids=["same", "other configuration"])
@pytest.mark.parametrize("at", ["history", "file"])
def test_a_run_that_dies_while_merging_loses_and_doubles_nothing(
    night: Night, source: Path, monkeypatch: pytest.MonkeyPatch, at: str, then: dict[str, Any]
) -> None:
    night.run()
    (source / "1.mp4").write_text("changed")
    commit = storage.commit_table

    def dies(path: Path, *args: Any, **more: Any) -> None:
        if path == night.out and at == "history":
            raise KilledError
        commit(path, *args, **more)
        if path == night.out:
            raise KilledError

    monkeypatch.setattr(storage, "commit_table", dies)
    with pytest.raises(KilledError):
        night.run()
    monkeypatch.setattr(storage, "commit_table", commit)
    assert len(night.history()) == 1
    night.run(**then)
    (source / "2.mp4").write_text("changed too")
    night.run()
    keys = [(r["video_id"], r["scanned_at"]) for r in (*night.history(), *night.rows().values())]
    assert len(keys) == len(set(keys)) == 12
    assert sorted(r["video_id"] for r in night.history()) == ["src/1.mp4", "src/2.mp4"]


def test_purging_reaches_the_history(night: Night, source: Path) -> None:
    night.run()
    (source / "1.mp4").write_text("changed")
    night.run()
    assert purge(str(night.out), "src/1.mp4").rows == 2
    assert night.history() == []


def test_the_last_of_several_verdicts_counts() -> None:
    names, times = ["b", "a", "b", "a", "b"], [3, 1, 5, 1, None]
    table = pa.table({"video_id": names, "scanned_at": pa.array(times, pa.timestamp("us"))})
    kept, superseded = latest_per_video(table)
    assert kept.tolist() == [3, 2]
    assert sorted(superseded.tolist()) == [0, 4]  # a's two are one verdict, met twice


def test_other_metadata_of_the_file_stays(night: Night, source: Path) -> None:
    night.run()
    table = storage.read_table(night.out)
    storage.commit_table(
        night.out, table.replace_schema_metadata({**table.schema.metadata, b"note": b"mine"})
    )
    (source / "1.mp4").write_text("changed")
    night.run()
    metadata = storage.read_table(night.out).schema.metadata
    assert metadata[b"note"] == b"mine"
    assert metadata.items() >= VERDICT_SCHEMA.metadata.items()


# ---------------------------------------------------------------- what is told


def test_the_difference_is_told(
    clips: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = Night(clips, model, diff=True, threshold=0.0, allow_gone=True)
    first = night.run()
    assert first.changes is not None
    assert {(c.change, c.before, c.after) for c in first.changes} == {("new", None, "FAKE")}
    (clips / "0.mp4").rename(clips.parent / "aside.mp4")
    shutil.copy(clips / "1.mp4", clips / "copy.mp4")
    second = night.run()
    assert second.changes is not None
    assert [(c.video_id, c.change) for c in second.changes] == [
        ("clips/copy.mp4", "new"), ("clips/0.mp4", "gone"),
    ]  # fmt: skip
    (clips.parent / "aside.mp4").rename(clips / "0.mp4")
    (clips / "1.mp4").write_text("no video any more")
    third = night.run()
    assert third.changes is not None
    assert [(c.video_id, c.change, c.before, c.after) for c in third.changes] == [
        ("clips/1.mp4", "changed", "FAKE", None), ("clips/0.mp4", "came_back", "FAKE", "FAKE"),
    ]  # fmt: skip
    show_score(third)
    shown = capsys.readouterr().out
    assert re.search(r"clips/1\.mp4 +│ changed +│ FAKE +│ –", shown)
    assert "came back" in shown
    show_score(night.run())
    assert "nothing changed" in capsys.readouterr().out


def test_new_fakes_end_the_run_with_code_4(clips: Path, model: Path) -> None:
    night = Night(clips, model, fail_on="FAKE", threshold=0.0)
    assert night.run().exit_code == 4
    assert night.run().exit_code == 0
    (clips / "more.mp4").write_text("no video")
    assert night.run().exit_code == 0
    assert night.run(retry="not_video", fail_on="failed").exit_code == 0  # known already
    shutil.copy(clips / "1.mp4", clips / "copy.mp4")
    result = night.run()
    assert (result.recognised, result.found, result.exit_code) == (1, 1, 4)


def test_the_first_exit_code_that_applies(tmp_path: Path) -> None:
    result = ScoreResult(
        out="v", videos=10, status={"ok": 9, "timeout": 1}, max_failed=0.05, elapsed_s=1, found=1,
        left=1,
    )  # fmt: skip
    assert result.exit_code == 3
    assert replace(result, max_failed=0.1).exit_code == 4
    assert replace(result, max_failed=0.1, found=0).exit_code == 6


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_has_an_event_a_line(clips: Path, model: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "score.jsonl"
    night = Night(clips, model, log=str(log), threshold=0.0, unit_size=2)
    night.run()
    told = events(log)
    assert [e["event"] for e in told] == [
        "run_started", "planned", "unit_done", "unit_done", *["verdict"] * 4, "run_finished",
    ]  # fmt: skip
    assert all(datetime.fromisoformat(e["time"]).utcoffset() is not None for e in told)
    assert all(e["time"].endswith("+00:00") for e in told)
    assert (told[2]["videos"], told[2]["status"]) == (2, {"ok": 2})
    assert told[4]["verdict"] == "FAKE"
    assert told[4]["uri"] == str(clips / "0.mp4")
    assert 0 <= told[4]["p_fake"] <= 1
    assert (told[-1]["new"], told[-1]["exit_code"]) == (4, 0)
    night.run()
    assert len(events(log)) == len(told) + 3
    (clips / "0.mp4").unlink()
    with pytest.raises(OutputError):
        night.run()
    last = events(log)[-1]
    assert (last["event"], last["kind"]) == ("run_failed", "OutputError")


def test_reports_that_cannot_be_written_are_told_before_the_work(
    night: Night, tmp_path: Path
) -> None:
    for keys in ({"log": str(night.out)}, {"metrics_file": str(night.out)}):
        with pytest.raises(OutputError, match="is out already: give another file"):
            night.run(**keys)
    with pytest.raises(OutputError, match="is a folder"):
        night.run(metrics_file=str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"score\.log: cannot write .*file/log: "):
        night.run(log=str(tmp_path / "file" / "log"))
    assert not night.out.exists()


def samples(text: str) -> dict[str, float]:
    """Prometheus' text format → value by name and labels; every metric has its head."""
    values: dict[str, float] = {}
    typed: set[str] = set()
    for line in text.splitlines():
        head = re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line)
        if head:
            typed |= {head[2]} if head[1] == "TYPE" else set()
            continue
        sample = re.fullmatch(
            r'((\w+)(?:\{\w+="(?:[^"\\]|\\.)*"(?:,\w+="(?:[^"\\]|\\.)*")*\})?) (\S+)', line
        )
        assert sample, line
        assert sample[2] in typed
        values[sample[1]] = float(sample[3])
    return values


def test_figures_for_prometheus(night: Night, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "dfscan.prom"
    night.run(metrics_file=str(path))
    first = samples(path.read_text())
    assert first['dfscan_score_videos{status="not_video"}'] == 10
    assert first['dfscan_score_videos{status="ok"}'] == 0
    assert first['dfscan_score_verdicts{verdict="FAKE"}'] == 0
    assert first['dfscan_score_verdicts{verdict="none"}'] == 10
    assert first["dfscan_score_new_videos"] == 10
    assert first["dfscan_score_duration_seconds"] > 0
    last = "dfscan_score_last_success_timestamp_seconds"
    assert time.time() - 600 < first[last] <= time.time()
    (source / "new.mp4").write_text("new")
    assert night.run(metrics_file=str(path), limit_time=1e-9).exit_code == 6
    second = samples(path.read_text())
    assert second["dfscan_score_exit_code"] == 6
    assert second[last] == first[last]
    assert second["dfscan_score_last_run_timestamp_seconds"] > first[last]


def test_label_values_are_escaped() -> None:
    result = ScoreResult(out='a"b\\c\nd', videos=0, status={}, max_failed=0, elapsed_s=1)
    text = score_log.metrics_text(result, 1.0, None)
    assert 'out="a\\"b\\\\c\\nd"' in text
    samples(text)


def test_a_full_disk_under_the_log_is_one_line(night: Night, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(DfscanError, match=r"cannot write .*log: No space left on device"):
        night.run(log=str(tmp_path / "log"))
