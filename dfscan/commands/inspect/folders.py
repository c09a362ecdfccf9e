"""What ``dfscan inspect`` says of the folders that verbs write, by the file that marks each.

A folder may come from somebody else: what is not of the shape that dfscan writes is no fact.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from dfscan import storage
from dfscan.commands.inspect.models import EXPORT, Facts, model_facts
from dfscan.commands.inspect.result import InspectResult
from dfscan.errors import SourceError
from dfscan.evaluation import verdict_data as evaluate_rows
from dfscan.reports import training_run as report_run

STRESS: Final = "stress.json"
MODEL: Final = "model.safetensors"
"""What train, and calibrate, write; a run folder may hold one before it is finished."""

_HISTORY: Final = "history.csv"
_CHECKPOINT: Final = "checkpoint.safetensors"
_METRICS: Final = "metrics.json"
_SERIES: Final = ("fold_*", "share_*")
_FIGURES: Final = ("reals", "fakes", "auc", "log_loss", "accuracy")
_EXPORTED: Final = ("format", "file", "bytes", "max_delta", "flipped")
_STRESSED: Final = ("condition", "videos", "failed", "auc", "accuracy", "flipped")
"""What a line of 80 columns has room for; the verb's own files hold the rest."""


def inspect_folder(path: storage.StoragePath) -> InspectResult | None:
    """The result of a verb that lies in a folder; None where none does.

    :raises SourceError: the file that marks it is not what dfscan writes.
    """
    if not storage.is_folder(path):
        return None
    for marker, inspect in _FOLDERS.items():
        if storage.exists(path / marker):
            return inspect(path)
    return None


def _evaluation(path: storage.StoragePath) -> InspectResult:
    marker = _read(path / evaluate_rows.MARKER)
    config = _mapping(marker.get("config"))
    metrics = _read(path / _METRICS) if storage.exists(path / _METRICS) else {}
    counts = _mapping(metrics.get("truth_by_verdict"))
    facts = {
        "finished": bool(marker.get("finished")),
        "of": metrics.get("kind"),
        "evaluated": metrics.get("path", config.get("path")),
        "labels": metrics.get("labels", config.get("labels")),
        "against": metrics.get("against", config.get("against")),
        "models": metrics.get("models"),
        "threshold": metrics.get("threshold"),
        "videos": metrics.get("videos"),
        **{f"verdicts on {truth}": verdicts for truth, verdicts in counts.items()},
        "notes": metrics.get("notes"),
        **_made_by(marker),
    }
    return _result(path, "evaluation", facts, _ways(metrics))


def _run(path: storage.StoragePath) -> InspectResult:
    marker = _read(path / report_run.MARKER)
    config = _mapping(marker.get("config"))
    finished = bool(marker.get("finished"))
    metrics = _read(path / _METRICS) if finished and storage.exists(path / _METRICS) else {}
    parts = [p for pattern in _SERIES for p in storage.in_folder(path, pattern)]
    has_model = storage.exists(path / MODEL)
    facts = {
        "finished": finished,
        "faces": config.get("faces"),
        "backbone": config.get("backbone"),
        **({} if parts else _training(path, config, metrics)),
        **(model_facts(path / MODEL) if has_model else {}),
        "notes": metrics.get("notes"),
    }
    if not finished:
        facts["to go on"] = "the same dfscan train"
    facts |= {} if has_model else _made_by(metrics)
    if parts:
        rows = _items(metrics.get("runs")) or [_state(part) for part in parts]
        return _result(path, "series of runs", facts, rows)
    rows = [
        {"side": side, **row}
        for side in ("validation", "test")
        for row in _ways(_mapping(metrics.get(side)))
    ]
    if not finished:
        return _result(path, "unfinished run folder", facts, rows)
    return _result(path, "run folder with a model" if has_model else "run folder", facts, rows)


