"""Scores of frames → one verdict that says why. Pure functions, no torch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dfscan.schemas.records import FrameScore
from dfscan.schemas.scoring import Aggregation, Evidence
from dfscan.schemas.status import SUCCEEDED
from dfscan.scoring.aggregation import aggregate, logit_of, long_tracks, sigmoid
from dfscan.scoring.calibration import Calibration

TOP_FRAMES: Final = 5

DISAGREE: Final = "frames_disagree"
"""The one reason to be UNCERTAIN that depends on the scores."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The judging part of a verdict; see the columns of the same names."""

    verdict: str | None
    reason: str | None
    score_raw: float | None = None
    p_fake: float | None = None
    llr: float | None = None
    calibrated: bool = False
    threshold: float | None = None
    tracks: tuple[dict[str, Any], ...] = ()
    top_frames_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How frames become a verdict.

    :param threshold: on ``p_fake``: at or above it a video is FAKE.
    :param explicit_threshold: the user gave the threshold, so an uncalibrated model may judge.
    :param min_frames: distinct frames with a face that a verdict needs.
    :param aggregation: how the faces' logits become one score.
    :param evidence: what a verdict other than UNCERTAIN needs; None: nothing.
    """

    calibration: Calibration | None
    threshold: float
    explicit_threshold: bool = False
    min_frames: int = 1
    aggregation: Aggregation = "mean"
    evidence: Evidence | None = None


def decide(
    status: str,
    status_reason: str | None,
    frames: Sequence[FrameScore],
    rule: DecisionRule,
    *,
    sampled: int | None = None,
    sharpness: float | None = None,
) -> Decision:
    """One verdict for one video.

    Nothing to judge (a failed video, no face, too few frames, no track of some length where the
    tracks decide) is a null verdict and its reason, never a score in the middle. Without a
    calibration the verdict is UNCERTAIN, unless the user named a threshold; so it is where the
    evidence is thin.

    :param sampled: how many frames were looked at.
    :param sharpness: the median of the faces', see :func:`dfscan.faces.quality.sharpness`.
    """
    if status not in SUCCEEDED:
        return Decision(None, status_reason or status)
    if not frames:
        return Decision(None, "no_face")
    with_face = len({f.frame_index for f in frames})
    if with_face < rule.min_frames:
        return Decision(None, f"too_few_frames ({with_face} of {rule.min_frames} with a face)")
    logits, owners = [f.score_raw for f in frames], [f.track_id for f in frames]
    if not all(math.isfinite(logit) for logit in logits):
        return Decision(None, "the model gave no finite score (NaN or infinity)")
    score = aggregate(rule.aggregation, logits, owners)
    if score is None:
        return Decision(None, f"no_track (none of {with_face} frames' faces is long enough)")
    people = len(long_tracks(logits, owners)) if rule.aggregation == "max_track" else 1
    top = sorted(frames, key=lambda f: (-f.score_raw, f.pts_s))[:TOP_FRAMES]
    calibration = rule.calibration
    p_fake = calibration.p_fake(score, people) if calibration else sigmoid(score)
    verdict, reason = ("FAKE" if p_fake >= rule.threshold else "REAL"), None
    thin = _thin(frames, rule, score, people, sampled, sharpness)
    if calibration is None and not rule.explicit_threshold:
        verdict, reason = "UNCERTAIN", "model_uncalibrated"
    elif thin:
        verdict, reason = "UNCERTAIN", "; ".join(thin)
    return Decision(
        verdict=verdict,
        reason=reason,
        score_raw=score,
        p_fake=p_fake,
        llr=calibration.llr(score, people) if calibration else None,
        calibrated=calibration is not None,
        threshold=rule.threshold if calibration or rule.explicit_threshold else None,
        tracks=_tracks(frames, calibration),
        top_frames_s=tuple(dict.fromkeys(f.pts_s for f in top)),
    )


def face_px(frames: Sequence[FrameScore]) -> float | None:
    """The median size of the faces in pixels: the side of a square as large as the box."""
    sides = [math.sqrt(max(0.0, (f.box[2] - f.box[0]) * (f.box[3] - f.box[1]))) for f in frames]
    return statistics.median(sides) if sides else None


def median_sharpness(values: Sequence[float]) -> float | None:
    """The median over faces, in single precision as a row stores it; None without a face."""
    return float(np.float32(statistics.median(values))) if values else None


def _thin(
    frames: Sequence[FrameScore],
    rule: DecisionRule,
    score: float,
    people: int,
    sampled: int | None,
    sharpness: float | None,
) -> list[str]:
    """Why this is too little to go by, if it is."""
    needed = rule.evidence
    if needed is None:
        return []
    reasons = []
    with_face = len({f.frame_index for f in frames})
    looked_at = with_face if sampled is None else sampled
    if with_face < min(needed.frames, looked_at):
        reasons.append(f"few_frames ({with_face} of {looked_at} with a face)")
    size = face_px(frames)
    if size is not None and size < needed.face_px:
        reasons.append(f"small_faces ({size:.0f} pixels)")
    if sharpness is not None and sharpness < needed.sharpness:
        reasons.append(f"blurred_faces (sharpness {sharpness:.4f})")
    if len(frames) > 1:
        spread = statistics.stdev(f.score_raw for f in frames) / math.sqrt(len(frames))
        if abs(score - _border(rule, people)) < needed.errors * spread:
            reasons.append(DISAGREE)
    return reasons


def _border(rule: DecisionRule, people: int) -> float:
    """The score at which a video becomes FAKE."""
    logit = logit_of(rule.threshold)
    if rule.calibration is None:
        return logit
    return (logit - rule.calibration.logit(0.0, people)) / rule.calibration.scale


def _tracks(
    frames: Sequence[FrameScore], calibration: Calibration | None
) -> tuple[dict[str, Any], ...]:
    """Every person: when, how many faces, how fake on average, and where (the median box)."""
    found: dict[int, list[FrameScore]] = {}
    for frame in frames:
        if frame.track_id is not None:
            found.setdefault(frame.track_id, []).append(frame)
    tracks = []
    for track, own in sorted(found.items()):
        mean = math.fsum(f.score_raw for f in own) / len(own)
        tracks.append(
            {
                "track_id": track,
                "first_s": min(f.pts_s for f in own),
                "last_s": max(f.pts_s for f in own),
                "faces": len(own),
                "score_raw": mean,
                "p_fake": calibration.p_fake(mean) if calibration else sigmoid(mean),
                "box": tuple(statistics.median(f.box[side] for f in own) for side in range(4)),
            }
        )
    return tuple(tracks)


def fuse_calibrations(calibrations: Sequence[Calibration | None]) -> Calibration | None:
    """The map for :func:`fuse_scores`'s scores: of one model its own, of several the identity.

    None where a model has none. Several models' log-odds are averaged (a logarithmic opinion pool:
    Genest and Zidek, Combining probability distributions, 1986), which is cautious: models that
    err apart are worth more than their mean.
    """
    known = [c for c in calibrations if c is not None]
    if len(known) < len(calibrations):
        return None
    if len(known) == 1:
        return known[0]
    first = known[0]
    return first.model_copy(
        update={
            "scale": 1.0,
            "offset": 0.0,
            "reals": min(c.reals for c in known),
            "fakes": min(c.fakes for c in known),
            "people": statistics.fmean(c.people for c in known),
            "threshold": None,
            "top_reals": (),
        }
    )


def fuse_scores(
    logits: Sequence[Sequence[float]], calibrations: Sequence[Calibration | None]
) -> list[float]:
    """One score a face of (M, N) logits of M models: of one its own, of several the mean.

    Where every one of several models is calibrated, their calibrated log-odds are averaged: logits
    of different networks have scales of their own.
    """
    if len(logits) == 1:
        return list(logits[0])
    if all(c is not None for c in calibrations):
        logits = [
            [c.scale * logit + c.offset for logit in own]
            for own, c in zip(logits, calibrations, strict=True)
            if c is not None
        ]
    return [math.fsum(face) / len(face) for face in zip(*logits, strict=True)]
