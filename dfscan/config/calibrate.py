"""Configuration of ``dfscan calibrate``."""

from dataclasses import replace
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field, model_validator

from dfscan.config.base import FRAME_KEYS, CommandConfig, FrameSelection
from dfscan.config.flags import FRAMES, LABELS, OUT, OVERWRITE, Flag
from dfscan.config.types import PathText, _rule
from dfscan.schemas.recipe import Sampling, SamplingMode
from dfscan.schemas.scoring import Aggregation

GOAL: Final = "Threshold and calibration"
SCORED: Final = "How VERDICTS were scored, if they do not say"


class CalibrateConfig(CommandConfig, FrameSelection):
    """``dfscan calibrate``: p_fake and the threshold of a model, from a user's own verdicts.

    ``frames``, ``every``, ``stride``, ``phase`` and ``sampling`` say how the verdicts were sampled,
    where their file does not.
    """

    exclusive: ClassVar[tuple[str, ...]] = ("threshold_rule", "at_fpr", "alert_budget")

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("model", metavar="MODEL", argument=True),
        Flag("verdicts", metavar="VERDICTS", argument=True),
        LABELS, Flag("quick", metavar="PATH"), OUT, OVERWRITE,
        Flag("threshold_rule", GOAL, metavar="RULE"), Flag("at_fpr", GOAL),
        Flag("alert_budget", GOAL), Flag("videos_a_night", GOAL), Flag("prevalence", GOAL),
        Flag("aggregation", SCORED), *(replace(flag, panel=SCORED) for flag in FRAMES),
    )  # fmt: skip

    model: PathText | None = Field(None, description="Model to fit")
    verdicts: PathText = Field(
        "verdicts.parquet", description="Verdicts of this model on your own videos"
    )
    quick: PathText | None = Field(
        None, description="Verdicts on the key frames of the same videos: fits score --triage too"
    )
    labels: PathText | None = Field(
        None,
        description="Labels: a table with video_id or filename, and label; metadata.json; or REAL "
        "if every video is (default: the labels in VERDICTS)",
    )
    out: PathText | None = Field(None, description="Model file to write")
    threshold_rule: Annotated[str, AfterValidator(_rule)] | None = Field(
        None,
        description="How the threshold is chosen: youden, f1, or a false-positive rate as in "
        "fpr=0.01 (default: youden)",
    )
    at_fpr: float | None = Field(
        None, gt=0, lt=1, description="Share of the reals that may be called FAKE"
    )
    alert_budget: float | None = Field(
        None, gt=0, description="False alarms per night; verdicts on reals are enough"
    )
    videos_a_night: int | None = Field(
        None, ge=1, description="Videos per night (default: the number of videos in VERDICTS)"
    )
    prevalence: float | None = Field(
        None, gt=0, lt=1, description="Prior share of fakes that p_fake assumes (default: 0.5)"
    )
    aggregation: Aggregation = Field(
        "mean", description="How the scores of the faces became one score"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "CalibrateConfig":
        for names in (self.exclusive, FRAME_KEYS):
            given = [n for n in names if getattr(self, n) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.videos_a_night is not None and self.alert_budget is None:
            raise ValueError("videos_a_night says what alert_budget is a share of: give both")
        if self.share() == 0:
            raise ValueError(
                f"threshold_rule {self.threshold_rule}: no number of reals shows a rate of 0; give "
                "one above 0, as in fpr=0.01"
            )
        return self

    def share(self) -> float | None:
        """The false-positive rate asked for by name; None for an alert budget and other rules."""
        name, _, share = (self.threshold_rule or "").partition("=")
        return float(share) if name == "fpr" else self.at_fpr

    def frames_of(self, mode: SamplingMode) -> Sampling | None:
        """As ``score`` understands the same keys; None where nothing is said.

        :param mode: the model's.
        """
        given = any(getattr(self, name) for name in (*FRAME_KEYS, "sampling"))
        if self.phase == "hash" and not given:
            return None
        return self.select(self.sampling or mode)
