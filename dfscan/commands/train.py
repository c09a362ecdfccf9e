"""``dfscan train``: plan, then the same loop in this process or under Ray Train."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dfscan import storage
from dfscan.config.train import TrainConfig
from dfscan.datasets.splits import SIDES
from dfscan.errors import (
    OutputError,
)
from dfscan.execution.ray_training import show_epoch, train_on_ray
from dfscan.models.modelfile import FILE_NAME
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import cpu_count, pick_device
from dfscan.reports.training_run import MARKER
from dfscan.schemas.fingerprint import changes_to, differences
from dfscan.training.checkpoint import FILE_NAME as CHECKPOINT
from dfscan.training.loop import EVENTS, HISTORY, PREDICTIONS, train_rank
from dfscan.training.plan import Plan, make_plan
from dfscan.training.results import PRODUCTS, finalize_run, finalize_series, read_history


@dataclass(frozen=True)
class TrainResult:
    """A run folder: the model, its metrics on the held-out side, and the history by epoch."""

    out: str
    model: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    elapsed_s: float
    exit_code: int = 0


FEW_STEPS: Final = 200
"""Fewer steps than this leave a network from scratch near where it began."""


_OURS: Final = (
    MARKER, FILE_NAME, CHECKPOINT, HISTORY, PREDICTIONS, EVENTS, "ray", *PRODUCTS,
    "export", "report.html",  # of the model that was there
)  # fmt: skip
_WHERE: Final = {
    "ray_address",
    "ship_code",
    "runtime_env",
    "inline",
    "workers",
    "gpus",
    "overwrite",
    "out",
}
"""Keys that say where a run happens: they may change when it goes on."""

_SERIES: Final = ("fold_*", "share_*")


def run(config: TrainConfig, progress: Progress) -> TrainResult:
    """Train a classifier into a run folder, or one of each fold or share into folders in it.

    :raises UsageError: the faces, the backbone or the output cannot be used.
    """
    if config.folds is not None and config.fold is None:
        folds = {f"fold_{i}": {"fold": i} for i in range(config.folds)}
        return _series(config, folds, progress)
    if len(config.sweep) > 1:
        shares = {f"share_{share:g}": {"sweep": (share,)} for share in config.sweep}
        return _series(config, shares, progress)
    return _single(config, progress)


def _series(
    config: TrainConfig, parts: dict[str, dict[str, Any]], progress: Progress
) -> TrainResult:
    """Several trainings, one after another; those that are finished are not repeated."""
    started = time.monotonic()
    out = storage.as_path(config.out).absolute()
    with _run_folder(out, config):
        for name, changes in parts.items():
            progress.message(f"{name.replace('_', ' ')}:")
            part = config.model_copy(update={**changes, "out": str(out / name), "overwrite": False})
            if not _finished(out / name):
                _single(part, progress)
        metrics = finalize_series(out, list(parts))
        storage.commit_json(out / MARKER, _marker(config, finished=True))
    return TrainResult(str(out), "", metrics, [], time.monotonic() - started)


def _single(config: TrainConfig, progress: Progress) -> TrainResult:
    started = time.monotonic()
    device = pick_device(config)
    world = 1 if config.inline else config.gpus or config.workers or 1
    out = storage.as_path(config.out).absolute()
    if not config.overwrite:
        _refuse_finished(out)
    plan = make_plan(config, world)
    with _run_folder(out, config, plan):
        _announce(plan, progress)
        progress.start("train", plan.epochs, "epochs")
        if config.inline:
            _inline(plan, out, device, progress)
        else:
            train_on_ray(plan, out, world, device, progress)
        progress.stop()
        metrics = finalize_run(out, plan)
        storage.commit_json(out / MARKER, _marker(config, finished=True))
        storage.remove(out / CHECKPOINT)
    history = read_history(out / HISTORY)
    return TrainResult(str(out), str(out / FILE_NAME), metrics, history, time.monotonic() - started)


@contextmanager
def _run_folder(
    out: storage.StoragePath, config: TrainConfig, plan: Plan | None = None
) -> Iterator[None]:
    """The output folder, locked; what an interrupted run of this configuration left goes on.

    :param plan: None for a series.
    :raises OutputError: it holds a finished run, or one of another configuration or other faces.
    """
    with storage.Lock(out / ".dfscan.lock", out):
        series = [p.name for pattern in _SERIES for p in storage.in_folder(out, pattern)]
        storage.check_output_folder(out, MARKER, config.overwrite, (*_OURS, *series))
        _refuse_finished(out)
        marker = _marker(config, finished=False)
        if plan is not None:
            marker["plan"] = plan.fingerprint()
        trained = storage.exists(out / CHECKPOINT) or (series and not config.overwrite)
        if trained and storage.exists(out / MARKER):
            before = storage.read_json(str(out / MARKER))
            changed = changes_to(before.get("config"), config, exclude=_WHERE)
            if changed:
                raise OutputError(
                    f"{out} holds an unfinished run of another configuration "
                    f"({'; '.join(changed)}): give its own to go on, another --out, or --overwrite",
                    code="output.mismatch",
                )
            changed = differences(before.get("plan"), marker.get("plan"))
            if changed:
                raise OutputError(
                    f"{out} holds an unfinished run on other faces or another number of workers "
                    f"({'; '.join(changed)}): give these to go on, another --out, or --overwrite",
                    code="output.mismatch",
                )
        storage.commit_json(out / MARKER, marker)
        yield


def _refuse_finished(out: storage.StoragePath) -> None:
    if _finished(out):
        raise OutputError(
            f"{out} holds a run already: give another --out, or --overwrite", code="output.exists"
        )


def _finished(out: storage.StoragePath) -> bool:
    path = out / MARKER
    return storage.exists(path) and bool(storage.read_json(str(path)).get("finished"))


def _marker(config: TrainConfig, finished: bool) -> dict[str, Any]:
    """What a run folder says of itself."""
    return {"finished": finished, "config": config.model_dump(mode="json", exclude=_WHERE)}


def _announce(plan: Plan, progress: Progress) -> None:
    config, sides = plan.config, plan.summary()
    progress.message(
        f"{config.backbone}, {_weights(plan)}; batch {config.batch_size}, {plan.steps} steps an epoch"
    )
    for side in SIDES:
        counts = sides[side]
        if counts["faces"]:
            progress.message(
                f"{side}: {counts['faces']} faces ({counts['real_faces']} real, "
                f"{counts['fake_faces']} fake) of {counts['videos']} videos in {counts['groups']} "
                "groups"
            )
    for note in plan.notes:
        progress.message(note)
    steps = plan.steps * plan.epochs
    if steps < FEW_STEPS:
        progress.message(
            f"only {steps} steps in all, too few to learn much: raise --epochs or lower --batch-size"
        )


def _weights(plan: Plan) -> str:
    if plan.config.weights is not None:
        return f"weights of {plan.config.weights}"
    return "timm's published weights" if plan.pretrained else "no pretrained weights"


def _inline(plan: Plan, out: storage.StoragePath, device: str, progress: Progress) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(plan.config.workers or cpu_count())
    try:
        train_rank(
            plan,
            out,
            0,
            1,
            device,
            lambda row: show_epoch(row, plan, progress),
            show_steps=progress.live,
        )
    finally:
        torch.set_num_threads(before)
