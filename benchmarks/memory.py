"""Memory of a worker and its decoding process on 4K input and on a one-hour recording.

    pip install 'dfscan[quickstart]'
    python benchmarks/memory.py [--hours 1]

Generates both clips (one public-domain portrait that moves), reads every 30th frame, and prints the
peak of the proportional set size (PSS), sampled ten times per second. "fed": the decoding process
leaves detection to the worker's detector (``--decoders``).
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image
from skimage.data import astronaut

from dfscan.pipeline.extraction.extractor import InProcessExtractor
from dfscan.pipeline.sandbox import process
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.schemas.records import VideoRef

STRIDE = 30


def write(path: Path, width: int, height: int, frames: int) -> None:
    portrait = Image.fromarray(astronaut()).resize((height, height))
    canvas = Image.new("RGB", (width, height), (90, 110, 130))
    canvas.paste(portrait, ((width - height) // 2, 0))
    picture = np.asarray(canvas)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            shift = index % 120 // 2
            frame = av.VideoFrame.from_ndarray(np.roll(picture, shift, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def pss(pid: int | str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith("Pss:")), 0)


def peak(path: Path, decoders: int) -> None:
    sampling = Sampling(stride=STRIDE, phase=0)
    extractor = SandboxedExtractor(
        InProcessExtractor(FaceRecipe(sampling=sampling), "cpu", 1 << 34), Limits(7200), decoders
    )
    ref = VideoRef(str(path), str(path), "part", None, None, "g", path.stat().st_size, "v")
    highest = {"worker": 0, "child": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            highest["worker"] = max(highest["worker"], pss("self"))
            with process._LOCK:
                children = list(process._BUSY)
            highest["child"] = max([highest["child"], *(pss(child.pid) for child in children)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    row = extractor.extract(ref).row
    done.set()
    watcher.join()
    process.end_child()
    print(
        f"| {path.stem}{', fed' if decoders else ''} | {row.width}x{row.height}, {row.duration_s:.0f} s | {row.frames_sampled} | "
        f"{row.faces} | {highest['child'] / 2**30:.2f} | {highest['worker'] / 2**30:.2f} | "
        f"{time.perf_counter() - began:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=1.0)
    given = parser.parse_args()
    print("| clip | size | frames sampled | faces | child, GiB | worker, GiB | s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, width, height, frames in (
            ("4K", 3840, 2160, 300),
            ("long", 640, 360, int(given.hours * 3600 * 30)),
        ):
            path = Path(folder) / f"{name}.mp4"
            writer = multiprocessing.get_context("spawn").Process(
                target=write, args=(path, width, height, frames)
            )
            writer.start()
            writer.join()
            peak(path, 0)
            if name == "4K":
                peak(path, 1)
            path.unlink()


if __name__ == "__main__":
    main()
