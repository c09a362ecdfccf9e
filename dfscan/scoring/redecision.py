"""Stored verdict rows → decisions, without opening a video.

A row holds every number that decides about it, and the record in its file's metadata
(:mod:`dfscan.verdicts.provenance`) the rule. So the recorded decision can be checked, and another
threshold or calibration applied.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dfscan.errors import ConfigError
from dfscan.schemas.records import FrameScore
from dfscan.schemas.scoring import Evidence
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.decision import (
    Decision,
    DecisionRule,
    decide,
    fuse_calibrations,
    fuse_scores,
)

Calibrations = Sequence[Calibration | None]


def record_calibrations(models: Sequence[str], calibrations: Calibrations) -> dict[str, Any]:
    """A record's entry for one scoring pass: SHA-256 of the model file → its calibration as JSON.

    The scores of held-out reals are left out: they choose thresholds and decide about no row.
    """
    return {
        sha256: own.model_dump(mode="json", exclude={"top_reals"}) if own else None
        for sha256, own in zip(models, calibrations, strict=True)
    }


def recorded_rule(
    record: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[DecisionRule, tuple[Calibration | None, ...]]:
    """The rule that decided about a row, and the calibrations of its models in their order.

    :param record: the entry of the row's ``config_hash``. :param row: a row of the verdict table.
    :raises ConfigError: the record does not hold calibrations, since an earlier dfscan wrote it.
    """
    name = row["look"] or "full"
    recorded = record.get("calibrations")
    if recorded is None:
        raise ConfigError(
            "the record of how it was scored holds no calibration: an earlier dfscan wrote it",
            code="record.unsupported",
        )
    own = [recorded[name][sha256] for sha256 in row["custody"]["models"]]
    calibrations = tuple(None if c is None else Calibration.model_validate(c) for c in own)
    rule = DecisionRule(
        calibration=fuse_calibrations(calibrations),
        threshold=record["triage" if name == "quick" else "threshold"],
        explicit_threshold=record["forced"],
        min_frames=record["min_frames"],
        aggregation=record["aggregation"],
        evidence=Evidence.model_validate(record["evidence"]),
    )
    return rule, calibrations


def redecide(row: Mapping[str, Any], rule: DecisionRule, calibrations: Calibrations) -> Decision:
    """What a rule decides about a stored row.

    :param row: a row of the verdict table, with its frames.
    :param calibrations: of the row's models in their order. They weigh several models against each
        other; a row without ``logits``, as of one model, keeps its scores.
    """
    return decide(
        row["status"],
        row["reason"],
        _frames(row, calibrations),
        rule,
        sampled=row["frames_sampled"],
        sharpness=row["median_sharpness"],
    )


def _frames(row: Mapping[str, Any], calibrations: Calibrations) -> list[FrameScore]:
    frames = row["frames"] or []
    scores = [frame["score_raw"] for frame in frames]
    members = [frame.get("logits") for frame in frames]
    if members and None not in members:
        fused = fuse_scores(list(zip(*members, strict=True)), calibrations)
        scores = np.array(fused, np.float32).tolist()  # as scoring stores them
    return [
        FrameScore(
            pts_s=frame["pts_s"],
            frame_index=frame["frame_index"],
            track_id=frame["track_id"],
            box=tuple(frame["box"]),
            score_raw=score,
            logits=frame.get("logits"),
        )
        for frame, score in zip(frames, scores, strict=True)
    ]
