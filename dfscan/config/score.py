"""Configuration of ``dfscan score``."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dfscan.config.base import FRAME_KEYS, FrameSelection, VideoInputConfig
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


class ScoreConfig(VideoInputConfig, FrameSelection):
    """``dfscan score``: videos → one verdict each."""

    exclusive: ClassVar[tuple[str, ...]] = FRAME_KEYS

    model: Paths = Field((), description="one, or several whose scores are averaged")
    out: PathText = "verdicts.parquet"
    triage: bool = Field(
        False, description="key frames first, the full look where those are not clearly real"
    )
    threshold: float | None = Field(None, ge=0, le=1)
    min_frames: int = Field(
        1, ge=1, description="frames with a face that a verdict needs; fewer: null"
    )
    at_fpr: float | None = Field(
        None, gt=0, lt=1, description="threshold by the model's held-out reals: called FAKE at most"
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of fakes that p_fake assumes; null: the model's, a half",
    )
    aggregation: Aggregation = Field("mean", description="how the faces' scores become one")
    evidence: Evidence = Evidence()
    precision: Literal["auto"] | Precision = Field(
        "auto",
        description="what the network computes in; auto: float32, on GPUs float16",
    )
    batch_size: BatchSize = Field(
        "auto",
        description="faces that go through the network together; auto: 32, on GPUs 256; "
        "halved where they do not fit into a GPU's memory",
    )
    stale: Literal["keep", "rescan"] = Field(
        "keep", description="verdicts of another model or configuration; rescan: after new files"
    )
    since: Moment | None = Field(
        None, description="work only on files changed since a date (2026-11-01) or a time ago (24h)"
    )
    limit_time: Duration | None = Field(
        None, description="begin no unit after so long: 6h; the next run continues"
    )
    fail_on: FailOn = Field(
        (), description="exit code 4 if this run finds such: fake, uncertain, failed"
    )
    diff: bool = Field(False, description="tell what changed against the verdicts of before")
    log: PathText | None = Field(None, description="events as JSON lines, appended")
    metrics_file: PathText | None = Field(None, description="a summary in Prometheus' text format")
    dry_run: bool = Field(False, description="only say what there is to do")

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
