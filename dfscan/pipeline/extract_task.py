"""Videos of one unit → faces, committed to a face dataset."""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import VideoError
from dfscan.pipeline.concurrency import map_concurrent
from dfscan.pipeline.extraction.extractor import (
    ExtractionResult,
    FaceExtractor,
    as_reference,
    failed_row,
)
from dfscan.pipeline.work_units import (
    NOTHING,
    Unit,
    UnitResult,
    group_by_source,
    make_unit,
    split_per_video,
)
from dfscan.schemas.records import FaceRow, VideoRef, VideoRow
from dfscan.schemas.status import SUCCEEDED

UNSEEN: Final = frozenset({"timeout", "crashed", "missing"})
"""Statuses that say nothing about a file; ``--retry`` looks at it again, its fakes with it."""

COMMIT_BYTES: Final = 256 << 20
"""A unit whose faces take more than so many bytes is committed in pieces."""


@dataclass(frozen=True)
class ExtractTask:
    """Looks at each video and commits the unit's faces and rows.

    With ``paired`` a fake's faces are cut where its original's faces are. ``run`` goes into the
    names of files, so that no run overwrites what another committed; ``after`` (seconds since the
    epoch) is earlier than every commit of this run, whatever a worker's clock says.
    """

    extractor: FaceExtractor
    target: FaceSet
    run: str
    after: float = 0.0
    paired: bool = False

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit.

        :raises DfscanError: it cannot be written, or another run has taken over.
        """
        total, results = NOTHING, list[ExtractionResult]()
        videos: list[VideoRef] = []
        together = self._together(unit)
        with contextlib.closing(map_concurrent(self.extractor, self._family, together)) as found:
            for members, family in zip(together, found, strict=True):
                results += family
                videos += members
                if sum(len(f.image) for s in results for f in s.faces) > COMMIT_BYTES:
                    total += self._commit(make_unit(videos, unit.name).name, results)
                    results, videos = [], []
        if not results:
            return total
        name = unit.name if not total.videos else make_unit(videos, unit.name).name
        return total + self._commit(name, results)

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a row with this status for every video, without opening any."""
        rows = [ExtractionResult(failed_row(ref, status, reason), []) for ref in unit.videos]
        return self._commit(unit.name, rows)

    def split(self, unit: Unit) -> list[Unit]:
        """Families, and single videos where they do not depend on each other."""
        if not self.paired:
            return split_per_video(unit)
        return [make_unit(members, unit.name) for members in group_by_source(unit.videos)]

    def _together(self, unit: Unit) -> list[list[VideoRef]]:
        return (
            list(group_by_source(unit.videos))
            if self.paired
            else [[video] for video in unit.videos]
        )

    def _family(self, members: Sequence[VideoRef]) -> list[ExtractionResult]:
        """An original and its fakes, or videos that have nothing to do with each other."""
        original, fakes = members[0], members[1:]
        if original.original is not None or not fakes:
            return [self.extractor.extract(ref) for ref in members]
        frames: dict[str, list[int]] = {}
        failed: dict[str, VideoError] = {}
        for fake in fakes:
            try:
                frames[fake.video_id] = self.extractor.sample_frames(fake)
            except VideoError as error:
                failed[fake.video_id] = error
        wanted = {i for indices in frames.values() for i in indices}
        first = self.extractor.extract(original, extra_frames=sorted(wanted))
        if first.row.status in UNSEEN:
            why = VideoError(first.row.status, f"its original was not seen: {first.row.reason}")
            failed = {fake.video_id: why for fake in fakes}
        return [first, *(self._fake(f, first, frames, failed.get(f.video_id)) for f in fakes)]

    def _fake(
        self,
        fake: VideoRef,
        original: ExtractionResult,
        frames: Mapping[str, list[int]],
        failed: VideoError | None,
    ) -> ExtractionResult:
        """A fake with its original's boxes; what hangs once is not opened again."""
        if failed is not None and failed.status in UNSEEN:
            return ExtractionResult(failed_row(fake, failed.status, failed.reason), [])
        reference = as_reference(original, frames.get(fake.video_id, ()))
        return self.extractor.extract(fake, reference=reference)

    def _commit(self, name: str, results: Sequence[ExtractionResult]) -> UnitResult:
        now = max(time.time(), self.after + 1e-3)
        file = f"{name}-{self.run}"
        rows: list[VideoRow] = [replace(s.row, unit=name, committed_at=now) for s in results]
        faces: list[FaceRow] = [face for s in results for face in s.faces]
        self.target.commit(file, rows, faces)
        return UnitResult(
            videos=len(rows),
            faces=len(faces),
            status=Counter(row.status for row in rows),
            frames=sum(row.frames_sampled or 0 for row in rows),
            look_s=sum(row.elapsed_s or 0.0 for row in rows if row.status in SUCCEEDED),
            faces_s=sum(s.faces_s for s in results),
        )
