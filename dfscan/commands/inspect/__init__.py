"""``dfscan inspect``: what is this archive, dataset, model, verdict file, video, result of a verb?"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.commands.inspect.folders import MODEL, inspect_folder
from dfscan.commands.inspect.models import WEIGHTS, inspect_model, inspect_weights
from dfscan.commands.inspect.result import InspectResult
from dfscan.config.extract import ExtractConfig
from dfscan.config.inspect import InspectConfig
from dfscan.corpora import list_videos
from dfscan.corpora.base import suffix
from dfscan.datasets.face_dataset import MARKER, FaceSet
from dfscan.errors import SourceError
from dfscan.pipeline.inputs import make_extractor
from dfscan.pipeline.progress import Progress
from dfscan.schemas.records import VideoRef
from dfscan.verdicts.table import (
    FILE,
    is_verdict_folder,
    open_verdicts,
    verdict_files,
)

_FEW: Final = 50


def run(config: InspectConfig, progress: Progress) -> InspectResult:
    """Find out what something is; nothing is written.

    :raises SourceError: nothing is there, or it is nothing that dfscan knows.
    """
    path = storage.as_path(config.path)
    if storage.exists(path / MARKER):
        return _dataset(FaceSet(path.absolute()))
    found = inspect_folder(path)
    if found is not None:
        return found
    if path.suffix == ".safetensors" or storage.exists(path / MODEL):
        return inspect_model(config.path)
    if is_verdict_folder(path):
        return _verdicts(path)
    if storage.exists(path) and not storage.is_folder(path):
        found = _file(path)
    return found or _source(config.path, progress)


def _file(path: storage.StoragePath) -> InspectResult | None:
    """A table or a network; None for what is neither."""
    if path.suffix == FILE:
        return _table(path)
    return inspect_weights(path) if path.suffix.lower() in WEIGHTS else None


def _dataset(target: FaceSet) -> InspectResult:
    header, counts = target.header(), target.counts()
    recipe = target.recipe()
    size = sum(storage.size(p) for p in storage.parquet_files(target.faces))
    facts = {
        "finished": header.get("finished", False),
        "videos": counts["videos"],
        "status": counts["status"],
        "label": counts["label"],
        "frames sampled": counts["frames_sampled"],
        "faces": counts["faces"],
        "bytes of faces": size,
        "files": len(storage.parquet_files(target.videos)),
        "sampling": recipe.sampling.model_dump(exclude_none=True),
        "detector": recipe.detector.model_dump(exclude_none=True),
        "crop": recipe.crop.model_dump(exclude_none=True),
        "boxes from": header["config"].get("boxes_from", "detected"),
        "made by": f"dfscan {header.get('dfscan')}",
        "schema version": header.get("schema_version"),
    }
    parts = [{"part": part, **status} for part, status in counts["parts"].items()]
    return InspectResult(str(target.root), "face dataset", facts, parts)


def _table(path: storage.StoragePath) -> InspectResult | None:
    """A Parquet file; None for one that dfscan did not write.

    :raises SourceError: it cannot be read.
    """
    try:
        file = storage.open_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        detail = " ".join(str(error).split())[:160]
        raise SourceError(
            f"{path} is not a readable Parquet file: {detail}", code="source.unreadable"
        ) from None
    metadata = file.schema_arrow.metadata or {}
    if b"dfscan" not in metadata:
        return None
    kind = metadata[b"dfscan"].decode()
    if kind == "verdicts":
        return _verdicts(path)
    columns = {"videos": ("status", "label"), "faces": ("label", "box_from")}.get(kind, ())
    facts = _counted(file.read(columns=columns), columns, storage.size(path))
    facts["schema version"] = metadata.get(b"schema_version", b"?").decode()
    return InspectResult(str(path), f"table of {kind}", facts)


def _verdicts(path: storage.StoragePath) -> InspectResult:
    file, columns = open_verdicts(path), ("verdict", "status", "label")
    table = file.read([*columns, "gone"])
    facts = _counted(table, columns, sum(map(storage.size, verdict_files(path))))
    facts["gone from the source"] = pc.sum(table.column("gone")).as_py() or 0
    facts["schema version"] = next(iter(file.metadata(b"schema_version")), b"?").decode()
    if not storage.is_folder(path):
        return InspectResult(str(path), "table of verdicts", facts)
    return InspectResult(str(path), "folder of verdicts", {**facts, "files": len(file.files)})


def _counted(table: pa.Table, columns: Sequence[str], size: int) -> dict[str, Any]:
    """Rows, bytes, and how often each value of some columns occurs."""
    counts = {
        name: dict(Counter(v or "none" for v in table.column(name).to_pylist())) for name in columns
    }
    return {"rows": table.num_rows, "bytes": size, **counts}


def _source(path: str, progress: Progress) -> InspectResult:
    listing = list_videos([path])
    refs = listing.videos
    if len(refs) == 1 and refs[0].uri == storage.absolute(path):
        return _media(refs[0], progress)
    ids = {r.video_id for r in refs}
    fakes = [r for r in refs if r.label == "FAKE"]
    facts = {
        "layout": next(iter(listing.layouts.values())),
        "videos and pictures": len(refs),
        "bytes": sum(r.bytes for r in refs),
        "label": dict(Counter(r.label or "unlabelled" for r in refs)),
        "endings": dict(Counter(suffix(r.uri) or "none" for r in refs).most_common()),
        "parts": len({r.part for r in refs}),
        "groups": len({r.group for r in refs}),
        "fakes whose original is here": sum(r.original in ids for r in fakes),
        "archives that cannot be read": len(listing.unreadable),
    }
    rows: dict[str, Counter[str]] = {}
    for ref in refs:
        rows.setdefault(ref.part, Counter())[ref.label or "unlabelled"] += 1
    return InspectResult(
        path, "source", facts, [{"part": part, **counts} for part, counts in sorted(rows.items())]
    )


def _media(ref: VideoRef, progress: Progress) -> InspectResult:
    """What ``dfscan extract`` would make of one video or picture."""
    config = ExtractConfig()
    seen = make_extractor(config, config.recipe(), progress).extract(ref)
    row = dataclasses.asdict(seen.row)
    hidden = {"video_id", "part", "group", "unit", "committed_at", "attributes", "elapsed_s"}
    facts = {k: v for k, v in row.items() if k not in hidden and v is not None}
    faces = [
        {
            "frame": face.frame_index,
            "seconds": round(face.pts_s, 3),
            "track": face.track_id,
            "box": [round(v) for v in face.box],
            "score": round(face.detector_score, 4),
        }
        for face in seen.faces[:_FEW]
    ]
    return InspectResult(ref.uri, "video or picture", facts, faces)
