"""Running units: in this process, or as Ray tasks whose retries the driver owns.

Ray itself retries nothing (``max_retries=0``). A unit whose worker dies three times is split into
single videos; a video that kills its worker alone as often gets the row ``crashed``, and so does
one that raises what nobody expected. The death of a node is never charged to a video; an actor's (on
GPUs) is, since Ray does not say what it died of.
"""

import contextlib
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

from dfscan.config.base import CommandConfig
from dfscan.errors import ClusterError, ConfigError, DfscanError
from dfscan.execution.cluster import (
    CheckedTask,
    NodeRequirements,
    check_nodes,
    requirements_of,
    room_for,
    runtime_environment,
    unit_memory,
)
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import worker_count
from dfscan.pipeline.work_units import NOTHING, Task, Unit, UnitResult
from dfscan.storage import Lease
from dfscan.storage import fault_injection as faults

TRIES: Final = 3
"""Workers a unit may cost before it is split, and a single video before it is given up.

Decoding goes on in a child of the worker, so a worker that dies is rarely a video's fault.
"""


ALONE_S: Final = 60.0
"""Seconds without a node after which the user is told that this run waits."""

UNRECORDED: Final = {"task_events_report_interval_ms": 0}
"""For a Ray started here. Ray keeps a record of every task, 4 kB each and up to 100,000 of them, for a
dashboard; this one has none."""


def _never() -> bool:
    return False


def run_units(
    task: Task,
    units: Sequence[Unit],
    config: CommandConfig,
    progress: Progress,
    lease: Lease,
    stop: Callable[[], bool] = _never,
    files: Sequence[str] = (),
) -> UnitResult:
    """Do every unit, begun in their order; returns the sum of what they came to.

    :param stop: once it is true no further unit is begun; those under way are finished.
    :param files: what the task opens beside the videos.
    :raises DfscanError: the work cannot go on (a full disk, a lost cluster, another run took the
        output over); what is committed stays, and the same command continues.
    """
    total = NOTHING
    if config.inline:
        results = _inline(task, units, stop)
    else:
        theirs = config.ray_address is not None
        requirements = requirements_of(units, files, lease.path.parent) if theirs else None
        results = _on_ray(task, units, config, progress, stop, requirements)
    with contextlib.closing(results):
        for result in results:
            total += result
            progress.advance(result.videos, result)
            lease.check()
    return total


def _inline(
    task: Task, units: Sequence[Unit], stop: Callable[[], bool]
) -> Generator[UnitResult, None, None]:
    waiting = deque(units)
    while waiting and not stop():
        unit = waiting.popleft()
        try:
            yield _work(task, unit)
        except DfscanError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
            yield from _after_failure(task, unit, _describe(error), waiting)


def _work(task: Task, unit: Unit) -> UnitResult:
    """One unit; what runs as a Ray task."""
    faults.fault_point("worker.unit")
    return task(unit)


def _on_ray(
    task: Task,
    units: Sequence[Unit],
    config: CommandConfig,
    progress: Progress,
    stop: Callable[[], bool],
    requirements: NodeRequirements | None,
) -> Generator[UnitResult, None, None]:
    if not units or stop():
        return
    import ray

    with ray_session(config) as cpus:
        if requirements is not None:
            check_nodes(config, requirements)
        pool = _worker_pool(config, cpus, progress)
        shared = ray.put(task if requirements is None else CheckedTask(requirements, task))
        waiting, running = deque(units), dict[Any, Unit]()
        deaths: Counter[str] = Counter()
        alone = time.monotonic()
        try:
            while waiting or running:
                if stop():
                    waiting.clear()
                    if not running:
                        break
                while waiting and len(running) < pool.ahead:
                    unit = waiting.popleft()
                    running[pool.start(shared, unit)] = unit
                done, _ = ray.wait(list(running), num_returns=1, timeout=1)
                if done or ray.cluster_resources().get("CPU"):
                    alone = time.monotonic()
                elif time.monotonic() - alone > ALONE_S:
                    progress.message(
                        "no node with a CPU is left in the Ray cluster: waiting for one"
                    )
                    alone = time.monotonic()
                for reference in done:
                    unit = running.pop(reference)
                    yield from _collect(task, reference, unit, waiting, deaths)
                    pool.done(reference)
        finally:
            pool.stop(list(running))  # nothing may commit once the output is unlocked


