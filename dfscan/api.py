"""The commands as functions: ``dfscan.extract`` and so on.

Keyword arguments are the configuration keys of the command, the result is a small object.
Nothing is taken from ``dfscan.yaml`` or the environment: a program says all it wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfscan.commands.init import init
from dfscan.config.annotate import AnnotateConfig
from dfscan.config.calibrate import CalibrateConfig
from dfscan.config.evaluate import EvaluateConfig
from dfscan.config.export import ExportConfig
from dfscan.config.extract import ExtractConfig
from dfscan.config.import_model import ImportModelConfig
from dfscan.config.inspect import InspectConfig
from dfscan.config.list_models import ListModelsConfig
from dfscan.config.loading import build
from dfscan.config.purge import PurgeConfig
from dfscan.config.quickstart import QuickstartConfig
from dfscan.config.report import ReportConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.stress import StressConfig
from dfscan.config.train import TrainConfig
from dfscan.config.verify import VerifyConfig
from dfscan.pipeline.estimate import PlanResult
from dfscan.pipeline.progress import Progress

if TYPE_CHECKING:
    from dfscan.commands.annotate import AnnotateResult
    from dfscan.commands.calibrate import CalibrateResult
    from dfscan.commands.evaluate import EvaluateResult
    from dfscan.commands.export import ExportResult
    from dfscan.commands.extract import ExtractResult
    from dfscan.commands.import_model import ImportModelResult
    from dfscan.commands.inspect.result import InspectResult
    from dfscan.commands.list_models import ListModelsResult
    from dfscan.commands.purge import PurgeResult
    from dfscan.commands.quickstart import QuickstartResult
    from dfscan.commands.score.result import ScorePlan, ScoreResult
    from dfscan.commands.stress import StressResult
    from dfscan.commands.train import TrainResult
    from dfscan.commands.verify import VerifyResult
    from dfscan.pipeline.estimate import PlanResult
    from dfscan.reports.build import ReportResult

__all__ = [
    "Progress",
    "annotate",
    "calibrate",
    "evaluate",
    "export",
    "extract",
    "import_model",
    "init",
    "inspect",
    "list_models",
    "purge",
    "quickstart",
    "report",
    "score",
    "stress",
    "train",
    "verify",
]


def extract(
    *source: str, progress: Progress | None = None, **config: Any
) -> ExtractResult | PlanResult:
    """Videos → a face dataset; keys of :class:`~dfscan.config.extract.ExtractConfig`.

    With ``dry_run=True`` nothing is written and the plan is returned.

    :raises UsageError: the configuration, a source or the output cannot be used.
    """
    from dfscan.commands.extract import run

    return run(build(ExtractConfig, _with(config, source=source)), progress or Progress())


def train(*faces: str, progress: Progress | None = None, **config: Any) -> TrainResult:
    """Faces → a classifier; keys of :class:`~dfscan.config.train.TrainConfig`.

    :raises UsageError: the configuration or the faces cannot be used.
    """
    from dfscan.commands.train import run

    return run(build(TrainConfig, _with(config, faces=faces)), progress or Progress())


def score(*source: str, progress: Progress | None = None, **config: Any) -> ScoreResult | ScorePlan:
    """Videos → one verdict each; keys of :class:`~dfscan.config.score.ScoreConfig`.

    With ``dry_run=True`` nothing is written and the plan is returned.

    :raises UsageError: the configuration, a source, the model or the output cannot be used.
    """
    from dfscan.commands.score import run

    return run(build(ScoreConfig, _with(config, source=source)), progress or Progress())


def calibrate(
    model: str, verdicts: str, progress: Progress | None = None, **config: Any
) -> CalibrateResult:
    """A model's p_fake and threshold, fitted to verdicts of one's own material.

    Keys of :class:`~dfscan.config.calibrate.CalibrateConfig`; ``out`` is the model file to write.

    :raises UsageError: the model, the verdicts, the labels or the output cannot be used, or there
        are too few videos for what was asked.
    """
    from dfscan.commands.calibrate import run

    values = {**config, "model": model, "verdicts": verdicts}
    return run(build(CalibrateConfig, values), progress or Progress())


def quickstart(
    out: str = "quickstart", progress: Progress | None = None, **config: Any
) -> QuickstartResult:
    """A small synthetic corpus through extract, train, score and evaluate.

    Keys of :class:`~dfscan.config.quickstart.QuickstartConfig`.
    """
    from dfscan.commands.quickstart import run

    return run(build(QuickstartConfig, {**config, "out": out}), progress or Progress())


def inspect(path: str, progress: Progress | None = None) -> InspectResult:
    """What is this archive, video, dataset, run, model, export, evaluation or verdict file?

    :raises UsageError: nothing is there, or it is nothing that dfscan knows.
    """
    from dfscan.commands.inspect import run

    return run(build(InspectConfig, {"path": path}), progress or Progress())


def purge(path: str, *video: str, progress: Progress | None = None) -> PurgeResult:
    """Remove every trace of some videos from a face dataset or a verdict file.

    :raises UsageError: the path is neither, it is in use, or it holds none of the videos.
    """
    from dfscan.commands.purge import run

    return run(build(PurgeConfig, {"path": path, "video": video}), progress or Progress())


def verify(
    verdicts: str = "verdicts.parquet",
    *video: str,
    progress: Progress | None = None,
    **config: Any,
) -> VerifyResult:
    """Make verdicts again from their custody record and compare; nothing is written.

    All of the file's, those of some videos, or a ``sample``; keys of
    :class:`~dfscan.config.verify.VerifyConfig`.

    :raises UsageError: there is no verdict file or no model, or the file does not say how it was made.
    """
    from dfscan.commands.verify import run

    values = _with({**config, "verdicts": verdicts}, video=video)
    return run(build(VerifyConfig, values), progress or Progress())


def evaluate(
    path: str = "verdicts.parquet", progress: Progress | None = None, **config: Any
) -> EvaluateResult:
    """Verdicts, or faces and a model, against the truth: metrics with intervals, plots, a page.

    Keys of :class:`~dfscan.config.evaluate.EvaluateConfig`.

    :raises UsageError: there is nothing to evaluate, no truth, or the output cannot be used.
    """
    from dfscan.commands.evaluate import run

    return run(build(EvaluateConfig, {**config, "path": path}), progress or Progress())


def report(
    path: str = "verdicts.parquet", progress: Progress | None = None, **config: Any
) -> ReportResult:
    """One static page about a dataset, a run, verdicts or an evaluation.

    Keys of :class:`~dfscan.config.report.ReportConfig`.

    :raises UsageError: it is none of these, or the page cannot be written.
    """
    from dfscan.reports.build import run

    return run(build(ReportConfig, {**config, "path": path}), progress or Progress())


def annotate(file: str, progress: Progress | None = None, **config: Any) -> AnnotateResult:
    """A video or picture with boxes; keys of :class:`~dfscan.config.annotate.AnnotateConfig`.

    :raises UsageError: the file, the model or the output cannot be used.
    """
    from dfscan.commands.annotate import run

    return run(build(AnnotateConfig, {**config, "file": file}), progress or Progress())


def stress(
    model: str, *source: str, progress: Progress | None = None, **config: Any
) -> StressResult:
    """The same clips re-encoded and scored again; keys of :class:`~dfscan.config.stress.StressConfig`.

    :raises UsageError: the model, a source, the labels or the output cannot be used.
    """
    from dfscan.commands.stress import run

    values = _with({**config, "model": model}, source=source)
    return run(build(StressConfig, values), progress or Progress())


def export(model: str, progress: Progress | None = None, **config: Any) -> ExportResult:
    """A model for other runtimes; keys of :class:`~dfscan.config.export.ExportConfig`.

    :raises UsageError: the model or the faces cannot be used, or a format needs a package.
    """
    from dfscan.commands.export import run

    return run(build(ExportConfig, {**config, "model": model}), progress or Progress())


def import_model(
    kind: str, file: str, progress: Progress | None = None, **config: Any
) -> ImportModelResult:
    """A published detector's weights → a dfscan model (``dfscan models import``).

    Keys of :class:`~dfscan.config.import_model.ImportModelConfig`. ``dfscan.models`` is the package of networks,
    hence the name.

    :raises UsageError: the kind is unknown, the file is not what it should be, or a tensor is left.
    """
    from dfscan.commands.import_model import run

    return run(
        build(ImportModelConfig, {**config, "kind": kind, "file": file}), progress or Progress()
    )


def list_models(progress: Progress | None = None) -> ListModelsResult:
    """Detectors that can be imported (``dfscan models list``)."""
    from dfscan.commands.list_models import run

    return run(ListModelsConfig(), progress or Progress())


def _with(config: dict[str, Any], **positional: tuple[str, ...]) -> dict[str, Any]:
    return config | {name: values for name, values in positional.items() if values}
