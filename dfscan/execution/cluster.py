"""The nodes of a user's Ray cluster: has each this dfscan, and does it see the source and the output?

Asked of every node before a run begins its first unit, and of each worker process that a node which
joins later starts: a node without the source would write a row ``missing`` for every video it gets.
"""

import functools
import platform
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dfscan import __version__, storage
from dfscan.config.base import CommandConfig
from dfscan.errors import ClusterError, ConfigError
from dfscan.pipeline.work_units import Task, Unit, UnitResult

MOST_LOOKED_FOR: Final = 32
"""Files that every node is asked for; of more, an even choice."""

MOST_SHOWN: Final = 10
"""Nodes that a message names."""

ANSWER_S: Final = 120.0
SETTING_UP_S: Final = 900.0
"""Seconds in which a node must answer; the second where it has a runtime environment to set up."""

DECODING_BYTES: Final = 1 << 30
"""Memory of one decoding process with its share of the worker: 0.83 and 0.10 GiB on 4K input
(``benchmarks/memory.py``)."""

_COLUMNS: Final = ("node", "dfscan", "python", "ray", "source", "output")

Answer = Mapping[str, str]
"""What a node says of itself: :data:`_COLUMNS` → text."""


def _versions() -> dict[str, str]:
    import ray

    return {"dfscan": __version__, "python": platform.python_version(), "ray": ray.__version__}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


@dataclass(frozen=True)
class NodeRequirements:
    """What every node must have: these versions, these files, a folder to write to."""

    files: tuple[str, ...] = ()
    folder: str | None = None
    versions: Mapping[str, str] = field(default_factory=_versions, compare=False)

    def differ(self, answer: Answer) -> bool:
        """Whether a node lacks something. Of Python only the minor version counts."""
        python = _minor(answer["python"]) != _minor(self.versions["python"])
        others = any(answer[name] != self.versions[name] for name in ("dfscan", "ray"))
        return python or others or (answer["source"], answer["output"]) != ("seen", "seen")


@dataclass(frozen=True)
class CheckedTask:
    """A task as the workers of a cluster get it, whose nodes may have joined after the check."""

    requirements: NodeRequirements
    task: Task

    def __call__(self, unit: Unit) -> UnitResult:
        """Do the unit.

        :raises ClusterError: this node lacks something.
        """
        _check_here(self.requirements)
        return self.task(unit)