def _worker_pool(config: CommandConfig, cpus: int, progress: Progress) -> "_Tasks | _Actors":
    """Who does the units."""
    decoders: int = getattr(config, "decoders", None) or 0
    if config.gpus:
        share = _cpus_a_gpu()
        memory = unit_memory(decoders or share, gpus=True)
        return _Actors(config.gpus, gpus=1, cpus=share, memory=memory)
    memory = unit_memory(decoders, gpus=False)
    room = room_for(memory)
    if room < cpus:
        progress.message(
            f"memory for {room} of {cpus} workers at once, {memory / 2**30:.1f} GiB each"
        )
    # Where the user names a number of workers on a Ray of theirs, no more may be in flight.
    return _Tasks(cpus if config.workers and config.ray_address else 2 * cpus, memory)


def _cpus_a_gpu() -> int:
    """CPUs that every GPU of the cluster can have: the share on the node with the fewest."""
    import ray

    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    shares = (n.get("CPU", 0) // n["GPU"] for n in nodes if n.get("GPU"))
    return max(1, int(min(shares, default=1)))


class _Tasks:
    """Units as Ray tasks: Ray keeps the worker processes. ``ahead`` of them are in flight."""

    def __init__(self, ahead: int, memory: int = 0) -> None:
        import ray

        self.ahead = ahead
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
        self._remote = ray.remote(**options | _reserved(memory))(_work)

    def start(self, task: Any, unit: Unit) -> Any:
        """A reference to the unit's result."""
        return self._remote.remote(task, unit)

    def done(self, reference: Any) -> None:
        """The result is there, or will not come."""

    def stop(self, running: list[Any]) -> None:
        """End what runs."""
        import ray

        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=30)


class _Actors:
    """Units on one actor a GPU, which keeps its networks; Ray ends a task's worker after each.

    Each takes its share of the CPUs, for its decoding processes, and one unit at a time, so that its
    death is charged to that one.
    """

    def __init__(self, count: int, gpus: float, cpus: int, memory: int = 0) -> None:
        import ray

        self.ahead = count
        options: dict[str, Any] = {"num_gpus": gpus, "num_cpus": cpus, "max_restarts": 0}
        self._new = ray.remote(**options | _reserved(memory))(_Worker).remote
        self._idle = [self._new() for _ in range(count)]
        self._busy: dict[Any, Any] = {}

    def start(self, task: Any, unit: Unit) -> Any:
        """See :class:`_Tasks`."""
        actor = self._idle.pop()
        reference = actor.work.remote(task, unit)
        self._busy[reference] = actor
        return reference

    def done(self, reference: Any) -> None:
        """See :class:`_Tasks`; an actor that died is replaced."""
        import ray
        from ray import exceptions

        actor = self._busy.pop(reference)
        try:
            ray.get(reference)
        except exceptions.RayTaskError:
            pass
        except exceptions.RayError:
            ray.kill(actor)
            actor = self._new()
        self._idle.append(actor)

    def stop(self, running: list[Any]) -> None:
        """See :class:`_Tasks`."""
        import ray

        for actor in [*self._idle, *self._busy.values()]:
            ray.kill(actor)
        if running:
            ray.wait(running, num_returns=len(running), timeout=30)


def _reserved(memory: int) -> dict[str, int]:
    """Ray's option; 0 would not do."""
    return {"memory": memory} if memory else {}


class _Worker:
    def work(self, task: Task, unit: Unit) -> UnitResult:
        return _work(task, unit)


