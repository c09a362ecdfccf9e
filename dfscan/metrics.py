"""Metrics over logits and truth, with intervals and thresholds. Pure functions, no torch.

Everywhere ``logits`` are (N,) float64, higher = more fake, ``fake`` is (N,) bool, and a row is a
face or a video. scikit-learn does the arithmetic of the figures themselves. The bootstrap needs
the same figures a thousand times, so it sorts once and counts each row as often as its group was
drawn, which is equal to scikit-learn's ``sample_weight``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from dfscan.errors import ConfigError

Logits = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

RANKING: Final = ("auc", "average_precision", "tpr_at_1pct_fpr", "eer")
"""Figures of the order of the scores, whatever the threshold."""
DECISION: Final = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
"""Figures of the verdicts at a threshold."""
SCALARS: Final = (*RANKING, "log_loss", *DECISION)
"""Every figure that has an interval."""

LEVEL: Final = 0.95
LOW_FPR: Final = 0.01
_CHUNK: Final = 1 << 16
"""Resamples are drawn so many rows at a time: arrays of half a megabyte stay in a core's cache."""
_LARGEST_LOSS: Final = -float(np.log(np.finfo(np.float64).eps))
"""scikit-learn keeps probabilities this far (in nats) from certain and wrong."""

MIN_PER_CLASS: Final = 8
"""Fewer rows of a class than this say too little about a collapse."""
NEARLY_ALL: Final = 0.95
FLAT: Final = 0.05
"""Scores within so little of each other, on the logit, are p = 0.50 against 0.51."""
RANKS_WELL: Final = 0.75


def binary_metrics(logits: Logits, fake: Truth, threshold: float = 0.0) -> dict[str, Any]:
    """Every figure of (N,) logits against (N,) truth.

    ``auc``, ``average_precision``; ``tpr_at_1pct_fpr``, the largest share of fakes found by a
    threshold that calls at most 1 % of the reals FAKE (nothing is interpolated, so with fewer
    than 100 reals it allows none); ``eer``, see :func:`equal_error_rate`; ``log_loss`` in nats;
    and for FAKE from ``threshold`` (a logit) on: ``accuracy``, ``balanced_accuracy``,
    ``precision``, ``recall``, ``f1`` and ``confusion`` with its four counts by name.

    What does not exist is None: with one class missing all but ``log_loss``, ``accuracy`` and the
    recall of fakes, and ``note`` says so, since half a ROC curve is none; ``precision`` where
    nothing is called FAKE.
    """
    fakes = int(fake.sum())
    called = logits >= np.float64(threshold)  # a plain float would be rounded to float32 logits
    result: dict[str, Any] = {"reals": len(fake) - fakes, "fakes": fakes}
    result |= dict.fromkeys(SCALARS)
    result |= {"threshold": float(threshold), "confusion": _confusion(called, fake)}
    if not len(fake):
        return result | {"note": "nothing held out"}
    result["log_loss"] = float(log_loss(fake, expit(logits), labels=[False, True]))
    result["accuracy"] = float(accuracy_score(fake, called))
    if fakes:
        result["recall"] = float(recall_score(fake, called))
    if fakes in (0, len(fake)):
        only = "FAKE" if fakes else "REAL"
        return result | {"note": f"the held-out side has only {only}: no AUC"}
    fpr, tpr, _ = roc_curve(fake, logits, drop_intermediate=False)
    return result | {
        "auc": float(roc_auc_score(fake, logits)),
        "average_precision": float(average_precision_score(fake, logits)),
        "tpr_at_1pct_fpr": float(tpr[fpr <= LOW_FPR].max()),
        "eer": float(equal_error_rate(fpr, tpr)),
        "balanced_accuracy": float(balanced_accuracy_score(fake, called)),
        "precision": float(precision_score(fake, called)) if called.any() else None,
        "f1": float(f1_score(fake, called)),
    }


def _confusion(called: Truth, fake: Truth) -> dict[str, int]:
    if not len(fake):
        return dict.fromkeys(("tn", "fp", "fn", "tp"), 0)
    counts = confusion_matrix(fake, called, labels=[False, True]).ravel()
    return dict(zip(("tn", "fp", "fn", "tp"), counts.tolist(), strict=True))


