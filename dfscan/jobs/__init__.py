"""One verb on a cluster or in this process. The only floor that imports ray.

The functions here are the verbs as ``dfscan.extract`` and so on: keyword arguments are the
configuration keys of the verb, the result is a small object. They take nothing from
``dfscan.yaml`` or the environment: what a program asks for is what it says.
"""

from typing import Any

from dfscan.config import (
    CalibrateConfig,
    ExtractConfig,
    InspectConfig,
    PurgeConfig,
    QuickstartConfig,
    ScoreConfig,
    TrainConfig,
    VerifyConfig,
    build,
)
from dfscan.jobs.init_job import init
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import (
    CalibrateResult,
    ExtractResult,
    InspectResult,
    PlanResult,
    PurgeResult,
    QuickstartResult,
    ScorePlan,
    ScoreResult,
    TrainResult,
    VerifyResult,
)

__all__ = [
    "CalibrateResult",
    "ExtractResult",
    "InspectResult",
    "PlanResult",
    "Progress",
    "PurgeResult",
    "QuickstartResult",
    "ScorePlan",
    "ScoreResult",
    "TrainResult",
    "VerifyResult",
    "calibrate",
    "extract",
    "init",
    "inspect",
    "purge",
    "quickstart",
    "score",
    "train",
    "verify",
]


def extract(
    *source: str, progress: Progress | None = None, **config: Any
) -> ExtractResult | PlanResult:
    """Videos → a face dataset; keys of :class:`~dfscan.config.ExtractConfig`.

    With ``dry_run=True`` nothing is written and the plan is returned.

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


def score(*source: str, progress: Progress | None = None, **config: Any) -> ScoreResult | ScorePlan:
    """Videos → one verdict each; keys of :class:`~dfscan.config.ScoreConfig`.

    With ``dry_run=True`` nothing is written and the plan is returned.

    :raises UsageError: the configuration, a source, the model or the output cannot be used.
    """
    from dfscan.jobs.score_job import run

    return run(build(ScoreConfig, _with(config, source=source)), progress or Progress())


def calibrate(
    model: str, verdicts: str, progress: Progress | None = None, **config: Any
) -> CalibrateResult:
    """A model's p_fake and threshold, fitted to verdicts of one's own material.

    Keys of :class:`~dfscan.config.CalibrateConfig`; ``out`` is the model file to write.

    :raises UsageError: the model, the verdicts, the labels or the output cannot be used, or there
        are too few videos for what was asked.
    """
    from dfscan.jobs.calibrate_job import run

    values = {**config, "model": model, "verdicts": verdicts}
    return run(build(CalibrateConfig, values), progress or Progress())


def quickstart(
    out: str = "quickstart", progress: Progress | None = None, **config: Any
) -> QuickstartResult:
    """A small synthetic corpus through extract, train and score.

    Keys of :class:`~dfscan.config.QuickstartConfig`.
    """
    from dfscan.jobs.quickstart_job import run

    return run(build(QuickstartConfig, {**config, "out": out}), progress or Progress())


def inspect(path: str, progress: Progress | None = None) -> InspectResult:
    """What is this archive, dataset, run, model, verdict file or video?

    :raises UsageError: nothing is there, or it is nothing that dfscan knows.
    """
    from dfscan.jobs.inspect_job import run

    return run(build(InspectConfig, {"path": path}), progress or Progress())


def purge(path: str, *video: str, progress: Progress | None = None) -> PurgeResult:
    """Remove every trace of some videos from a face dataset or a verdict file.

    :raises UsageError: the path is neither, it is in use, or it holds none of the videos.
    """
    from dfscan.jobs.purge_job import run

    return run(build(PurgeConfig, {"path": path, "video": video}), progress or Progress())


def verify(
    verdicts: str = "verdicts.parquet",
    *video: str,
    progress: Progress | None = None,
    **config: Any,
) -> VerifyResult:
    """Make verdicts again from their custody record and compare; nothing is written.

    All of the file's, those of some videos, or a ``sample``; keys of
    :class:`~dfscan.config.VerifyConfig`.

    :raises UsageError: there is no verdict file or no model, or the file does not say how it was made.
    """
    from dfscan.jobs.verify_job import run

    values = _with({**config, "verdicts": verdicts}, video=video)
    return run(build(VerifyConfig, values), progress or Progress())


def _with(config: dict[str, Any], **positional: tuple[str, ...]) -> dict[str, Any]:
    return config | {name: values for name, values in positional.items() if values}
