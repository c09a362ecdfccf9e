"""The training loop of one rank, the same inline and under Ray Train."""

import csv
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dfscan import __version__, calibration, storage
from dfscan.config import TrainConfig
from dfscan.errors import ConfigError, SourceError, UsageError
from dfscan.faces.crops import check_margin
from dfscan.facesets import FaceSet, open_facesets
from dfscan.metrics import binary_metrics, by_video
from dfscan.models.backbones import (
    count_parameters,
    create_network,
    has_published_weights,
    network_input,
    normalise,
)
from dfscan.models.modelfile import FILE_NAME, ModelHeader, save_model
from dfscan.recipe import FaceRecipe, differences, fingerprint
from dfscan.records import SCHEMA_VERSION
from dfscan.splits import split_groups
from dfscan.training.reader import FaceIndex, FaceReader, build_index

METRICS: Final = "metrics.json"
HISTORY: Final = "history.csv"
_METRIC_NAMES: Final = ("auc", "log_loss", "accuracy")

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What a training run will do, worked out and checked before any worker starts.

    Positions are into ``index``; ``share`` is the number of faces a step and rank.
    """

    config: TrainConfig
    recipe: FaceRecipe
    index: FaceIndex
    train: Any
    val: Any
    pretrained: bool
    share: int
    steps: int

    def summary(self) -> dict[str, Any]:
        """Counts of both sides, for the log and ``metrics.json``."""
        return {"train": self._count(self.train), "validation": self._count(self.val)}

    def _count(self, positions: Any) -> dict[str, int]:
        fake = self.index.fake[positions]
        return {
            "groups": len(np.unique(self.index.group[positions])),
            "videos": len(np.unique(self.index.video[positions])),
            "faces": len(positions),
            "real_faces": int((~fake).sum()),
            "fake_faces": int(fake.sum()),
        }


def make_plan(config: TrainConfig, world: int) -> Plan:
    """Read the datasets' index, split it, and check everything that can be checked early.

    :param world: number of ranks.
    :raises UsageError: missing or unlabelled faces, recipes that differ, a margin wider than
        stored, one class only, an unknown backbone, too few faces for the batch.
    """
    if not config.faces:
        raise SourceError("no faces: give a face dataset, or train.faces in dfscan.yaml")
    wanted = network_input(config.backbone, config.input)
    datasets = open_facesets(config.faces)
    stored = _common_recipe(datasets)
    check_margin(stored.crop, wanted)
    pretrained = config.pretrained
    if pretrained is None:
        pretrained = has_published_weights(config.backbone)
    index = build_index(datasets)
    members = {
        (index.groups[g], "FAKE" if f else "REAL")
        for g, f in zip(index.group, index.fake, strict=True)
    }
    train_groups, val_groups = split_groups(members, config.val_fraction, config.seed)
    train, val = index.where(train_groups), index.where(val_groups)
    classes = {label for group, label in members if group in train_groups}
    if len(classes) < 2:
        raise UsageError(
            f"the training side has only {classes.pop()} faces: a classifier needs both labels in "
            "at least two groups of related videos"
        )
    share = min(max(1, config.batch_size // world), len(train) // world)
    if share < 2:
        raise UsageError(
            f"{len(train)} faces to train on and a batch of {config.batch_size} over {world} "
            "worker(s) leave fewer than 2 a step: fewer --workers or a larger --batch-size"
        )
    recipe = stored.model_copy(update={"input": wanted})
    steps = max(1, len(train) // world // share)
    return Plan(config, recipe, index, train, val, pretrained, share, steps)


def _common_recipe(datasets: Sequence[FaceSet]) -> FaceRecipe:
    first = datasets[0].recipe()
    for other in datasets[1:]:
        changed = differences(first.model_dump(mode="json"), other.recipe().model_dump(mode="json"))
        if changed:
            raise ConfigError(
                f"train.faces: {datasets[0].root} and {other.root} were extracted differently "
                f"({'; '.join(changed)}): a network would learn that; extract them alike"
            )
    return first


def train_rank(plan: Plan, out: Path, rank: int, world: int, device: str, report: Report) -> None:
    """Train on this rank's share; rank 0 writes the run folder.

    With ``world`` > 1 a torch.distributed process group must exist already. ``report`` is called
    once an epoch on every rank, with the same metrics.
    """
    config = plan.config
    torch.manual_seed(config.seed)
    assert plan.recipe.input is not None
    network = create_network(config.backbone, plan.recipe.input.size, plan.pretrained).to(device)
    torch.manual_seed(config.seed + rank)  # equal weights, but dropout of each rank's own
    model: nn.Module = DistributedDataParallel(network) if world > 1 else network
    run = _Run(plan, out, rank, world, device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=config.lr,
        total_steps=config.epochs * plan.steps + 1,
        pct_start=0.21,  # not 1/5: OneCycleLR divides by zero where that share is one step
    )
    for epoch in range(config.epochs):
        started = time.monotonic()
        loss = run.train_epoch(model, optimiser, schedule, epoch)
        row = {"epoch": epoch + 1, "lr": schedule.get_last_lr()[0], "train_loss": loss}
        row |= run.validate(network)
        row["seconds"] = time.monotonic() - started
        if rank == 0:
            run.keep(network, row)
        report(row)


class _Run:
    """One rank's state over the epochs."""

    def __init__(self, plan: Plan, out: Path, rank: int, world: int, device: str) -> None:
        self._plan, self._out = plan, out
        self._rank, self._world, self._device = rank, world, device
        assert plan.recipe.input is not None
        self._input = plan.recipe.input
        threads = max(1, torch.get_num_threads())
        shape = {"rank": rank, "world": world, "threads": threads}
        self._train = FaceReader(plan.index, plan.train, self._input, **shape)
        self._val = FaceReader(plan.index, plan.val, self._input, **shape)
        fakes = int(plan.index.fake[plan.train].sum())
        # One remedy for unequal classes: each class weighs half of the loss.
        self._fake_weight = torch.tensor((len(plan.train) - fakes) / fakes, device=device)
        self._history: list[dict[str, Any]] = []
        self._best: float | None = None
        self._outputs: dict[str, Any] = {}
        self._by: dict[str, dict[str, Any]] = {}
        self._bad: list[str] = []

    def train_epoch(self, model: nn.Module, optimiser: Any, schedule: Any, epoch: int) -> float:
        """One pass over the training side; the mean loss over all ranks."""
        plan = self._plan
        model.train()
        total = torch.zeros(2, device=self._device)
        batches = self._train.train_batches(
            plan.share,
            plan.steps,
            seed=plan.config.seed * 100_003 + epoch,
            flip=plan.config.augment == "flip",
        )
        steps = tqdm(
            batches,
            desc=f"epoch {epoch + 1}",
            total=plan.steps,
            leave=False,
            disable=self._rank > 0 or not sys.stderr.isatty(),
        )
        for batch in steps:
            pixels = normalise(batch.pixels.to(self._device), self._input)
            fake = batch.fake.to(self._device)
            loss = self._loss(model(pixels), fake)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += torch.stack([loss.detach(), torch.ones_like(loss)])
        if self._world > 1:
            dist.all_reduce(total)
        return float(total[0] / total[1])

    def _loss(self, logits: Tensor, fake: Tensor) -> Tensor:
        weight = torch.where(fake > 0, self._fake_weight, torch.ones_like(fake))
        losses: Tensor = binary_cross_entropy_with_logits(logits, fake, reduction="none")
        return (losses * weight).sum() / weight.sum()

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, Any]:
        """Metrics of the held-out side by frame and by video, the same on every rank."""
        network.eval()
        positions, logits = [np.zeros(0, np.int64)], [np.zeros(0)]
        for batch in self._val.all_batches(self._plan.config.batch_size):
            output = network(normalise(batch.pixels.to(self._device), self._input))
            positions.append(batch.position)
            logits.append(output.double().cpu().numpy())
        mine = (np.concatenate(positions), np.concatenate(logits), self._train.bad + self._val.bad)
        everyone: list[Any] = [mine]
        if self._world > 1:
            everyone = [None] * self._world
            dist.all_gather_object(everyone, mine)
        position = np.concatenate([p for p, _, _ in everyone])
        logit = np.concatenate([x for _, x, _ in everyone])
        if not np.isfinite(logit).all():
            raise UsageError(
                "training diverged (the network gives NaN or infinity): try a lower --lr than "
                f"{self._plan.config.lr}"
            )
        self._bad = sorted({name for _, _, bad in everyone for name in bad})
        index = self._plan.index
        videos = [index.video_ids[v] for v in index.video[position]]
        fake = index.fake[position]
        names, video_logits, video_fake = by_video(videos, logit, fake)
        self._outputs = {"videos": names, "logits": video_logits, "fake": video_fake}
        self._by = {
            "by_frame": binary_metrics(logit, fake),
            "by_video": binary_metrics(video_logits, video_fake),
        }
        return {
            f"val_{side.removeprefix('by_')}_{name}": self._by[side][name]
            for side in self._by
            for name in _METRIC_NAMES
        }

    def keep(self, network: nn.Module, row: dict[str, Any]) -> None:
        """Write history; write model and metrics where this epoch is the best so far."""
        self._history.append(row)
        storage.commit_bytes(self._out / HISTORY, _csv(self._history))
        loss = row["val_frame_log_loss"]
        if self._best is not None and not loss < self._best:
            return
        self._best = loss
        config, plan = self._plan.config, self._plan
        fitted = calibration.fit(
            self._outputs["logits"], self._outputs["fake"], plan.recipe.sampling
        )
        training = {
            "config": config.model_dump(mode="json", exclude={"ray_address", "faces", "out"}),
            "pretrained": plan.pretrained,
            "epoch": row["epoch"],
            "split": plan.summary(),
            "validation": self._by,
        }
        header = ModelHeader(
            backbone=config.backbone, recipe=plan.recipe, calibration=fitted, training=training
        )
        digest = save_model(self._out / FILE_NAME, network, header)
        storage.commit_json(self._out / METRICS, self._metrics(network, header, digest))

    def _metrics(self, network: nn.Module, header: ModelHeader, digest: str) -> dict[str, Any]:
        notes = sorted({m["note"] for m in self._by.values() if "note" in m})
        if header.calibration is None:
            notes.append(
                f"not calibrated: fewer than {calibration.MIN_PER_CLASS} held-out videos of a class, "
                "or scores that do not rise with fakes; score says UNCERTAIN unless --threshold is given"
            )
        if self._bad:
            notes.append(
                f"{len(self._bad)} picture(s) did not decode and were skipped: {self._bad[:5]}"
            )
        return {
            "schema_version": SCHEMA_VERSION,
            "dfscan": __version__,
            "model_sha256": digest,
            "backbone": header.backbone,
            "parameters": count_parameters(network),
            "recipe_hash": header.recipe.hash(),
            "config_hash": fingerprint(header.training["config"]),
            "best_epoch": header.training["epoch"],
            "chosen_by": "validation log loss by frame",
            "split": header.training["split"],
            "validation": self._by,
            "threshold": header.threshold,
            "calibration": header.calibration.model_dump(mode="json")
            if header.calibration
            else None,
            "identities": "not checked",
            "notes": notes,
        }


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return sink.getvalue().encode()
