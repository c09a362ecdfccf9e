"""Two design choices on a CPU, each against its alternative in one run (medians).

    python benchmarks/cpu_choices.py

Channels-last weights for MesoInception-4 (a training step on 32 faces of 256 pixels), and one
thread instead of all for the MTCNN cascade (a 1080p frame of noise around one portrait).
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

from dfscan.faces.mtcnn import MTCNN
from dfscan.models.mesonet import MesoInception4
from dfscan.pipeline.resources import cpu_count
from dfscan.schemas.recipe import Detector

REPEATS = 7


def median_ms(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def training_ms(memory_format: torch.memory_format) -> float:
    network = MesoInception4(256).to(memory_format=memory_format)
    faces = torch.rand(32, 3, 256, 256).contiguous(memory_format=memory_format)
    return median_ms(lambda: network(faces).sum().backward())


def detection_ms(frame: np.ndarray, threads: int) -> float:
    torch.set_num_threads(threads)
    detector = MTCNN(Detector())
    return median_ms(lambda: detector.detect([frame], 60))


def main() -> None:
    torch.set_num_threads(cpu_count())
    plain, last = training_ms(torch.contiguous_format), training_ms(torch.channels_last)
    print(
        f"training step   default {plain:6.0f} ms   channels last {last:6.0f} ms   {plain / last:.1f}"
    )
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), dtype=np.uint8)
    noise[100:612, 700:1212] = np.asarray(Image.fromarray(astronaut()))
    many, one = detection_ms(noise, cpu_count()), detection_ms(noise, 1)
    print(
        f"detection       {cpu_count()} threads {many:5.0f} ms   one thread {one:6.0f} ms   {many / one:.1f}"
    )


if __name__ == "__main__":
    main()
