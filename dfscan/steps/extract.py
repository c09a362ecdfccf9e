"""Videos of one unit → faces, committed to a face dataset."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dfscan.facesets import FaceSet
from dfscan.records import FaceRow, VideoRef, VideoRow
from dfscan.steps.look import Looker, Seen, as_reference, empty_row
from dfscan.steps.units import NOTHING, Unit, UnitResult, families, make_unit
from dfscan.storage import Lease

COMMIT_BYTES: Final = 256 << 20
"""A unit whose faces take more than so many bytes is committed in pieces."""


@dataclass(frozen=True)
class ExtractStep:
    """Looks at each video and commits the unit's faces and rows.

    With ``paired`` a fake's faces are cut where its original's faces are.
    """

    look: Looker
    target: FaceSet
    lease: Lease
    paired: bool = False

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit.

        :raises DfscanError: it cannot be written, or another run has taken over.
        """
        total, seen = NOTHING, list[Seen]()
        videos: list[VideoRef] = []
        for members in families(unit.videos):
            seen += self._family(members)
            videos += members
            if sum(len(f.image) for s in seen for f in s.faces) > COMMIT_BYTES:
                total += self._commit(make_unit(videos, unit.name).name, seen)
                seen, videos = [], []
        if not seen:
            return total
        name = unit.name if not total.videos else make_unit(videos, unit.name).name
        return total + self._commit(name, seen)

    def give_up(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a row with this status for every video, without opening any."""
        rows = [Seen(empty_row(ref, status, reason), []) for ref in unit.videos]
        return self._commit(unit.name, rows)

    def _family(self, members: Sequence[VideoRef]) -> list[Seen]:
        """An original and its fakes, or videos that have nothing to do with each other."""
        original, fakes = members[0], members[1:]
        if not self.paired or original.original is not None or not fakes:
            return [self.look.see(ref) for ref in members]
        frames = [self.look.survey(fake) for fake in fakes]
        first = self.look.see(original, also=sorted({i for indices in frames for i in indices}))
        return [
            first,
            *(
                self.look.see(fake, reference=as_reference(first, indices))
                for fake, indices in zip(fakes, frames, strict=True)
            ),
        ]

    def _commit(self, name: str, seen: Sequence[Seen]) -> UnitResult:
        now = time.time()
        rows: list[VideoRow] = [replace(s.row, unit=name, committed_at=now) for s in seen]
        faces: list[FaceRow] = [face for s in seen for face in s.faces]
        self.target.commit(name, rows, faces, self.lease.check)
        return UnitResult(len(rows), len(faces), Counter(row.status for row in rows))
