"""``dfscan export``: a model for other runtimes, each file checked against the original."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dfscan import __version__, storage
from dfscan.commands.export.samples import Faces, choose_faces
from dfscan.config.export import ExportConfig
from dfscan.errors import ConfigError, DfscanError, OutputError
from dfscan.evaluation.metrics import binary_metrics
from dfscan.models.exporters import EXPORTERS
from dfscan.models.exporters.base import (
    Exporter,
    PixelNetwork,
    Pixels,
    Runner,
    describe,
    input_of,
)
from dfscan.models.modelfile import FILE_NAME, ModelHeader, find_model, load_model
from dfscan.pipeline.progress import Progress
from dfscan.scoring.aggregation import logit_of


@dataclass(frozen=True)
class ExportResult:
    """A row a format, the original first: its file, size, speed and how far it is from the original.

    A row has ``format``, ``file``, ``bytes``; ``ms_batch_1`` and ``ms_batch_32``, milliseconds a face on
    one thread; ``max_delta`` and ``mean_delta`` of logits; ``flipped``, faces on the other side of the
    threshold; ``auc`` and ``accuracy`` by face, null without labels. ``faces``: what they were
    compared on.
    """

    out: str
    rows: list[dict[str, Any]]
    faces: dict[str, Any]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


MARKER: Final = "export.json"
ORIGINAL: Final = "original"
BATCHES: Final = (1, 32)
"""Faces at a time, where speed is measured."""

Logits = npt.NDArray[np.float32]

_ALONE: Final = 8
"""Faces that are also run one by one: a network may take a batch's size for a constant."""

_ROUNDS: Final = 30
_SECONDS: Final = 1.0
"""Speed is the median of so many rounds, or of what fits these seconds a format; at least one."""

_WORSE: Final = 0.01
"""A loss of AUC or accuracy that is worth a note."""


@dataclass(frozen=True)
class _Made:
    """A network in some format: its file, how to run it on one thread, its logits of the faces.

    ``data`` is None for the original, whose file is there already.
    """

    format: str
    file: str
    size: int
    runner: Runner
    logits: Logits
    data: bytes | None = None


def run(config: ExportConfig, progress: Progress) -> ExportResult:
    """Make every format in memory, compare it, and write them all only then.

    :raises UsageError: the model, the faces or the output cannot be used, a package is missing, or
        the network does something that a format cannot hold.
    :raises DfscanError: a file does not agree with the original.
    """
    exporters = _exporters(config)
    path = find_model(config.model)
    with _output(config, path) as out:
        return _export(config, path, out, exporters, progress)


def _export(
    config: ExportConfig,
    path: storage.StoragePath,
    out: storage.StoragePath,
    exporters: Mapping[str, Exporter],
    progress: Progress,
) -> ExportResult:
    started = time.monotonic()
    model = load_model(path)
    seen = input_of(model.header)
    notes: list[str] = []
    fitting = any(e.fitted for e in exporters.values())
    faces = choose_faces(config.faces, path, seen, fitting, notes)
    network = PixelNetwork(model.network, seen)
    progress.start("exporting", len(exporters), "formats")
    made = [_original(network, path, faces)]
    for name, exporter in exporters.items():
        data = exporter.convert(network, describe(model, exporter), faces.fitted)
        logits = _agreeing(name, exporter, data, faces.pixels, made[0].logits)
        file = f"{path.stem}{exporter.suffix}"
        made.append(_Made(name, file, len(data), exporter.load(data, 1), logits, data))
        progress.advance(1)
    rows = _rows(model.header, made, faces)
    notes += [note for row in rows[1:] for note in _losses(rows[0], row)]
    about = faces.summary()
    facts = {"model_sha256": model.sha256, "faces": about, "rows": rows, "notes": notes}
    _write(out, {m.file: m.data for m in made if m.data is not None}, facts)
    for note in notes:
        progress.message(note)
    return ExportResult(str(out), rows, about, notes, time.monotonic() - started)


