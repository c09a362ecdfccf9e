"""``dfscan report``: a page about a face dataset, a run, verdicts or an evaluation."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import MARKER
from dfscan.errors import OutputError, SourceError
from dfscan.evaluation.verdict_data import MARKER as EVALUATION
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import HEAD_BYTES, Page, about_of, render
from dfscan.reports import dataset as report_dataset
from dfscan.reports import evaluation as report_evaluation
from dfscan.reports import training_run as report_run
from dfscan.reports import verdicts as report_verdicts
from dfscan.verdicts.table import is_verdict_folder


@dataclass(frozen=True)
class ReportResult:
    """A page: ``kind`` of thing it is about, its ``bytes``, the ``faces`` that it shows."""

    out: str
    kind: str
    bytes: int
    faces: int
    elapsed_s: float
    exit_code: int = 0


PAGE: Final = "report.html"

Collect = Callable[[storage.StoragePath, str, ReportConfig, Progress], Page]


def run(config: ReportConfig, progress: Progress) -> ReportResult:
    """Write the page. An existing page about the same input is replaced.

    :raises SourceError: no report exists for what is at the path.
    :raises OutputError: the output is something else, or a page about another input.
    """
    started = time.monotonic()
    path = storage.as_path(config.path).absolute()
    collect = _collector(path)
    out = _output(config, path)
    about = _about(path, out)
    _check_output(out, about, config.overwrite)
    page = collect(path, about, config, progress)
    document = render(page)
    storage.commit_bytes(out, document, lambda: _check_output(out, about, config.overwrite))
    return ReportResult(
        out=str(out),
        kind=page.kind.lower(),
        bytes=len(document),
        faces=sum(f.jpeg is not None for g in page.galleries for f in g.faces),
        elapsed_s=time.monotonic() - started,
    )


def _collector(path: storage.StoragePath) -> Collect:
    """The report function for a path, by the marker file in it.

    :raises SourceError: nothing is there, or nothing made by dfscan.
    """
    folders: tuple[tuple[str, Collect], ...] = (
        (MARKER, report_dataset.collect),
        (EVALUATION, report_evaluation.collect),
        (report_run.MARKER, report_run.collect),
    )
    if not storage.exists(path):
        raise SourceError(
            f"nothing exists at {path}: give a face dataset, a run folder, a verdict file or an "
            "evaluation",
            code="source.missing",
        )
    if path.suffix == ".parquet" and not storage.is_folder(path):
        return report_verdicts.collect
    for marker, collect in folders:
        if storage.exists(path / marker):
            return collect
    if is_verdict_folder(path):
        return report_verdicts.collect
    raise SourceError(
        f"{path} cannot be reported on: give a face dataset ({MARKER}), a run folder "
        f"({report_run.MARKER}), an evaluation ({EVALUATION}) or verdicts (.parquet, or their folder)",
        code="source.wrong_kind",
    )


def _output(config: ReportConfig, path: storage.StoragePath) -> storage.StoragePath:
    of_verdicts = is_verdict_folder(path)
    if config.out is None:
        return (path.parent if of_verdicts or not storage.is_folder(path) else path) / PAGE
    out = storage.as_path(config.out).absolute()
    if of_verdicts and out.parent == path:
        raise OutputError(
            f"report.out: {config.out!r} is in {path}, a folder for verdicts only: give another file",
            code="output.wrong_kind",
        )
    return out


def _about(path: storage.StoragePath, out: storage.StoragePath) -> str:
    """The page's input relative to the page, so that both can be moved together."""
    if isinstance(path, Path) and isinstance(out, Path):
        return os.path.relpath(path, out.parent)
    if path == out.parent:
        return "."
    return path.name if path.parent == out.parent else str(path)


def _check_output(out: storage.StoragePath, about: str, overwrite: bool) -> None:
    """Refuse to replace anything but a report page.

    :raises OutputError: it is not a page, or is about another input and ``overwrite`` is not given.
    """
    if storage.is_folder(out):
        raise OutputError(
            f"output {str(out)!r} is a folder: give the .html file to write",
            code="output.wrong_kind",
        )
    if not storage.exists(out):
        return
    known = about_of(storage.read_start(out, HEAD_BYTES))
    if known is None:
        raise OutputError(
            f"{out} was not made by dfscan report: give another --out", code="output.foreign"
        )
    if known != about and not overwrite:
        raise OutputError(
            f"{out} is a page about {known!r}, not about {about!r}: give another --out, or --overwrite",
            code="output.mismatch",
        )
