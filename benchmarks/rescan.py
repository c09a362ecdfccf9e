"""Time of a second scan of many unchanged files, compared with listing them alone.

    python benchmarks/rescan.py --files 50000
    python benchmarks/rescan.py --nights 25  # cost of merging new verdicts, folder against file

Creates small files with names of videos, and a verdict with 32 frames for each. The time is measured from the
listing to the result, without loading dfscan and the model. The lower bound is os.walk and os.stat.

With ``--nights`` each run adds 1 % new videos to 100,000 verdicts. A single file is rewritten each time (one
run is measured). In a folder only the file with free space is rewritten, which is small to half full: the mean
over all runs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dfscan import storage
from dfscan.commands import score as score_job
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.corpora import list_videos
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VERDICT_SCHEMA, Custody, FrameScore, Verdict, VideoRef, to_table
from dfscan.verdicts.store import MergeResult, VerdictStore

REPEATS = 3
FRAMES = 32
KNOWN = 100_000
DIFFERENT = 2000
"""Number of verdicts with distinct frames; further files repeat them."""


def make_files(folder: Path, count: int) -> None:
    for number in range(count):
        inside = folder / f"{number // 500:04d}"
        if number % 500 == 0:
            inside.mkdir(parents=True)
        (inside / f"{number:07d}.mp4").write_bytes(b"x" * (16 + number % 977))


def make_model(path: Path) -> None:
    torch.manual_seed(0)
    sampling = Sampling(stride=Stride(real=30, fake=30))
    recipe = FaceRecipe(
        sampling=sampling, input=network_input("mesoinception4", InputConfig(size=64))
    )
    header = ModelHeader(backbone="mesoinception4", recipe=recipe)
    save_model(path, create_network("mesoinception4", 64), header)


def verdicts_of(videos: Sequence[VideoRef], config_hash: str) -> pa.Table:
    custody = Custody("0", "0", config_hash, ("0",), "av", "cpu", "float32", {"torch": "2"})
    chance = np.random.default_rng(0)
    rows = [
        Verdict(
            *("", "", 0, "", "ok", "REAL", None, 0.1, 0.5, True, 0.5, custody),
            frames=tuple(
                FrameScore(i / 3, i, 0, tuple(chance.uniform(0, 999, 4)), chance.normal())
                for i in range(FRAMES)
            ),
        )
        for _ in range(DIFFERENT)
    ]
    table = to_table(rows, VERDICT_SCHEMA).take(pa.array(np.arange(len(videos)) % DIFFERENT))
    columns: dict[str, list[Any]] = {
        "video_id": [v.video_id for v in videos],
        "uri": [v.uri for v in videos],
        "bytes": [v.bytes for v in videos],
        "version": [v.version for v in videos],
        "content_sha256": [storage.sha256(v.video_id.encode()) for v in videos],
        "gone": [False] * len(videos),
    }
    for name, values in columns.items():
        field = VERDICT_SCHEMA.field(name)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def config_hash_of(config: ScoreConfig, folder: Path) -> str:
    """The hash from the event log of a run that stops before its first unit."""
    log, out = folder / "log", folder / "first.parquet"
    first = config.model_copy(update={"log": str(log), "out": str(out), "limit_time": 1e-9})
    score_job.run(first, Progress())
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return str(next(e["config_hash"] for e in events if e["event"] == "planned"))


def walk_s(source: Path) -> float:
    started = time.perf_counter()
    for folder, _, names in os.walk(source):
        for name in names:
            os.stat(f"{folder}/{name}")  # noqa: PTH116
    return time.perf_counter() - started


class Scan:
    """Runs one command and counts the source files it opens."""

    def __init__(self, config: ScoreConfig, source: Path) -> None:
        self.config, self.opened, self._started = config, 0, 0.0
        self._inside = f"{source}/"
        self._list = score_job.list_sources
        score_job.list_sources = self._listed  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(self._inside):
            self.opened += 1

    def _listed(self, *arguments: Any) -> Any:
        self._started = time.perf_counter()
        return self._list(*arguments)

    def seconds(self) -> float:
        result = score_job.run(self.config, Progress())
        took = time.perf_counter() - self._started
        assert result.new == result.recognised == 0
        return took


def merge(store: VerdictStore) -> MergeResult:
    return store.merge(pa.array([], pa.string()), {"c": {"models": []}}, None)


def night(store: VerdictStore, number: int) -> tuple[float, int]:
    """One merge of new verdicts in units of 16: CPU seconds, and bytes of the files written."""
    names = [f"new/{number:03d}/{i:05d}.mp4" for i in range(KNOWN // 100)]
    table = verdicts_of([video(name) for name in names], "c")
    for start in range(0, len(names), 16):
        store.add_part(str(start), table.slice(start, 16), None)
    before = {file: Path(str(file)).stat().st_mtime_ns for file in store.files()}
    started = time.process_time()
    merged = merge(store)
    took = time.process_time() - started
    assert merged.rows.num_rows == KNOWN + (number + 1) * len(names)
    now = {file: Path(str(file)).stat() for file in store.files()}
    changed = [stat for file, stat in now.items() if stat.st_mtime_ns != before.get(file)]
    return took, sum(stat.st_size for stat in changed)


def video(name: str) -> VideoRef:
    return VideoRef(name, f"/archive/{name}", "", None, None, "", 1000, "1")


def nights(count: int) -> None:
    known = verdicts_of([video(f"{i // 500:04d}/{i:07d}.mp4") for i in range(KNOWN)], "c")
    means = []
    with tempfile.TemporaryDirectory() as name:
        for out, runs in (("v.parquet", 1), ("v", count)):
            store = VerdictStore(Path(name) / out)
            store.add_part("known", known, None)
            merge(store)
            costs = np.array([night(store, number) for number in range(runs)])
            means.append(costs.mean(axis=0))
            print(f"{out:9} {runs} run(s): {means[-1][0]:.2f} CPU s and", end=" ")
            print(
                f"{means[-1][1] / 1e6:.1f} MB written per run, at most {costs[:, 1].max() / 1e6:.1f}"
            )
    cpu, written = means[0] / means[1]
    print(
        f"1 % new on {KNOWN:,} verdicts: the folder writes {written:.1f} times less than the file,"
    )
    print(f"in {cpu:.1f} times less CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--nights", type=int)
    given = parser.parse_args()
    if given.nights:
        nights(given.nights)
        return
    count = given.files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out, model = folder / "source", folder / "v.parquet", folder / "model.safetensors"
        make_files(source, count)
        make_model(model)
        config = ScoreConfig(
            source=str(source), model=str(model), out=str(out), inline=True, diff=True
        )
        videos = list_videos([str(source)]).videos
        storage.commit_table(out, verdicts_of(videos, config_hash_of(config, folder)))
        before = out.read_bytes()
        scan = Scan(config, source)
        took = min(scan.seconds() for _ in range(REPEATS))
        floor = min(walk_s(source) for _ in range(REPEATS))
        same = out.read_bytes() == before
        print(f"{count:,} unchanged files: {took:.2f} s, {count / took:,.0f} files/s; os.walk and")
        print(f"os.stat alone {floor:.2f} s, {took / floor:.1f} times that; {scan.opened} files of")
        print(f"the source opened; verdicts ({len(before) >> 20} MB) untouched: {same}")


if __name__ == "__main__":
    main()
