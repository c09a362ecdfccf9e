"""Every command of ``dfscan``: a new one is a configuration, a module and an entry here.

Paths are ``"package.module:name"`` and are imported only when the command is used.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    :param name: as typed; a subcommand has two words: ``"models list"``.
    :param summary: one line for ``dfscan --help``.
    :param config: its :class:`~dfscan.config.base.CommandConfig`, whose ``flags`` are its options.
    :param run: what does the work: ``run(config, progress) -> result``.
    :param render: shows the result on a terminal.
    :param resumable: an interrupted run is continued by the same command.
    """

    name: str
    summary: str
    config: str
    run: str
    render: str
    resumable: bool = False


def load(path: str) -> Any:
    """``"package.module:name"`` → the object."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


COMMANDS: list[Command] = [
    Command(
        "extract", "Extract faces from videos into a face dataset.",
        "dfscan.config.extract:ExtractConfig", "dfscan.commands.extract:run",
        "dfscan.cli.renderers.training:show_extract", resumable=True,
    ),
    Command(
        "train", "Train a classifier on extracted faces.",
        "dfscan.config.train:TrainConfig", "dfscan.commands.train:run",
        "dfscan.cli.renderers.training:show_train", resumable=True,
    ),
    Command(
        "score", "Score videos: one verdict per video.",
        "dfscan.config.score:ScoreConfig", "dfscan.commands.score:run",
        "dfscan.cli.renderers.scoring:show_score", resumable=True,
    ),
    Command(
        "calibrate", "Fit p_fake and threshold to your own videos.",
        "dfscan.config.calibrate:CalibrateConfig", "dfscan.commands.calibrate:run",
        "dfscan.cli.renderers.scoring:show_calibrate",
    ),
    Command(
        "quickstart", "Try all steps on a small synthetic corpus.",
        "dfscan.config.quickstart:QuickstartConfig", "dfscan.commands.quickstart:run",
        "dfscan.cli.renderers.training:show_quickstart",
    ),
    Command(
        "inspect", "Show what a file or folder is and what it holds.",
        "dfscan.config.inspect:InspectConfig", "dfscan.commands.inspect:run",
        "dfscan.cli.renderers.other:show_inspect",
    ),
    Command(
        "purge", "Remove every trace of a video.",
        "dfscan.config.purge:PurgeConfig", "dfscan.commands.purge:run",
        "dfscan.cli.renderers.other:show_purge",
    ),
    Command(
        "verify", "Compute verdicts again and compare (exit code 5: differs).",
        "dfscan.config.verify:VerifyConfig", "dfscan.commands.verify:run",
        "dfscan.cli.renderers.scoring:show_verify",
    ),
    Command(
        "evaluate", "Compare verdicts with labels: metrics, plots, a report.",
        "dfscan.config.evaluate:EvaluateConfig", "dfscan.commands.evaluate:run",
        "dfscan.cli.renderers.evaluation:show_evaluation",
    ),
    Command(
        "report", "Write a page with counts, plots, faces and failures.",
        "dfscan.config.report:ReportConfig", "dfscan.commands.report:run",
        "dfscan.cli.renderers.other:show_report",
    ),
    Command(
        "annotate", "Draw the verdict of every face into a video or picture.",
        "dfscan.config.annotate:AnnotateConfig", "dfscan.commands.annotate:run",
        "dfscan.cli.renderers.other:show_annotate",
    ),
    Command(
        "stress", "Re-encode videos and measure how the verdicts change.",
        "dfscan.config.stress:StressConfig", "dfscan.commands.stress:run",
        "dfscan.cli.renderers.evaluation:show_stress", resumable=True,
    ),
    Command(
        "export", "Export a model for other runtimes and check it.",
        "dfscan.config.export:ExportConfig", "dfscan.commands.export:run",
        "dfscan.cli.renderers.models:show_export",
    ),
    Command(
        "models import", "Convert a published detector's weights to a dfscan model.",
        "dfscan.config.import_model:ImportModelConfig", "dfscan.commands.import_model:run",
        "dfscan.cli.renderers.models:show_import_model",
    ),
    Command(
        "models list", "List detectors that can be imported, with licences.",
        "dfscan.config.list_models:ListModelsConfig", "dfscan.commands.list_models:run",
        "dfscan.cli.renderers.models:show_list_models",
    ),
]  # fmt: skip

GROUPS: Final = {"models": "List published detectors and import their weights."}
"""Words that stand before subcommands."""

INIT: Final = ("init", "Write a commented dfscan.yaml for this folder.")
"""The one command without a configuration, since it writes the file: :mod:`dfscan.cli.init`."""
