"""``dfscan models import``: a published detector's weights → a dfscan model.

The file is read once, as data; nothing is written unless every tensor of it found its place.
"""

from dataclasses import dataclass
from typing import Any, Final

from dfscan import storage
from dfscan.config.import_model import ImportModelConfig
from dfscan.errors import ConfigError, ModelError, OutputError, VideoError, did_you_mean
from dfscan.models.importers import IMPORTERS, Imported
from dfscan.models.modelfile import ModelHeader, read_header, save_model
from dfscan.pipeline.progress import Progress


@dataclass(frozen=True)
class ImportModelResult:
    """A dfscan model made of published weights.

    ``tensors``: how many of the file were ``used``, were ``counters`` of batches, were ``left_out``
    by a rule. ``input``: what the network sees, as in its recipe.
    """

    out: str
    kind: str
    backbone: str
    model_sha256: str
    tensors: dict[str, int]
    input: dict[str, Any]
    source: str
    licence: str
    notes: list[str]
    exit_code: int = 0


LARGEST: Final = 8 << 30
"""Bytes of a published file; the largest detectors known have a tenth of that."""


def run(config: ImportModelConfig, progress: Progress) -> ImportModelResult:
    """Import one file.

    :raises ConfigError: the kind is unknown, or a mapping is missing, wrong or not wanted.
    :raises ModelError: the file cannot be read, wants to run code, or a tensor is left over.
    :raises OutputError: the output exists.
    """
    del progress  # seconds
    importer = IMPORTERS.get(config.kind)
    if importer is None:
        raise ConfigError(
            f"unknown kind {config.kind!r}: {did_you_mean(config.kind, IMPORTERS)}; see dfscan models "
            "list",
            code="config.unknown_name",
        )
    if config.mapping is not None and not importer.needs_mapping:
        raise ConfigError(f"--mapping is for the kind mapping; {config.kind} knows its layout")
    out = _output(config)
    data = _read(config.file)
    imported = importer.read(config.file, data, config.mapping)
    header = _header(config, imported, storage.sha256(data))
    sha256 = save_model(out, imported.network, header)
    return ImportModelResult(
        out=str(out),
        kind=config.kind,
        backbone=imported.backbone,
        model_sha256=sha256,
        tensors=dict(imported.tensors),
        input=imported.recipe.model_dump(mode="json")["input"],
        source=imported.published.where,
        licence=imported.published.licence,
        notes=_notes(imported),
    )


def _output(config: ImportModelConfig) -> storage.StoragePath:
    """Where the model goes; a file that is not dfscan's is never replaced."""
    name = storage.as_path(config.file.rpartition(storage.MEMBER)[2]).name
    out = storage.as_path(config.out or f"{storage.as_path(name).stem}.safetensors")
    if not storage.exists(out):
        return out
    if storage.is_folder(out):
        raise OutputError(f"output {str(out)!r} is a folder: give a file", code="output.wrong_kind")
    if not config.overwrite:
        raise OutputError(
            f"{out} exists: give another --out, or --overwrite to replace it", code="output.exists"
        )
    try:
        read_header(out)
    except ModelError as error:
        raise OutputError(
            f"{out} exists and is no model that this dfscan can replace ({error}): give another --out",
            code="output.foreign",
        ) from None
    return out


def _read(file: str) -> bytes:
    try:
        return storage.read_bytes(file, LARGEST)
    except VideoError as error:
        gone = error.status == "missing" and not storage.exists(file)
        why = "there is no such file" if gone else error.reason
        raise ModelError(
            f"no weights at {file!r} ({why}): give a published file; dfscan models list says where "
            "they are",
            code="model.missing",
        ) from None


def _header(config: ImportModelConfig, imported: Imported, sha256: str) -> ModelHeader:
    published = imported.published
    training: dict[str, Any] = {
        "imported": config.kind,
        "what": published.what,
        "source": published.where,
        "licence": published.licence,
        "file": storage.as_path(config.file).name,
        "file_sha256": sha256,
        "mapping": config.mapping and storage.as_path(config.mapping).name,
        "tensors": dict(imported.tensors),
        "aggregation": imported.aggregation,
        "notes": list(published.notes),
    }
    return ModelHeader(
        backbone=imported.backbone,
        recipe=imported.recipe,
        threshold=imported.threshold,
        training=training,
    )


def _notes(imported: Imported) -> list[str]:
    """What to know before relying on it."""
    notes = list(imported.published.notes)
    if imported.aggregation != "mean":
        notes.append(
            f"its authors make a video's score as --set score.aggregation={imported.aggregation}"
        )
    notes.append(
        "not calibrated: verdicts are UNCERTAIN unless score is given --threshold, or dfscan calibrate "
        "fits it to your videos"
    )
    return notes
