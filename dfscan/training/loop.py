"""The training loop of one rank, the same inline and under Ray Train.

After every epoch rank 0 writes a checkpoint, and whoever runs the same command again goes on from
there: what is drawn in an epoch depends on the seed and the epoch's number alone, and optimiser and
schedule are part of the checkpoint.
"""

import contextlib
import csv
import io
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dfscan import storage
from dfscan.config.train import Phase
from dfscan.errors import UsageError
from dfscan.evaluation.metrics import binary_metrics, by_video
from dfscan.models.backbones import create_network, normalise
from dfscan.models.freezing import train_mode, unfreeze
from dfscan.models.modelfile import FILE_NAME, ModelHeader, load_model, save_model
from dfscan.schemas.records import FACE_SCHEMA
from dfscan.training.checkpoint import Checkpoint, State, load_checkpoint, save_checkpoint
from dfscan.training.optimising import face_weights, loss_of, make_optimiser, make_schedule
from dfscan.training.plan import Plan
from dfscan.training.reader import Batch, FaceReader

HISTORY: Final = "history.csv"
PREDICTIONS: Final = "predictions"
"""Folder of a Parquet file a side: every face's logit."""

EVENTS: Final = "tensorboard"
_METRIC_NAMES: Final = ("auc", "log_loss", "accuracy")
_EPOCH_SEEDS: Final = 100_003
"""Seeds of a run's epochs lie below the next run's: a prime larger than any number of epochs."""

Report = Callable[[dict[str, Any]], None]


def train_rank(
    plan: Plan,
    out: storage.StoragePath,
    rank: int,
    world: int,
    device: str,
    report: Report,
    *,
    show_steps: bool = False,
) -> None:
    """Train on this rank's share, from the last checkpoint on; rank 0 writes the run folder.

    With ``world`` > 1 a torch.distributed process group must exist already. ``report`` is called
    once an epoch on every rank, with the same metrics; ``show_steps`` draws a bar of each epoch's
    steps on stderr.

    :raises UsageError: training diverged, or a setting does not suit the device.
    """
    run = _Run(plan, out, rank, world, device, show_steps)
    done = run.resume()
    first = 0
    for number, phase in enumerate(plan.config.stages(), start=1):
        if done < first + phase.epochs and not run.skips(first):
            run.begin(phase, number, first, done)
            for epoch in range(max(first, done), first + phase.epochs):
                row = run.epoch(epoch)
                report(row)
                if run.stopped:
                    break
        first += phase.epochs
    run.test()


