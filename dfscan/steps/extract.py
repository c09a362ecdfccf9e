"""Videos of one unit → faces, committed to a face dataset."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dfscan.facesets import FaceSet
from dfscan.records import FaceRow, VideoRow
from dfscan.steps.look import Look, empty_row
from dfscan.steps.units import Unit, UnitResult


@dataclass(frozen=True)
class ExtractStep:
    """Looks at each video and commits the unit's faces and rows."""

    look: Look
    target: FaceSet

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit."""
        rows: list[VideoRow] = []
        faces: list[FaceRow] = []
        for ref in unit.videos:
            row, found = self.look(ref)
            rows.append(row)
            faces += found
        return self._commit(unit, rows, faces)

    def give_up(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a row with this status for every video, without opening any."""
        return self._commit(unit, [empty_row(ref, status, reason) for ref in unit.videos], [])

    def _commit(self, unit: Unit, rows: Sequence[VideoRow], faces: Sequence[FaceRow]) -> UnitResult:
        now = time.time()
        rows = [replace(row, unit=unit.name, committed_at=now) for row in rows]
        self.target.commit(unit.name, rows, faces)
        return UnitResult(len(rows), len(faces), Counter(row.status for row in rows))
