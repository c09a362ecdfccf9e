"""Long-run test of memory and open files: units of tiny clips, one after another.

    python benchmarks/soak.py --units 5000                # one process; until done, or --minutes
    python benchmarks/soak.py --units 5000 --ray          # dfscan score on its own Ray
    python benchmarks/soak.py --units 5000 --ray extract

Each unit is two clips and their commit. Without ``--ray`` the units run through the extraction task in this
process, which is driver and worker at once. With ``--ray`` the command runs as a user starts it, with two
workers, and is observed from outside: driver, Ray's workers, their decoding processes, and, for information,
Ray's own processes (``spare``: workers that Ray keeps without giving them a unit). The default is no face
detection (``--detector none``: each frame whole); scoring runs MesoInception-4 on each frame.

During the run it prints, for each kind of process, the number of processes and their average proportional
memory (PSS), private memory (not backed by a file) and open file descriptors. Decoding processes are replaced
every 500 videos, so a kind is averaged over its processes at that moment that are some units old. The slope
over the second half of the run shows whether later processes have more than earlier ones; growth within
processes is printed separately.

The exit code is 1 if private memory or descriptors of the driver, the workers or the decoding processes grow by
more than the bounds below plus twice the slope's standard error (a worker's memory varies with the frames it
holds), if there are more processes than workers, or if a process is left after the run. It is also 1 if the run
is too short to decide: the standard error is above the bound, or start-up reaches into the second half.
"""

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from making import make_model

from dfscan.corpora import list_videos
from dfscan.datasets.face_dataset import FaceSet
from dfscan.pipeline.extract_task import ExtractTask
from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import process
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor, end_child
from dfscan.pipeline.work_units import Unit, make_unit
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.schemas.records import VideoRef

MEASUREMENTS, PRINTED = 1000, 200
"""Number of measurements, and number of printed lines."""

GROWTH_MB, GROWTH_FILES = 1.0, 1.0
"""Allowed growth per thousand units of a process's private memory (MB) and open descriptors."""

SETTLED = 25
"""Units after which a new process is counted: by then it has loaded its libraries."""

WORKERS = 2

OURS = ("driver", "worker", "child")
RAYS = ("spare", "raylet", "gcs", "others")


@dataclass(frozen=True)
class Measured:
    """One process at one moment. Memory in MB; ``own`` is the part not backed by files."""

    unit: int
    seconds: float
    kind: str
    pid: int
    pss: float
    own: float
    files: int


def write_clips(folder: Path, count: int) -> None:
    """Write clips of half a second with stripes; one in ten is truncated, one in ten is not a video."""
    for number in range(count):
        path = folder / f"{number:03d}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            stream.thread_count = 1
            for frame in range(12):
                columns = (np.arange(160) * 4 + frame * 11 + number) % 256
                pixels = np.broadcast_to(columns[None, :, None], (120, 160, 3)).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        if number % 10 == 8:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif number % 10 == 9:
            path.write_text("no video")


