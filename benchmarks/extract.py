"""Seconds per clip from file to faces: dfscan's three sampling modes against decoding alone and its peers.

    pip install 'dfscan[benchmarks]'
    python benchmarks/extract.py FOLDER_OF_CLIPS [--repeats 3] [--copies 6] [--plot FILE.png] [--same-allocator]
    python benchmarks/extract.py FOLDER_OF_CLIPS --faces

All methods read the same frames (every 30th), in the same number of single-threaded processes, alternating
within one run. Seconds are the slope of the wall time between a third and all of the work, which removes
start-up: medians of the repeats. The common way detects faces from 20 pixels on, the library's default; the
others, except the 1st-place way, from 60. dfscan's figures are those of its workers: they include the
decoding process, crops, JPEG and the commit, while the peers stop at the boxes. Every program runs as
distributed. dfscan's decoding process configures glibc's allocator; ``--same-allocator`` gives the peers the
same settings.

``--faces`` compares dfscan's boxes with those of facenet-pytorch at the same minimum size (``min_face:
auto``), over every frame of the clips.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

STRIDE = 30
PROBABILITY = 0.95
FLOOR = "decoding alone (decord)"
COMMON = "the common way"
AT_60 = "facenet-pytorch at 60 pixels"


def one_thread() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def decord_frames(path: str) -> Iterator[np.ndarray]:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    for index in range(0, len(reader), STRIDE):
        yield reader[index].asnumpy()


def opencv_frames(path: str) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(path)
    for index in range(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
        if not capture.grab():
            break
        if index % STRIDE == 0:
            yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()


def dfscan_decoding(_: Path) -> Callable[[list[str]], int]:
    """Decode the frames as dfscan does, and discard them."""
    from dfscan.video import open_video

    def work(paths: list[str]) -> int:
        for path in paths:
            video = open_video(Path(path).read_bytes(), "sparse")
            for _ in video.read(range(0, video.count, STRIDE)):
                pass
        return 0

    return work


def decoding(_: Path) -> Callable[[list[str]], int]:
    def work(paths: list[str]) -> int:
        return sum(0 for path in paths for _ in decord_frames(path))

    return work


def frame_by_frame(**options: Any) -> Callable[[Path], Callable[[list[str]], int]]:
    """OpenCV and facenet-pytorch, one frame at a time."""

    def start(_: Path) -> Callable[[list[str]], int]:
        from facenet_pytorch import MTCNN

        one_thread()
        detector = MTCNN(keep_all=True, **options)

        def work(paths: list[str]) -> int:
            found = (detector.detect(f) for path in paths for f in opencv_frames(path))
            return sum(certain(scores) for _, scores in found)

        return work

    return start


def half_size_batch(_: Path) -> Callable[[list[str]], int]:
    """The 1st-place solution of the DFDC challenge: half size, all frames of a clip at once."""
    import cv2
    from facenet_pytorch import MTCNN

    one_thread()
    detector = MTCNN(keep_all=True, thresholds=[0.85, 0.95, 0.95])

    def work(paths: list[str]) -> int:
        faces = 0
        for path in paths:
            halves = [cv2.resize(f, None, fx=0.5, fy=0.5) for f in opencv_frames(path)]
            faces += sum(certain(scores) for scores in detector.detect(halves)[1])
        return faces

    return work


def certain(scores: Any) -> int:
    return sum(score is not None and score >= PROBABILITY for score in scores)


def dfscan(mode: str, decoder: str = "auto") -> Callable[[Path], Callable[[list[str]], int]]:
    """The work of a ``dfscan extract`` worker: one unit, from its files to the commit."""

    def start(folder: Path) -> Callable[[list[str]], int]:
        from dfscan.datasets.face_dataset import FaceSet
        from dfscan.pipeline.extract_task import ExtractTask
        from dfscan.pipeline.extraction.extractor import InProcessExtractor
        from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor
        from dfscan.pipeline.work_units import make_unit
        from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling
        from dfscan.schemas.records import VideoRef
        from dfscan.video import ORDERS

        sampling = Sampling(mode=mode, stride=STRIDE, phase=0)
        recipe = FaceRecipe(sampling=sampling, detector=Detector())
        extractor = InProcessExtractor(recipe, "cpu", 1 << 32, ORDERS[decoder])
        target = FaceSet(folder / f"{mode}-{os.getpid()}")
        task = ExtractTask(SandboxedExtractor(extractor, Limits(600)), target, "run")

        def work(paths: list[str]) -> int:
            refs = [
                VideoRef(p, p, "part", None, None, p, Path(p).stat().st_size, "v") for p in paths
            ]
            return task(make_unit(refs, "")).faces

        return work

    return start


WAYS: dict[str, Callable[[Path], Callable[[list[str]], int]]] = {
    FLOOR: decoding,
    "decoding alone (dfscan's way)": dfscan_decoding,
    COMMON: frame_by_frame(),
    "the 1st-place way": half_size_batch,
    AT_60: frame_by_frame(min_face_size=60),
    "dfscan, exact": dfscan("exact"),
    "dfscan, exact, --decoder decord": dfscan("exact", "decord"),
    "dfscan, nearest": dfscan("nearest"),
    "dfscan, keyframes": dfscan("keyframes"),
}

WORK: list[Callable[[list[str]], int]] = []
"""The work function of this process."""


def start(way: str, folder: Path, first: list[str], together: Any) -> None:
    """Initialise a process: load everything, process one clip, wait for the others."""
    WORK.append(WAYS[way](folder))
    WORK[0](first)
    together.wait()


def do(paths: list[str]) -> int:
    return WORK[0](paths)


def measure(way: str, tasks: list[list[str]], processes: int, folder: Path) -> tuple[float, int]:
    """Seconds per clip, and faces per pass over the clips."""
    context = multiprocessing.get_context("spawn")
    third = len(tasks) // 3
    together = context.Barrier(processes + 1)
    with context.Pool(processes, start, (way, folder, tasks[0][:1], together)) as pool:
        together.wait()
        began = time.perf_counter()
        pool.map(do, tasks[:third], chunksize=1)
        few = time.perf_counter() - began
        began = time.perf_counter()
        faces = pool.map(do, tasks[third:] + tasks[:third], chunksize=1)
        whole = time.perf_counter() - began
        pool.close()
        pool.join()
    return (whole - few) / ((len(tasks) - third) * len(tasks[0])), faces[0]


def race(clips: list[str], copies: int, repeats: int, processes: int, plot: str | None) -> None:
    if copies % (3 * processes):
        raise SystemExit(
            f"--copies: got {copies}; a third of them must be divisible by {processes} processes"
        )
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    faces: dict[str, int] = {}
    for number in range(repeats):
        for way in WAYS:
            folder = Path(tempfile.mkdtemp())
            seconds, faces[way] = measure(way, [clips] * copies, processes, folder)
            shutil.rmtree(folder)
            times[way].append(seconds)
            print(f"# {number + 1}/{repeats} {way}: {seconds:.3f} s per clip", flush=True)
    medians = {way: statistics.median(values) for way, values in times.items()}
    floor = medians[FLOOR]
    print(f"\n{len(clips)} clips, {copies} times, {processes} processes, {repeats} repeats\n")
    print(
        "| | s per clip | relative to decoding alone | speed, relative to the common way "
        "| speed, relative to 60 pixels | faces |"
    )
    print("|---|---|---|---|---|---|")
    for way, seconds in medians.items():
        against = [
            f"{medians[peer] / seconds:.1f}" if peer in medians else "–" for peer in (COMMON, AT_60)
        ]
        found = "–" if way.startswith("decoding") else faces[way]
        print(
            f"| {way} | {seconds:.2f} | {seconds / floor:.2f} | {against[0]} | "
            f"{against[1]} | {found} |"
        )
    if plot:
        draw(
            medians, floor, plot, f"seconds per clip, {processes} processes (dotted: decord alone)"
        )


def draw(medians: dict[str, float], floor: float, path: str, label: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    names = list(medians)[::-1]
    colours = ["#2a6f97" if name.startswith("dfscan") else "#a0a7ad" for name in names]
    bars = axes.barh(names, [medians[n] for n in names], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(floor, color="#444444", linewidth=1, linestyle=":")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


# ---------------------------------------------------------------- comparison of the faces


def compare(task: tuple[str, int]) -> tuple[list[float], int, int, int]:
    """IoU per certain face of the library; frames; faces only dfscan has; faces only the library has."""
    from facenet_pytorch import MTCNN
    from scipy.optimize import linear_sum_assignment

    from dfscan.faces.detectors import load_detector
    from dfscan.schemas.recipe import Detector
    from dfscan.video import open_video

    path, part = task
    one_thread()
    video = open_video(Path(path).read_bytes(), "pyav")
    frames = range(part * video.count // PARTS, (part + 1) * video.count // PARTS)
    recipe = Detector()
    min_face = recipe.min_face_px(video.info.width, video.info.height)
    ours, theirs = load_detector(recipe, "cpu"), MTCNN(keep_all=True, min_face_size=min_face)
    ious: list[float] = []
    seen = extra = missing = 0
    for batch in video.read(frames):
        for frame, found in zip(batch, ours.detect([f.rgb for f in batch], min_face), strict=True):
            boxes, scores = theirs.detect(frame.rgb)
            their = np.zeros((0, 4)) if boxes is None else boxes.astype(float)
            sure = np.zeros(0, bool) if boxes is None else scores.astype(float) >= PROBABILITY
            overlap = iou(their, found.boxes)
            pairs = linear_sum_assignment(overlap, maximize=True)
            best = np.zeros(len(their))
            best[pairs[0]] = overlap[pairs]
            ious += best[sure].tolist()
            extra += len(found) - int((overlap[pairs] >= 0.5).sum())
            missing += int((best[sure] < 0.5).sum())
            seen += 1
    return ious, seen, extra, missing


PARTS = 4


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    begin = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(end - begin, 0, None).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))


def faces(clips: list[str], processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        tasks = [(clip, part) for clip in clips for part in range(PARTS)]
        results = pool.map(compare, tasks, chunksize=1)
    each = [
        np.concatenate([r[0] for r in results[i : i + PARTS]]) for i in range(0, len(tasks), PARTS)
    ]
    each = [values for values in each if len(values)]
    values = np.concatenate(each)
    seen, extra, missing = (sum(r[k] for r in results) for k in (1, 2, 3))
    low, high = interval(each)
    print(f"{seen} frames of {len(clips)} clips; {len(values)} faces of facenet-pytorch")
    print(
        f"matched one to one at IoU 0.9: {(values >= 0.9).sum()} ({(values >= 0.9).mean():.2%}, 95 % "
        f"interval {low:.2%} to {high:.2%}); median IoU {np.median(values):.4f}, "
        f"minimum {values.min():.4f}"
    )
    print(f"faces only dfscan found: {extra}; faces only facenet-pytorch found: {missing}")


def interval(each: list[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the matched share: bootstrap over clips, since frames of a clip are correlated."""
    chance = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        drawn = np.concatenate([each[i] for i in chance.integers(0, len(each), len(each))])
        shares.append((drawn >= 0.9).mean())
    return float(np.percentile(shares, 2.5)), float(np.percentile(shares, 97.5))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plot")
    parser.add_argument("--only", nargs="*", help="methods, by a part of their names")
    parser.add_argument(
        "--same-allocator",
        action="store_true",
        help="use the glibc settings of dfscan's decoding process for all methods",
    )
    parser.add_argument("--faces", action="store_true")
    given = parser.parse_args()
    clips = [
        str(p)
        for name in given.folder
        for p in (sorted(Path(name).rglob("*.mp4")) if Path(name).is_dir() else [Path(name)])
    ]
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1"}
    if given.same_allocator:
        from dfscan.pipeline.sandbox.process import MALLOC

        os.environ |= MALLOC
    if given.only:
        kept = [way for way in WAYS if any(part in way for part in given.only)]
        for way in set(WAYS) - {FLOOR, *kept}:
            del WAYS[way]
    if given.faces:
        faces(clips, given.processes)
    else:
        race(clips, given.copies, given.repeats, given.processes, given.plot)


if __name__ == "__main__":
    main()
