"""Cost of dfscan itself, without decoding and detection.

    python benchmarks/overhead.py            # all of it, about ten minutes
    python benchmarks/overhead.py plan|noop|child|memory

``plan``: lists the whole DFDC archive (119,154 empty members in 50 part zips inside one zip) and divides it
into units; seconds and peak memory, compared with the time `zipfile` alone takes to read the same central
directories. ``noop``: 50,000 videos through driver, units and commits with a task that opens nothing, on Ray
and inline. ``child``: a round trip to the decoding process. ``memory``: peak memory of a driver by number of
videos, and its slope.
"""

import io
import json
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PARTS, VIDEOS, REALS = 50, 119_154, 19_154
NOOP = 50_000


def write_archive(path: Path, videos: int, parts: int) -> None:
    """Write one zip of part zips, as DFDC's, with empty videos."""
    letters = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as outer:
        for part in range(parts):
            count = videos // parts + (part < videos % parts)
            names = ["".join(letters.choices(string.ascii_lowercase, k=10)) for _ in range(count)]
            reals = max(1, count * REALS // VIDEOS)
            truth = {
                f"{name}.mp4": {"label": "REAL", "split": "train"}
                if i < reals
                else {"label": "FAKE", "split": "train", "original": f"{names[i % reals]}.mp4"}
                for i, name in enumerate(names)
            }
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_STORED) as archive:
                folder = f"dfdc_train_part_{part}"
                archive.writestr(f"{folder}/metadata.json", json.dumps(truth))
                for name in names:
                    archive.writestr(f"{folder}/{name}.mp4", b"")
            outer.writestr(f"dfdc_train_part_{part:02d}.zip", inner.getvalue())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(what: str, *arguments: object) -> dict[str, float]:
    """Run this script's function ``what`` in a new process, like a user's command."""
    command = [sys.executable, __file__, f"--{what}", *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def do_plan(source: str) -> dict[str, float]:
    started = time.perf_counter()
    from dfscan.corpora import list_videos
    from dfscan.pipeline.work_units import plan_units

    videos = list_videos([source]).videos
    units = plan_units(videos, 16, "")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": peak_mb(), "videos": len(videos), "units": len(units)}


def do_floor(source: str) -> dict[str, float]:
    started = time.perf_counter()
    members = 0
    with zipfile.ZipFile(source) as outer:
        for info in outer.infolist():
            with outer.open(info) as inner, zipfile.ZipFile(inner) as archive:
                members += len(archive.infolist())
    return {"seconds": time.perf_counter() - started, "videos": members, "mb": peak_mb()}


def do_noop(source: str, out: str, mode: str) -> dict[str, float]:
    from dataclasses import dataclass

    from dfscan.config.extract import ExtractConfig
    from dfscan.corpora import list_videos
    from dfscan.datasets.face_dataset import FaceSet
    from dfscan.execution.executor import run_units
    from dfscan.pipeline.extract_task import ExtractTask
    from dfscan.pipeline.extraction.extractor import ExtractionResult, failed_row
    from dfscan.pipeline.progress import Progress
    from dfscan.pipeline.work_units import plan_units
    from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
    from dfscan.schemas.records import VideoRef
    from dfscan.storage import Lock

    @dataclass(frozen=True)
    class NoLook:
        """Opens nothing."""

        recipe: FaceRecipe
        device: str = "cpu"
        max_concurrent: int = 1

        def extract(self, ref: VideoRef, extra_frames=(), reference=None) -> ExtractionResult:  # type: ignore[no-untyped-def]
            return ExtractionResult(failed_row(ref, "no_face", "not opened"), [])

        def sample_frames(self, ref: VideoRef) -> list[int]:
            return []

    recipe = FaceRecipe(sampling=Sampling(stride=Stride()))
    videos = list_videos([source]).videos
    target = FaceSet(Path(out))
    config = ExtractConfig(inline=mode == "inline", workers=2)
    with Lock(target.root / ".dfscan.lock", target.root) as lock:
        task = ExtractTask(NoLook(recipe), target, lock.lease)
        if mode == "ray":
            from dfscan.execution.executor import ray_session

            with ray_session(config):
                started = time.perf_counter()
                run_units(task, plan_units(videos, 16, ""), config, Progress(), lock.lease)
        else:
            started = time.perf_counter()
            run_units(task, plan_units(videos, 16, ""), config, Progress(), lock.lease)
        worked = time.perf_counter() - started
        target.reconcile()
        target.committed(videos)
        target.compact()
        target.counts()
    finished = time.perf_counter() - started
    return {"worked": worked, "finished": finished, "videos": len(videos), "mb": peak_mb()}


def do_child(count: str) -> dict[str, float]:
    from dfscan.pipeline.extraction.extractor import InProcessExtractor
    from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor
    from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
    from dfscan.schemas.records import VideoRef

    recipe = FaceRecipe(sampling=Sampling(stride=Stride()), detector=Detector(name="none"))
    extractor = InProcessExtractor(recipe, "cpu", 1 << 30)
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.mp4"
        path.touch()
        ref = VideoRef("empty.mp4", str(path), "p", None, None, "g", 0, "0")
        for name, each in (
            ("inside", extractor),
            ("child", SandboxedExtractor(extractor, Limits(60))),
        ):
            each.extract(ref)
            started = time.perf_counter()
            for _ in range(int(count)):
                each.extract(ref)
            times[name] = (time.perf_counter() - started) / int(count) * 1000
    return times


def plan() -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "dfdc.zip"
        write_archive(archive, VIDEOS, PARTS)
        runs = [in_process("plan", archive) for _ in range(3)]
        floors = [in_process("floor", archive) for _ in range(3)]
    seconds = statistics.median(r["seconds"] for r in runs)
    floor = statistics.median(r["seconds"] for r in floors)
    print(
        f"plan     {runs[0]['videos']:,} videos in {runs[0]['units']:,} units: {seconds:.1f} s, peak "
        f"{runs[0]['mb']:.0f} MB; zipfile alone {floor:.1f} s, {seconds / floor:.1f} times as long"
    )


def noop() -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "dfdc.zip"
        write_archive(archive, NOOP, 21)
        for mode in ("ray", "inline"):
            run = in_process("noop", archive, Path(folder) / mode, mode)
            workers = 2 if mode == "ray" else 1
            print(
                f"no-op    {run['videos']:,} videos, {mode} ({workers} worker(s)): "
                f"{run['worked'] / run['videos'] * 1000:.2f} ms per video, "
                f"{run['worked'] * workers / run['videos'] * 1000:.2f} ms per video and worker; "
                f"with the end of the run {run['finished'] / run['videos'] * 1000:.2f} ms per video"
            )


def child() -> None:
    times = in_process("child", 2000)
    print(
        f"child    round trip to the decoding process: {times['child'] - times['inside']:.2f} ms per video"
    )


def memory() -> None:
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (50_000, 200_000):
            archive = Path(folder) / f"{count}.zip"
            write_archive(archive, count, count // 2500)
            peaks[count] = in_process("noop", archive, Path(folder) / str(count), "inline")["mb"]
    few, many = peaks.values()
    slope = (many - few) * 1024 / 150_000
    print(
        f"memory   driver peak {few:.0f} MB at 50,000 videos, {many:.0f} MB at 200,000: "
        f"{slope:.2f} kB per video, a million would take {(few + slope * 950_000 / 1024):.0f} MB"
    )


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("--"):
        function = {"plan": do_plan, "floor": do_floor, "noop": do_noop, "child": do_child}
        print(json.dumps(function[arguments[0][2:]](*arguments[1:])))
        return
    for name in arguments or ["plan", "noop", "child", "memory"]:
        {"plan": plan, "noop": noop, "child": child, "memory": memory}[name]()


if __name__ == "__main__":
    main()
