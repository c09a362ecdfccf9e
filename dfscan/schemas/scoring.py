"""How scores become a decision: the values that are configured and recorded."""

from typing import Final, Literal, get_args

from pydantic import (
    Field,
)

from dfscan.schemas.recipe import (
    Strict,
)

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
