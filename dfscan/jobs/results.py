"""What the verbs return."""

from dataclasses import dataclass, field
from typing import Any

from dfscan.records import HEALTHY


@dataclass(frozen=True)
class Outcome:
    """Counts of a job over videos; ``exit_code`` follows the contract (3: too many failed)."""

    out: str
    videos: int
    status: dict[str, int]
    max_failed: float
    elapsed_s: float

    @property
    def failed(self) -> int:
        """Videos whose status is neither ok, no_face nor partial."""
        return sum(n for status, n in self.status.items() if status not in HEALTHY)

    @property
    def exit_code(self) -> int:
        """0, or 3 where more than ``max_failed`` of the videos failed."""
        return 3 if self.failed > self.max_failed * self.videos else 0


@dataclass(frozen=True)
class ExtractResult(Outcome):
    """What is in the face dataset now; ``new`` videos were worked on by this run."""

    new: int = 0
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreResult(Outcome):
    """What is in the verdict file now; ``new`` videos were scored by this run."""

    new: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    gone: int = 0


@dataclass(frozen=True)
class TrainResult:
    """A run folder: the model, its metrics on the held-out side, and the history by epoch."""

    out: str
    model: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    elapsed_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class QuickstartResult:
    """Every test clip with truth and verdict, and the AUC over them (None with one class)."""

    out: str
    clips: list[dict[str, Any]]
    auc: float | None
    accuracy: float | None
    elapsed_s: dict[str, float]
    exit_code: int = 0
