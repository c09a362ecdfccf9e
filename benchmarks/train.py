"""Does the reader keep a network busy, and what is learned from scratch in a given time?

    python benchmarks/train.py reader FACES [--backbone efficientnet_b0] [--size 224] [--device cpu]
    python benchmarks/train.py scratch FACES --backbones A@128 B@256:40 --minutes 10 [--folds 5] [--set KEY=VALUE …]

``reader``: training steps fed by dfscan's reader with augmentation, compared with the same steps on one batch
in memory; alternating, medians. ``scratch``: a cross-validation of each backbone at its input size in pixels.
The number of epochs is what fits into the minutes per fold, judged by two trial epochs, or the given number if
that is smaller; all other settings are equal. It prints the AUC of the held-out sides of all folds together,
with an interval over groups, and the difference over the same resamples.
"""

import argparse
import csv
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import nn

from dfscan.commands import train as train_job
from dfscan.config.loading import build
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.datasets.face_dataset import open_facesets
from dfscan.models.backbones import create_network, network_input, normalise
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import cpu_count
from dfscan.training.index import build_index
from dfscan.training.reader import Batch, FaceReader
from dfscan.training.results import read_outputs
from dfscan.training.sampling import make_sampler

RESAMPLES = 2000
TRIAL = 2


def reader(given: argparse.Namespace) -> None:
    torch.set_num_threads(given.threads)
    wanted = network_input(given.backbone, InputConfig(size=given.size))
    index = build_index(open_facesets((given.faces,)))
    config = TrainConfig(augment=given.augment)
    sampler = make_sampler(index, np.arange(len(index)), config)
    ahead = given.device != "cpu"
    faces = FaceReader(index, wanted, threads=given.threads, ahead=ahead)
    network = create_network(given.backbone, given.size).to(given.device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        pixels = normalise(batch.pixels.to(given.device), wanted)
        logits = network(pixels)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.fake.to(given.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if given.device != "cpu":
            torch.cuda.synchronize()

    def batches(seed: int) -> Any:
        items = sampler.epoch(seed)
        return faces.train_batches(items, given.batch, 1 << 20, seed, given.augment)

    still = next(batches(0))
    step(still)
    ratios, rates = [], []
    for repeat in range(given.repeats):
        began = time.perf_counter()
        for _ in range(given.steps):
            step(still)
        memory = given.steps * given.batch / (time.perf_counter() - began)
        stream = batches(repeat + 1)
        step(next(stream))
        began = time.perf_counter()
        for batch in itertools.islice(stream, given.steps):
            step(batch)
        read = given.steps * given.batch / (time.perf_counter() - began)
        stream.close()
        ratios.append(read / memory)
        rates.append((memory, read))
        print(f"# {memory:.1f} faces/s from memory, {read:.1f} from the reader", flush=True)
    faces.core_s, faces.pictures = 0.0, 0
    began = time.perf_counter()
    for batch in itertools.islice(batches(99), 20):
        del batch
    alone = 20 * given.batch / (time.perf_counter() - began)
    print(
        f"{given.backbone} at {given.size} px, {given.augment}: {statistics.median(ratios):.3f} of the "
        f"network's own rate ({statistics.median(r[0] for r in rates):.1f} faces/s); the reader alone "
        f"{alone:.0f} faces/s, {1000 * faces.core_s / faces.pictures:.2f} core-ms per face"
    )


def scratch(given: argparse.Namespace) -> None:
    settings: dict[str, Any] = {
        "faces": given.faces, "inline": True, "workers": given.threads, "folds": given.folds,
        "test_fraction": 0.0, "pretrained": False,
    }  # fmt: skip
    for text in given.set:
        key, _, value = text.partition("=")
        settings[key] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory() as folder:
        configs = {}
        for number, wanted in enumerate(given.backbones):
            name, _, most = wanted.partition(":")
            backbone, _, size = name.partition("@")
            own = settings | {"backbone": backbone}
            if size:
                own["input"] = {"size": int(size)}
            out = f"{folder}/trial_{number}"
            trial = build(TrainConfig, own | {"out": out, "fold": 0, "epochs": TRIAL})
            seconds = train_job.run(trial, Progress()).history[-1]["seconds"]
            fit = max(TRIAL, int(given.minutes * 60 / seconds))
            epochs = min(fit, int(most or fit))
            print(f"{wanted}: {seconds:.1f} s per epoch, {epochs} epochs per fold", flush=True)
            out = f"{folder}/folds_{number}"
            configs[wanted] = build(TrainConfig, own | {"out": out, "epochs": epochs})
        scores = {}
        for wanted, config in configs.items():
            result = train_job.run(config, Progress())
            scores[wanted] = together(Path(config.out), given.folds)
            found = result.metrics["out_of_fold"]["by_video"]
            low, high = found["intervals"]["auc"]
            by_fold = [run["video_auc"] for run in result.metrics["runs"]]
            last = [last_epoch(Path(config.out) / f"fold_{fold}") for fold in range(given.folds)]
            print(
                f"{wanted}: AUC {found['auc']:.3f} ({low:.3f} to {high:.3f}), by fold "
                f"{', '.join(f'{auc:.3f}' for auc in by_fold)}; mean {statistics.mean(by_fold):.3f}, "
                f"of the last epochs {statistics.mean(last):.3f}",
                flush=True,
            )
    names = list(scores)
    for name in names[1:]:
        difference(name, scores[name], names[0], scores[names[0]])


def last_epoch(out: Path) -> float:
    """The video AUC of a run's last epoch, not selected by the held-out side."""
    with (out / "history.csv").open(newline="") as lines:
        *_, last = csv.DictReader(lines)
    return float(last["val_video_auc"])


def together(out: Path, folds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks, labels and groups of all held-out videos; logits are replaced by their rank in the fold."""
    parts = []
    for fold in range(folds):
        outputs = read_outputs(out / f"fold_{fold}", "validation")
        assert outputs is not None
        logits, fake, groups = outputs.videos
        ranks = np.argsort(np.argsort(logits)) / len(logits)
        parts.append((ranks, fake, groups))
    joined = [np.concatenate([p[i] for p in parts]) for i in range(3)]
    order = np.argsort(joined[2], kind="stable")
    return joined[0][order], joined[1][order], joined[2][order]


def difference(name: str, mine: Any, other: str, theirs: Any) -> None:
    random = np.random.default_rng(0)
    groups, number = np.unique(mine[2], return_inverse=True)
    rows = [np.flatnonzero(number == g) for g in range(len(groups))]
    found = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[g] for g in random.integers(0, len(groups), len(groups))])
        aucs = [roc_auc_score(s[1][drawn], s[0][drawn]) for s in (mine, theirs)]
        found.append(aucs[0] - aucs[1])
    whole = roc_auc_score(mine[1], mine[0]) - roc_auc_score(theirs[1], theirs[0])
    low, high = np.percentile(found, [2.5, 97.5])
    print(f"{name} - {other}: {whole:+.3f} AUC (95 % interval {low:+.3f} to {high:+.3f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("reader")
    one.set_defaults(run=reader)
    one.add_argument("--backbone", default="efficientnet_b0")
    one.add_argument("--size", type=int, default=224)
    one.add_argument("--augment", default="light")
    one.add_argument("--batch", type=int, default=32)
    one.add_argument("--steps", type=int, default=10)
    one.add_argument("--repeats", type=int, default=5)
    one.add_argument("--device", default="cpu")
    two = kinds.add_parser("scratch")
    two.set_defaults(run=scratch)
    two.add_argument("--backbones", nargs="+", required=True)
    two.add_argument("--minutes", type=float, default=10)
    two.add_argument("--folds", type=int, default=5)
    two.add_argument("--set", nargs="*", default=[])
    for kind in (one, two):
        kind.add_argument("faces")
        kind.add_argument("--threads", type=int, default=cpu_count())
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
