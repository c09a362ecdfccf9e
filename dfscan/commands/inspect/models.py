"""What ``dfscan inspect`` says of models: dfscan's own, what was exported of them, others' weights.

Whatever the file is, it is read as data: nothing of it runs, and no pickle in it is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dfscan import storage
from dfscan.commands.inspect.result import InspectResult
from dfscan.errors import SourceError, VideoError
from dfscan.models.exporters import EXPORTERS
from dfscan.models.exporters.base import HEADER
from dfscan.models.modelfile import ModelHeader, find_model, parse_header, read_header

WEIGHTS: Final = (
    *(".onnx", ".tflite", ".pt", ".pth", ".ckpt", ".bin", ".pkl"),
    *(".h5", ".hdf5", ".keras"),
)
"""Endings of files that hold networks; what they are their first bytes say."""

LARGEST: Final = 4 << 30
"""Bytes of such a file."""

EXPORT: Final = "export.json"
"""What marks an export's folder."""

_START: Final = 16
_IMPORTED: Final = {
    "imported": "imported as",
    "what": "what",
    "source": "source",
    "licence": "licence",
    "file": "from the file",
    "file_sha256": "its SHA-256",
    "notes": "notes",
}

Facts = dict[str, Any]


def inspect_model(path: str) -> InspectResult:
    """A model file, or a folder that holds one and nothing that says more.

    :raises ModelError: it is none.
    """
    file = find_model(path)
    kind = "folder with a model" if storage.is_folder(path) else "model"
    return InspectResult(str(file), kind, model_facts(file))


def model_facts(file: storage.StoragePath) -> Facts:
    """What a model file says of itself.

    :raises ModelError: it is none.
    """
    return _said(read_header(file), storage.size(file))


def _said(header: ModelHeader, size: int) -> Facts:
    seen, point, training = header.recipe.input, header.operating_point, header.training
    told = {name: training.get(key) for key, name in _IMPORTED.items() if "imported" in training}
    facts = {
        "backbone": header.backbone,
        "input": seen and seen.model_dump(),
        "threshold": header.threshold,
        "calibrated": header.calibration is not None,
        "operating point": point and point.model_dump(exclude={"sampling"}, exclude_none=True),
        **told,
        "sampling": header.recipe.sampling.model_dump(exclude_none=True),
        "detector": header.recipe.detector.model_dump(exclude_none=True),
        "bytes": size,
        "made by": f"dfscan {header.dfscan}",
    }
    return {name: fact for name, fact in facts.items() if fact is not None and fact != []}


# ---------------------------------------------------------------- exported, and of other programs


@dataclass(frozen=True)
class _Format:
    """What a file seems to be whose first bytes ``begins`` accepts.

    ``exporter``: the one that says how facts are read from it; None where dfscan writes none.
    """

    seems: str
    begins: Callable[[bytes], bool]
    exporter: str | None = None


_FORMATS: Final = (
    _Format(
        "TorchScript, a torch checkpoint or another zip: what it holds may run code when loaded",
        lambda start: start.startswith(b"PK\x03\x04"),
        "torchscript",
    ),
    _Format(
        "a pickle, which runs code when loaded",
        lambda start: start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"),
    ),
    _Format("a LiteRT network", lambda start: start[4:8] == b"TFL3", "litert"),
    _Format("HDF5, as Keras writes weights", lambda start: start.startswith(b"\x89HDF\r\n\x1a\n")),
    _Format("an ONNX graph", lambda start: start[:1] == b"\x08" and start[2:3] != b"", "onnx"),
)


def inspect_weights(path: storage.StoragePath) -> InspectResult | None:
    """A file in a format that networks come in; None where its first bytes are of none.

    :raises SourceError: it is damaged, too large, or cannot be read.
    """
    start = storage.read_start(path, _START)
    found = next((f for f in _FORMATS if f.begins(start)), None)
    if found is None:
        return None
    facts = {} if found.exporter is None else _facts_in(path, found.exporter)
    if HEADER in facts:
        return InspectResult(str(path), "exported model", _exported(path, facts))
    told = {
        "seems to be": found.seems,
        "made by": "another program; it was not opened further",
        "bytes": storage.size(path),
        "to use it": "dfscan models list names the published weights that can be imported",
    }
    return InspectResult(str(path), "another program's weights", told)


def _facts_in(path: storage.StoragePath, exporter: str) -> dict[str, str]:
    """What an exported file says of itself; nothing where another program wrote it."""
    try:
        return EXPORTERS[exporter].facts(storage.read_bytes(str(path), LARGEST))
    except VideoError as error:
        raise SourceError(
            f"{path} cannot be read: {error.reason}", code="source.unreadable"
        ) from None
    except ValueError as error:
        raise SourceError(
            f"{path} is no {exporter} file, or is damaged: {error}", code="record.damaged"
        ) from None


def _exported(path: storage.StoragePath, facts: dict[str, str]) -> Facts:
    """The format, which model it was made of, how near it is to that, and what that says."""
    header = parse_header(path, facts[HEADER])
    sha256 = facts.get("model_sha256")
    suffixes = {e.suffix: name for name, e in EXPORTERS.items() if path.name.endswith(e.suffix)}
    told = {
        "format": suffixes[max(suffixes, key=len)] if suffixes else None,
        "exported from": None,
        "model SHA-256": sha256,
        "logits differ by up to": None,
    }
    marker = path.parent / EXPORT
    if storage.exists(marker):
        told |= _measured(storage.read_json(str(marker)), path.name, sha256)
    told |= _said(header, storage.size(path))
    return {name: fact for name, fact in told.items() if fact is not None}


def _measured(export: Any, name: str, sha256: str | None) -> Facts:
    """What the export's folder says of a file in it, where both are of one model."""
    if not isinstance(export, dict) or export.get("model_sha256") != sha256:
        return {}
    listed = export.get("rows")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    original = next((row for row in rows if row.get("format") == "original"), {})
    own = next((row for row in rows if row.get("file") == name), {})
    return {
        "format": own.get("format"),
        "exported from": original.get("file"),
        "logits differ by up to": own.get("max_delta"),
    }
