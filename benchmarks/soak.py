"""A day of work, as far as memory and open files can tell: units of tiny clips, one after another.

    python benchmarks/soak.py --units 5000                # one process; until done, or --minutes
    python benchmarks/soak.py --units 5000 --ray          # dfscan score on a Ray of its own
    python benchmarks/soak.py --units 5000 --ray extract

Each unit is two clips with their commit. Without ``--ray`` they go through the task that extraction
runs, in this process, which is driver and worker at once. With it the command runs as a user starts
it, two workers, and is watched from outside: driver, Ray's workers, their decoding processes, and,
for information, Ray's own (``spare``: workers that it keeps and gives no unit). Nobody looks for faces
(``--detector none``: each frame whole) unless told to; scoring runs MesoInception-4 on each.

Printed along the way, for each kind of process: how many there are, and for one of them, on average,
its proportional memory (PSS), how much of that is its own and no file's, and its open descriptors.
Decoding processes are replaced every 500 videos, so a kind is averaged over its processes of that
moment that are some units old, and its slope over the second half of the run says whether later ones
have more than earlier ones had. What each gains while it lives is told apart: the slope within
processes. The exit code is 1 where own memory or descriptors of the driver, the workers or the
decoding processes grow by more than the bounds below and twice the slope's standard error (a worker's
memory goes up and down with the frames it has in hand), where there are more processes than workers,
or where one is left when the run is over. So it is where a run is
too short to tell: the standard error is above the bound, or start-up reaches into the second half.
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

LOOKS, TOLD = 1000, 200
"""So many times it is measured, and so often told."""

GROWTH_MB, GROWTH_FILES = 1.0, 1.0
"""By so much a process's own memory and its open descriptors may grow in a thousand units."""

SETTLED = 25
"""Units of the run after which a new process counts: by then it has loaded what it needs."""

WORKERS = 2

OURS = ("driver", "worker", "child")
RAYS = ("spare", "raylet", "gcs", "others")


@dataclass(frozen=True)
class Measured:
    """One process at one moment. Memory in MB; ``own`` is what of it is no file."""

    unit: int
    seconds: float
    kind: str
    pid: int
    pss: float
    own: float
    files: int


def write_clips(folder: Path, count: int) -> None:
    """Half a second each, of stripes; every tenth is cut short, every tenth is no video."""
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
    """None where it has ended. A library's share of PSS depends on who else has it mapped."""
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
    """In this process."""
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
        if number % max(1, units // TOLD) == 0 or passed > seconds or number == units - 1:
            gc.collect()
            now = {os.getpid(): "worker"} | {c.pid: "child" for c in process._IDLE}
            looked = measured(number + 1, passed, now)
            tell(looked, kinds)
            seen += looked
        if passed > seconds:
            break
    return summed_up(seen, kinds, 1)


def unit_of(clips: list[VideoRef], number: int) -> Unit:
    """Two of the clips, under names that no other unit has."""
    two = [clips[(2 * number + i) % len(clips)] for i in range(2)]
    named = [replace(c, video_id=f"{number}/{c.video_id}", group=str(number)) for c in two]
    return make_unit(named, "")


def watch(folder: Path, verb: str, units: int, detector: str) -> bool:
    """The command as a user types it, in a process of its own."""
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
    with log.open("wb") as told:
        driver = subprocess.Popen(
            [*command, "--out", str(out)], cwd=folder, env=environment, stdout=told, stderr=told
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
        print(f"NOT GONE: {kind} {pid}")
    if driver.returncode:
        print(f"dfscan {verb}: exit code {driver.returncode}")
    return good and not left and not driver.returncode


def remaining(processes: dict[int, str]) -> dict[int, str]:
    """Those that are still there some seconds after the driver has ended."""
    until = time.monotonic() + 10
    while (left := {p: kind for p, kind in processes.items() if kind_of(p)}) and (
        time.monotonic() < until
    ):
        time.sleep(0.5)
    return left


def watched(driver: "subprocess.Popen[bytes]", parts: Path, units: int) -> list[Measured]:
    """Measure while units are committed, each a file in ``parts``."""
    started, seen, due = time.monotonic(), list[Measured](), 1
    workers, told = set[int](), 0
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
            looked = measured(done, time.monotonic() - started, now)
            seen += looked
            due = done + max(1, units // LOOKS)
            if looked and done >= told:
                tell(looked, (*OURS, *RAYS))
                told = done + max(1, units // TOLD)
    return seen


def parents_under(pid: int) -> dict[int, int]:
    """The process's children, and theirs, each with its parent."""
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
    """What a process is, by its command line; one that is gone or a zombie has none."""
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
    """Each process of these kinds that is still there."""
    found = [measure(unit, seconds, kind, pid) for pid, kind in processes.items() if kind]
    return [m for m in found if m is not None]


def tell(there: Sequence[Measured], kinds: Sequence[str]) -> None:
    """One line about all of them."""
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
    """Tell each kind's slopes over the second half; returns whether those of dfscan's are flat."""
    last, good = max((m.unit for m in seen), default=0), True
    born = {m.pid: m.unit for m in reversed(seen)}
    print(f"\n{last:,} units, {2 * last:,} videos in {seen[-1].seconds if seen else 0:.0f} s")
    print("over the second half: at once, in all; own MB and files of one, by thousand units")
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
            f"{level:7.1f} MB {own:+6.2f} ± {own_error:.2f} ({slope_within(old, 'own'):+.2f} within one's life); "
            f"{min((m.files for m in old), default=0)} to {max((m.files for m in old), default=0)} "
            f"files {files:+.2f} ± {files_error:.2f}  {verdict}"
        )
    return good


def slope(rows: Sequence[Measured], what: str) -> tuple[float, float]:
    """Least squares, for a thousand units, of the mean over the processes of each moment; its standard
    error."""
    moments: dict[int, list[float]] = {}
    for row in rows:
        moments.setdefault(row.unit, []).append(getattr(row, what))
    if len(moments) < 3:
        return float("nan"), float("nan")
    units, means = list(moments), [statistics.mean(values) for values in moments.values()]
    line = statistics.linear_regression(units, means)
    middle = statistics.mean(units)
    apart = sum(
        (m - line.slope * u - line.intercept) ** 2 for u, m in zip(units, means, strict=True)
    )
    error = (apart / (len(units) - 2) / sum((u - middle) ** 2 for u in units)) ** 0.5
    return 1000 * line.slope, 1000 * error


def slope_within(rows: Sequence[Measured], what: str) -> float:
    """The same within processes: what one has more of than it had itself."""
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
