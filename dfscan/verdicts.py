"""Scores of frames → one verdict. Pure functions, no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dfscan.calibration import Calibration
from dfscan.records import HEALTHY, FrameScore

TOP_FRAMES: Final = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judging part of a verdict; see the columns of the same names."""

    verdict: str | None
    reason: str | None
    score_raw: float | None = None
    p_fake: float | None = None
    llr: float | None = None
    calibrated: bool = False
    threshold: float | None = None
    top_frames_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """How frames become a verdict.

    :param threshold: on ``p_fake``: at or above it a video is FAKE.
    :param forced: the user gave the threshold, so an uncalibrated model may judge.
    :param min_frames: distinct frames with a face that a verdict needs.
    """

    calibration: Calibration | None
    threshold: float
    forced: bool = False
    min_frames: int = 1


def judge(
    status: str, status_reason: str | None, frames: Sequence[FrameScore], rule: Rule
) -> Judgement:
    """One verdict for one video.

    Nothing to judge (a failed video, no face, too few frames) is a null verdict and its reason,
    never a score in the middle. Without a calibration the verdict is UNCERTAIN, unless the user
    named a threshold.
    """
    if status not in HEALTHY:
        return Judgement(None, status_reason or status)
    if not frames:
        return Judgement(None, "no_face")
    with_face = len({f.frame_index for f in frames})
    if with_face < rule.min_frames:
        return Judgement(None, f"too_few_frames ({with_face} of {rule.min_frames} with a face)")
    score = math.fsum(f.score_raw for f in frames) / len(frames)
    if not math.isfinite(score):
        return Judgement(None, "the model gave no finite score (NaN or infinity)")
    top = sorted(frames, key=lambda f: (-f.score_raw, f.pts_s))[:TOP_FRAMES]
    calibration = rule.calibration
    p_fake = calibration.p_fake(score) if calibration else _sigmoid(score)
    verdict, reason = ("FAKE" if p_fake >= rule.threshold else "REAL"), None
    if calibration is None and not rule.forced:
        verdict, reason = "UNCERTAIN", "model_uncalibrated"
    return Judgement(
        verdict=verdict,
        reason=reason,
        score_raw=score,
        p_fake=p_fake,
        llr=calibration.llr(score) if calibration else None,
        calibrated=calibration is not None,
        threshold=rule.threshold if calibration or rule.forced else None,
        top_frames_s=tuple(dict.fromkeys(f.pts_s for f in top)),
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