class _Run:
    """One rank's state over the epochs."""

    def __init__(
        self,
        plan: Plan,
        out: storage.StoragePath,
        rank: int,
        world: int,
        device: str,
        show_steps: bool,
    ) -> None:
        self._plan, self._out, self._config = plan, out, plan.config
        self._rank, self._world, self._device = rank, world, torch.device(device)
        self._show_steps = show_steps
        assert plan.recipe.input is not None
        self._input = plan.recipe.input
        threads = max(1, torch.get_num_threads())
        self._reader = FaceReader(
            plan.index,
            self._input,
            rank=rank,
            world=world,
            threads=threads,
            ahead=self._device.type != "cpu",
        )
        torch.manual_seed(self._config.seed)
        network = create_network(
            self._config.backbone,
            self._input.size,
            plan.pretrained,
            head=self._config.head,
            weights=self._config.weights,
        )
        if world > 1 and device == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self._network = network.to(self._device)
        self._average = self._averaged(self._network)
        self._precision = _precision(self._config.precision, self._device)
        self._scaler = torch.amp.GradScaler(
            self._device.type, enabled=self._precision is torch.float16
        )
        self._history: list[dict[str, Any]] = []
        self._phase_of: list[int] = []
        self._best: float | None = None
        self._waited = 0
        self.stopped = False
        self._states: State = {}

    def _averaged(self, network: nn.Module) -> AveragedModel | None:
        if self._config.ema is None:
            return None
        return AveragedModel(network, multi_avg_fn=_averaging(self._config.ema), use_buffers=True)

    @property
    def _judged(self) -> nn.Module:
        """The network whose figures count: the averaged one where there is one."""
        return self._network if self._average is None else self._average.module

    # ------------------------------------------------------------ going on

    def resume(self) -> int:
        """Epochs that are done already; everything is as it was after them."""
        found = load_checkpoint(self._out)
        if found is None:
            return 0
        states = found.states
        self._network.load_state_dict(states["network"])
        if self._average is not None:
            self._average.load_state_dict(states["average"])
        self._scaler.load_state_dict(states["scaler"])
        self._history, self._phase_of = states["history"], states["phase_of"]
        self._best, self._waited = states["best"], states["waited"]
        self.stopped = states["stopped"]
        self._states = states
        return found.epochs

    def skips(self, first: int) -> bool:
        """Whether the phase that begins at this epoch was ended early before the checkpoint."""
        return self.stopped and bool(self._phase_of) and self._phase_of[-1] == first

    def begin(self, phase: Phase, number: int, first: int, done: int) -> None:
        """A phase: what it trains, its optimiser, its schedule; in the middle where it was left."""
        self._number, self._first = number, first
        unfreeze(self._network, phase.train)
        self._optimiser = make_optimiser(phase, self._network.parameters())
        self._schedule = make_schedule(phase, self._optimiser, self._plan.steps)
        if done > first and self._phase_of[-1] == first:
            self._optimiser.load_state_dict(self._states["optimiser"])
            self._schedule.load_state_dict(self._states["schedule"])
        else:
            self._waited = 0
        self.stopped, self._states = False, {}
        model: nn.Module = self._network
        if self._config.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        self._model = DistributedDataParallel(model) if self._world > 1 else model

    # ------------------------------------------------------------ an epoch

    def epoch(self, number: int) -> dict[str, Any]:
        """Train, validate, write; the epoch's row of ``history.csv``.

        :param number: counted from 0 over all phases.
        """
        started = time.monotonic()
        row: dict[str, Any] = {"epoch": number + 1, "phase": self._number}
        row["lr"] = self._optimiser.param_groups[0]["lr"]
        row |= self._train(number)
        outputs = self._outputs("validation")
        row |= self._validated(outputs)
        row["seconds"] = time.monotonic() - started
        better = self._judge(row)
        if self._rank == 0:
            self._write(number, row, better, outputs)
        if self._world > 1:
            dist.barrier()  # no rank reports an epoch that is not on disk
        return row

    def _train(self, number: int) -> dict[str, float]:
        """One pass over what the sampler draws: mean loss over all ranks, and the reader's pace."""
        plan, seed = self._plan, self._config.seed * _EPOCH_SEEDS + number
        train_mode(self._network)
        torch.manual_seed(seed * 1009 + self._rank)  # dropout of each rank's own
        batches = self._reader.train_batches(
            plan.sampler.epoch(seed), plan.share, plan.steps, seed, self._config.augment
        )
        total = torch.zeros(2, dtype=torch.float64, device=self._device)
        began, waited = time.monotonic(), 0.0
        self._reader.core_s, self._reader.pictures, self._reader.skipped = 0.0, 0, 0
        for _ in self._bar(number):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            loss = self._step(batch)
            total += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
        batches.close()
        seconds = time.monotonic() - began
        if self._world > 1:
            dist.all_reduce(total)
        return {
            "train_loss": float(total[0] / total[1]),
            "faces_per_s": plan.steps * plan.share * self._world / seconds,
            "waited": waited / seconds,
            "reader_core_ms": 1000 * self._reader.core_s / max(1, self._reader.pictures),
            "skipped": self._reader.skipped,
        }

    def _bar(self, number: int) -> Any:
        return tqdm(
            range(self._plan.steps),
            desc=f"epoch {number + 1}",
            leave=False,
            disable=not self._show_steps,
        )

    def _step(self, batch: Batch) -> Tensor:
        """One step of the optimiser; the batch's mean loss."""
        config = self._config
        self._optimiser.zero_grad(set_to_none=True)
        weights = face_weights(
            batch.fake, config.loss, self._plan.fake_weight, self._plan.fake_share
        )
        parts = list(_parts(batch, weights, config.accumulate))
        mean = torch.zeros((), device=self._device)
        for number, (part, weight) in enumerate(parts):
            last = number == len(parts) - 1
            with self._unsynchronised(not last):
                loss = self._loss(part, weight)
                torch.autograd.backward(self._scaler.scale(loss))
            mean += loss.detach()
        if config.clip_grad is not None:
            self._scaler.unscale_(self._optimiser)
            nn.utils.clip_grad_norm_(self._network.parameters(), config.clip_grad)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return mean

    def _unsynchronised(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged over the ranks once a step, with its last part."""
        if wanted and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return contextlib.nullcontext()

    def _loss(self, batch: Batch, weights: Tensor) -> Tensor:
        pixels = normalise(batch.pixels.to(self._device, non_blocking=True), self._input)
        fake = batch.fake.to(self._device, non_blocking=True)
        with self._autocast():
            logits = self._model(pixels)
        return loss_of(logits.float(), fake, self._config.loss, weights.to(self._device))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        enabled = self._precision is not torch.float32
        return torch.autocast(self._device.type, self._precision, enabled=enabled)

    # ------------------------------------------------------------ judging

    @torch.inference_mode()
    def _outputs(self, side: str) -> dict[str, Any]:
        """Positions and logits of a whole side, the same on every rank."""
        network = self._judged.eval()
        if self._world > 1:
            for buffer in network.buffers():  # each rank's batch-norm statistics are its own
                dist.broadcast(buffer, 0)
        positions, logits = [np.zeros(0, np.int64)], [np.zeros(0)]
        for batch in self._reader.all_batches(self._plan.sides[side], self._plan.share):
            output = network(normalise(batch.pixels.to(self._device), self._input))
            positions.append(batch.position)
            logits.append(output.double().cpu().numpy())
        mine = np.concatenate(positions), np.concatenate(logits), self._reader.bad
        everyone: list[Any] = [mine]
        if self._world > 1:
            everyone = [None] * self._world
            dist.all_gather_object(everyone, mine)
        logit = np.concatenate([x for _, x, _ in everyone])
        if not np.isfinite(logit).all():
            rates = "/".join(f"{phase.lr:g}" for phase in self._config.stages())
            raise UsageError(
                "training diverged (the network gives NaN or infinity): try a lower --lr than "
                f"{rates}",
                code="training.diverged",
            )
        position = np.concatenate([p for p, _, _ in everyone])
        if not len(position):
            raise UsageError(
                f"no picture of the {side} side decodes: extract again", code="dataset.unsuitable"
            )
        order = np.argsort(position, kind="stable")
        bad = sorted({name for _, _, names in everyone for name in names})
        return {"position": position[order], "logit": logit[order], "bad": bad}

    def _validated(self, outputs: dict[str, Any]) -> dict[str, Any]:
        index, position = self._plan.index, outputs["position"]
        fake, logit = index.fake[position], outputs["logit"]
        _, logits, truth = by_video(index.video[position].tolist(), logit, fake)
        found = {"frame": binary_metrics(logit, fake), "video": binary_metrics(logits, truth)}
        row = {f"val_{by}_{name}": found[by][name] for by in found for name in _METRIC_NAMES}
        losses = np.logaddexp(0, np.where(fake, -logit, logit))
        both = fake.any() and not fake.all()
        row["val_loss"] = float((losses[fake].mean() + losses[~fake].mean()) / 2) if both else None
        return row

    def _judge(self, row: dict[str, Any]) -> bool:
        """Whether this epoch is the best so far; ends the phase where patience is used up.

        Where the validation side lacks a class the last epoch is the best: a loss over reals alone is
        lowest before anything was learned.
        """
        auc = row["val_video_auc"]
        by = {"loss": row["val_loss"], "auc": None if auc is None else -auc, "last": None}
        worse = by[self._config.choose]
        self._history.append(row)
        self._phase_of.append(self._first)
        if worse is None or self._best is None or worse < self._best:
            self._best, self._waited = worse, 0
            return True
        self._waited += 1
        patience = self._config.patience
        self.stopped = patience is not None and self._waited >= patience
        return False

    @torch.inference_mode()
    def test(self) -> None:
        """The test side, once, with the weights that were best on the validation side."""
        path = self._out / PREDICTIONS / "test.parquet"
        if not len(self._plan.sides["test"]) or storage.exists(path):
            return
        self._judged.load_state_dict(load_model(self._out / FILE_NAME).network.state_dict())
        outputs = self._outputs("test")
        if self._rank == 0:
            self._write_predictions("test", outputs)

    # ------------------------------------------------------------ writing

    def _write(
        self, number: int, row: dict[str, Any], better: bool, outputs: dict[str, Any]
    ) -> None:
        """Everything of an epoch; the checkpoint last, since it says that the rest is there."""
        storage.commit_bytes(self._out / HISTORY, _csv(self._history))
        if better:
            self._write_predictions("validation", outputs)
            training = {"epoch": row["epoch"], "pretrained": self._plan.pretrained}
            header = ModelHeader(
                backbone=self._config.backbone,
                head=self._config.head,
                recipe=self._plan.recipe,
                training=training,
            )
            save_model(self._out / FILE_NAME, self._judged, header)
        self._write_events(number, row)
        states: State = {
            "network": self._network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": self._scaler.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": self._history,
            "phase_of": self._phase_of,
            "best": self._best,
            "waited": self._waited,
            "stopped": self.stopped,
        }
        save_checkpoint(self._out, Checkpoint(number + 1, states))

    def _write_predictions(self, side: str, outputs: dict[str, Any]) -> None:
        index, position = self._plan.index, outputs["position"]
        videos = [index.videos[v] for v in index.video[position]]
        table = pa.table(
            {
                "video_id": [video.video_id for video in videos],
                "group": [index.groups[g] for g in index.group[position]],
                "attributes": pa.array(
                    [
                        [{"key": k, "value": v} for k, v in sorted(video.attributes.items())]
                        for video in videos
                    ],
                    FACE_SCHEMA.field("attributes").type,
                ),
                "frame_index": index.frame[position],
                "track_id": index.track[position],
                "label": ["FAKE" if fake else "REAL" for fake in index.fake[position]],
                "score_raw": outputs["logit"],
            }
        )
        table = table.replace_schema_metadata({"bad": "\n".join(outputs["bad"])})
        storage.commit_table(self._out / PREDICTIONS / f"{side}.parquet", table)

    def _write_events(self, number: int, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with (
            storage.as_folder(self._out / EVENTS) as folder,
            SummaryWriter(str(folder), purge_step=number + 1) as writer,
        ):
            for name, value in row.items():
                if value is not None and name != "epoch":
                    writer.add_scalar(name.replace("_", "/", 1), value, number + 1)


def _averaging(decay: float) -> Callable[..., None]:
    """Weights averaged with this decay, less of it at the start: else the first step's would stay.

    The decay after n averages is at most (1 + n) / (10 + n), as in TensorFlow's
    ``ExponentialMovingAverage(num_updates)``.
    """

    def average(averaged: Any, current: Any, number: Any) -> None:
        now = min(decay, (1 + int(number)) / (10 + int(number)))
        get_ema_multi_avg_fn(now)(averaged, current, number)  # type: ignore[no-untyped-call]

    return average


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    """What the network computes in.

    :raises UsageError: the device cannot.
    """
    if wanted == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able else torch.float32
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError(
            "train.precision: fp16 needs a GPU: use fp32, or bf16 where the CPU has it",
            code="device.unavailable",
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def _parts(batch: Batch, weights: Tensor, count: int) -> Sequence[tuple[Batch, Tensor]]:
    """A batch in parts of about equal size, with their faces' weights."""
    size = -(-len(batch.fake) // count)
    starts = range(0, len(batch.fake), size)
    cuts = [slice(start, start + size) for start in starts]
    return [(Batch(batch.pixels[c], batch.fake[c], batch.position[c]), weights[c]) for c in cuts]


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return sink.getvalue().encode()
