"""``dfscan train``: plan, then the same loop in this process or under Ray Train."""

import csv
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfscan import storage
from dfscan.config import TrainConfig
from dfscan.errors import ClusterError, ConfigError, DfscanError, OutputError
from dfscan.jobs.pool import cpu_count, pick_device, ray_session
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import TrainResult
from dfscan.models.modelfile import FILE_NAME
from dfscan.training.loop import HISTORY, METRICS, Plan, make_plan, train_rank

MARKER = "run.json"
FEW_STEPS = 200
"""Fewer steps than this leave a network from scratch near where it began."""


def run(config: TrainConfig, progress: Progress) -> TrainResult:
    """Train a classifier into a run folder.

    :raises UsageError: the faces, the backbone or the output cannot be used.
    """
    started = time.monotonic()
    device = pick_device(config)
    world = 1 if config.inline else config.gpus or config.workers or 1
    plan = make_plan(config, world)
    out = Path(config.out).absolute()
    with _run_folder(out, config):
        _announce(plan, progress)
        progress.start("train", config.epochs, "epochs")
        if config.inline:
            _inline(plan, out, device, progress)
        else:
            _on_ray(plan, out, world, device, progress)
        progress.stop()
        storage.commit_json(out / MARKER, _marker(config, finished=True))
    metrics = storage.read_json(str(out / METRICS))
    history = read_history(out / HISTORY)
    return TrainResult(str(out), str(out / FILE_NAME), metrics, history, time.monotonic() - started)


@contextmanager
def _run_folder(out: Path, config: TrainConfig) -> Iterator[None]:
    """The output folder, locked, with nothing of another run in it."""
    with storage.Lock(out / ".dfscan.lock", out):
        ours = (MARKER, FILE_NAME, METRICS, HISTORY, "ray")
        storage.check_output_folder(out, MARKER, config.overwrite, ours)
        if storage.exists(out / MARKER):
            if storage.read_json(str(out / MARKER)).get("finished"):
                raise OutputError(f"{out} holds a run already: give another --out, or --overwrite")
            for name in ours:
                storage.remove(out / name)  # of a run that was interrupted: it starts anew
        storage.commit_json(out / MARKER, _marker(config, finished=False))
        yield


def _marker(config: TrainConfig, finished: bool) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"ray_address"})
    return {"finished": finished, "config": settings}


def read_history(path: Path) -> list[dict[str, Any]]:
    """``history.csv`` as numbers, None where a metric does not exist."""
    rows = csv.DictReader(storage.read_text(path).splitlines())
    return [
        {k: None if v == "" else int(v) if k == "epoch" else float(v) for k, v in row.items()}
        for row in rows
    ]


def _announce(plan: Plan, progress: Progress) -> None:
    config, sides = plan.config, plan.summary()
    weights = "timm's published weights" if plan.pretrained else "no pretrained weights"
    progress.note(
        f"{config.backbone}, {weights}; batch {config.batch_size}, {plan.steps} steps an epoch"
    )
    for side, counts in sides.items():
        progress.note(
            f"{side}: {counts['faces']} faces ({counts['real_faces']} real, {counts['fake_faces']} "
            f"fake) of {counts['videos']} videos in {counts['groups']} groups"
        )
    if plan.steps * config.epochs < FEW_STEPS:
        progress.note(
            f"only {plan.steps * config.epochs} steps in all, too few to learn much: raise --epochs "
            "or lower --batch-size"
        )
    held_out = sides["validation"]
    if not held_out["real_faces"] or not held_out["fake_faces"]:
        only = "real" if held_out["real_faces"] else "fake"
        progress.note(f"the held-out side has only {only} faces: there will be no AUC")


def _inline(plan: Plan, out: Path, device: str, progress: Progress) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(plan.config.workers or cpu_count())
    try:
        train_rank(plan, out, 0, 1, device, lambda row: _show(row, plan, progress))
    finally:
        torch.set_num_threads(before)


def _on_ray(plan: Plan, out: Path, world: int, device: str, progress: Progress) -> None:
    config = plan.config.model_copy(update={"workers": max(world, cpu_count())})
    with ray_session(config):
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        threads = _threads(world, device)
        options = {"plan": plan, "out": str(out), "device": device, "threads": threads}
        trainer = TorchTrainer(
            _ray_loop,
            train_loop_config=options,
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=world,
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": threads} | ({"GPU": 1} if device == "cuda" else {}),
            ),
            run_config=ray.train.RunConfig(name="ray", storage_path=str(out)),
        )
        with _watching(out, plan, progress), _interruptible():
            try:
                trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise _cause(error) from error


def _threads(world: int, device: str) -> int:
    """CPUs for each rank, as many as every rank can get on one node.

    :raises ConfigError: the cluster has fewer CPUs or GPUs than ranks: Ray would wait for ever.
    """
    import ray

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    for kind, needed in (("CPU", world), ("GPU", world if device == "cuda" else 0)):
        have = int(sum(n.get(kind, 0) for n in nodes))
        if have < needed:
            raise ConfigError(
                f"train.workers: {world} workers need {needed} {kind}s, Ray has {have}: fewer "
                "--workers or --gpus"
            )
    total, largest = sum(n.get("CPU", 0) for n in nodes), max(n.get("CPU", 0) for n in nodes)
    return max(1, int(min(total // world, largest)))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays Ctrl-C: Ray Train's own handler exits with code 0 and is never taken back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)


def _ray_loop(options: dict[str, Any]) -> None:
    """What runs on each Ray Train worker."""
    import ray.train
    import torch

    context = ray.train.get_context()
    torch.set_num_threads(options["threads"])
    train_rank(
        options["plan"],
        Path(options["out"]),
        context.get_world_rank(),
        context.get_world_size(),
        options["device"],
        lambda row: ray.train.report({k: v for k, v in row.items() if v is not None}),
    )


def _cause(error: BaseException) -> DfscanError:
    """dfscan's own error where a worker raised one, else that the workers were lost."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        seen: BaseException | None = failure
        while seen is not None:
            inner = getattr(seen, "cause", None) or seen.__cause__
            if isinstance(seen, DfscanError):
                return seen
            seen = inner if isinstance(inner, BaseException) else None
    first = next(iter(failures.values()), error)
    lines = str(first).strip().splitlines()
    return ClusterError(f"training failed on a worker: {lines[-1] if lines else first!r}")


@contextmanager
def _watching(out: Path, plan: Plan, progress: Progress) -> Iterator[None]:
    """Tell of each epoch as rank 0 writes it; Ray Train hands results over at the end only."""
    stop = threading.Event()

    def watch() -> None:
        shown = 0
        last = False
        while not last:
            last = stop.wait(0.5)
            if not storage.exists(out / HISTORY):
                continue
            rows = read_history(out / HISTORY)
            for row in rows[shown:]:
                _show(row, plan, progress)
            shown = len(rows)

    thread = threading.Thread(target=watch, daemon=True, name="dfscan-epochs")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(row: dict[str, Any], plan: Plan, progress: Progress) -> None:
    def number(name: str) -> str:
        value = row.get(name)
        return "–" if value is None else f"{value:.3f}"

    progress.note(
        f"epoch {row['epoch']}/{plan.config.epochs}: loss {number('train_loss')}; held out, by frame: "
        f"AUC {number('val_frame_auc')}, log loss {number('val_frame_log_loss')}, accuracy "
        f"{number('val_frame_accuracy')}; by video: AUC {number('val_video_auc')}, log loss "
        f"{number('val_video_log_loss')}, accuracy {number('val_video_accuracy')}"
    )
    progress.advance(1)
