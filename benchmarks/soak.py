"""A day of work, as far as memory and open files can tell: units of tiny clips, one after another.

    python benchmarks/soak.py --units 5000            # until done, or --minutes

Each unit is a folder's worth of two clips through the step that extraction runs (`--detector none`, or
`mtcnn`), with its commit, in this process, which is driver and worker at once; its decoding process is
replaced every 500 videos. Printed along the way: proportional memory (PSS), how much of it is its own,
and open descriptors, of both. At the end the slope over the second half; it must be flat.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from dfscan.corpora import list_videos
from dfscan.facesets import FaceSet
from dfscan.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.records import VideoRef
from dfscan.steps import isolation
from dfscan.steps.extract import ExtractStep
from dfscan.steps.isolation import IsolatedLook, Limits, end_child
from dfscan.steps.look import Look
from dfscan.steps.units import Unit, make_unit

LOOKS = 40
"""So many times it is measured."""


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


def memory_mb(pid: int) -> tuple[float, float]:
    """PSS, and what of it is no file: a library's share depends on who else has it mapped."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: int(rest.split()[0]) / 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    return sizes["Pss"], sizes["Pss_Anon"] + sizes["Pss_Shmem"]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def child() -> int | None:
    """The decoding process that waits."""
    return isolation._IDLE[0].pid if isolation._IDLE else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=60, help="stop earlier")
    parser.add_argument("--detector", choices=("none", "mtcnn"), default="none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfscan-soak-") as temporary:
        folder = Path(temporary)
        (folder / "clips").mkdir()
        write_clips(folder / "clips", 20)
        soak(folder, options.units, options.minutes * 60, options.detector)
        end_child()


def soak(folder: Path, units: int, seconds: float, detector: str) -> None:
    recipe = FaceRecipe(
        sampling=Sampling(stride=Stride(real=4, fake=4)), detector=Detector(name=detector)
    )
    look = IsolatedLook(Look(recipe, "cpu", 1 << 30), Limits(120))
    clips = list_videos([str(folder / "clips")]).videos
    target = FaceSet(folder / "out")
    started, seen, children = time.monotonic(), [], set[int | None]()
    print("  unit      s  worker MB     own  files  child MB     own  files  child")
    step = ExtractStep(look, target, "soak")
    for number in range(units):
        step(unit_of(clips, number))
        children.add(child())
        late = time.monotonic() - started > seconds
        if number % max(1, units // LOOKS) == 0 or late or number == units - 1:
            seen.append(measured(number, started))
        if late:
            break
    half = [s for s in seen if s[0] >= seen[-1][0] / 2]
    print(
        f"{seen[-1][0] + 1} units, {2 * (seen[-1][0] + 1):,} videos in "
        f"{time.monotonic() - started:.0f} s with {len(children)} decoding process(es); over the "
        f"second half {slope(half, 3):+.2f} MB of the worker's own a thousand units, open files "
        f"{min(s[4] for s in half)} to {max(s[4] for s in half)}, of the child "
        f"{min(s[7] for s in half)} to {max(s[7] for s in half)}"
    )


def unit_of(clips: list[VideoRef], number: int) -> Unit:
    """Two of the clips, under names that no other unit has."""
    two = [clips[(2 * number + i) % len(clips)] for i in range(2)]
    named = [replace(c, video_id=f"{number}/{c.video_id}", group=str(number)) for c in two]
    return make_unit(named, "")


def measured(number: int, started: float) -> tuple[float, ...]:
    gc.collect()
    pid = child()
    mine = (*memory_mb(os.getpid()), descriptors(os.getpid()))
    its = (*memory_mb(pid), descriptors(pid)) if pid else (0.0, 0.0, 0)
    row = (number, time.monotonic() - started, *mine, *its)
    print(
        "{:6.0f} {:6.0f} {:10.1f} {:7.1f} {:6.0f} {:9.1f} {:7.1f} {:6.0f}".format(*row), f" {pid}"
    )
    sys.stdout.flush()
    return row


def slope(rows: list[tuple[float, ...]], column: int) -> float:
    """Least squares, for a thousand units."""
    if len(rows) < 3:
        return float("nan")
    xs, ys = [r[0] for r in rows], [r[column] for r in rows]
    return 1000 * statistics.linear_regression(xs, ys).slope


if __name__ == "__main__":
    main()