def _collect(
    task: Task, reference: Any, unit: Unit, waiting: deque[Unit], deaths: Counter[str]
) -> Iterator[UnitResult]:
    """The result of a finished task; what failed is put back, split or given up.

    :raises DfscanError: the work cannot go on.
    """
    import ray
    from ray import exceptions

    try:
        yield ray.get(reference)
    except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError):
        waiting.append(unit)
    except (
        exceptions.WorkerCrashedError,
        exceptions.OutOfMemoryError,
        exceptions.RayActorError,
    ) as error:
        deaths[unit.name] += 1
        if deaths[unit.name] < TRIES:
            waiting.append(unit)
        else:
            yield from _after_failure(task, unit, _death(error), waiting)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, DfscanError):
            raise error.cause from None
        if isinstance(error.cause, ImportError | exceptions.RaySystemError):
            raise ClusterError(
                f"a worker cannot load dfscan ({_first_line(error.cause)}): install the same version "
                "of dfscan and its libraries on every node",
                code="cluster.version",
            ) from None
        yield from _after_failure(task, unit, _describe(error.cause), waiting)
    except exceptions.RayError as error:
        raise ClusterError(
            f"Ray lost the work ({type(error).__name__}): run the same command again, it continues"
        ) from error


def _after_failure(task: Task, unit: Unit, how: str, waiting: deque[Unit]) -> Iterator[UnitResult]:
    """Try a failed unit in smaller pieces; give up what cannot be split."""
    pieces = task.split(unit)
    if len(pieces) > 1:
        waiting.extend(pieces)
    else:
        yield task.record_failure(unit, "crashed", how)


def _death(error: BaseException) -> str:
    how = "ran out of memory" if "Memory" in type(error).__name__ else "was killed"
    return f"the worker {how} on this video, {TRIES} times"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


@contextlib.contextmanager
def ray_session(config: CommandConfig) -> Iterator[int]:
    """A Ray to work on, and how many slots it has: the user's cluster, or one started here.

    :raises ClusterError: the address does not answer.
    """
    import ray

    # Without this Ray warns at every start without GPUs that it will stop hiding them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    quiet |= runtime_environment(config)
    started = not ray.is_initialized()
    workers = worker_count(config)
    if started and config.ray_address is None:
        ray.init(
            address="local",
            num_cpus=workers,
            num_gpus=config.gpus or None,
            include_dashboard=False,
            _system_config=UNRECORDED,
            **quiet,
        )
    elif started:
        try:
            _knock(config.ray_address)
            ray.init(address=config.ray_address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise _no_cluster(config, error) from None
    try:
        there = ray.cluster_resources()
        if there.get("GPU", 0) < config.gpus:
            raise ConfigError(
                f"gpus: got {config.gpus}; the Ray cluster has {there.get('GPU', 0):.0f}: ask for "
                "fewer, or add nodes with GPUs",
                code="device.unavailable",
            )
        cpus = int(there.get("CPU", 1))
        yield max(1, min(workers, cpus) if config.workers or config.ray_address is None else cpus)
    finally:
        if started:
            ray.shutdown()


def check_cluster(config: CommandConfig) -> None:
    """Find out that there is no cluster before anything is written.

    :raises ClusterError: nothing listens at the address.
    """
    if config.inline or config.ray_address is None:
        return
    try:
        _knock(config.ray_address)
    except OSError as error:
        raise _no_cluster(config, error) from None


def _no_cluster(config: CommandConfig, error: Exception) -> ClusterError:
    return ClusterError(
        f"no Ray cluster at {config.ray_address!r} ({_first_line(error)}): check the address "
        "(--ray-address, RAY_ADDRESS); if the cluster uses token authentication, set "
        "RAY_AUTH_MODE=token and the same token here; leave the address out to start a local Ray",
        code="cluster.unreachable",
    )


def _knock(address: str | None) -> None:
    """Fail at once where nothing listens at HOST:PORT; Ray itself would try for many minutes.

    :raises OSError: the connection is refused, or not answered in 5 s.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
