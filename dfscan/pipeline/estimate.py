"""What a run would have to do, before it is done: counts, and a look at a few of the videos."""

import hashlib
import heapq
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dfscan.config.base import VideoInputConfig
from dfscan.pipeline.extraction.extractor import ExtractionResult, FaceExtractor
from dfscan.pipeline.resources import worker_count
from dfscan.pipeline.work_units import Unit
from dfscan.schemas.records import VideoRef


@dataclass(frozen=True)
class PlanResult:
    """What a run would do (``--dry-run``).

    ``todo`` of the ``videos`` are left, with their ``bytes``, in so many ``parts`` and ``units``.
    From ``frames`` on: estimates from the videos ``looked_at``, null where none could be;
    ``face_bytes`` is what the stored faces take, ``seconds`` the time with ``workers`` workers.
    """

    videos: int
    todo: int
    bytes: int
    parts: int
    label: dict[str, int]
    units: int
    looked_at: int
    frames: int | None
    faces: int | None
    face_bytes: int | None
    workers: int
    seconds: float | None
    exit_code: int = 0


LOOKS: Final = 6
"""Videos looked at, as evenly as can be over the labels."""

LONGEST_S: Final = 30.0
"""No further video is looked at after so many seconds."""


def estimate(
    config: VideoInputConfig,
    videos: Sequence[VideoRef],
    todo: Sequence[VideoRef],
    units: Sequence[Unit],
    extractor: FaceExtractor,
) -> PlanResult:
    """Counts of what is left to do, and what a look at a few videos says of the rest.

    The figures of a label come from its own videos, where any of those could be looked at.
    """
    results: dict[str, list[ExtractionResult]] = defaultdict(list)
    until = time.monotonic() + LONGEST_S
    for ref in _pick(todo):
        if time.monotonic() < until:
            result = extractor.extract(ref)
            if result.row.frames_sampled:
                results[ref.label or "unlabelled"].append(result)
    everything = [s for group in results.values() for s in group]
    labels = Counter(v.label or "unlabelled" for v in todo)

    def total(of: str) -> float | None:
        if not everything:
            return None
        means = {
            label: statistics.fmean(_measure(s)[of] for s in results.get(label) or everything)
            for label in labels
        }
        return sum(means[label] * number for label, number in labels.items())

    sums = {name: total(name) for name in ("frames", "faces", "bytes", "seconds")}
    workers = worker_count(config)
    seconds = sums["seconds"]
    return PlanResult(
        videos=len(videos),
        todo=len(todo),
        bytes=sum(v.bytes for v in todo),
        parts=len({v.part for v in todo}),
        label=dict(sorted(labels.items())),
        units=len(units),
        looked_at=len(everything),
        frames=_whole(sums["frames"]),
        faces=_whole(sums["faces"]),
        face_bytes=_whole(sums["bytes"]),
        workers=workers,
        seconds=None if seconds is None else seconds / workers,
    )


def _measure(result: ExtractionResult) -> dict[str, float]:
    return {
        "frames": result.row.frames_sampled or 0,
        "faces": len(result.faces),
        "bytes": sum(len(f.image) for f in result.faces),
        "seconds": result.row.elapsed_s or 0.0,
    }


def _pick(todo: Sequence[VideoRef]) -> list[VideoRef]:
    """The same few videos each time: those whose id hashes lowest, labels in turn."""
    by_label: dict[str | None, list[VideoRef]] = defaultdict(list)
    for ref in todo:
        by_label[ref.label].append(ref)
    picked: list[tuple[int, VideoRef]] = []
    for refs in by_label.values():
        picked += enumerate(heapq.nsmallest(LOOKS, refs, key=_hash))
    picked.sort(key=lambda p: p[0])
    return [ref for _, ref in picked[:LOOKS]]


def _hash(ref: VideoRef) -> bytes:
    return hashlib.sha256(ref.video_id.encode()).digest()


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