def measure(unit: int, seconds: float, kind: str, pid: int) -> Measured | None:
    """Measure a process; None if it has ended.

    Only anonymous and shared memory count as ``own``: a library's share of PSS depends on which other
    processes map it.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return None
    sizes = {
        name: int(rest.split()[0]) / 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    own = sizes["Pss_Anon"] + sizes["Pss_Shmem"]
    return Measured(unit, seconds, kind, pid, sizes["Pss"], own, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=60, help="stop earlier (without --ray)")
    parser.add_argument("--detector", choices=("none", "mtcnn"), default="none")
    parser.add_argument("--ray", nargs="?", const="score", choices=("extract", "score"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfscan-soak-") as temporary:
        folder = Path(temporary)
        (folder / "clips").mkdir()
        write_clips(folder / "clips", 20)
        if options.ray:
            good = watch(folder, options.ray, options.units, options.detector)
        else:
            good = soak(folder, options.units, options.minutes * 60, options.detector)
            end_child()
    sys.exit(not good)


def soak(folder: Path, units: int, seconds: float, detector: str) -> bool:
    """Run the units in this process."""
    recipe = FaceRecipe(
        sampling=Sampling(stride=Stride(real=4, fake=4)), detector=Detector(name=detector)
    )
    extractor = SandboxedExtractor(InProcessExtractor(recipe, "cpu", 1 << 30), Limits(120))
    clips = list_videos([str(folder / "clips")]).videos
    target = FaceSet(folder / "out")
    started, seen = time.monotonic(), list[Measured]()
    task = ExtractTask(extractor, target, "soak")
    kinds = ("worker", "child")
    head(kinds)
    for number in range(units):
        task(unit_of(clips, number))
        passed = time.monotonic() - started
        if number % max(1, units // PRINTED) == 0 or passed > seconds or number == units - 1:
            gc.collect()
            now = {os.getpid(): "worker"} | {c.pid: "child" for c in process._IDLE}
            sample = measured(number + 1, passed, now)
            print_line(sample, kinds)
            seen += sample
        if passed > seconds:
            break
    return summed_up(seen, kinds, 1)


def unit_of(clips: list[VideoRef], number: int) -> Unit:
    """A unit of two clips, with names that no other unit has."""
    two = [clips[(2 * number + i) % len(clips)] for i in range(2)]
    named = [replace(c, video_id=f"{number}/{c.video_id}", group=str(number)) for c in two]
    return make_unit(named, "")


def watch(folder: Path, verb: str, units: int, detector: str) -> bool:
    """Run the command as a user types it, in a new process, and observe it."""
    clips = sorted((folder / "clips").iterdir())
    source = folder / "archive"
    source.mkdir()
    for number in range(2 * units):
        shutil.copy(clips[number % len(clips)], source / f"{number:06d}.mp4")
    command = [sys.executable, "-m", "dfscan", verb, str(source), "--stride", "4", "--verbose"]
    command += ["--workers", str(WORKERS), "--set", f"{verb}.unit_size=2", "--max-failed", "1"]
    if verb == "extract":
        out, parts = folder / "out", folder / "out" / "videos"
        command += ["--detector", detector]
    else:
        out, parts = folder / "out.parquet", folder / "out.parquet.parts"
        make_model("mesoinception4", 256, folder / "model.safetensors", detector)
        command += ["--model", str(folder / "model.safetensors")]
    log = folder / "log"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with log.open("wb") as output:
        driver = subprocess.Popen(
            [*command, "--out", str(out)], cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            seen = watched(driver, parts, units)
        finally:
            driver.terminate()
            driver.wait()
    print(*log.read_text().splitlines()[-8:], sep="\n")
    good = summed_up(seen, (*OURS, *RAYS), WORKERS)
    left = remaining({m.pid: m.kind for m in seen})
    for pid, kind in left.items():
        print(f"STILL RUNNING: {kind} {pid}")
    if driver.returncode:
        print(f"dfscan {verb}: exit code {driver.returncode}")
    return good and not left and not driver.returncode


def remaining(processes: dict[int, str]) -> dict[int, str]:
    """Processes that still run ten seconds after the driver has ended."""
    until = time.monotonic() + 10
    while (left := {p: kind for p, kind in processes.items() if kind_of(p)}) and (
        time.monotonic() < until
    ):
        time.sleep(0.5)
    return left


def watched(driver: "subprocess.Popen[bytes]", parts: Path, units: int) -> list[Measured]:
    """Measure while units are committed; each unit is a file in ``parts``."""
    started, seen, due = time.monotonic(), list[Measured](), 1
    workers, printed = set[int](), 0
    head((*OURS, *RAYS))
    while driver.poll() is None:
        time.sleep(0.25)
        done = len(list(parts.glob("*.parquet"))) if parts.exists() else 0
        if due <= done < units:
            parents = parents_under(driver.pid)
            now = {driver.pid: "driver"} | {pid: kind_of(pid) for pid in parents}
            workers |= {parents[pid] for pid, kind in now.items() if kind == "child"}
            spare = {pid for pid, kind in now.items() if kind == "worker"} - workers
            now |= dict.fromkeys(spare, "spare")
            sample = measured(done, time.monotonic() - started, now)
            seen += sample
            due = done + max(1, units // MEASUREMENTS)
            if sample and done >= printed:
                print_line(sample, (*OURS, *RAYS))
                printed = done + max(1, units // PRINTED)
    return seen


def parents_under(pid: int) -> dict[int, int]:
    """All descendants of a process, each with its parent."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(place.parent.name)] = parent
    found, size = {pid}, 0
    while size < len(found):
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return {child: parents[child] for child in found - {pid}}


