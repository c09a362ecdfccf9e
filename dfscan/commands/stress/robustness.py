"""Verdicts under each condition against those on the originals → a row of figures a condition.

Pure arithmetic over what the verdict files say; no file is opened.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dfscan.evaluation.metrics import Judged, compare, measure
from dfscan.schemas.status import SUCCEEDED
from dfscan.video.transforms import CONDITIONS, NOT_APPLICABLE, ORIGINAL

_DECIDED: Final = ("REAL", "FAKE")
_SHOWN: Final = 50
"""So many flipped videos are named a condition."""


@dataclass(frozen=True)
class Outcome:
    """What became of one video under one condition; the fields are columns of its verdict."""

    status: str
    reason: str | None
    verdict: str | None
    score_raw: float | None
    elapsed_s: float | None

    @property
    def applies(self) -> bool:
        """Whether the condition has a meaning for it."""
        return self.reason != NOT_APPLICABLE


@dataclass(frozen=True)
class Truth:
    """What a video is, None where that is not known; and the group it must not be torn from."""

    label: str | None
    group: str


Outcomes = Mapping[str, Outcome]
"""By ``video_id``."""


def outcomes(table: pa.Table) -> dict[str, Outcome]:
    """The rows of a verdict file."""
    names = ("status", "reason", "verdict", "score_raw", "elapsed_s")
    rows = table.select(["video_id", *names]).to_pylist()
    return {row.pop("video_id"): Outcome(**row) for row in rows}


def failures(found: Outcomes) -> int:
    """Videos that could not be looked at, those left out to which the condition does not apply."""
    return sum(o.applies and o.status not in SUCCEEDED for o in found.values())


def stress_rows(
    conditions: Mapping[str, Outcomes], truth: Mapping[str, Truth], seed: int = 0
) -> list[dict[str, Any]]:
    """A row a condition, :data:`~dfscan.video.transforms.ORIGINAL` among them.

    ``videos`` are those it applies to (``not_applicable`` the others), of which ``failed`` could not
    be looked at and ``no_verdict`` have none, the failed included. ``auc`` with its 95 % interval is
    of the ``auc_videos`` that are labelled and have a score; ``auc_change`` is against the original
    on the same videos, its interval paired. ``accuracy`` is of the ``decided``, which are labelled and
    called REAL or FAKE.

    Of the ``compared`` videos ``real_to_fake`` and ``fake_to_real`` are flips, ``flipped`` both;
    ``to_uncertain`` were REAL or FAKE, ``to_none`` had a verdict, ``from_uncertain`` are REAL or
    FAKE now, ``from_none`` have a verdict now. ``score_change_mean`` and ``score_change_median`` are
    of the logit, over the videos that have one both times. ``flipped_videos`` names the first flips.
    ``seconds_a_video`` is the mean time of decoding, encoding and looking.

    :param seed: of the bootstrap.
    """
    original = conditions[ORIGINAL]
    return [_row(name, found, original, truth, seed) for name, found in conditions.items()]


def _row(
    name: str, found: Outcomes, original: Outcomes, truth: Mapping[str, Truth], seed: int
) -> dict[str, Any]:
    here = {video: o for video, o in found.items() if o.applies}
    times = [o.elapsed_s for o in here.values() if o.elapsed_s is not None]
    return {
        "condition": name,
        "does": CONDITIONS[name].does if name in CONDITIONS else "the file as it is",
        "videos": len(here),
        "not_applicable": len(found) - len(here),
        "failed": failures(found),
        "no_verdict": sum(o.verdict is None for o in here.values()),
        **_against_truth(here, original, truth, seed),
        **_against_original(here, original),
        "seconds_a_video": statistics.fmean(times) if times else None,
    }


def _against_truth(
    here: Outcomes, original: Outcomes, truth: Mapping[str, Truth], seed: int
) -> dict[str, Any]:
    """AUC and accuracy; None where there is no truth, or of one class only."""
    known = [v for v in sorted(here) if truth[v].label is not None]
    scored = [v for v in known if here[v].score_raw is not None]
    decided = [v for v in known if here[v].verdict in _DECIDED]
    found: dict[str, Any] = {
        "auc": None,
        "auc_interval": None,
        "auc_videos": len(scored),
        "auc_change": None,
        "auc_change_interval": None,
        "accuracy": None,
        "decided": len(decided),
    }
    if decided:
        found["accuracy"] = statistics.fmean(here[v].verdict == truth[v].label for v in decided)
    found |= _auc(scored, here, truth, seed)
    both = [v for v in scored if v in original and original[v].score_raw is not None]
    now, before = _judged(both, here, truth), _judged(both, original, truth)
    if 0 < now.fake.sum() < len(both):
        paired = compare(now, before, [truth[v].group for v in both], seed=seed)
        found |= {"auc_change": paired["auc"], "auc_change_interval": paired["intervals"]["auc"]}
    return found


def _auc(
    scored: Sequence[str], here: Outcomes, truth: Mapping[str, Truth], seed: int
) -> dict[str, Any]:
    judged = _judged(scored, here, truth)
    if not 0 < judged.fake.sum() < len(scored):
        return {}
    groups = [truth[v].group for v in scored]
    measured = measure(judged.scores, judged.fake, groups, seed=seed)
    return {"auc": measured["auc"], "auc_interval": measured["intervals"]["auc"]}


def _judged(videos: Sequence[str], found: Outcomes, truth: Mapping[str, Truth]) -> Judged:
    fake = np.array([truth[v].label == "FAKE" for v in videos], dtype=bool)
    return Judged.from_logits(np.array([found[v].score_raw for v in videos], np.float64), fake)


def _against_original(here: Outcomes, original: Outcomes) -> dict[str, Any]:
    both = [(v, original[v], here[v]) for v in sorted(here) if v in original]
    moves = Counter((before.verdict, after.verdict) for _, before, after in both)
    changes = [
        after.score_raw - before.score_raw
        for _, before, after in both
        if before.score_raw is not None and after.score_raw is not None
    ]
    flipped = [v for v, before, after in both if {before.verdict, after.verdict} == set(_DECIDED)]
    return {
        "compared": len(both),
        "flipped": len(flipped),
        "real_to_fake": moves["REAL", "FAKE"],
        "fake_to_real": moves["FAKE", "REAL"],
        "to_uncertain": _sum(moves, _DECIDED, ("UNCERTAIN",)),
        "to_none": _sum(moves, (*_DECIDED, "UNCERTAIN"), (None,)),
        "from_uncertain": _sum(moves, ("UNCERTAIN",), _DECIDED),
        "from_none": _sum(moves, (None,), (*_DECIDED, "UNCERTAIN")),
        "score_change_mean": statistics.fmean(changes) if changes else None,
        "score_change_median": statistics.median(changes) if changes else None,
        "flipped_videos": flipped[:_SHOWN],
    }


def _sum(
    moves: Counter[tuple[str | None, str | None]],
    before: Sequence[str | None],
    after: Sequence[str | None],
) -> int:
    return sum(moves[b, a] for b in before for a in after)
