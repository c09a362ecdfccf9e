"""Training on Ray: one rank per worker, and retries after a lost worker."""

import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from dfscan import storage
from dfscan.errors import (
    ClusterError,
    ConfigError,
    DfscanError,
    StoreError,
    UsageError,
)
from dfscan.execution.cluster import MOST_LOOKED_FOR, NodeRequirements, check_nodes
from dfscan.execution.executor import ray_session
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import cpu_count
from dfscan.training.loop import HISTORY, train_rank
from dfscan.training.plan import Plan
from dfscan.training.results import read_history

LOST_WORKERS: Final = 3
"""So often a training goes on from its last checkpoint after losing a worker."""


def train_on_ray(
    plan: Plan, out: storage.StoragePath, world: int, device: str, progress: Progress
) -> None:
    """Train on ``world`` ranks of Ray Train; after a lost worker go on from the last epoch.

    :raises DfscanError: a rank failed, or workers were lost too often.
    """
    config = plan.config.model_copy(update={"workers": max(world, cpu_count())})
    with ray_session(config):
        check_nodes(config, _requirements(plan, out))
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        threads = _threads(world, device)
        filesystem, folder = storage.filesystem(out)
        options = {"plan": plan, "out": str(out), "device": device, "threads": threads}
        trainer = functools.partial(
            TorchTrainer,
            _ray_loop,
            train_loop_config=options,
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=world,
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": threads} | ({"GPU": 1} if device == "cuda" else {}),
            ),
            run_config=ray.train.RunConfig(
                name="ray", storage_path=folder, storage_filesystem=filesystem
            ),
        )
        with _watching(out, plan, progress), _interruptible():
            for lost in range(LOST_WORKERS + 1):
                try:
                    trainer().fit()
                    return
                except ray.train.TrainingFailedError as error:
                    cause = _cause(error)
                    if isinstance(cause, UsageError) or lost == LOST_WORKERS:
                        raise cause from error
                    turn = f"{lost + 1} of at most {LOST_WORKERS} times"
                    progress.message(f"{cause}; going on from the last epoch, {turn}")


def _requirements(plan: Plan, out: storage.StoragePath) -> NodeRequirements:
    """What every rank reads and writes."""
    weights = () if plan.config.weights is None else (storage.absolute(plan.config.weights),)
    return NodeRequirements((*weights, *plan.index.files[:MOST_LOOKED_FOR]), str(out))


def _threads(world: int, device: str) -> int:
    """CPUs for each rank, as many as every rank can get on one node.

    :raises ConfigError: the cluster has fewer CPUs or GPUs than ranks: Ray would wait for ever.
    """
    import ray

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if device == "cuda":
        nodes = [n for n in nodes if n.get("GPU", 0)]
    for kind, needed in (("CPU", world), ("GPU", world if device == "cuda" else 0)):
        have = int(sum(n.get(kind, 0) for n in nodes))
        if have < needed:
            raise ConfigError(
                f"train.workers: {world} workers need {needed} {kind}s, Ray has {have}: fewer "
                "--workers or --gpus",
                code="device.unavailable",
            )

    def fit(threads: int) -> int:
        """Ranks of so many threads that find a place, each on one node."""
        most = (int(n.get("CPU", 0)) // threads for n in nodes)
        if device != "cuda":
            return sum(most)
        return sum(min(cpus, int(n["GPU"])) for cpus, n in zip(most, nodes, strict=True))

    largest = int(max(n.get("CPU", 0) for n in nodes))
    return next((threads for threads in range(largest, 1, -1) if fit(threads) >= world), 1)


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
        storage.as_path(options["out"]),
        context.get_world_rank(),
        context.get_world_size(),
        options["device"],
        lambda row: ray.train.report({k: v for k, v in row.items() if v is not None}),
    )


def _cause(error: BaseException) -> DfscanError:
    """dfscan's own error where a worker raised one, else which worker was lost."""
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {}) or {}
    dead: list[Any] = []
    for rank, failure in failures.items():
        seen: BaseException | None = failure
        while seen is not None:
            names = ("health_check_failure", "cause", "__cause__")  # Ray Train's, Ray's, Python's
            inner = next((i for i in (getattr(seen, n, None) for n in names) if i), None)
            if isinstance(seen, DfscanError):
                return seen
            if isinstance(seen, RayActorError):
                dead.append(rank)
            seen = inner if isinstance(inner, BaseException) else None
    if dead:
        ranks = ", ".join(str(rank) for rank in sorted(set(dead)))
        return ClusterError(
            f"training worker {ranks} died (killed, out of memory, or with its node)"
        )
    first = next(iter(failures.values()), error)
    lines = str(first).strip().splitlines()
    return ClusterError(f"training failed on a worker: {lines[-1] if lines else first!r}")


@contextmanager
def _watching(out: storage.StoragePath, plan: Plan, progress: Progress) -> Iterator[None]:
    """Tell of each epoch as rank 0 writes it; Ray Train hands results over at the end only."""
    stop = threading.Event()
    every_s = 5.0 if isinstance(out, storage.ObjectPath) else 0.5
    before = len(read_history(out / HISTORY)) if storage.exists(out / HISTORY) else 0

    def watch() -> None:
        shown = before
        last = False
        while not last:
            last = stop.wait(every_s)
            try:
                rows = read_history(out / HISTORY) if storage.exists(out / HISTORY) else []
            except StoreError:
                continue  # the next look may find it
            for row in rows[shown:]:
                show_epoch(row, plan, progress)
            shown = len(rows)

    thread = threading.Thread(target=watch, daemon=True, name="dfscan-epochs")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def show_epoch(row: dict[str, Any], plan: Plan, progress: Progress) -> None:
    """Report one row of the training history."""

    def number(name: str) -> str:
        value = row.get(name)
        return "–" if value is None else f"{value:.3f}"

    progress.message(
        f"epoch {row['epoch']}/{plan.epochs}: loss {number('train_loss')}; held out, by frame: "
        f"AUC {number('val_frame_auc')}, log loss {number('val_frame_log_loss')}, accuracy "
        f"{number('val_frame_accuracy')}; by video: AUC {number('val_video_auc')}, log loss "
        f"{number('val_video_log_loss')}, accuracy {number('val_video_accuracy')}"
    )
    progress.advance(1)
