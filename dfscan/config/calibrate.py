"""Configuration of ``dfscan calibrate``."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from dfscan.config.base import FRAME_KEYS, CommandConfig, FrameSelection
from dfscan.config.types import PathText, _rule
from dfscan.schemas.recipe import Sampling, SamplingMode
from dfscan.schemas.scoring import Aggregation


class CalibrateConfig(CommandConfig, FrameSelection):
    """``dfscan calibrate``: p_fake and the threshold of a model, from a user's own verdicts.

    ``frames``, ``every``, ``stride``, ``phase`` and ``sampling`` say how the verdicts were sampled,
    where their file does not.
    """

    exclusive: ClassVar[tuple[str, ...]] = ("threshold_rule", "at_fpr", "alert_budget")

    model: PathText | None = None
    verdicts: PathText = "verdicts.parquet"
    quick: PathText | None = Field(
        None, description="verdicts of the same videos' key frames: fits the triage as well"
    )
    labels: PathText | None = Field(
        None, description="a table, DFDC's metadata.json or labels.csv, or REAL: all of them are"
    )
    out: PathText | None = None
    threshold_rule: Annotated[str, AfterValidator(_rule)] | None = None
    at_fpr: float | None = Field(None, gt=0, lt=1, description="share of reals called FAKE")
    alert_budget: float | None = Field(None, gt=0, description="false alarms a night")
    videos_a_night: int | None = Field(None, ge=1, description="null: as many as VERDICTS has")
    prevalence: float | None = Field(None, gt=0, lt=1, description="prior share of fakes")
    aggregation: Aggregation = Field("mean", description="as the verdicts were scored")

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
