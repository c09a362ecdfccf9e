"""``dfscan train``: plan, then the same loop in this process or under Ray Train."""

import functools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from dfscan import storage
from dfscan.config import TrainConfig
from dfscan.errors import (
    ClusterError,
    ConfigError,
    DfscanError,
    OutputError,
    StoreError,
    UsageError,
)
from dfscan.jobs.cluster import MOST_LOOKED_FOR, Needs, check_nodes
from dfscan.jobs.pool import cpu_count, pick_device, ray_session
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import TrainResult
from dfscan.jobs.train_results import PRODUCTS, conclude, conclude_series, read_history
from dfscan.models.modelfile import FILE_NAME
from dfscan.recipe import differences
from dfscan.splits import SIDES
from dfscan.training.checkpoint import FILE_NAME as CHECKPOINT
from dfscan.training.loop import EVENTS, HISTORY, PREDICTIONS, train_rank
from dfscan.training.plan import Plan, make_plan

MARKER: Final = "run.json"
FEW_STEPS: Final = 200
"""Fewer steps than this leave a network from scratch near where it began."""

LOST_WORKERS: Final = 3
"""So often a training goes on from its last checkpoint after losing a worker."""

_OURS: Final = (
    MARKER, FILE_NAME, CHECKPOINT, HISTORY, PREDICTIONS, EVENTS, "ray", *PRODUCTS,
    "export", "report.html",  # of the model that was there
)  # fmt: skip
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
    out = storage.place(config.out).absolute()
    with _run_folder(out, config):
        for name, changes in parts.items():
            progress.note(f"{name.replace('_', ' ')}:")
            part = config.model_copy(update={**changes, "out": str(out / name), "overwrite": False})
            if not _finished(out / name):
                _single(part, progress)
        metrics = conclude_series(out, list(parts))
        storage.commit_json(out / MARKER, _marker(config, finished=True))
    return TrainResult(str(out), "", metrics, [], time.monotonic() - started)


def _single(config: TrainConfig, progress: Progress) -> TrainResult:
    started = time.monotonic()
    device = pick_device(config)
    world = 1 if config.inline else config.gpus or config.workers or 1
    out = storage.place(config.out).absolute()
    if not config.overwrite:
        _refuse_finished(out)
    plan = make_plan(config, world)
    with _run_folder(out, config, plan):
        _announce(plan, progress)
        progress.start("train", plan.epochs, "epochs")
        if config.inline:
            _inline(plan, out, device, progress)
        else:
            _on_ray(plan, out, world, device, progress)
        progress.stop()
        metrics = conclude(out, plan)
        storage.commit_json(out / MARKER, _marker(config, finished=True))
        storage.remove(out / CHECKPOINT)
    history = read_history(out / HISTORY)
    return TrainResult(str(out), str(out / FILE_NAME), metrics, history, time.monotonic() - started)


@contextmanager
def _run_folder(
    out: storage.Place, config: TrainConfig, plan: Plan | None = None
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
            changed = differences(before.get("config"), marker["config"])
            if changed:
                raise OutputError(
                    f"{out} holds an unfinished run of another configuration "
                    f"({'; '.join(changed)}): give its own to go on, another --out, or --overwrite"
                )
            changed = differences(before.get("plan"), marker.get("plan"))
            if changed:
                raise OutputError(
                    f"{out} holds an unfinished run on other faces or another number of workers "
                    f"({'; '.join(changed)}): give these to go on, another --out, or --overwrite"
                )
        storage.commit_json(out / MARKER, marker)
        yield


def _refuse_finished(out: storage.Place) -> None:
    if _finished(out):
        raise OutputError(f"{out} holds a run already: give another --out, or --overwrite")


def _finished(out: storage.Place) -> bool:
    path = out / MARKER
    return storage.exists(path) and bool(storage.read_json(str(path)).get("finished"))


def _marker(config: TrainConfig, finished: bool) -> dict[str, Any]:
    """What a run folder says of itself; where it runs may change when it goes on."""
    where = {
        "ray_address",
        "ship_code",
        "runtime_env",
        "inline",
        "workers",
        "gpus",
        "overwrite",
        "out",
    }
    return {"finished": finished, "config": config.model_dump(mode="json", exclude=where)}


def _announce(plan: Plan, progress: Progress) -> None:
    config, sides = plan.config, plan.summary()
    progress.note(
        f"{config.backbone}, {_weights(plan)}; batch {config.batch_size}, {plan.steps} steps an epoch"
    )
    for side in SIDES:
        counts = sides[side]
        if counts["faces"]:
            progress.note(
                f"{side}: {counts['faces']} faces ({counts['real_faces']} real, "
                f"{counts['fake_faces']} fake) of {counts['videos']} videos in {counts['groups']} "
                "groups"
            )
    for note in plan.notes:
        progress.note(note)
    steps = plan.steps * plan.epochs
    if steps < FEW_STEPS:
        progress.note(
            f"only {steps} steps in all, too few to learn much: raise --epochs or lower --batch-size"
        )


def _weights(plan: Plan) -> str:
    if plan.config.weights is not None:
        return f"weights of {plan.config.weights}"
    return "timm's published weights" if plan.pretrained else "no pretrained weights"


def _inline(plan: Plan, out: storage.Place, device: str, progress: Progress) -> None:
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
            lambda row: _show(row, plan, progress),
            show_steps=progress.live,
        )
    finally:
        torch.set_num_threads(before)


def _on_ray(plan: Plan, out: storage.Place, world: int, device: str, progress: Progress) -> None:
    config = plan.config.model_copy(update={"workers": max(world, cpu_count())})
    with ray_session(config):
        check_nodes(config, _needs(plan, out))
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
                    progress.note(f"{cause}; going on from the last epoch, {turn}")


def _needs(plan: Plan, out: storage.Place) -> Needs:
    """What every rank reads and writes."""
    weights = () if plan.config.weights is None else (storage.absolute(plan.config.weights),)
    return Needs((*weights, *plan.index.files[:MOST_LOOKED_FOR]), str(out))


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
                "--workers or --gpus"
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
        storage.place(options["out"]),
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
def _watching(out: storage.Place, plan: Plan, progress: Progress) -> Iterator[None]:
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
        f"epoch {row['epoch']}/{plan.epochs}: loss {number('train_loss')}; held out, by frame: "
        f"AUC {number('val_frame_auc')}, log loss {number('val_frame_log_loss')}, accuracy "
        f"{number('val_frame_accuracy')}; by video: AUC {number('val_video_auc')}, log loss "
        f"{number('val_video_log_loss')}, accuracy {number('val_video_accuracy')}"
    )
    progress.advance(1)