def _exporters(config: ExportConfig) -> dict[str, Exporter]:
    """Those asked for, each once, the packages of all of them installed."""
    chosen: dict[str, Exporter] = {name: EXPORTERS[name] for name in config.formats}
    if not chosen:
        raise ConfigError(
            f"export.formats: none given: some of {', '.join(EXPORTERS)}", code="config.missing"
        )
    for name, exporter in chosen.items():
        exporter.check_installed(name)
    return chosen


@contextlib.contextmanager
def _output(config: ExportConfig, model: storage.StoragePath) -> Iterator[storage.StoragePath]:
    """The folder to write; what is in it stays until every file is made.

    A folder that was made here is gone again where the export fails before it writes.

    :raises OutputError: it holds an export already, one of another model, or something else.
    """
    name = "export" if model.name == FILE_NAME else f"{model.stem}_export"
    out = storage.as_path(config.out).absolute() if config.out else model.parent / name
    made_here = not storage.exists(out)
    storage.check_output_folder(out, MARKER, False, ())
    before = _before(out)
    theirs = next(
        (str(r.get("file")) for r in _rows_of(before) if r.get("format") == ORIGINAL), None
    )
    if theirs is not None and storage.as_path(theirs).stem != model.stem:
        raise OutputError(
            f"{out} holds an export of {theirs}, not of {model.name}: give another --out",
            code="output.mismatch",
        )
    if before.get("finished") and not config.overwrite:
        raise OutputError(
            f"{out} holds an export: give another --out, or --overwrite", code="output.exists"
        )
    try:
        yield out
    except BaseException:
        if made_here and isinstance(out, Path):
            with contextlib.suppress(OSError):  # it holds something
                out.rmdir()
        raise


def _before(out: storage.StoragePath) -> dict[str, Any]:
    path = out / MARKER
    content = storage.read_json(str(path)) if storage.exists(path) else {}
    return content if isinstance(content, dict) else {}


def _rows_of(before: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in before.get("rows") or () if isinstance(row, dict)]


def _named(before: Mapping[str, Any]) -> set[str]:
    """The files that a marker names: of its rows, and those it was about to remove."""
    named = [row.get("file") for row in _rows_of(before)]
    return {storage.as_path(str(name)).name for name in (*named, *(before.get("earlier") or ()))}


