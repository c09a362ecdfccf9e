"""One verb on a cluster or in this process. The only floor that imports ray.

The functions here are the verbs as ``dfscan.extract`` and so on: keyword arguments are the
configuration keys of the verb, the result is a small object. They take nothing from
``dfscan.yaml`` or the environment: what a program asks for is what it says.
"""

from typing import Any

from dfscan.config import ExtractConfig, QuickstartConfig, ScoreConfig, TrainConfig, build
from dfscan.jobs.init_job import init
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import ExtractResult, QuickstartResult, ScoreResult, TrainResult

__all__ = [
    "ExtractResult",
    "Progress",
    "QuickstartResult",
    "ScoreResult",
    "TrainResult",
    "extract",
    "init",
    "quickstart",
    "score",
    "train",
]


def extract(*source: str, progress: Progress | None = None, **config: Any) -> ExtractResult:
    """Videos → a face dataset; keys of :class:`~dfscan.config.ExtractConfig`.

    :raises UsageError: the configuration, a source or the output cannot be used.
    """
    from dfscan.jobs.extract_job import run

    return run(build(ExtractConfig, _with(config, source=source)), progress or Progress())


def train(*faces: str, progress: Progress | None = None, **config: Any) -> TrainResult:
    """Faces → a classifier; keys of :class:`~dfscan.config.TrainConfig`.

    :raises UsageError: the configuration or the faces cannot be used.
    """
    from dfscan.jobs.train_job import run

    return run(build(TrainConfig, _with(config, faces=faces)), progress or Progress())


def score(*source: str, progress: Progress | None = None, **config: Any) -> ScoreResult:
    """Videos → one verdict each; keys of :class:`~dfscan.config.ScoreConfig`.

    :raises UsageError: the configuration, a source, the model or the output cannot be used.
    """
    from dfscan.jobs.score_job import run

    return run(build(ScoreConfig, _with(config, source=source)), progress or Progress())


def quickstart(
    out: str = "quickstart", progress: Progress | None = None, **config: Any
) -> QuickstartResult:
    """A small synthetic corpus through extract, train and score.

    Keys of :class:`~dfscan.config.QuickstartConfig`.
    """
    from dfscan.jobs.quickstart_job import run

    return run(build(QuickstartConfig, {**config, "out": out}), progress or Progress())


def _with(config: dict[str, Any], **positional: tuple[str, ...]) -> dict[str, Any]:
    return config | {name: values for name, values in positional.items() if values}