def _training(path: storage.StoragePath, config: Facts, metrics: Facts) -> Facts:
    """How far a training is, and what it chose."""
    history = path / _HISTORY
    done = len(storage.read_text(history).splitlines()) - 1 if storage.exists(history) else 0
    phases = [phase.get("epochs") for phase in _items(config.get("phases"))]
    planned = sum(n for n in phases if isinstance(n, int)) or config.get("epochs")
    split = _mapping(metrics.get("split"))
    return {
        "epochs done": max(done, 0),
        "epochs planned": planned,
        "checkpoint": storage.exists(path / _CHECKPOINT) or None,
        "weights of epoch": metrics.get("best_epoch"),
        "chosen by": metrics.get("chosen_by"),
        "faces by side": {s: _mapping(n).get("faces") for s, n in split.items()} or None,
        "videos by side": {s: _mapping(n).get("videos") for s, n in split.items()} or None,
    }


def _state(part: storage.StoragePath) -> Facts:
    """One run of an unfinished series."""
    marker = part / report_run.MARKER
    found = _read(marker) if storage.exists(marker) else {}
    return {"run": part.name, "finished": bool(found.get("finished"))}


def _export(path: storage.StoragePath) -> InspectResult:
    marker = _read(path / EXPORT)
    rows = _items(marker.get("rows"))
    original: Facts = next((row for row in rows if row.get("format") == "original"), {})
    facts = {
        "finished": bool(marker.get("finished")),
        "of the model": original.get("file"),
        "model SHA-256": marker.get("model_sha256"),
        "compared on": marker.get("faces"),
        "notes": marker.get("notes"),
        **_made_by(marker),
    }
    return _result(path, "export", facts, [{k: row.get(k) for k in _EXPORTED} for row in rows])


def _stress(path: storage.StoragePath) -> InspectResult:
    marker = _read(path / STRESS)
    config = _mapping(marker.get("configuration"))
    done = [p.stem for p in storage.in_folder(path / "verdicts", "*.parquet")]
    facts = {
        "finished": bool(marker.get("finished")),
        "source": config.get("source"),
        "labels": marker.get("labels"),
        "models": list(_mapping(marker.get("models")).values()),
        "conditions": config.get("conditions"),
        "conditions done": done,
        "notes": marker.get("notes"),
        **_made_by(marker),
    }
    rows = [{k: row.get(k) for k in _STRESSED} for row in _items(marker.get("rows"))]
    return _result(path, "stress test", facts, rows)


_FOLDERS: Final[Mapping[str, Callable[[storage.StoragePath], InspectResult]]] = {
    evaluate_rows.MARKER: _evaluation,
    report_run.MARKER: _run,
    EXPORT: _export,
    STRESS: _stress,
}


def _result(path: storage.StoragePath, kind: str, facts: Facts, rows: list[Facts]) -> InspectResult:
    """Without what is not known, and without lists of nothing."""
    known = {name: fact for name, fact in facts.items() if fact is not None and fact != []}
    table = [{k: v for k, v in row.items() if v is not None} for row in rows]
    return InspectResult(str(path), kind, known, table)


def _ways(side: Facts) -> list[Facts]:
    """A row for the figures by video and one for those by frame."""
    rows = []
    for by in ("video", "frame"):
        figures = _mapping(side.get(f"by_{by}"))
        if figures:
            row = {"by": by, **{name: figures.get(name) for name in _FIGURES}}
            row["auc_interval"] = _mapping(figures.get("intervals")).get("auc")
            rows.append(row)
    return rows


def _made_by(content: Facts) -> Facts:
    version = content.get("dfscan")
    return {
        "made by": None if version is None else f"dfscan {version}",
        "schema version": content.get("schema_version"),
    }


def _read(path: storage.StoragePath) -> Facts:
    content = storage.read_json(str(path))
    if not isinstance(content, dict):
        raise SourceError(
            f"{path} is not what dfscan writes under that name: no JSON object",
            code="source.wrong_kind",
        )
    return content


def _mapping(value: Any) -> Facts:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Facts]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