def equal_error_rate(fpr: Floats, tpr: Floats) -> npt.NDArray[np.float64]:
    """Where as many reals are called FAKE as fakes REAL, by rate, along the last axis.

    :param fpr: (…, K) false-positive rates of a ROC curve, rising from 0 to 1.
    :param tpr: (…, K) true-positive rates.
    :returns: (…) rates. Between two thresholds the curve is taken as a straight line, as AUC does
        (T. Fawcett, An introduction to ROC analysis, 2006, on interpolating: a point on the line
        is reached by choosing between its ends at random). It is never smaller than the rate on
        the curve's convex hull, which some toolkits print instead.
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
    """Bootstrap intervals of the figures of :func:`binary_metrics`.

    ``bounds``: figure → (low, high), None where the figure or its interval does not exist.
    ``left_out`` of the ``resamples`` lacked a class and say nothing about either. ``note`` says
    why there is no interval at all.
    """

    bounds: dict[str, tuple[float, float] | None]
    groups: int
    resamples: int
    left_out: int = 0
    level: float = LEVEL
    note: str | None = None


def bootstrap(
    logits: Logits,
    fake: Truth,
    groups: Sequence[Any] | npt.NDArray[Any],
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    """95 % percentile intervals that resample groups of related rows.

    Faces of one video, and videos of one original, are no independent draws: whole groups are
    drawn with replacement, as many as there are (A. Davison and D. Hinkley, Bootstrap methods and
    their application, 1997, on hierarchical data). The same groups and ``seed`` give the same
    intervals in whatever order the rows come. ``groups`` is (N,), any sortable values.
    With few groups (below about 20) the intervals are too narrow.

    No interval exists where a class lies in fewer than two groups.
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    nothing = dict.fromkeys(SCALARS)
    spread = min(len(np.unique(group[fake == side])) for side in (False, True))
    if spread < 2:
        note = f"no intervals: a class lies in {spread} group(s), and at least 2 are needed"
        return Intervals(nothing, len(names), resamples=0, note=note)
    ranked = _rank(logits, fake, threshold)
    random = np.random.default_rng(seed)
    size = max(1, _CHUNK // len(logits))
    drawn = [
        _resampled(ranked, _multiplicities(len(names), min(size, resamples - start), random), group)
        for start in range(0, resamples, size)
    ]
    values = {name: np.concatenate([part[name] for part in drawn]) for name in SCALARS}
    used = len(values["auc"])
    bounds = {name: _percentiles(values[name]) for name in SCALARS}
    return Intervals(bounds, len(names), resamples, left_out=resamples - used)


def measure(
    logits: Logits,
    fake: Truth,
    groups: Sequence[Any] | npt.NDArray[Any],
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """:func:`binary_metrics` with its intervals, ready for JSON.

    Adds ``intervals`` (figure → [low, high] or None) and ``bootstrap`` (how they were made).
    """
    found = bootstrap(logits, fake, groups, threshold, resamples, seed)
    how = {
        "level": found.level,
        "groups": found.groups,
        "resamples": found.resamples,
        "left_out": found.left_out,
        "seed": seed,
        "note": found.note,
    }
    bounds = {name: list(pair) if pair else None for name, pair in found.bounds.items()}
    return binary_metrics(logits, fake, threshold) | {"intervals": bounds, "bootstrap": how}


@dataclass(frozen=True)
class _Ranked:
    """Rows by falling score.

    ``order`` (N,) into the rows as given; ``fake`` and ``loss`` (N,) in that order; ``ends`` (K,)
    the last row of each run of equal scores, ``scores`` (K,) those scores; ``called`` how many
    rows lie at or above the threshold.
    """

    order: npt.NDArray[np.int64]
    fake: Truth
    loss: Floats
    ends: npt.NDArray[np.int64]
    scores: Floats
    called: int


def _rank(logits: Logits, fake: Truth, threshold: float = 0.0) -> _Ranked:
    order = np.argsort(-logits, kind="stable")
    scores, truth = logits[order], fake[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    loss = np.minimum(np.logaddexp(0, np.where(truth, -scores, scores)), _LARGEST_LOSS)
    return _Ranked(
        order, truth, loss, ends, scores[ends], int((scores >= np.float64(threshold)).sum())
    )


def _multiplicities(groups: int, resamples: int, random: np.random.Generator) -> Floats:
    """(resamples, groups): how often each group was drawn."""
    drawn = random.integers(groups, size=(resamples, groups))
    drawn += groups * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return counts.reshape(resamples, groups).astype(np.float64)


def _resampled(
    ranked: _Ranked, counts: Floats, group: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Figures of those of the (B, G) resamples that hold both classes."""
    weights = counts[:, group[ranked.order]]
    fakes = weights[:, ranked.fake].sum(axis=1)
    reals = weights.sum(axis=1) - fakes
    return _weighted(ranked, weights[(fakes > 0) & (reals > 0)])


def _weighted(ranked: _Ranked, weights: Floats) -> dict[str, npt.NDArray[np.float64]]:
    """Each figure, (B,), of the rows counted (B, N) times; NaN where it does not exist."""
    found_fakes = np.cumsum(weights * ranked.fake, axis=1)
    called_reals = np.cumsum(weights * ~ranked.fake, axis=1)
    fakes, reals = found_fakes[:, -1], called_reals[:, -1]
    at = ranked.called - 1
    tp, fp = (c[:, at] if at >= 0 else np.zeros(len(c)) for c in (found_fakes, called_reals))
    found_fakes, called_reals = found_fakes[:, ranked.ends], called_reals[:, ranked.ends]
    return {
        **_ranking(found_fakes, called_reals),
        "log_loss": weights @ ranked.loss / (fakes + reals),
        **_decisions(tp, fp, fakes, reals),
    }


def _ranking(tp: Floats, fp: Floats) -> dict[str, npt.NDArray[np.float64]]:
    """The :data:`RANKING` figures of (B, K) counts at falling thresholds."""
    called = tp + fp
    precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
    tpr = np.pad(tp / tp[:, -1:], ((0, 0), (1, 0)))
    fpr = np.pad(fp / fp[:, -1:], ((0, 0), (1, 0)))
    gained = np.diff(tpr, axis=1)
    return {
        "auc": (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2,
        "average_precision": (gained * precision).sum(axis=1),
        "tpr_at_1pct_fpr": np.where(fpr <= LOW_FPR, tpr, 0).max(axis=1),
        "eer": equal_error_rate(fpr, tpr),
    }


def _decisions(
    tp: Floats, fp: Floats, fakes: Floats, reals: Floats
) -> dict[str, npt.NDArray[np.float64]]:
    """The :data:`DECISION` figures of (B,) counts."""
    called = tp + fp
    none = np.full_like(tp, np.nan)
    return {
        "accuracy": (tp + reals - fp) / (fakes + reals),
        "balanced_accuracy": (tp / fakes + 1 - fp / reals) / 2,
        "precision": np.divide(tp, called, out=none, where=called > 0),
        "recall": tp / fakes,
        "f1": 2 * tp / (called + fakes),
    }


def _percentiles(values: Floats) -> tuple[float, float] | None:
    """The interval of one figure over the resamples in which it exists."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def target_fpr(rule: str) -> float | None:
    """The share that ``"fpr=0.01"`` names, None for the rules ``"f1"`` and ``"youden"``.

    :raises ConfigError: it is none of these.
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
    """The logit from which a row is called FAKE, by a rule, on validation data.

    ``"f1"``: the best F1 of the precision-recall curve. ``"youden"``: the best true-positive minus
    false-positive rate (W. Youden, Index for rating diagnostic tests, 1950). ``"fpr=0.01"``: the
    most fakes found while at most that share of the reals is called FAKE.

    It lies halfway between the lowest score called FAKE and the next below. Of thresholds that are
    equally good the highest is taken. Where everything is best called FAKE it is the lowest score,
    where nothing may be, the next number above the highest.

    :returns: None where a class is missing.
    :raises ConfigError: ``rule`` is none of these.
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
    """Between a falling score and the next; the score itself where there is nothing between."""
    upper = float(scores[place])
    lower = float(scores[min(place + 1, len(scores) - 1)])
    middle = lower + (upper - lower) / 2
    return middle if lower < middle else upper


def collapsed(logits: Logits, threshold: float, fake: Truth) -> str | None:
    """One sentence where a model calls nearly everything one class, or scores barely vary.

    Each class is looked at by itself, so a good model of data with few fakes, which is right to
    call nearly everything REAL, is not meant: it finds the few. A verdict counts as given to nearly
    everything from 95 % of the reals and 95 % of the fakes on; scores barely vary where 98 % of
    each class lie within 0.05 of each other on the logit.

    :returns: None where all is well, or where a class has fewer than 8 rows.
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
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Figures of the fakes of each value of an attribute (manipulation, difficulty, …).

    They stand against the reals with the same value where there are any (a compression that both
    classes have), else against all reals; ``against`` says which.

    :param values: (N,) the attribute of each row, None where it has none.
    :param groups: (N,) as in :func:`bootstrap`; None: no intervals.
    :returns: value → :func:`measure` (without groups: :func:`binary_metrics`) and ``against``,
        sorted by value; values that no fake has are left out.
    """
    names = np.array(["" if v is None else str(v) for v in values], dtype=object)
    given = np.array([v is not None for v in values], dtype=bool)
    found: dict[str, dict[str, Any]] = {}
    for value in sorted(set(names[fake & given])):
        same = given & (names == value)
        alike = same & ~fake
        rows = (same & fake) | (alike if alike.any() else ~fake)
        if groups is None:
            figures = binary_metrics(logits[rows], fake[rows], threshold)
        else:
            figures = measure(logits[rows], fake[rows], np.asarray(groups)[rows], threshold)
        against = f"reals of {value}" if alike.any() else "all reals"
        found[value] = figures | {"against": against}
    return found


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram, (K,) each: mean probability, share of fakes, rows."""

    predicted: Floats
    observed: Floats
    counts: npt.NDArray[np.int64]


def reliability(
    p_fake: Floats, fake: Truth, bins: int = 10, prior: float | None = None
) -> Reliability:
    """What share of the rows that are given some probability are fake.

    Bins hold equally many rows (fewer bins where probabilities are equal), as scikit-learn's
    ``calibration_curve(strategy="quantile")`` makes them.

    :param p_fake: (N,) probabilities.
    :param prior: the share of fakes that ``p_fake`` assumes: rows of each class are weighted so
        that their fakes have it. None: as they are.
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
