"""Metrics over logits and labels. Pure functions, no torch.

Everywhere ``logits`` are (N,) float64, higher = more fake, ``fake`` is (N,) bool, and a row is a
face or a video. scikit-learn computes most metrics. The bootstrap needs them a thousand times, so
it sorts once, sums by group, and weights each group by the number of times it was drawn, which
equals scikit-learn's ``sample_weight``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from dfscan.errors import ConfigError

Logits = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

RANKING: Final = ("auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr", "eer")
"""Metrics of the order of the scores, independent of the threshold."""
PROBABILITY: Final = ("log_loss", "ece", "cllr")
"""Metrics of the probabilities."""
DECISION: Final = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
"""Metrics of the verdicts."""
SCALARS: Final = (*RANKING, *PROBABILITY, *DECISION)
"""All metrics except ``cllr_min``, which is a bound rather than a result."""
NO_INTERVAL: Final = ("ece",)
"""Resampling increases each bin's gap, so percentiles of the sum lie above the true value."""

TITLES: Final = {
    "auc": "AUC",
    "average_precision": "average precision",
    "tpr_at_1pct_fpr": "fakes found at 1 % false alarms",
    "tpr_at_01pct_fpr": "fakes found at 0.1 % false alarms",
    "eer": "equal error rate",
    "log_loss": "log loss",
    "ece": "calibration error",
    "cllr": "Cllr, bits",
    "cllr_min": "Cllr at best, bits",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
"""Display names of the metrics."""

LEVEL: Final = 0.95
LOW_FPR: Final = 0.01
LOWER_FPR: Final = 0.001
CLIP: Final = 1e-15
"""Probabilities are clipped this far from 0 and 1, as by Kaggle and the DFDC competition."""
ECE_BINS: Final = 15
_LARGEST_LOSS: Final = -float(np.log(CLIP))
_CHUNK: Final = 1 << 20
"""Numbers drawn per chunk of resamples: arrays of 8 MB."""
_GRID: Final = 3000
"""With many more scores, curves are evaluated at about four times this many points."""

MIN_PER_CLASS: Final = 8
"""Fewest rows per class to diagnose a collapse."""
NEARLY_ALL: Final = 0.95
FLAT: Final = 0.05
"""Scores within this range of logits barely vary: p = 0.50 and 0.51."""
RANKS_WELL: Final = 0.75


@dataclass(frozen=True)
class Judged:
    """The outputs for N rows and their labels; (N,) each.

    ``scores`` rank the rows, higher = more fake. ``log_odds`` are the logits of ``p_fake``, ``llr``
    natural log-likelihood ratios; if one contains NaN, its metrics are None. ``called``: FAKE;
    ``decided``: REAL or FAKE rather than UNCERTAIN.
    """

    scores: Logits
    fake: Truth
    log_odds: Floats
    llr: Floats
    called: Truth
    decided: Truth

    @classmethod
    def from_logits(cls, logits: Logits, fake: Truth, threshold: float = 0.0) -> "Judged":
        """Use logits as scores, log-odds and llr; FAKE from ``threshold``."""
        wide = np.asarray(logits, np.float64)
        return cls(wide, fake, wide, wide, wide >= np.float64(threshold), np.ones(len(fake), bool))

    def part(self, rows: npt.NDArray[Any]) -> "Judged":
        """Select rows by (N,) bool or by indices."""
        return Judged(*(getattr(self, field.name)[rows] for field in fields(self)))


def binary_metrics(logits: Logits, fake: Truth, threshold: float = 0.0) -> dict[str, Any]:
    """:func:`summary_metrics` of logits that are FAKE from ``threshold`` (a logit) on, which is added."""
    return summary_metrics(Judged.from_logits(logits, fake, threshold)) | {
        "threshold": float(threshold)
    }


def summary_metrics(judged: Judged) -> dict[str, Any]:
    """All metrics, without intervals.

    ``auc``, ``average_precision``; ``tpr_at_1pct_fpr`` and ``tpr_at_01pct_fpr``, the largest share
    of fakes found by a threshold that calls at most 1 % (0.1 %) of the reals FAKE (without
    interpolation, so with fewer than 100 (1000) reals none may be); ``eer``, see
    :func:`equal_error_rate`; ``log_loss`` in nats, see :func:`log_losses`; ``ece``, see
    :func:`calibration_error`; ``cllr`` and ``cllr_min`` in bits, see :func:`cllr` and
    :func:`cllr_min`; and, over the decided rows, ``accuracy``, ``balanced_accuracy``,
    ``precision``, ``recall``, ``f1`` and ``confusion`` with its four counts by name.
    ``undecided`` counts the rest.

    Undefined metrics are None: if a class is missing, all but ``log_loss``, ``ece``, ``accuracy``
    and the recall of fakes, with the reason in ``note``; ``precision`` if nothing is called FAKE;
    metrics of probabilities if a row has none.
    """
    fake = judged.fake
    fakes = int(fake.sum())
    result: dict[str, Any] = {"reals": len(fake) - fakes, "fakes": fakes}
    result |= dict.fromkeys((*SCALARS, "cllr_min"))
    result |= _decided(judged)
    if not len(fake):
        return result | {"note": "nothing to measure"}
    if np.isfinite(judged.log_odds).all():
        result["log_loss"] = float(log_losses(judged.log_odds, fake).mean())
        result["ece"] = calibration_error(expit(judged.log_odds), fake)
    if fakes in (0, len(fake)):
        only = "FAKE" if fakes else "REAL"
        return result | {"note": f"only {only} here: no AUC"}
    fpr, tpr, _ = roc_curve(fake, judged.scores, drop_intermediate=False)
    if np.isfinite(judged.llr).all():
        result["cllr"] = cllr(judged.llr, fake)
        result["cllr_min"] = cllr_min(judged.scores, fake)
    return result | {
        "auc": float(roc_auc_score(fake, judged.scores)),
        "average_precision": float(average_precision_score(fake, judged.scores)),
        "tpr_at_1pct_fpr": float(tpr[fpr <= LOW_FPR].max()),
        "tpr_at_01pct_fpr": float(tpr[fpr <= LOWER_FPR].max()),
        "eer": float(equal_error_rate(fpr, tpr)),
    }


def _decided(judged: Judged) -> dict[str, Any]:
    """The :data:`DECISION` metrics of the decided rows, if defined."""
    fake, called = judged.fake[judged.decided], judged.called[judged.decided]
    counts = dict.fromkeys(("tn", "fp", "fn", "tp"), 0)
    result: dict[str, Any] = {"undecided": int((~judged.decided).sum()), "confusion": counts}
    if not len(fake):
        return result
    matrix = confusion_matrix(fake, called, labels=[False, True]).ravel().tolist()
    result["confusion"] = dict(zip(counts, matrix, strict=True))
    result["accuracy"] = float(accuracy_score(fake, called))
    if fake.any():
        result["recall"] = float(recall_score(fake, called))
    if 0 < fake.sum() < len(fake):
        result["balanced_accuracy"] = float(balanced_accuracy_score(fake, called))
        result["precision"] = float(precision_score(fake, called)) if called.any() else None
        result["f1"] = float(f1_score(fake, called))
    return result


def log_losses(log_odds: Floats, fake: Truth) -> Floats:
    """Each row's log loss in nats, (N,): minus the logarithm of the probability of its label.

    Probabilities are clipped to [1e-15, 1 - 1e-15], as in Kaggle's log loss for the DFDC
    competition, so no loss exceeds 34.54.
    """
    losses: Floats = np.logaddexp(0, np.where(fake, -log_odds, log_odds))
    return np.minimum(losses, _LARGEST_LOSS)


def calibration_error(p_fake: Floats, fake: Truth) -> float:
    """The expected calibration error: mean gap between probabilities and shares of fakes.

    Over 15 bins of equal width of ``p_fake``, weighted by their rows: C. Guo et al., On calibration
    of modern neural networks, 2017, with the probability of FAKE instead of the confidence in the
    likelier class. It applies to the rows' share of fakes.
    """
    place = _bin_of(p_fake)
    gaps = np.bincount(place, weights=p_fake - fake, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(fake))


def _bin_of(p_fake: Floats) -> npt.NDArray[np.int64]:
    places: npt.NDArray[np.int64] = np.minimum(p_fake * ECE_BINS, ECE_BINS - 1).astype(np.int64)
    return places


def cllr(llr: Floats, fake: Truth) -> float:
    """The cost of log-likelihood ratios (natural logarithm) in bits, with equal class weights. 0:
    perfect, 1: no information; independent of the share of fakes. N. Brümmer and J. du Preez,
    Application-independent evaluation of speaker detection, 2006. Needs both classes.
    """
    bits = np.logaddexp(0, -llr[fake]).mean() + np.logaddexp(0, llr[~fake]).mean()
    return float(bits / (2 * np.log(2)))


def cllr_min(scores: Logits, fake: Truth) -> float:
    """:func:`cllr` after the best monotonic calibration of the scores, the discrimination part.

    The map is fitted to the same rows by pooling adjacent violators (same source), so it is
    optimistic if they are few. Needs both classes.
    """
    ranked = _rank(scores, fake)
    rows = np.diff(ranked.ends, prepend=-1)
    found = np.diff(np.cumsum(ranked.fake)[ranked.ends], prepend=0)
    share = isotonic_regression(found / rows, sample_weight=rows, increasing=False)
    prior = np.log(fake.sum() / (~fake).sum())
    with np.errstate(divide="ignore"):  # certain and right: no cost
        ratio = np.log(share) - np.log1p(-share) - prior
    fakes, reals = np.repeat(ratio, found), np.repeat(ratio, rows - found)
    bits = np.logaddexp(0, -fakes).mean() + np.logaddexp(0, reals).mean()
    return float(bits / (2 * np.log(2)))


def equal_error_rate(fpr: Floats, tpr: Floats) -> npt.NDArray[np.float64]:
    """The error rate at which false positives and false negatives are equal, along the last axis.

    :param fpr: (…, K) false-positive rates of a ROC curve, increasing from 0 to 1.
    :param tpr: (…, K) true-positive rates.
    :returns: (…) rates. Between two thresholds the curve is interpolated linearly, as for AUC (T.
        Fawcett, An introduction to ROC analysis, 2006: a point on the line is reached by choosing
        between its ends at random). It is never below the rate on the curve's convex hull, which
        some toolkits report instead.
    """
    gap = fpr + tpr - 1
    after = np.argmax(gap >= 0, axis=-1)[..., None]
    x0, x1 = (np.take_along_axis(fpr, k, -1)[..., 0] for k in (after - 1, after))
    g0, g1 = (np.take_along_axis(gap, k, -1)[..., 0] for k in (after - 1, after))
    found: Floats = x0 + (x1 - x0) * g0 / (g0 - g1)
    return found


def by_video(
    video_ids: Sequence[str], logits: Logits, fake: Truth
) -> tuple[list[str], Logits, Truth]:
    """Faces → videos: the mean logit and the truth of each video, sorted by id."""
    names, inverse = np.unique(np.asarray(video_ids, dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(inverse, minlength=len(names))
    means = np.bincount(inverse, weights=logits, minlength=len(names)) / np.maximum(counts, 1)
    truth = np.zeros(len(names), dtype=bool)
    truth[inverse] = fake
    return names.tolist(), means, truth


def groups_by_video(
    video_ids: Sequence[str], groups: Sequence[Any] | npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The group of each video, in the order of :func:`by_video`."""
    names = np.asarray(video_ids, dtype=object).astype(str)
    _, first = np.unique(names, return_index=True)
    found: npt.NDArray[Any] = np.asarray(groups)[first]
    return found


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals of the metrics of :func:`summary_metrics`.

    ``bounds``: metric → (low, high), None if the metric or its interval is undefined. ``left_out``
    is the number of ``resamples`` that lacked a class and were not used. ``note`` says why there
    are no intervals at all.
    """

    bounds: dict[str, tuple[float, float] | None]
    groups: int
    resamples: int
    left_out: int = 0
    level: float = LEVEL
    note: str | None = None

    def as_json(self, seed: int) -> dict[str, Any]:
        """``intervals`` (metric → [low, high] or None) and ``bootstrap`` (how they were
        computed)."""
        how = {
            "level": self.level,
            "groups": self.groups,
            "resamples": self.resamples,
            "left_out": self.left_out,
            "seed": seed,
            "note": self.note,
        }
        bounds = {name: list(pair) if pair else None for name, pair in self.bounds.items()}
        return {"intervals": bounds, "bootstrap": how}


Groups = Sequence[Any] | npt.NDArray[Any]


def bootstrap(
    logits: Logits,
    fake: Truth,
    groups: Groups,
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    """:func:`intervals` of logits that are FAKE from ``threshold`` (a logit) on."""
    return intervals(Judged.from_logits(logits, fake, threshold), groups, resamples, seed)


def intervals(judged: Judged, groups: Groups, resamples: int = 1000, seed: int = 0) -> Intervals:
    """95 % percentile bootstrap intervals over groups of related rows.

    Faces of one video, and videos of one original, are not independent: whole groups are drawn with
    replacement (A. Davison and D. Hinkley, Bootstrap methods and their application, 1997, on
    hierarchical data). The intervals depend on the groups and ``seed``, not on the order of rows.
    ``groups`` is (N,), any sortable values. With few groups (below about 20) the intervals are too
    narrow.

    There is no interval if a class has fewer than two groups, and never one for ``ece``: it sums
    absolute gaps, which resampling increases, so the percentiles of a well-calibrated model all lie
    above its error. The same holds for differences.
    """
    return _intervals([judged], groups, resamples, seed)


def _intervals(sides: Sequence[Judged], groups: Groups, resamples: int, seed: int) -> Intervals:
    """Intervals of one set of outputs, or of the first minus the second on the same rows."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    fake = sides[0].fake
    spread = min(len(np.unique(group[fake == side])) for side in (False, True))
    if spread < 2:
        note = f"no intervals: a class has {spread} group(s), at least 2 are needed"
        return Intervals(dict.fromkeys(SCALARS), len(names), resamples=0, note=note)
    summed = [_sum_up(side, group, len(names)) for side in sides]
    random = np.random.default_rng(seed)
    size = max(1, _CHUNK // max(len(names), *(s.fakes.shape[0] for s in summed)))
    drawn = []
    for start in range(0, resamples, size):
        counts = _multiplicities(len(names), min(size, resamples - start), random)
        drawn.append([_resampled(s, counts) for s in summed])
    bounds: dict[str, tuple[float, float] | None] = {}
    for name in SCALARS:
        if name in NO_INTERVAL:
            bounds[name] = None
            continue
        first, *second = (np.concatenate([d[i][name] for d in drawn]) for i in range(len(sides)))
        bounds[name] = _percentiles(first - second[0] if second else first)
    used = sum(len(part[0]["auc"]) for part in drawn)
    return Intervals(bounds, len(names), resamples, left_out=resamples - used)


def measure(
    logits: Logits,
    fake: Truth,
    groups: Groups,
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """:func:`binary_metrics` with its intervals, ready for JSON.

    Adds ``intervals`` (metric → [low, high] or None) and ``bootstrap`` (how they were computed).
    """
    found = bootstrap(logits, fake, groups, threshold, resamples, seed)
    return binary_metrics(logits, fake, threshold) | found.as_json(seed)


def measured(
    judged: Judged, groups: Groups, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """:func:`summary_metrics` with their intervals, as :func:`measure` adds them."""
    return summary_metrics(judged) | intervals(judged, groups, resamples, seed).as_json(seed)


def compare(
    first: Judged, second: Judged, groups: Groups, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare two models on the same rows: each metric of the first minus that of the second.

    The intervals are those of the difference: each resample draws the same groups for both, so
    shared difficulty cancels out. ``mcnemar``: see :func:`mcnemar`, over the rows that both decide.

    :returns: metric → difference (None if either is undefined), ``intervals``, ``bootstrap``,
        ``mcnemar``.
    """
    ours, theirs = summary_metrics(first), summary_metrics(second)
    differences: dict[str, Any] = {
        name: None if ours[name] is None or theirs[name] is None else ours[name] - theirs[name]
        for name in (*SCALARS, "cllr_min")
    }
    both = first.decided & second.decided
    right = [side.called[both] == side.fake[both] for side in (first, second)]
    found = _intervals([first, second], groups, resamples, seed)
    return differences | found.as_json(seed) | {"mcnemar": mcnemar(*right)}


def mcnemar(first: Truth, second: Truth) -> dict[str, Any]:
    """Whether two models are right equally often: McNemar's exact test (Q. McNemar, 1947).

    :param first: (N,) whether the first is right.
    :param second: whether the second is.
    :returns: ``rows``, ``only_first`` and ``only_second`` right, and ``p``, the two-sided
        probability of a split at least as uneven if both are equally good. It assumes independent
        rows; videos of one original are not independent, so rely on the intervals for them.
    """
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return {"rows": len(first), "only_first": ours, "only_second": theirs, "p": p}


@dataclass(frozen=True)
class _Ranked:
    """Rows by decreasing score.

    ``order`` (N,) into the rows as given; ``fake`` (N,) in that order; ``ends`` (K,) the last row
    of each run of equal scores, ``scores`` (K,) those scores.
    """

    order: npt.NDArray[np.int64]
    fake: Truth
    ends: npt.NDArray[np.int64]
    scores: Floats


def _rank(logits: Logits, fake: Truth) -> _Ranked:
    order = np.argsort(-logits, kind="stable")
    scores, truth = logits[order], fake[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return _Ranked(order, truth, ends, scores[ends])


def _thinned(ranked: _Ranked) -> npt.NDArray[np.int64]:
    """The points at which a curve is evaluated: all run ends, or a subset if there are very many.

    The subset is dense among the highest scores, where low false-positive rates are read (within 1
    % of the rate), and evenly spread elsewhere. It changes the AUC by less than 1e-5 and the
    average precision by less than 1e-4.
    """
    if len(ranked.ends) <= 4 * _GRID:
        return ranked.ends
    rows = ranked.ends + 1
    found = np.cumsum(ranked.fake)[ranked.ends]
    kept = [np.array([len(rows) - 1])]
    for counts in (found, rows - found):
        for grid in (np.geomspace(1, counts[-1], _GRID), np.linspace(1, counts[-1], _GRID)):
            kept.append(np.searchsorted(counts, grid))
    places = np.unique(np.concatenate(kept))
    ends: npt.NDArray[np.int64] = ranked.ends[places]
    return ends


@dataclass(frozen=True)
class _Summed:
    """Sums over rows by their G groups, for resampling.

    ``fakes`` and ``reals`` (K, G): counts in each run of equal scores, in decreasing order.
    ``sums`` name → (G,).
    """

    fakes: csr_array
    reals: csr_array
    sums: dict[str, Floats]


def _sum_up(judged: Judged, group: npt.NDArray[np.int64], groups: int) -> _Summed:
    ranked, fake = _rank(judged.scores, judged.fake), judged.fake
    ends = _thinned(ranked)
    run = np.empty(len(fake), np.int64)
    run[ranked.order] = np.searchsorted(ends, np.arange(len(fake)))
    sides = [
        csr_array((np.ones(int(side.sum())), (run[side], group[side])), shape=(len(ends), groups))
        for side in (fake, ~fake)
    ]

    def total(weights: npt.NDArray[Any]) -> Floats:
        return np.bincount(group, weights=weights, minlength=groups).astype(np.float64)

    with np.errstate(invalid="ignore"):  # NaN stays NaN
        losses = log_losses(judged.log_odds, fake)
        bits = np.logaddexp(0, np.where(fake, -judged.llr, judged.llr))
    right = judged.called == fake
    sums: dict[str, Floats] = {
        "fakes": total(fake),
        "reals": total(~fake),
        "loss": total(losses),
        "bits_of_fakes": total(np.where(fake, bits, 0)),
        "bits_of_reals": total(np.where(fake, 0, bits)),
        "tp": total(judged.decided & fake & right),
        "fn": total(judged.decided & fake & ~right),
        "tn": total(judged.decided & ~fake & right),
        "fp": total(judged.decided & ~fake & ~right),
    }
    return _Summed(sides[0], sides[1], sums)


def _multiplicities(groups: int, resamples: int, random: np.random.Generator) -> Floats:
    """(resamples, groups): how often each group was drawn."""
    drawn = random.integers(groups, size=(resamples, groups))
    drawn += groups * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return counts.reshape(resamples, groups).astype(np.float64)


def _resampled(summed: _Summed, counts: Floats) -> dict[str, npt.NDArray[np.float64]]:
    """Metrics of the (B, G) resamples that contain both classes; NaN where undefined."""
    sums = summed.sums
    counts = counts[(counts @ sums["fakes"] > 0) & (counts @ sums["reals"] > 0)]
    drawn = {name: counts @ each for name, each in sums.items()}
    fakes, reals = drawn["fakes"], drawn["reals"]
    across = np.ascontiguousarray(counts.T)
    found, called = (
        np.cumsum(np.ascontiguousarray((side @ across).T), axis=1)
        for side in (summed.fakes, summed.reals)
    )
    return {
        **_ranking(found, called),
        "log_loss": drawn["loss"] / (fakes + reals),
        "cllr": (drawn["bits_of_fakes"] / fakes + drawn["bits_of_reals"] / reals) / (2 * np.log(2)),
        **_decisions(*(drawn[name] for name in ("tp", "fp", "fn", "tn"))),
    }


def _ranking(tp: Floats, fp: Floats) -> dict[str, npt.NDArray[np.float64]]:
    """The :data:`RANKING` metrics of (B, K) counts at decreasing thresholds."""
    called = tp + fp
    precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
    tpr = np.pad(tp / tp[:, -1:], ((0, 0), (1, 0)))
    fpr = np.pad(fp / fp[:, -1:], ((0, 0), (1, 0)))
    gained = np.diff(tpr, axis=1)
    return {
        "auc": (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2,
        "average_precision": (gained * precision).sum(axis=1),
        "tpr_at_1pct_fpr": np.where(fpr <= LOW_FPR, tpr, 0).max(axis=1),
        "tpr_at_01pct_fpr": np.where(fpr <= LOWER_FPR, tpr, 0).max(axis=1),
        "eer": equal_error_rate(fpr, tpr),
    }


def _decisions(
    tp: Floats, fp: Floats, fn: Floats, tn: Floats
) -> dict[str, npt.NDArray[np.float64]]:
    """The :data:`DECISION` metrics of (B,) counts."""
    recall = _share(tp, tp + fn)
    both = (tp + fn > 0) & (tn + fp > 0)
    return {
        "accuracy": _share(tp + tn, tp + fp + fn + tn),
        "balanced_accuracy": (recall + _share(tn, tn + fp)) / 2,
        "precision": np.where(both, _share(tp, tp + fp), np.nan),
        "recall": recall,
        "f1": np.where(both, _share(2 * tp, 2 * tp + fp + fn), np.nan),
    }


def _share(some: Floats, of: Floats) -> Floats:
    return np.divide(some, of, out=np.full_like(some, np.nan), where=of > 0)


def _percentiles(values: Floats) -> tuple[float, float] | None:
    """The interval of one metric over the resamples in which it is defined."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def target_fpr(rule: str) -> float | None:
    """The rate in ``"fpr=0.01"``; None for the rules ``"f1"`` and ``"youden"``.

    :raises ConfigError: the rule is unknown.
    """
    if rule in ("f1", "youden"):
        return None
    name, _, number = rule.partition("=")
    try:
        share = float(number) if name == "fpr" else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError(
            f"threshold rule: got {rule!r}; must be f1, youden, or a false-positive rate from 0 to "
            "below 1, as in fpr=0.01"
        )
    return share


def choose_threshold(logits: Logits, fake: Truth, rule: str) -> float | None:
    """Choose the logit from which a row is called FAKE, on validation data.

    ``"f1"``: the best F1 of the precision-recall curve. ``"youden"``: the best true-positive minus
    false-positive rate (W. Youden, Index for rating diagnostic tests, 1950). ``"fpr=0.01"``: the
    most fakes found while at most that share of the reals is called FAKE.

    It lies halfway between the lowest score called FAKE and the next lower one. Of equally good
    thresholds, the highest is returned: the lowest score if everything should be FAKE, or the next
    number above the highest score if nothing may be. :returns: None if a class is missing. :raises
    ConfigError: ``rule`` is unknown.
    """
    target = target_fpr(rule)
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if not fakes or not reals:
        return None
    ranked = _rank(logits, fake)
    tp = np.cumsum(ranked.fake)[ranked.ends]
    fp = ranked.ends + 1 - tp
    if target is not None:
        worth = np.where(fp / reals <= target, tp, 0)
    else:
        worth = 2 * tp / (tp + fp + fakes) if rule == "f1" else tp * reals - fp * fakes
    best = int(np.argmax(worth))
    if target is not None and not worth[best]:
        return float(np.nextafter(ranked.scores[0], np.inf))
    return _halfway(ranked.scores, best)


def _halfway(scores: Floats, place: int) -> float:
    """The midpoint of a score and the next lower one; the score itself if there is no number
    between."""
    upper = float(scores[place])
    lower = float(scores[min(place + 1, len(scores) - 1)])
    middle = lower + (upper - lower) / 2
    return middle if lower < middle else upper


def collapsed(logits: Logits, threshold: float, fake: Truth) -> str | None:
    """A warning if a model calls nearly everything one class, or if scores barely vary.

    Each class is examined separately, so a good model on data with few fakes passes. "Nearly
    everything" means at least 95 % of the reals and 95 % of the fakes; scores barely vary if 98 %
    of each class lie within a range of 0.05 logits.

    :returns: None if there is no such problem, or if a class has fewer than 8 rows.
    """
    sides = [logits[fake == side] for side in (False, True)]
    if min(len(s) for s in sides) < MIN_PER_CLASS:
        return None
    called = [float((s >= np.float64(threshold)).mean()) for s in sides]
    bounds = np.array([np.quantile(s, [0.01, 0.99]) for s in sides])
    width = float(bounds.max() - bounds.min())
    auc = float(roc_auc_score(fake, logits))
    if width < FLAT:
        what = f"the scores barely vary: nearly all lie within {width:.2g} on the logit"
        hope = "train longer or with a higher learning rate"
    elif min(called) >= NEARLY_ALL or max(called) <= 1 - NEARLY_ALL:
        verdict, shares = "FAKE", called
        if max(called) <= 1 - NEARLY_ALL:
            verdict, shares = "REAL", [1 - c for c in called]
        what = (
            f"at threshold {threshold:.3g} nearly everything is called {verdict}: "
            f"{100 * shares[0]:.1f} % of the reals and {100 * shares[1]:.1f} % of the fakes"
        )
        hope = "the scores do rank fakes above reals, so choose another threshold"
    else:
        return None
    if auc < RANKS_WELL:
        hope = "the model has collapsed or learned little"
    return f"{what} (AUC {auc:.3f}; {hope})"


def by_attribute(
    values: Sequence[str | None],
    logits: Logits,
    fake: Truth,
    threshold: float = 0.0,
    groups: Groups | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics for each value of an attribute (manipulation, difficulty, …).

    Fakes with the value are compared with reals of the same value if there are any (such as a
    compression level), otherwise with all reals; ``against`` says which.

    :param values: (N,) the attribute of each row, or None.
    :param groups: (N,) as in :func:`bootstrap`; None: no intervals.
    :returns: value → :func:`measure` (without groups: :func:`binary_metrics`) and ``against``,
        sorted by value; values without fakes are omitted.
    """
    found: dict[str, dict[str, Any]] = {}
    fakes_have = {
        str(v) for v, is_fake in zip(values, fake, strict=True) if is_fake and v is not None
    }
    for value in sorted(fakes_have):
        rows, against = rows_of(value, values, fake)
        if groups is None:
            told = binary_metrics(logits[rows], fake[rows], threshold)
        else:
            told = measure(logits[rows], fake[rows], np.asarray(groups)[rows], threshold)
        found[value] = told | {"against": against}
    return found


def rows_of(value: str, values: Sequence[str | None], fake: Truth) -> tuple[Truth, str]:
    """The fakes of a value and the reals they are compared with, (N,) bool; and which reals those
    are."""
    same = np.array([v is not None and str(v) == value for v in values], dtype=bool)
    alike = same & ~fake
    if alike.any():
        return same, f"reals of {value}"
    return same | ~fake, "all reals"


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram, (K,) each: mean probability, share of fakes, rows."""

    predicted: Floats
    observed: Floats
    counts: npt.NDArray[np.int64]


def reliability(
    p_fake: Floats, fake: Truth, bins: int = 10, prior: float | None = None
) -> Reliability:
    """The share of fakes by predicted probability.

    Bins hold equally many rows (fewer bins if probabilities are equal), as in scikit-learn's
    ``calibration_curve(strategy="quantile")``.

    :param p_fake: (N,) probabilities.
    :param prior: the share of fakes that ``p_fake`` assumes: classes are weighted to that share.
        Default: no weighting.
    """
    edges = np.quantile(p_fake, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, p_fake)
    weights = np.ones(len(fake))
    if prior is not None and 0 < fake.sum() < len(fake):
        weights = np.where(fake, prior / fake.mean(), (1 - prior) / (1 - fake.mean()))
    mass, probability, fakes = (
        np.bincount(place, weights=w, minlength=bins)
        for w in (weights, weights * p_fake, weights * fake)
    )
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    return Reliability(
        (probability[filled] / mass[filled]), (fakes[filled] / mass[filled]), counts[filled]
    )
