"""Files that were moved, copied or only touched: known by their content, so not scored again.

Only a file with as many bytes as one that has a verdict is read, and only to hash it. A verdict
holds for other files of the same bytes where the same configuration made it, where their names ask
for the same way of reading, and, if real and fake videos have strides of their own, where the labels
agree.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.config.score import ScoreConfig
from dfscan.corpora.base import PICTURE_SUFFIXES, VIDEO_SUFFIXES, suffix
from dfscan.errors import VideoError
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import worker_count
from dfscan.pipeline.scan_plan import ExistingVerdicts
from dfscan.schemas.fingerprint import json_hash
from dfscan.schemas.recipe import Sampling
from dfscan.schemas.records import VERDICT_SCHEMA, VideoRef
from dfscan.storage import Lease
from dfscan.verdicts.store import VerdictStore
from dfscan.verdicts.table import RowBlock, in_memory, take_rows

TRANSIENT: Final = frozenset({"missing", "crashed", "timeout"})
"""Statuses that say less about the content than about the day."""

_BATCH: Final = 256
"""Files hashed between two commits."""

Key = tuple[str, str, str | None]
"""Content, kind of name, label (None where it does not matter)."""


@dataclass(frozen=True)
class ContentMatcher:
    """Finds the verdict of a file by its content; ``sampling`` and ``config_hash`` are the run's."""

    store: VerdictStore
    known: ExistingVerdicts
    sampling: Sampling
    config_hash: str
    lease: Lease

    def reuse_verdicts(
        self,
        videos: Sequence[VideoRef],
        config: ScoreConfig,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> frozenset[str]:
        """Commit a row for every video whose content is known; returns their ``video_id``.

        :param stop: once it is true no further files are read.
        :raises DfscanError: a row cannot be committed.
        """
        if not videos:
            return frozenset()
        pool = self._pool(videos, config)
        sizes = frozenset(pool.column("bytes").to_pylist())
        asked = [v for v in videos if v.version and v.bytes in sizes]
        if not asked:
            return frozenset()
        places = self._places(pool)
        progress.start("recognise", len(asked), "videos")
        done: list[str] = []
        blocks: list[RowBlock] = []
        with ThreadPoolExecutor(worker_count(config)) as threads:
            for start in range(0, len(asked), _BATCH):
                if stop():
                    break
                some = asked[start : start + _BATCH]
                hashes = threads.map(lambda v: _hash(v, config.max_bytes), some)
                found = [
                    (v, places[self._key(h, v.video_id, v.label)])
                    for v, h in zip(some, hashes, strict=True)
                    if h is not None and self._key(h, v.video_id, v.label) in places
                ]
                if found:
                    blocks = blocks or self._blocks()
                    self._commit(found, blocks)
                    done += (v.video_id for v, _ in found)
                progress.advance(len(some))
        progress.stop()
        return frozenset(done)

    def _pool(self, videos: Sequence[VideoRef], config: ScoreConfig) -> pa.Table:
        """Verdicts that hold for any file of the same content, and could for one of these videos.

        With their ``place``.
        """
        rows = self.known.rows.append_column("place", self.known.places)
        unsure = pa.array(sorted(TRANSIENT | set(config.retry)))
        good = pc.and_(
            pc.equal(rows.column("config_hash"), self.config_hash),
            pc.invert(pc.is_in(rows.column("status"), value_set=unsure)),
        )
        sizes = pa.array(sorted({v.bytes for v in videos}), pa.int64())
        close = pc.is_in(rows.column("bytes"), value_set=sizes)
        return rows.filter(
            pc.and_(good, pc.and_(close, pc.is_valid(rows.column("content_sha256"))))
        )

    def _places(self, pool: pa.Table) -> dict[Key, int]:
        columns = ("content_sha256", "video_id", "label", "place")
        values = zip(*(pool.column(c).to_pylist() for c in columns), strict=True)
        return {self._key(sha256, name, label): place for sha256, name, label, place in values}

    def _key(self, sha256: str, name: str, label: str | None) -> Key:
        stride = self.sampling.stride
        matters = stride is not None and stride.real != stride.fake
        return sha256, _kind(name), label if matters else None

    def _blocks(self) -> list[RowBlock]:
        """Everything that ``places`` counts through."""
        before = self.store.table().row_blocks() if self.known.before.num_rows else []
        return [*before, *in_memory(self.store.parts([self.config_hash]))]

    def _commit(self, found: Sequence[tuple[VideoRef, int]], blocks: Sequence[RowBlock]) -> None:
        refs = [ref for ref, _ in found]
        table = take_rows([place for _, place in found], blocks)
        now = datetime.now(UTC)
        changes: dict[str, list[Any]] = {
            "video_id": [r.video_id for r in refs],
            "uri": [r.uri for r in refs],
            "label": [r.label for r in refs],
            "version": [r.version for r in refs],
            "scanned_at": [now] * len(refs),
            "gone": [False] * len(refs),
        }
        for name, values in changes.items():
            field = VERDICT_SCHEMA.field(name)
            place = table.schema.get_field_index(name)
            table = table.set_column(place, field, pa.array(values, field.type))
        name = json_hash([self.config_hash, [[r.video_id, r.version] for r in refs]])
        self.store.add_part(f"recognised-{name}", table, self.lease)


def _kind(name: str) -> str:
    """How a file's name has it read: what is called a picture is never taken for a video."""
    ending = suffix(name)
    if ending in PICTURE_SUFFIXES:
        return "picture"
    return "video" if ending in VIDEO_SUFFIXES else "by content"


def _hash(video: VideoRef, limit: int) -> str | None:
    """None for what cannot be read: looking at it will find out why."""
    try:
        return storage.content_sha256(video.uri, limit)
    except VideoError:
        return None
