"""How scores become a decision: the values that are configured and recorded."""

from typing import Any, Final, Literal, get_args

from pydantic import (
    Field,
)

from dfscan.schemas.fingerprint import ALGORITHM, MARK, Strict, json_hash
from dfscan.schemas.recipe import FaceRecipe

Aggregation = Literal["mean", "confident", "max_track", "trimmed"]


AGGREGATIONS: Final[tuple[Aggregation, ...]] = get_args(Aggregation)


class Evidence(Strict):
    """What a verdict needs that is not to be UNCERTAIN; each may be set to 0.

    ``errors``: the score lies further from the threshold than so many standard errors of its
    frames' mean. Frames of one video are alike, so the true error is larger.
    """

    frames: int = Field(4, ge=0, description="frames with a face, where so many were looked at")
    face_px: float = Field(32.0, ge=0, description="median size of the faces in pixels")
    sharpness: float = Field(0.004, ge=0, description="median sharpness of the faces")
    errors: float = Field(2.0, ge=0, description="standard errors between score and threshold")


class ScoringInputs(Strict):
    """Everything that decides about a verdict; its fingerprint is the ``config_hash`` of rows.

    ``models`` are SHA-256 of files, sorted. ``threshold`` is on ``p_fake``; ``forced``: the user gave
    it. ``triage`` is the threshold of the pass over key frames, ``altered`` what ``stress`` did to
    the videos.
    """

    recipe: FaceRecipe
    models: tuple[str, ...]
    threshold: float
    forced: bool
    max_bytes: int
    min_frames: int = 1
    aggregation: Aggregation = "mean"
    evidence: Evidence = Evidence()
    precision: str = "float32"
    at_fpr: float | None = None
    prevalence: float | None = None
    triage: float | None = None
    altered: Any = None

    def record(self) -> dict[str, Any]:
        """What a verdict file has of it, defaults included."""
        values = {k: v for k, v in self.model_dump(mode="json").items() if v is not None}
        return {**values, MARK: ALGORITHM}

    def legacy_record(self) -> dict[str, Any]:
        """The record that versions up to schema 1 wrote."""
        values = self.record()
        del values[MARK]
        if self.precision == "float32":
            del values["precision"]
        return values

    def legacy_hash(self) -> str:
        """The ``config_hash`` that versions up to schema 1 wrote."""
        return json_hash({**self.legacy_record(), "recipe": self.recipe.legacy_hash()})
