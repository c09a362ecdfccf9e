"""Configuration of ``dfscan score``."""

from typing import ClassVar, Final, Literal

from pydantic import Field, model_validator

from dfscan.config.base import FRAME_KEYS, MODEL_HELP, FrameSelection, VideoInputConfig
from dfscan.config.flags import (
    CLUSTER,
    DRY_RUN,
    FRAMES,
    LAYOUT,
    MAX_FAILED,
    MODELS,
    OUT,
    OUTPUT,
    OVERWRITE,
    RUNNING,
    SAMPLING,
    SOURCE,
    Flag,
)
from dfscan.config.types import (
    BatchSize,
    Duration,
    FailOn,
    Moment,
    Paths,
    PathText,
    Precision,
)
from dfscan.schemas.scoring import Aggregation, Evidence

DECISION: Final = "Decision"


class ScoreConfig(VideoInputConfig, FrameSelection):
    """``dfscan score``: videos → one verdict each."""

    exclusive: ClassVar[tuple[str, ...]] = FRAME_KEYS

    flags: ClassVar[tuple[Flag, ...]] = (
        SOURCE, MODELS, LAYOUT, Flag("since", metavar="TIME"), Flag("stale"), Flag("allow_gone"),
        OUT, OVERWRITE, Flag("diff", OUTPUT), Flag("log", OUTPUT, metavar="FILE"),
        Flag("metrics_file", OUTPUT, metavar="FILE"),
        *FRAMES, Flag("triage", SAMPLING),
        Flag("threshold", DECISION), Flag("at_fpr", DECISION), Flag("prevalence", DECISION),
        Flag("aggregation", DECISION),
        Flag("fail_on", RUNNING, metavar="OUTCOME,…"), Flag("limit_time", RUNNING, metavar="TIME"),
        MAX_FAILED, Flag("precision", RUNNING), DRY_RUN, *CLUSTER,
    )  # fmt: skip

    model: Paths = Field((), description=MODEL_HELP)
    out: PathText = Field(
        "verdicts.parquet",
        description="Verdicts to write: one .parquet file, or a folder of files as in NAME/",
    )
    triage: bool = Field(
        False,
        description="Score key frames first, and all frames only of videos not clearly real",
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="p_fake from which a video is FAKE (default: the model's)"
    )
    min_frames: int = Field(
        1, ge=1, description="Frames with a face that a verdict needs; with fewer it is null"
    )
    at_fpr: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Use the threshold that calls this share of the model's held-out reals FAKE",
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of fakes that p_fake assumes (default: the model's, 0.5)",
    )
    aggregation: Aggregation = Field(
        "mean", description="How the scores of the faces become one score"
    )
    evidence: Evidence = Field(default_factory=Evidence)
    precision: Literal["auto"] | Precision = Field(
        "auto", description="Precision of the network; auto: float32, on GPUs float16"
    )
    batch_size: BatchSize = Field(
        "auto",
        description="Faces that go through the network together; auto: 32, on GPUs 256; halved "
        "if they do not fit into the GPU's memory",
    )
    stale: Literal["keep", "rescan"] = Field(
        "keep",
        description="What to do with verdicts of another model or configuration; rescan: replace "
        "them, after new files",
    )
    since: Moment | None = Field(
        None,
        description="Process only files changed since this date (2026-11-01) or time ago (24h)",
    )
    limit_time: Duration | None = Field(
        None,
        description="Start no new work after this time, as in 6h; the exit code is then 6 and the "
        "next run continues",
    )
    fail_on: FailOn = Field(
        (), description="Exit with code 4 if this run finds any of fake, uncertain, failed"
    )
    diff: bool = Field(False, description="Report changes since the last run")
    log: PathText | None = Field(None, description="Append events to this file as JSON lines")
    metrics_file: PathText | None = Field(
        None, description="Write a summary in Prometheus' text format"
    )
    dry_run: bool = Field(False, description="Show what would be done and write nothing")

    @model_validator(mode="after")
    def _can_continue(self) -> "ScoreConfig":
        if self.overwrite and self.limit_time is not None:
            raise ValueError(
                "overwrite begins anew each time, so limit_time would never let it finish: use "
                "stale: rescan"
            )
        return self

    @model_validator(mode="after")
    def _one_sampling(self) -> "ScoreConfig":
        given = [n for n in self.exclusive if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.threshold is not None and self.at_fpr is not None:
            raise ValueError("threshold and at_fpr exclude each other: give one of them")
        if self.triage and (len(self.model) > 1 or self.sampling or self.aggregation != "mean"):
            raise ValueError(
                "triage is known of one model, its own sampling and aggregation: mean: leave the "
                "others out"
            )
        return self

    @model_validator(mode="after")
    def _has_precision(self) -> "ScoreConfig":
        if self.precision == "float16" and not self.gpus:
            raise ValueError(
                "precision: float16 needs a GPU (--gpus 1): use float32, or bfloat16 on a CPU"
            )
        return self

    def computes_in(self) -> Precision:
        """``precision``, ``auto`` settled.

        float16, not bfloat16: rounding moved logits a tenth as far on every network tried, and a
        logit that is not finite is computed again in float32.
        """
        if self.precision != "auto":
            return self.precision
        return "float16" if self.gpus else "float32"

    def faces_together(self) -> int:
        """``batch_size`` as a number."""
        if self.batch_size != "auto":
            return self.batch_size
        return 256 if self.gpus else 32