def _write(out: storage.StoragePath, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Commit the files, and remove those of an earlier export that are none of these.

    The marker names those to be removed until they are, in case that this run is killed.
    """
    known = tuple(e.suffix for e in EXPORTERS.values())
    earlier = {name for name in _named(_before(out)) if name.endswith(known)}
    header = {"dfscan": __version__, **facts}
    storage.commit_json(
        out / MARKER, {**header, "finished": False, "earlier": sorted(earlier - files.keys())}
    )
    for name, data in files.items():
        storage.commit_bytes(out / name, data)
    for name in earlier - files.keys():
        storage.remove(out / name)
    storage.commit_json(out / MARKER, {**header, "finished": True})


# ---------------------------------------------------------------- agreement


def _original(network: PixelNetwork, path: storage.StoragePath, faces: Faces) -> _Made:
    def run(pixels: Pixels) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.from_numpy(pixels)).numpy()
        return logits

    logits = _in_batches(run, faces.pixels)
    return _Made(ORIGINAL, path.name, storage.size(path), run, logits)


def _agreeing(
    name: str, exporter: Exporter, data: bytes, pixels: Pixels, expected: Logits
) -> Logits:
    """A file's logits of the faces, run in batches; some are run alone too.

    :raises DfscanError: they are no numbers, or further from the original's than the format allows.
    """
    runner = exporter.load(data, torch.get_num_threads())
    together = _in_batches(runner, pixels)
    alone = np.concatenate([runner(pixels[i : i + 1]) for i in range(min(_ALONE, len(pixels)))])
    apart = np.concatenate([np.abs(together - expected), np.abs(alone - expected[: len(alone)])])
    furthest = float(apart.max())
    allowed = np.inf if exporter.tolerance is None else exporter.tolerance
    if not np.isfinite(furthest) or furthest > allowed:
        raise DfscanError(
            f"{name}: its logits differ from the original's by up to {furthest:.3g} on {len(pixels)} "
            f"faces, {allowed:g} is allowed: nothing was written; leave {name} out of --format"
        )
    return together


def _in_batches(runner: Runner, pixels: Pixels) -> Logits:
    step = BATCHES[-1]
    parts = [runner(pixels[i : i + step]) for i in range(0, len(pixels), step)]
    return np.concatenate(parts)


def _rows(header: ModelHeader, made: Sequence[_Made], faces: Faces) -> list[dict[str, Any]]:
    """The rows of an :class:`~dfscan.commands.export.ExportResult`."""
    speeds = _speeds({m.format: m.runner for m in made}, faces.pixels)
    return [
        {"format": m.format, "file": m.file, "bytes": m.size}
        | speeds[m.format]
        | _figures(header, m.logits, made[0].logits, faces)
        for m in made
    ]


def _figures(header: ModelHeader, logits: Logits, expected: Logits, faces: Faces) -> dict[str, Any]:
    """What a row says beside size and speed; ``auc`` and ``accuracy`` by face, None without labels."""
    apart = np.abs(logits - expected)
    values, threshold = _calibrated(header, logits)
    before, _ = _calibrated(header, expected)
    figures: dict[str, Any] = {
        "max_delta": float(apart.max()),
        "mean_delta": float(apart.mean()),
        "flipped": int(((values >= threshold) != (before >= threshold)).sum()),
        "auc": None,
        "accuracy": None,
    }
    if faces.fake is not None:
        found = binary_metrics(values, faces.fake, threshold)
        figures |= {name: found[name] for name in ("auc", "accuracy")}
    return figures


def _calibrated(header: ModelHeader, logits: Logits) -> tuple[npt.NDArray[np.float64], float]:
    """Logits of ``p_fake``, each face taken for a video, and the threshold on them."""
    values, known = logits.astype(np.float64), header.calibration
    if known is None:
        return values, logit_of(header.threshold)
    threshold = header.threshold if known.threshold is None else known.threshold
    return values * known.scale + known.offset, logit_of(threshold)


def _losses(original: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """A sentence where a format is worse at telling fakes from reals."""
    worse = [
        f"{text} {row[key]:.3f} instead of {original[key]:.3f}"
        for key, text in (("auc", "AUC"), ("accuracy", "accuracy"))
        if original[key] is not None and original[key] - row[key] > _WORSE
    ]
    return [f"{row['format']} is worse than the original: {', '.join(worse)}"] if worse else []


# ---------------------------------------------------------------- speed


def _speeds(runners: Mapping[str, Runner], pixels: Pixels) -> dict[str, dict[str, float]]:
    """Milliseconds a face by format and batch, one thread: the median of several rounds.

    Formats take turns, so that a busy moment of the machine touches all of them.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in runners}
    with _one_thread():
        for batch in BATCHES:
            faces = np.resize(pixels, (batch, *pixels.shape[1:]))
            taken: dict[str, list[float]] = {name: [] for name in runners}
            began = time.perf_counter()
            for turn in range(_ROUNDS + 1):
                for name, runner in runners.items():
                    start = time.perf_counter()
                    runner(faces)
                    if turn:  # the first warms up
                        taken[name].append(time.perf_counter() - start)
                if turn and time.perf_counter() - began > _SECONDS * len(runners):
                    break
            for name, times in taken.items():
                found[name][f"ms_batch_{batch}"] = 1000 * float(np.median(times)) / batch
    return found


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