def requirements_of(
    units: Sequence[Unit], files: Iterable[str], folder: storage.StoragePath
) -> NodeRequirements:
    """What the nodes need for ``units``, whose task opens ``files`` and writes to ``folder``."""
    lying = (storage.split_uri(v.uri)[0] for u in units for v in u.videos if v.version)
    found = list(dict.fromkeys(lying))
    chosen = found[:: max(1, len(found) // MOST_LOOKED_FOR)][:MOST_LOOKED_FOR]
    return NodeRequirements((*files, *chosen), str(folder))


def check_nodes(config: CommandConfig, requirements: NodeRequirements) -> None:
    """Ask every node that may get work, in a Ray session. A Ray started here is this machine alone.

    :raises ClusterError: one of them lacks something; the message is a table of those that do.
    """
    if config.ray_address is None:
        return
    probe = storage.as_path(requirements.folder or ".") / f".dfscan-probe-{uuid.uuid4().hex}"
    if requirements.folder is not None:
        storage.commit_bytes(probe, b"")
    try:
        answers = _ask(config, requirements, str(probe) if requirements.folder else None)
    finally:
        storage.remove(probe)
    bad = [a for a in answers if requirements.differ(a)]
    if bad:
        raise ClusterError(_told(bad, len(answers), requirements))


def runtime_environment(config: CommandConfig) -> dict[str, Any]:
    """What ``ray.init`` takes for ``ship_code`` and ``runtime_env``; nothing where neither is given.

    dfscan goes as a folder, since Ray would install a wheel with all the libraries that it names.

    :raises ConfigError: Ray knows no such key, or refuses its value.
    """
    wanted = dict(config.runtime_env or {})
    if config.ship_code and config.ray_address is not None:
        wanted["py_modules"] = [*wanted.get("py_modules", ()), str(Path(__file__).parents[1])]
    if not wanted:
        return {}
    from ray.runtime_env import RuntimeEnv

    try:
        return {"runtime_env": RuntimeEnv(**wanted)}
    except (TypeError, ValueError) as error:  # its values may be secret
        raise ConfigError(
            f"runtime_env: got the keys {', '.join(wanted)}; {' '.join(str(error).split())}"
        ) from None


def unit_memory(decoders: int, gpus: bool) -> int:
    """Bytes of memory to ask Ray for with each worker, for itself and its decoding processes.

    No more than some node has to give (on GPUs: every node, for each of its GPUs), since Ray would
    wait for ever; 0 where nodes do not say what they have.
    """
    import ray

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if gpus:
        room = min((n.get("memory", 0) // n["GPU"] for n in nodes if n.get("GPU")), default=None)
    else:
        room = max((n.get("memory", 0) for n in nodes), default=None)
    wanted = max(1, decoders) * DECODING_BYTES
    return wanted if room is None else int(min(wanted, room))


def room_for(memory: int) -> int:
    """Workers of one CPU and so many bytes that the cluster has room for at once."""
    import ray

    count = 0
    for node in (n["Resources"] for n in ray.nodes() if n["Alive"]):
        cpus = int(node.get("CPU", 0))
        count += min(cpus, int(node.get("memory", 0) // memory)) if memory else cpus
    return count


def _looker(patience_s: float = 5.0) -> Callable[[Sequence[str], str | None], dict[str, str]]:
    """What a node does. Ray sends a function within a function as code: dfscan need not be there.

    :param patience_s: a shared file system may show what is new a little late.
    """

    def look(files: Sequence[str], probe: str | None) -> dict[str, str]:
        import contextlib
        import platform
        import time
        import uuid
        from pathlib import Path
        from typing import Any

        import ray

        storage: Any = None
        try:
            import dfscan
            from dfscan import storage
            from dfscan.errors import DfscanError
        except ImportError as error:
            version = "not installed" if error.name == "dfscan" else f"lacks {error.name}"
        else:
            version = dfscan.__version__

        def seen(path: str) -> bool:
            until = time.monotonic() + patience_s
            while True:
                with contextlib.suppress(*refusals):  # for whatever reason, it is not seen
                    if storage.exists(path) if storage else Path(path).exists():
                        return True
                if time.monotonic() > until:
                    return False
                time.sleep(0.5)

        def writable(probe: str) -> str:
            folder = probe.rpartition("/")[0]
            if not seen(probe):
                return f"no {folder}"
            if not hasattr(storage, "as_path"):  # another dfscan, or none: the table says so anyway
                return "seen"
            mine = storage.as_path(f"{probe}.{uuid.uuid4().hex}")
            try:
                storage.commit_bytes(mine, b"")
                storage.remove(mine)
            except refusals as error:
                return str(error).replace(f"cannot write {mine}", f"cannot write to {folder}")
            return "seen"

        refusals: tuple[type[Exception], ...] = (OSError, DfscanError) if storage else (OSError,)
        unseen = next((f for f in files if not seen(f)), None)
        return {
            "dfscan": version,
            "python": platform.python_version(),
            "ray": ray.__version__,
            "source": "seen" if unseen is None else f"no {unseen}",
            "output": "seen" if probe is None else writable(probe),
        }

    return look


def _ask(
    config: CommandConfig, requirements: NodeRequirements, probe: str | None
) -> list[dict[str, str]]:
    """An answer of every node that may get work; one that has left meanwhile is left out."""
    import ray
    from ray import exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_looker())
    kind = "GPU" if config.gpus else "CPU"
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get(kind):
            only_there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reference = look.options(scheduling_strategy=only_there).remote(
                requirements.files, probe
            )
            asked[reference] = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
    limit = SETTING_UP_S if runtime_environment(config) else ANSWER_S
    ready, late = (
        ray.wait(list(asked), num_returns=len(asked), timeout=limit) if asked else ([], [])
    )
    answers = []
    silent = dict.fromkeys(_COLUMNS[2:], "")
    for reference in ready:
        try:
            answers.append({"node": asked[reference], **ray.get(reference)})
        except (exceptions.NodeDiedError, exceptions.TaskUnschedulableError):
            continue
        except exceptions.RayError as error:
            what = " ".join(str(error).split())[:200]
            answers.append({"node": asked[reference], "dfscan": f"cannot run: {what}", **silent})
    for reference in late:
        ray.cancel(reference, force=True)
        answers.append(
            {"node": asked[reference], "dfscan": f"no answer in {limit:.0f} s", **silent}
        )
    return answers


def _told(bad: Sequence[Answer], of: int, requirements: NodeRequirements) -> str:
    """A table of nodes that lack something, this machine above them."""
    here = {"node": "this machine", **requirements.versions, "source": "seen", "output": "seen"}
    rows = [dict(zip(_COLUMNS, _COLUMNS, strict=True)), here, *bad[:MOST_SHOWN]]
    width = {name: max(len(row[name]) for row in rows) for name in _COLUMNS}
    lines = ["  ".join(row[name].ljust(width[name]) for name in _COLUMNS).rstrip() for row in rows]
    if len(bad) > MOST_SHOWN:
        lines.append(f"… and {len(bad) - MOST_SHOWN} more")
    return "\n".join([
        f"{len(bad)} of {of} node(s) of the Ray cluster cannot do this work, and none was begun:",
        *lines,
        "every node needs this machine's versions (run.ship_code sends dfscan) and must see the source and "
        "the output at the same paths" + _about_temporary(bad, requirements),
    ])  # fmt: skip


def _about_temporary(bad: Sequence[Answer], requirements: NodeRequirements) -> str:
    """What to do where the output is a temporary folder, which is of this machine alone."""
    here = Path(tempfile.gettempdir())
    unseen = any(answer["output"] not in ("seen", "") for answer in bad)
    if not unseen or requirements.folder is None or here not in Path(requirements.folder).parents:
        return ""
    return (
        f"; here that is a temporary folder in {here}: set TMPDIR to a folder that all nodes share"
    )


@functools.lru_cache(maxsize=4)
def _check_here(requirements: NodeRequirements) -> None:
    """Once in a worker process; the lock file of the output is looked for at each commit anyway.

    :raises ClusterError: this node lacks something.
    """
    import ray

    here = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:6]}"
    answer = {"node": here, **_looker()(requirements.files, None)}
    if requirements.differ(answer):
        raise ClusterError(_told([answer], 1, requirements))