def kind_of(pid: int) -> str:
    """The kind of a process, by its command line; empty if it has ended or is a zombie."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    name = Path(words[0]).name
    if name.startswith("ray::") and name.endswith("Agent"):
        return "others"
    if name.startswith("ray::") or any(w.endswith("default_worker.py") for w in words[1:3]):
        return "worker"
    if "dfscan.pipeline.sandbox.extraction_worker" in words:
        return "child"
    if "dfscan" in words:
        return "driver"
    return {"raylet": "raylet", "gcs_server": "gcs", "": ""}.get(name, "others")


def head(kinds: Sequence[str]) -> None:
    print(" " * 15 + "".join(f"{kind:>26s}" for kind in kinds))
    print("    unit      s" + "     n    PSS    own files" * len(kinds), flush=True)


def measured(unit: int, seconds: float, processes: dict[int, str]) -> list[Measured]:
    """Measure each process that still runs."""
    found = [measure(unit, seconds, kind, pid) for pid, kind in processes.items() if kind]
    return [m for m in found if m is not None]


def print_line(there: Sequence[Measured], kinds: Sequence[str]) -> None:
    """Print one line with the averages per kind."""
    line = f"{there[0].unit:8d} {there[0].seconds:6.0f}"
    for kind in kinds:
        few = [m for m in there if m.kind == kind]
        pss, own, files = (
            statistics.mean(getattr(m, what) for m in few) if few else 0.0
            for what in ("pss", "own", "files")
        )
        line += f"{len(few):6d}{pss:7.1f}{own:7.1f}{files:6.1f}"
    print(line, flush=True)


def summed_up(seen: Sequence[Measured], kinds: Sequence[str], workers: int) -> bool:
    """Print each kind's slopes over the second half; return whether those of dfscan's kinds are flat."""
    last, good = max((m.unit for m in seen), default=0), True
    born = {m.pid: m.unit for m in reversed(seen)}
    print(f"\n{last:,} units, {2 * last:,} videos in {seen[-1].seconds if seen else 0:.0f} s")
    print(
        "over the second half: processes at once, in total; private MB and open files per process, growth per thousand units"
    )
    for kind in kinds:
        half = [m for m in seen if m.kind == kind and m.unit >= last / 2]
        at_once = max(sum(m.unit == unit for m in half) for unit in {m.unit for m in half} or [0])
        old = [m for m in half if m.unit - born[m.pid] >= SETTLED]
        (own, own_error), (files, files_error) = slope(old, "own"), slope(old, "files")
        level = statistics.median(m.own for m in old) if old else float("nan")
        flat = own - 2 * own_error <= GROWTH_MB and files - 2 * files_error <= GROWTH_FILES
        flat = flat and own_error <= GROWTH_MB and at_once <= workers
        verdict = ("flat" if flat else "NOT FLAT") if kind in OURS else ""
        good = good and (flat or kind not in OURS)
        print(
            f"{kind:8s} {at_once:3d} {len({m.pid for m in seen if m.kind == kind}):3d}; "
            f"{level:7.1f} MB {own:+6.2f} ± {own_error:.2f} ({slope_within(old, 'own'):+.2f} within processes); "
            f"{min((m.files for m in old), default=0)} to {max((m.files for m in old), default=0)} "
            f"files {files:+.2f} ± {files_error:.2f}  {verdict}"
        )
    return good


def slope(rows: Sequence[Measured], what: str) -> tuple[float, float]:
    """Least-squares slope per thousand units of the mean over processes, and its standard error."""
    moments: dict[int, list[float]] = {}
    for row in rows:
        moments.setdefault(row.unit, []).append(getattr(row, what))
    if len(moments) < 3:
        return float("nan"), float("nan")
    units, means = list(moments), [statistics.mean(values) for values in moments.values()]
    line = statistics.linear_regression(units, means)
    middle = statistics.mean(units)
    residuals = sum(
        (m - line.slope * u - line.intercept) ** 2 for u, m in zip(units, means, strict=True)
    )
    error = (residuals / (len(units) - 2) / sum((u - middle) ** 2 for u in units)) ** 0.5
    return 1000 * line.slope, 1000 * error


def slope_within(rows: Sequence[Measured], what: str) -> float:
    """The slope within processes: growth of each process relative to its own mean."""
    product = square = 0.0
    for pid in {row.pid for row in rows}:
        units = [float(row.unit) for row in rows if row.pid == pid]
        values = [float(getattr(row, what)) for row in rows if row.pid == pid]
        middle, level = statistics.mean(units), statistics.mean(values)
        product += sum((u - middle) * (v - level) for u, v in zip(units, values, strict=True))
        square += sum((u - middle) ** 2 for u in units)
    return 1000 * product / square if square else float("nan")


if __name__ == "__main__":
    main()
