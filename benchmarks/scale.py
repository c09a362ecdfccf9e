"""Cost of the driver in a large run, on simulated nodes: planner, driver loop and commits.

    python benchmarks/scale.py record FOLDER_OF_CLIPS     # core-seconds of each clip, for RECORDED
    python benchmarks/scale.py run VIDEOS [--workers 1000] [--lost 0.001] [--no-commit]
                                          [--face-bytes 0]
    python benchmarks/scale.py ray                        # cost of Ray's own calls, per unit
    python benchmarks/scale.py                            # 119,154 and a million videos, and Ray

``run`` lists and plans an archive of empty members and processes it with dfscan's own driver loop on a
simulated cluster in place of Ray. A worker takes the time that RECORDED gives for a unit's videos, by a
clock that jumps from the end of one unit to the next. The driver's own time advances that clock too, so
workers wait for a driver that is too slow. Units are really committed (that time is the workers', not
the driver's), and the dataset is really repaired, merged and counted at the end: rows without faces, or
with ten faces per video of ``--face-bytes`` random bytes each. ``--lost`` is the share of units that are lost
with their node and done again.

``ray`` measures what the simulation omits: CPU time of the driver's process per unit, with a real Ray on this
machine, by number of units in flight. All times of the driver are CPU times, so that other programs on the
machine do not change them.
"""

import argparse
import contextlib
import functools
import heapq
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from overhead import PARTS, VIDEOS, peak_mb, write_archive

RECORDED = (1.07, 1.06, 0.85, 0.94)
"""Core-seconds per clip: four DFDC clips of 10 s at 1080p, every 30th frame.

The ratios come from ``record``, the mean from ``extract.py`` on an idle machine (0.98).
"""

MILLION = 1_000_000
UNIT = 16
IN_A_UNIT = 12.4
"""Videos per DFDC unit of at most 16: an original and its fakes stay together."""

NODE = 16
"""Workers per node."""

FACES = 10
"""Faces per video with ``--face-bytes``: as in DFDC's clips at every 30th frame."""

NOISE = 16 << 20
"""Size of the random data from which faces are taken."""

IN_FLIGHT = (64, 1024, 4096)
RAY_UNITS = 6000

RAY_CALLS_S = (0.8e-3, 1.2e-7)
"""Measured by ``ray``: seconds of Ray's calls per unit, and per unit for each unit in flight."""


def record(folder: str) -> None:
    import torch

    from dfscan.corpora import list_videos
    from dfscan.pipeline.extraction.extractor import InProcessExtractor
    from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride

    torch.set_num_threads(1)
    extractor = InProcessExtractor(FaceRecipe(sampling=Sampling(stride=Stride())), "cpu", 1 << 32)
    videos = list_videos([folder]).videos
    extractor.extract(videos[0])
    for video in videos:
        seconds = []
        for _ in range(3):
            began = time.process_time()
            seen = extractor.extract(video)
            seconds.append(time.process_time() - began)
        size = sum(len(face.image) for face in seen.faces)
        print(
            f"{video.video_id}: {sorted(seconds)[1]:.2f} s, {len(seen.faces)} faces, {size} bytes"
        )


# ---------------------------------------------------------------- the simulated cluster


@dataclass(eq=False)
class Reference:
    unit: Any
    lost: bool = False


