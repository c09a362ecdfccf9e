"""What the verbs return."""

from dataclasses import dataclass, field
from typing import Any

from dfscan.schemas.status import SUCCEEDED
from dfscan.verdicts.diff import Change


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
        return sum(n for status, n in self.status.items() if status not in SUCCEEDED)

    @property
    def exit_code(self) -> int:
        """0, or 3 where more than ``max_failed`` of the videos failed."""
        return 3 if self.failed > self.max_failed * self.videos else 0


@dataclass(frozen=True)
class ExtractResult(Outcome):
    """What is in the face dataset now; ``new`` videos were worked on by this run.

    ``frames``: those it looked at; ``decoding_share``: its speed as a share of what decoding alone
    would reach, 0 to 1 (None where nothing was decoded).
    """

    new: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    decoding_share: float | None = None


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
class CalibrateResult:
    """A model file with another calibration and threshold.

    ``rows`` counts the rows of the verdict file by what became of them. ``before`` are the old
    model's figures on these videos, ``fitted`` the new one's on the very videos it was fitted on,
    ``out_of_fold`` those of fits that had not seen the video's group (null where there are too few
    groups); see :func:`dfscan.commands.calibrate.calibration_fit.summary_metrics`. ``calibration`` is null where p_fake
    stays as it was without one.
    """

    out: str
    model_sha256: str
    scored_by: str
    rows: dict[str, int]
    groups: int
    rule: str
    sampling: dict[str, Any]
    threshold: float
    threshold_logit: float
    before: dict[str, Any]
    fitted: dict[str, Any]
    out_of_fold: dict[str, Any] | None
    folds: int
    calibration: dict[str, Any] | None
    operating_point: dict[str, Any]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


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


@dataclass(frozen=True)
class PurgeResult:
    """Rows and faces that were removed.

    ``made_from_it`` rows still name a purged original; of the ``missing`` there was no row.
    """

    path: str
    rows: int
    faces: int
    made_from_it: int
    missing: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 2 where a video was named that is not there."""
        return 2 if self.missing else 0


@dataclass(frozen=True)
class Difference:
    """``what`` of a verdict differs: the value in the file, and the one found now."""

    what: str
    recorded: Any
    found: Any


@dataclass(frozen=True)
class Checked:
    """What became of one verdict: ``outcome`` is ``agrees``, ``differs`` or ``unchecked``.

    ``reason`` says why it could not be checked. ``notes``: what ran then and runs now.
    """

    video_id: str
    outcome: str
    reason: str | None = None
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerifyResult:
    """Verdicts made again, by ``video_id``; ``counts`` by outcome.

    ``tolerance`` is on logits of float32. ``notes`` are those of all videos, each with the number of
    them; they say where another tolerance was used.
    """

    verdicts: str
    models: list[str]
    tolerance: float
    videos: list[Checked]
    counts: dict[str, int]
    notes: list[str]
    max_failed: float
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """5: something differs; 3: more than ``max_failed`` could not be checked; else 0."""
        if self.counts["differs"]:
            return 5
        return 3 if self.counts["unchecked"] > self.max_failed * len(self.videos) else 0


@dataclass(frozen=True)
class InspectResult:
    """What something is: its ``kind``, ``facts`` by name, and a table of its parts or faces."""

    path: str
    kind: str
    facts: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int = 0


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of verdicts or faces against the truth; ``metrics`` is what ``metrics.json`` holds."""

    out: str
    metrics: dict[str, Any]
    elapsed_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class ReportResult:
    """A page: ``kind`` of thing it is about, its ``bytes``, the ``faces`` that it shows."""

    out: str
    kind: str
    bytes: int
    faces: int
    elapsed_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class AnnotateResult:
    """A video or picture with boxes; ``people`` as in the column ``tracks`` with their verdicts.

    ``judged`` of its ``frames`` were looked at; ``seconds`` is the length of a video.
    """

    out: str
    verdict: str | None
    reason: str | None
    p_fake: float | None
    calibrated: bool
    people: list[dict[str, Any]]
    frames: int
    judged: int
    seconds: float | None
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class StressResult:
    """A row a condition: AUC, flips of verdicts and the like, as in ``stress.json``."""

    out: str
    rows: list[dict[str, Any]]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class ExportResult:
    """A row a format, the original first: its file, size, speed and how far it is from the original.

    A row has ``format``, ``file``, ``bytes``; ``ms_batch_1`` and ``ms_batch_32``, milliseconds a face on
    one thread; ``max_delta`` and ``mean_delta`` of logits; ``flipped``, faces on the other side of the
    threshold; ``auc`` and ``accuracy`` by face, null without labels. ``faces``: what they were
    compared on.
    """

    out: str
    rows: list[dict[str, Any]]
    faces: dict[str, Any]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


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


@dataclass(frozen=True)
class ListModelsResult:
    """A row a detector that can be imported: ``kind``, ``mapping``, ``what``, ``where``, ``licence``,
    ``size`` in pixels, ``notes``."""

    rows: list[dict[str, Any]]
    exit_code: int = 0
