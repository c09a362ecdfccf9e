"""Cost of scoring, compared with extraction plus the network's own forward pass.

    python benchmarks/score.py FOLDER_OF_CLIPS [--backbones mesoinception4 efficientnet_b0] [--repeats 3]

``dfscan extract`` and ``dfscan score`` read the same frames (every 30th) of the same clips with the same
number of workers under Ray, alternating. Seconds are the difference between a third and all of the copies,
which removes start-up: medians of the repeats. The forward pass is measured on the same number of faces,
already tensors, in the same number of single-threaded processes. Target: at most 1.15 of the sum.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from making import STRIDE, copied, make_model

BATCH = 32


def forward(task: tuple[str, int]) -> float:
    """Seconds of the forward pass for a number of faces; ``task`` is (model path, faces)."""
    import torch

    from dfscan.models.modelfile import load_model

    path, faces = task
    torch.set_num_threads(1)
    model = load_model(Path(path))
    assert model.header.recipe.input is not None
    size = model.header.recipe.input.size
    batch = torch.rand(BATCH, 3, size, size)
    with torch.inference_mode():
        model.network(batch)
        began = time.perf_counter()
        for left in range(faces, 0, -BATCH):
            model.network(batch[: min(left, BATCH)])
        return time.perf_counter() - began


def run(verb: str, source: Path, workers: int, **more: Any) -> tuple[float, int]:
    """Wall seconds of one run, and the number of faces found."""
    import dfscan

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out" + (".parquet" if verb == "score" else "")
        common = {"out": out, "stride": STRIDE, "phase": 0, "workers": workers, "unit_size": 4}
        began = time.perf_counter()
        result = getattr(dfscan, verb)(str(source), **common, **more)
        seconds = time.perf_counter() - began
        return seconds, result.counts["faces"] if verb == "extract" else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--backbones", nargs="+", default=["mesoinception4", "efficientnet_b0"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 224])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    clips = sorted(c for folder in given.folder for c in Path(folder).rglob("*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        third = copied(clips, given.copies // 3, Path(folder) / "third")
        whole = copied(clips, given.copies, Path(folder) / "whole")
        models = {}
        for backbone, size in zip(given.backbones, given.sizes, strict=True):
            models[backbone] = Path(folder) / f"{backbone}.safetensors"
            make_model(backbone, size, models[backbone])
        times: dict[str, list[float]] = {name: [] for name in ("extract", *models)}
        forwards: dict[str, list[float]] = {name: [] for name in models}
        faces = 0
        for number in range(given.repeats):
            for name, seconds in times.items():
                more = {} if name == "extract" else {"model": str(models[name])}
                verb = "extract" if name == "extract" else "score"
                few, less = run(verb, third, given.workers, **more)
                all_of_it, more_faces = run(verb, whole, given.workers, **more)
                seconds.append(all_of_it - few)
                faces = more_faces - less if verb == "extract" else faces
                print(f"# {number + 1}/{given.repeats} {name}: {seconds[-1]:.2f} s", flush=True)
            for name, model in models.items():
                share = [(str(model), faces // given.workers)] * given.workers
                with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
                    forwards[name].append(max(pool.map(forward, share)))
    looked_at = len(clips) * (given.copies - given.copies // 3)
    floor = statistics.median(times["extract"])
    print(f"\n{looked_at} clips, {faces} faces, {given.workers} workers, {given.repeats} repeats")
    print(f"extract: {floor:.2f} s, {floor / looked_at:.3f} s per clip")
    for name in models:
        score, own = statistics.median(times[name]), statistics.median(forwards[name])
        print(
            f"score with {name}: {score:.2f} s = {score / (floor + own):.2f} of extract and the "
            f"forward pass ({own:.2f} s)"
        )


if __name__ == "__main__":
    main()