class Simulated:
    """The part of Ray's API that ``dfscan.execution.executor`` uses, with a simulated clock."""

    def __init__(
        self, workers: int, lost: float, commit: bool, call_s: tuple[float, float]
    ) -> None:
        self.workers, self.lost, self.commit, self.call_s = workers, lost, commit, call_s
        self.chance = random.Random(0)
        self.now = self.busy_s = self.driver_s = self.commit_s = 0.0
        self.lost_units = self.peak = 0
        self.idle = workers
        self.waiting: deque[Reference] = deque()
        self.running: list[tuple[float, int, Reference]] = []
        self.task: Any = None
        self._number = 0
        self._since = time.process_time()

    @contextlib.contextmanager
    def _in_ray(self) -> Iterator[None]:
        """Advance the clock by the driver's time so far; time within the block is not counted."""
        used = time.process_time() - self._since
        self.driver_s += used
        self.now += used
        try:
            yield
        finally:
            self._since = time.process_time()

    def put(self, task: Any) -> Any:
        self.task = task
        return task

    def submit(self, task: Any, unit: Any) -> Reference:
        with self._in_ray():
            reference = Reference(unit, self.chance.random() < self.lost)
            self.waiting.append(reference)
            self._begin()
            return reference

    def wait(
        self, references: Sequence[Any], num_returns: int, timeout: float
    ) -> tuple[list[Any], list[Any]]:
        del num_returns, timeout
        with self._in_ray():
            fixed, per_reference = self.call_s
            self.now += fixed + per_reference * len(references)
            self.peak = max(self.peak, len(references))
            end, _, reference = heapq.heappop(self.running)
            self.now = max(self.now, end)
            self.idle += 1
            self._begin()
            return [reference], []

    def get(self, reference: Reference) -> Any:
        from ray import exceptions

        from dfscan.pipeline.work_units import UnitResult

        with self._in_ray():
            if reference.lost:
                self.lost_units += 1
                raise exceptions.NodeDiedError("its node died")
            if not self.commit:
                return UnitResult(len(reference.unit.videos), 0)
            began = time.process_time()
            result = self.task(reference.unit)
            self.commit_s += time.process_time() - began
            return result

    def _begin(self) -> None:
        while self.idle and self.waiting:
            reference = self.waiting.popleft()
            seconds = sum(self.chance.choice(RECORDED) for _ in reference.unit.videos)
            if reference.lost:  # lost at a random point
                seconds *= self.chance.random()
            self.busy_s += seconds
            self.idle -= 1
            self._number += 1
            heapq.heappush(self.running, (self.now + seconds, self._number, reference))

    def module(self) -> ModuleType:
        """The module that ``import ray`` returns."""
        import ray
        from ray import exceptions

        nodes = [
            {"Alive": True, "Resources": {"CPU": NODE, "memory": 4 * NODE << 30}}
            for _ in range(max(1, self.workers // NODE))
        ]
        task = SimpleNamespace(remote=self.submit)
        module: Any = ModuleType("ray")
        module.__version__ = ray.__version__
        module.put, module.wait, module.get = self.put, self.wait, self.get
        module.remote = lambda **_: lambda function: task
        module.cluster_resources = lambda: {"CPU": self.workers}
        module.nodes = lambda: nodes
        module.cancel = lambda *_, **__: None
        module.exceptions = exceptions
        return module  # type: ignore[no-any-return]


@contextlib.contextmanager
def in_place_of_ray(cluster: Simulated) -> Iterator[None]:
    from dfscan.execution import executor as pool

    session = pool.ray_session
    real = {name: sys.modules[name] for name in ("ray", "ray.exceptions")}
    sys.modules["ray"] = cluster.module()
    pool.ray_session = lambda config: contextlib.nullcontext(cluster.workers)
    try:
        yield
    finally:
        sys.modules.update(real)
        pool.ray_session = session


def do_run(source: str, out: str, options: str) -> dict[str, float]:
    import ray.exceptions  # noqa: F401  (before it is replaced)

    from dfscan.config.extract import ExtractConfig
    from dfscan.corpora import list_videos
    from dfscan.datasets.face_dataset import FaceSet
    from dfscan.execution.executor import run_units
    from dfscan.pipeline.extract_task import ExtractTask
    from dfscan.pipeline.progress import Progress
    from dfscan.pipeline.work_units import plan_units
    from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
    from dfscan.storage import Lock

    given, libraries_mb = json.loads(options), peak_mb()
    clocks = [time.process_time()]
    videos = list_videos([source]).videos
    clocks.append(time.process_time())
    units = plan_units(videos, UNIT, "")
    clocks.append(time.process_time())
    cluster = Simulated(given["workers"], given["lost"], given["commit"], given["calls"])
    target = FaceSet(Path(out))
    with Lock(target.root / ".dfscan.lock", target.root) as lock:
        target = replace(target, check=lock.lease.check)
        extractor = fake_extractor(
            FaceRecipe(sampling=Sampling(stride=Stride())), given["face_bytes"]
        )
        with in_place_of_ray(cluster):
            total = run_units(
                ExtractTask(extractor, target, "run"),
                units,
                ExtractConfig(),
                Progress(),
                lock.lease,
            )
        assert total.videos == len(videos)
        worked_mb = peak_mb()
        clocks.append(time.process_time())
        if cluster.commit:
            target = replace(target, check=lock.fence().check)
            target.reconcile()
            target.committed(videos)
            clocks.append(time.process_time())
            target.compact()
            clocks.append(time.process_time())
            assert target.counts()["videos"] == len(videos)
            clocks.append(time.process_time())
    names = ("listed_s", "planned_s", "worked_s", "mended_s", "merged_s", "counted_s")
    seconds = dict(zip(names, np.diff(clocks).tolist(), strict=False))
    return seconds | {
        "videos": len(videos), "units": len(units), "driver_s": cluster.driver_s,
        "commit_s": cluster.commit_s, "busy_s": cluster.busy_s, "makespan_s": cluster.now,
        "lost": cluster.lost_units, "in_flight": cluster.peak, "libraries_mb": libraries_mb,
        "worked_mb": worked_mb, "mb": peak_mb(),
    }  # fmt: skip


def fake_extractor(recipe: Any, face_bytes: int) -> Any:
    """An extractor that opens nothing and returns FACES faces of ``face_bytes`` per video, or none."""
    from dfscan.pipeline.extraction.extractor import ExtractionResult, failed_row
    from dfscan.schemas.records import FaceRow, VideoRef

    numbers = random.Random(0)
    noise = numbers.randbytes(NOISE) if face_bytes else b""

    def face(ref: VideoRef, index: int) -> FaceRow:
        start = numbers.randrange(NOISE - face_bytes)
        box = tuple(numbers.uniform(0, 1000) for _ in range(4))
        return FaceRow(
            ref.video_id, ref.uri, ref.part, ref.label, ref.original, ref.group, ref.attributes,
            frame_index=30 * index, pts_s=float(index), key_frame=index == 0, face_index=0,
            box=box, landmarks=(*box, *box, *box[:2]), detector_score=numbers.random(),
            box_from="detected", crop_box=box, image=noise[start : start + face_bytes],
        )  # fmt: skip

    @dataclass(frozen=True)
    class NoLook:
        recipe: Any
        device: str = "cpu"
        max_concurrent: int = 1

        def extract(
            self, ref: VideoRef, extra_frames: Any = (), reference: Any = None
        ) -> ExtractionResult:
            if not face_bytes:
                return ExtractionResult(failed_row(ref, "no_face", "not opened"), [])
            row = replace(failed_row(ref, "ok"), faces=FACES)
            return ExtractionResult(row, [face(ref, index) for index in range(FACES)])

        def sample_frames(self, ref: VideoRef) -> list[int]:
            return []

    return NoLook(recipe)


def do_ray(in_flight: str) -> dict[str, float]:
    """CPU milliseconds per unit of the driver's process, including its threads."""
    import ray

    from dfscan.config.extract import ExtractConfig
    from dfscan.execution import executor as pool
    from dfscan.pipeline.progress import Progress
    from dfscan.pipeline.work_units import Unit, UnitResult, make_unit
    from dfscan.schemas.records import VideoRef
    from dfscan.storage import Lock

    class Nothing:
        def __call__(self, unit: Unit) -> UnitResult:
            return UnitResult(len(unit.videos), 0)

    refs = [
        VideoRef(f"v{i:07d}.mp4", f"/v{i:07d}.mp4", "p", None, None, "g", 1, "")
        for i in range(UNIT)
    ]
    units = [make_unit(refs, str(number)) for number in range(RAY_UNITS)]
    config = ExtractConfig(workers=2)
    ahead = int(in_flight)
    pool._worker_pool = lambda *_: pool._Tasks(ahead)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with (
        tempfile.TemporaryDirectory() as folder,
        Lock(Path(folder) / ".lock", folder) as lock,
        pool.ray_session(config),
    ):
        run = functools.partial(
            pool.run_units, config=config, progress=Progress(), lease=lock.lease
        )
        run(Nothing(), units[:500])  # type: ignore[arg-type]
        began = time.process_time()
        run(Nothing(), units)  # type: ignore[arg-type]
        used = time.process_time() - began
    return {"in_flight": ahead, "ms_a_unit": used / len(units) * 1000}


# ---------------------------------------------------------------- measurements and output


def in_process(what: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, f"--{what}", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def measure_ray() -> tuple[float, float]:
    """Seconds of Ray's calls per unit: fixed, and for each unit in flight (least squares)."""
    found = [in_process("ray", count) for count in IN_FLIGHT]
    for one in found:
        print(
            f"ray      {one['in_flight']:,} units in flight: the driver takes {one['ms_a_unit']:.2f} "
            "ms of CPU per unit",
            flush=True,
        )
    x, y = ([one[name] for one in found] for name in ("in_flight", "ms_a_unit"))
    slope, fixed = np.polyfit(x, y, 1)
    slope, fixed = max(slope, 0.0) / 1000, max(fixed, 0.0) / 1000
    unit_s = IN_A_UNIT * sum(RECORDED) / len(RECORDED)
    print(f"ray      {limit(unit_s, fixed, slope):,} workers keep one driver busy", flush=True)
    return fixed, slope


def limit(unit_s: float, fixed: float, slope: float) -> int:
    """The number of workers W that keeps the driver busy: W units per ``unit_s``, 2 W in flight.

    (fixed + 2 W slope) W = unit_s.
    """
    if slope == 0:
        return int(unit_s / fixed)
    return int(((fixed**2 + 8 * slope * unit_s) ** 0.5 - fixed) / (4 * slope))


def measure_run(videos: int, options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.zip"
        write_archive(archive, videos, max(PARTS, videos // 20_000))
        run = in_process("run", archive, Path(folder) / "faces", json.dumps(options))
    units = run["units"]
    ideal = run["busy_s"] / options["workers"]
    print(
        f"plan     {run['videos']:,} videos listed in {run['listed_s']:.1f} s, divided into {units:,.0f} "
        f"units in {run['planned_s']:.1f} s\n"
        f"driver   {options['workers']:,} workers, {run['in_flight']:,.0f} units in flight, "
        f"{run['lost']:.0f} lost with their nodes: {run['driver_s'] / units * 1000:.2f} ms per unit of "
        f"dfscan's own, {run['makespan_s']:,.0f} s by the clock, minimum {ideal:,.0f} s "
        f"({ideal / run['makespan_s']:.0%}), {units / run['makespan_s']:.0f} units/s"
    )
    if options["commit"]:
        print(
            f"commit   {run['commit_s'] / units * 1000:.1f} ms per unit, by its worker; at the end "
            f"repair {run['mended_s']:.0f} s, merging {run['merged_s']:.0f} s, counting "
            f"{run['counted_s']:.1f} s"
        )
    print(
        f"memory   driver's peak {run['worked_mb']:,.0f} MB until the units are done, "
        f"{run['mb']:,.0f} MB at the end; {run['libraries_mb']:,.0f} MB with its libraries alone",
        flush=True,
    )


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("--run", "--ray"):
        print(json.dumps((do_run if arguments[0] == "--run" else do_ray)(*arguments[1:])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["record", "run", "ray", "all"], default="all")
    parser.add_argument("of", nargs="?", help="clips to record, or a number of videos")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--lost", type=float, default=0.001)
    parser.add_argument("--no-commit", action="store_true")
    parser.add_argument("--face-bytes", type=int, default=0)
    given = parser.parse_args()
    if given.what == "record":
        record(given.of)
        return
    calls = measure_ray() if given.what in ("ray", "all") else RAY_CALLS_S
    sizes = [int(given.of)] if given.of else [VIDEOS, MILLION]
    for videos in sizes if given.what in ("run", "all") else []:
        options = {
            "workers": given.workers, "lost": given.lost, "commit": not given.no_commit,
            "calls": calls, "face_bytes": given.face_bytes,
        }  # fmt: skip
        measure_run(videos, options)


if __name__ == "__main__":
    main()
