"""What ``dfscan score`` returns."""

from dataclasses import dataclass, field
from typing import Any

from dfscan.pipeline.work_units import Outcome
from dfscan.verdicts.diff import Change


@dataclass(frozen=True)
class ScoreResult(Outcome):
    """What is in the verdict file now; ``new`` videos were scored by this run.

    ``rows``: the verdicts themselves, where none were written (single pictures).
    ``recognised``: files whose content was known, so that they were not scored. ``stale``: verdicts
    of another model or configuration. ``left``: videos that the time limit left to the next run.
    ``found``: verdicts of this run that ``fail_on`` names. ``changes``: with ``diff``, else None.
    """

    new: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    gone: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    recognised: int = 0
    left: int = 0
    found: int = 0
    changes: list[Change] | None = None

    @property
    def exit_code(self) -> int:
        """3: too many failed; 4: some were found that ``fail_on`` names; 6: videos are left."""
        return super().exit_code or (4 if self.found else 6 if self.left else 0)


@dataclass(frozen=True)
class ScorePlan:
    """What a scoring run would do (``--dry-run``); no video was opened.

    Of the ``videos`` at the source ``new`` have no verdict, ``changed`` are other files by now or are
    tried again, ``stale`` have one of another model or configuration; ``older`` are left out by
    ``since``. ``gone`` have a verdict and are not at the source. ``todo`` are left to do, with their
    ``bytes``, in so many ``units``: those of known content among them are found only by reading.
    """

    out: str
    videos: int
    new: int
    changed: int
    stale: int
    gone: int
    older: int
    todo: int
    bytes: int
    units: int
    exit_code: int = 0
