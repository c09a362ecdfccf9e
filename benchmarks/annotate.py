"""Speed of annotating a video, compared with decoding and encoding it alone.

    python benchmarks/annotate.py [CLIP] [--seconds 10] [--repeats 3] [--every 0.2]

The clip (default: one of the synthetic corpus) is cropped and scaled to 640×480 at 30 frames per
second. ``dfscan annotate`` scores it with MesoInception-4 five times per second, on two cores; decoding and
encoding alone uses the same decoder and the same writer. The first run loads the networks and is not
counted. Medians of the repeats; CPU seconds do not depend on other programs on a shared machine.
Target: at least 1 second of video per second.
"""

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from making import make_model
from PIL import Image

WIDTH, HEIGHT, FPS = 640, 480, 30


def clip_frames(path: Path) -> Iterator[Image.Image]:
    """Frames of a clip, cropped to 4:3."""
    from dfscan.video import open_video

    video = open_video(path.read_bytes(), "pyav")
    for batch in video.read(range(video.count)):
        for frame in batch:
            picture = Image.fromarray(frame.rgb)
            wide = min(picture.width, picture.height * WIDTH // HEIGHT)
            tall = wide * HEIGHT // WIDTH
            left, top = (picture.width - wide) // 2, (picture.height - tall) // 2
            box = (left, top, left + wide, top + tall)
            yield picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)


def synthetic_clip(folder: Path) -> Path:
    """A synthetic clip of two seconds."""
    import zipfile

    from dfscan.commands.quickstart.synthetic import CorpusSpec, make_corpus

    corpus = make_corpus(folder, CorpusSpec(people=2, test_people=2, parts=1, frames=60, size=480))
    with zipfile.ZipFile(corpus.test) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".mp4"))
        return Path(archive.extract(name, folder))


def make_clip(source: Path, target: Path, seconds: float) -> None:
    """Write the source at 640×480 and 30 frames per second, repeated until it is ``seconds`` long."""
    import numpy as np

    from dfscan.video.writing import VideoWriter

    wanted, number = round(seconds * FPS), 0
    with VideoWriter(target, WIDTH, HEIGHT, FPS, sound=source.read_bytes()) as writer:
        while number < wanted:
            for picture in itertools.islice(clip_frames(source), wanted - number):
                writer.write(np.asarray(picture), number / FPS)
                number += 1


def annotate(clip: Path, model: Path, out: Path, every: float) -> float:
    """Annotate and return the length of the video in seconds."""
    import dfscan

    result = dfscan.annotate(str(clip), model=str(model), out=str(out), every=every, overwrite=True)
    print(f"# {result.judged} frames scored, {len(result.people)} people", flush=True)
    return float(result.seconds or 0)


def copy(clip: Path, out: Path) -> None:
    """Decode and encode, nothing else."""
    from dfscan.video import open_video
    from dfscan.video.writing import VideoWriter

    data = clip.read_bytes()
    video = open_video(data, "pyav")
    with VideoWriter(out, WIDTH, HEIGHT, video.info.fps, sound=data) as writer:
        for batch in video.read(range(video.count)):
            for frame in batch:
                writer.write(frame.rgb, frame.pts_s)


def cpu_s() -> float:
    """CPU seconds used so far by this process and its children."""
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    live = ticks / os.sysconf("SC_CLK_TCK")
    return time.process_time() + live + ended.ru_utime + ended.ru_stime


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of ``work``."""
    wall, cpu = time.perf_counter(), cpu_s()
    work()
    return time.perf_counter() - wall, cpu_s() - cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the video")
    parser.add_argument("--every", type=float, default=0.2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = given.clip or synthetic_clip(folder)
        clip, short = folder / "clip.mp4", folder / "short.mp4"
        make_clip(source, clip, given.seconds)
        make_clip(source, short, 0.5)
        model = folder / "model.safetensors"
        make_model("mesoinception4", 256, model)
        out = folder / "out.mp4"
        annotate(short, model, out, given.every)
        both: dict[str, list[tuple[float, float]]] = {"annotate": [], "decode and encode": []}
        length = 0.0

        def work() -> None:
            nonlocal length
            length = annotate(clip, model, out, given.every)

        for _ in range(given.repeats):
            both["annotate"].append(measured(work))
            both["decode and encode"].append(measured(lambda: copy(clip, out)))
    print(f"\n{length:.1f} s of video, {WIDTH}×{HEIGHT}, {FPS} frames/s, two cores")
    for name, runs in both.items():
        wall, cpu = (statistics.median(r[i] for r in runs) for i in range(2))
        print(
            f"{name}: {wall:.2f} s ({length / wall:.2f} s of video per second), {cpu:.2f} CPU seconds "
            f"({length / cpu * 2:.2f} s of video per second if both cores were busy)"
        )
    walls = [a[0] / b[0] for a, b in zip(*both.values(), strict=True)]
    cpus = [a[1] / b[1] for a, b in zip(*both.values(), strict=True)]
    print(
        f"annotate takes {statistics.median(walls):.2f} times as long as decoding and encoding alone "
        f"(CPU: {statistics.median(cpus):.2f})"
    )


if __name__ == "__main__":
    main()
