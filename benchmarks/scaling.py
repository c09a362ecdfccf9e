"""Gain of a second worker, compared with the gain of a second decoding process on the same clips.

    python benchmarks/scaling.py FOLDER_OF_CLIPS

Decoding alone (decord, every 30th frame) and ``dfscan extract`` on Ray, each with one and with two
processes. Times are slopes between a third of the work and all of it, which removes start-up; medians of
the repeats. The gain is clips per second with two divided by clips per second with one.
"""

import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dfscan.commands import extract as extract_job
from dfscan.config.extract import ExtractConfig
from dfscan.execution.executor import ray_session
from dfscan.pipeline.progress import Progress

REPEATS = 3
COPIES = 2


def decode(paths: list[str]) -> None:
    import decord

    for path in paths:
        reader = decord.VideoReader(path, num_threads=1)
        for index in range(0, len(reader), 30):
            reader.get_batch([index])


def decoding_s(paths: list[str], processes: int) -> float:
    """Seconds of decoding, measured after every process has decoded its first clip."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(decode, [paths[:1]] * processes, chunksize=1)
        started = time.perf_counter()
        pool.map(decode, [[p] for p in paths], chunksize=1)
        return time.perf_counter() - started


def extracting_s(folder: Path, out: Path, workers: int) -> float:
    """Seconds of one run; Ray is running already."""
    shutil.rmtree(out, ignore_errors=True)
    config = ExtractConfig(source=str(folder), out=str(out), workers=workers, unit_size=1)
    started = time.perf_counter()
    extract_job.run(config, Progress())
    return time.perf_counter() - started


def main() -> None:
    clips = sorted(Path(sys.argv[1]).rglob("*.mp4"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for share in ("third", "all"):
            (root / share).mkdir()
        for copy in range(COPIES * 3):
            for clip in clips:
                target = root / "all" / f"{copy:02d}-{clip.name}"
                target.symlink_to(clip.resolve())
                if copy % 3 == 0:
                    (root / "third" / target.name).symlink_to(clip.resolve())
        few, many = ([str(p) for p in sorted((root / s).iterdir())] for s in ("third", "all"))
        extra = len(many) - len(few)
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(REPEATS):
            for workers in (1, 2):
                slope = decoding_s(many, workers) - decoding_s(few, workers)
                times.setdefault(("decoding", workers), []).append(slope)
                with ray_session(ExtractConfig(workers=workers)):
                    extracting_s(root / "third", root / "warm", workers)
                    slope = extracting_s(root / "all", root / "out", workers)
                    slope -= extracting_s(root / "third", root / "out", workers)
                times.setdefault(("dfscan", workers), []).append(slope)
    gains = {}
    for what in ("decoding", "dfscan"):
        one, two = (statistics.median(times[what, n]) / extra for n in (1, 2))
        gains[what] = one / two
        print(
            f"{what:9s} one {one:.2f} s per clip, two {two:.2f} s per clip: gain {gains[what]:.2f}"
        )
    print(f"dfscan's gain is {gains['dfscan'] / gains['decoding']:.2f} of decoding's")


if __name__ == "__main__":
    main()
