"""What a scoring run leaves for other programs: a log of events, and figures for Prometheus."""

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import __version__, storage
from dfscan.commands.score.result import ScoreResult
from dfscan.config.score import ScoreConfig
from dfscan.errors import DfscanError, OutputError
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.work_units import UnitResult
from dfscan.schemas.status import STATUSES

_GOOD_CODES: Final = frozenset({0, 4})
"""Exit codes of a run that did all its work."""

_TOLD: Final = ["video_id", "uri", "verdict", "p_fake", "content_sha256", "bytes"]
_VERDICTS: Final = ("REAL", "FAKE", "UNCERTAIN", "none")
_PREFIX: Final = "dfscan_score_"
_LAST_SUCCESS: Final = f"{_PREFIX}last_success_timestamp_seconds"


def check_reports(config: ScoreConfig) -> None:
    """Find out before the work that a report cannot be written.

    :raises OutputError: it would replace the verdicts or the other report, or is a folder.
    """
    taken: dict[storage.StoragePath, str] = {storage.as_path(config.out).absolute(): "out"}
    for key in ("log", "metrics_file"):
        text = getattr(config, key)
        if text is None:
            continue
        path = storage.local(text, "the log and the metrics").absolute()
        if path in taken:
            raise OutputError(
                f"score.{key}: {text!r} is {taken[path]} already: give another file",
                code="output.wrong_kind",
            )
        if path.is_dir():
            raise OutputError(
                f"score.{key}: {text!r} is a folder: give a file", code="output.wrong_kind"
            )
        if path.parent in taken:
            raise OutputError(
                f"score.{key}: {text!r} lies in {config.out}, a folder for verdicts only: give "
                "another file",
                code="output.wrong_kind",
            )
        taken[path] = key


class EventLog:
    """JSON lines, one object an event, each with its time (UTC, ISO 8601)."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file  # without a buffer: what a full disk refused must not come up again

    def write(self, event: str, **what: Any) -> None:
        """Append one event; it is in the file when this returns.

        :raises DfscanError: the disk is full.
        """
        if self._file is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        try:
            self._file.write(json.dumps(line | what, default=str).encode() + b"\n")
        except OSError as error:
            raise DfscanError(
                f"cannot write {self._file.name}: {error.strerror}", code="output.unwritable"
            ) from None

    def write_fakes(self, rows: pa.Table) -> None:
        """An event for each of these rows whose verdict is ``FAKE``."""
        if self._file is None:
            return
        fakes = rows.filter(pc.equal(rows.column("verdict"), "FAKE"))
        for row in fakes.select(_TOLD).to_pylist():
            self.write("verdict", **row)


@contextmanager
def open_log(config: ScoreConfig) -> Iterator[EventLog]:
    """The log of a run from ``run_started`` on; tells of its end where that is no result.

    :raises OutputError: the file cannot be appended to.
    """
    if config.log is None:
        yield EventLog(None)
        return
    path = Path(config.log).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise OutputError(
            f"score.log: cannot write {path}: {error.strerror}", code="output.unwritable"
        ) from None
    with file:
        log = EventLog(file)
        log.write("run_started", dfscan=__version__, source=config.source, model=config.model)
        try:
            yield log
        except KeyboardInterrupt:
            with suppress(DfscanError):
                log.write("run_interrupted")
            raise
        except Exception as error:
            with suppress(DfscanError):  # a full disk may be the very error
                log.write("run_failed", error=str(error), kind=type(error).__name__)
            raise


class LoggedProgress(Progress):
    """Passes everything on, and writes what each unit came to into the log."""

    def __init__(self, inner: Progress, log: EventLog) -> None:
        self._inner, self._log = inner, log
        self.live = inner.live

    def start(self, what: str, total: int, unit: str) -> None:
        """See :class:`Progress`."""
        self._inner.start(what, total, unit)

    def advance(self, by: int, result: UnitResult | None = None) -> None:
        """See :class:`Progress`."""
        self._inner.advance(by, result)
        if result is not None:
            counts = {"videos": result.videos, "faces": result.faces, "failed": result.failed}
            self._log.write("unit_done", **counts, status=dict(result.status))

    def message(self, message: str) -> None:
        """See :class:`Progress`."""
        self._inner.message(message)

    def stop(self) -> None:
        """See :class:`Progress`."""
        self._inner.stop()


def totals(result: ScoreResult) -> dict[str, Any]:
    """A result as the log has it: without single videos, with the exit code."""
    fields = dataclasses.asdict(dataclasses.replace(result, changes=None, rows=[]))
    del fields["changes"], fields["rows"]
    return fields | {"exit_code": result.exit_code}


def write_metrics(path: Path, result: ScoreResult) -> None:
    """Replace the summary for Prometheus (node exporter's textfile collector) atomically.

    The time of the last success stays what it was where this run left work undone.

    :raises DfscanError: it cannot be written.
    """
    now = time.time()
    success = now if result.exit_code in _GOOD_CODES else _last_success(path)
    storage.commit_bytes(path, metrics_text(result, now, success).encode())


def metrics_text(result: ScoreResult, now: float, last_success: float | None) -> str:
    """Prometheus' text format, version 0.0.4; every label value it may have is there, 0 or not.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    verdicts = {**result.verdicts}
    verdicts["none"] = verdicts.pop("without a verdict", 0)
    lines = [
        *_metric("info", "The run that this is about.", {_labels(version=__version__, out=result.out): 1}),
        *_metric("videos", "Videos in the verdict file, by status.",
                 {_labels(status=s): result.status.get(s, 0) for s in STATUSES}),
        *_metric("verdicts", "Videos in the verdict file, by verdict.",
                 {_labels(verdict=v): verdicts.get(v, 0) for v in _VERDICTS}),
        *_metric("new_videos", "Videos scored by this run.", {"": result.new}),
        *_metric("recognised_videos", "Files of known content, not scored again.", {"": result.recognised}),
        *_metric("stale_videos", "Verdicts of another model or configuration.", {"": result.stale}),
        *_metric("gone_videos", "Known videos that are not at the source.", {"": result.gone}),
        *_metric("left_videos", "Videos that the time limit left.", {"": result.left}),
        *_metric("found_videos", "New verdicts that --fail-on names.", {"": result.found}),
        *_metric("duration_seconds", "How long the run took.", {"": result.elapsed_s}),
        *_metric("exit_code", "How the run ended.", {"": result.exit_code}),
        *_metric("last_run_timestamp_seconds", "When the last run ended.", {"": now}),
    ]  # fmt: skip
    if last_success is not None:
        told = "When the last run ended that did all its work."
        lines += _metric("last_success_timestamp_seconds", told, {"": last_success})
    return "\n".join(lines) + "\n"


def _metric(name: str, told: str, values: Mapping[str, float]) -> list[str]:
    name = _PREFIX + name
    head = [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
    return head + [f"{name}{labels} {value!r}" for labels, value in values.items()]


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{k}="{escape_label(v)}"' for k, v in labels.items()) + "}"


def escape_label(value: str) -> str:
    """A label value between its quotes: backslash, quote and line break are escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _last_success(path: Path) -> float | None:
    """As the summary that is there tells it."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    match = re.search(rf"^{_LAST_SUCCESS} ([0-9.]+)$", text, re.MULTILINE)
    return float(match[1]) if match else None
