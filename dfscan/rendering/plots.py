"""Plots as PNG files in memory.

Every plot is a separate :class:`~matplotlib.figure.Figure`, drawn by Agg: it needs no window system
and leaves the caller's matplotlib state unchanged. Green is real and red is fake, as everywhere in
dfscan; light green and dark red differ without colour.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from dfscan.errors import UsageError
from dfscan.evaluation.metrics import LOW_FPR, Logits, Truth, reliability

ScoresBySplit = Mapping[str, tuple[Logits, Truth]]
"""Name → (N,) logits and (N,) labels, as in ``{"by frame": …, "by video": …}``."""

REAL: Final = "#5fbf8f"
FAKE: Final = "#99101f"
INK: Final = "#222222"
QUIET: Final = "#8a8a8a"
_LINES: Final = (("#12436d", "-"), ("#e07b00", "--"), ("#7a7a7a", "-."), ("#56b4e9", ":"))
_DPI: Final = 120
STYLE: Final[dict[Any, Any]] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "figure.constrained_layout.use": True,
}


def roc(sides: ScoresBySplit, title: str = "ROC") -> bytes:
    """ROC curves, with the false-positive rate on a linear and on a logarithmic axis.

    The second shows the range that matters for a large archive: in the shaded part at most 1 % of
    the reals are called FAKE, and a dot marks the most fakes that can be found there.

    :raises UsageError: no side has both classes.
    """
    both = _with_both(sides, "a ROC curve")
    reals = max(int((~fake).sum()) for _, fake in both.values())
    lowest = 10 ** np.floor(np.log10(min(LOW_FPR / 2, 1 / reals)))
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 5.6))
        whole, low = figure.subplots(1, 2)
        low.axvspan(lowest, LOW_FPR, color="#f3e3b3", alpha=0.6, linewidth=0)
        for (name, (logits, fake)), (colour, line) in zip(both.items(), _LINES, strict=False):
            fpr, tpr, _ = roc_curve(fake, logits, drop_intermediate=False)
            found = float(tpr[fpr <= LOW_FPR].max())
            label = (
                f"{name}: AUC {roc_auc_score(fake, logits):.3f}; {_percent(found)} of the fakes "
                "found at 1 % false alarms"
            )
            whole.plot(fpr, tpr, line, color=colour, label=label)
            seen = int((fpr < lowest).sum()) - 1
            fpr, tpr = np.maximum(fpr[seen:], lowest), tpr[seen:]
            low.plot(fpr, tpr, line, color=colour, drawstyle="steps-post")
            low.plot(LOW_FPR, found, "o", color=colour, markersize=8, clip_on=False)
        chance = np.geomspace(lowest, 1)
        whole.plot([0, 1], [0, 1], color=QUIET, linewidth=1, label="guessing")
        low.plot(chance, chance, color=QUIET, linewidth=1)
        low.set_xscale("log")
        low.set_xlim(lowest, 1)
        low.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
        whole.set_xlim(0, 1)
        whole.xaxis.set_major_formatter(_percents())
        whole.set_title(title)
        low.set_title("at few false alarms (shaded: at most 1 %)")
        for axes in (whole, low):
            _percent_up(axes, "fakes found")
            axes.set_xlabel("reals called FAKE")
        figure.legend(loc="outside lower left")
        return as_png(figure)


def precision_recall(sides: ScoresBySplit, title: str = "Precision and recall") -> bytes:
    """Precision over recall; a thin line marks the share of fakes, the precision of guessing.

    :raises UsageError: no side has both classes.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.5, 5.6))
        axes = figure.subplots()
        both = _with_both(sides, "a precision-recall curve")
        for (name, (logits, fake)), (colour, line) in zip(both.items(), _LINES, strict=False):
            precision, recall, _ = precision_recall_curve(fake, logits)
            average, share = average_precision_score(fake, logits), fake.mean()
            label = f"{name}: average precision {average:.3f} (guessing {share:.3f})"
            axes.plot(recall, precision, line, color=colour, label=label, drawstyle="steps-post")
            axes.axhline(share, color=colour, linestyle=line, linewidth=1, alpha=0.6)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(_percents())
        axes.set_xlabel("recall (fakes found)")
        _percent_up(axes, "precision (verdicts FAKE that are right)")
        axes.set_title(title)
        figure.legend(loc="outside lower left")
        return as_png(figure)


def reliability_diagram(
    before: npt.NDArray[np.float64],
    fake: Truth,
    after: npt.NDArray[np.float64] | None = None,
    bins: int = 10,
    prior: float | None = None,
    unit: str = "videos",
) -> bytes:
    """Reliability diagram: share of fakes by predicted probability, and a histogram of it.

    :param before: (N,) uncalibrated probabilities. :param after: (N,) calibrated ones.
    :param prior: as in :func:`dfscan.evaluation.metrics.reliability`.
    """
    series = {"uncalibrated": before} | ({"calibrated": after} if after is not None else {})
    with rc_context(STYLE):
        figure = Figure(figsize=(6.5, 7))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=QUIET, linewidth=1, label="perfect")
        for (name, p_fake), (colour, line) in zip(
            series.items(), reversed(_LINES[:2]), strict=False
        ):
            found = reliability(p_fake, fake, bins, prior)
            some = _some(found.counts, unit)
            top.plot(
                found.predicted, found.observed, line, color=colour, marker="o", clip_on=False,
                label=f"{name} ({some} per point)",
            )  # fmt: skip
            bottom.hist(
                p_fake, bins=np.linspace(0, 1, 21), histtype="step", color=colour, linestyle=line,
                linewidth=2,
            )  # fmt: skip
        weighed = "" if prior is None else f" (fakes weighed to {100 * prior:g} %)"
        _percent_up(top, f"share that is fake{weighed}")
        top.set_title("Reliability")
        top.legend(loc="upper left")
        bottom.set_xlim(0, 1)
        bottom.set_xlabel("p_fake")
        bottom.set_ylabel(unit)
        bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        return as_png(figure)


def confusion(counts: Mapping[str, int], title: str = "Verdicts") -> bytes:
    """Label against verdict: counts, and percentages of each row.

    :param counts: ``tn, fp, fn, tp`` as in :func:`dfscan.evaluation.metrics.binary_metrics`.
    """
    table = {
        "real": {"REAL": counts["tn"], "FAKE": counts["fp"]},
        "fake": {"REAL": counts["fn"], "FAKE": counts["tp"]},
    }
    return truth_by_verdict(table, title)


def truth_by_verdict(counts: Mapping[str, Mapping[str, int]], title: str = "Verdicts") -> bytes:
    """Label against any set of verdicts: counts, and percentages of each row.

    :param counts: label → verdict → number, with the same verdicts for each label.
    """
    verdicts = list(next(iter(counts.values())))
    table = np.array([[row[v] for v in verdicts] for row in counts.values()])
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.9 + 1.8 * len(verdicts), 1.6 + 1.6 * len(counts)))
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column, row, f"{table[row, column]:,}\n{_percent(share)}", ha="center", va="center",
                fontsize=18, color="white" if share > 0.55 else INK,
            )  # fmt: skip
        rows = [f"{name}\n({n:,})" for name, n in zip(counts, table.sum(1), strict=True)]
        axes.set_xticks(range(len(verdicts)), verdicts)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0, labelsize=14)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("verdict")
        axes.set_ylabel("truth")
        axes.set_title(title)
        return as_png(figure)


def score_histogram(
    logits: Logits, fake: Truth, threshold: float | None = None, unit: str = "videos"
) -> bytes:
    """Histogram of the scores of reals and fakes, as shares of each class, and the threshold."""
    edges = np.histogram_bin_edges(logits, bins=min(60, max(10, round(len(logits) ** 0.5))))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2))
        axes = figure.subplots()
        for name, colour, rows in (("real", REAL, ~fake), ("fake", FAKE, fake)):
            if rows.any():
                counts, _ = np.histogram(logits[rows], edges)
                shares = np.where(counts, counts / rows.sum(), np.nan)
                label = f"{name} ({rows.sum():,} {unit})"
                axes.stairs(shares, edges, fill=True, color=colour, alpha=0.55, label=label)
                axes.stairs(shares, edges, color=colour, linewidth=1.8, zorder=3)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.5, linestyle="--")
            text = f"FAKE from {threshold:.2f}".replace("-", "−")
            where = ("data", "axes fraction")
            axes.annotate(text, (threshold, 1), xycoords=where, va="bottom", ha="center")
        axes.yaxis.set_major_formatter(_percents())
        axes.set_ylabel("share of its class")
        axes.set_xlabel("score (logit, higher = more fake)")
        figure.legend(loc="outside lower left", ncols=2)
        return as_png(figure)


def learning_curves(rows: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> bytes:
    """Loss, AUC and learning rate over the epochs; lines mark the start of phases.

    :param rows: one mapping per epoch, as in ``history.csv``: ``epoch``, and optionally
        ``train_loss``, ``val_frame_log_loss``, ``val_frame_auc``, ``val_video_auc``, ``lr`` and
        ``phase`` (its number or name).
    :raises UsageError: ``rows`` is empty.
    """
    if not rows:
        raise UsageError("the history has no epoch: no learning curves can be drawn")
    panels = {
        "loss": {"training": "train_loss", "validation (log loss)": "val_frame_log_loss"},
        "AUC": {"by frame": "val_frame_auc", "by video": "val_video_auc"},
        "learning rate": {"": "lr"},
    }
    shown = {
        name: known
        for name, lines in panels.items()
        if (known := {k: _series(rows, c) for k, c in lines.items() if _series(rows, c)})
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 2.6 * len(shown) + 0.6))
        stack = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (panel, lines) in zip(stack, shown.items(), strict=True):
            for (name, points), (colour, line) in zip(lines.items(), _LINES, strict=False):
                axes.plot(*zip(*points, strict=True), line, color=colour, marker=".", label=name)
            axes.set_ylabel(panel)
            if panel == "learning rate":
                axes.set_yscale("log")
            else:
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            if best_epoch is not None:
                axes.axvline(best_epoch, color=INK, linewidth=1.2, linestyle=":")
            for epoch, _ in _phases(rows)[1:]:
                axes.axvline(epoch - 0.5, color=QUIET, linewidth=1.2)
        _name_marks(stack[0], rows, best_epoch)
        stack[-1].set_xlabel("epoch")
        stack[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return as_png(figure)


def _series(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[float, float]]:
    return [(r["epoch"], r[column]) for r in rows if r.get(column) is not None]


def _phases(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The first epoch and the name of each phase."""
    found: list[tuple[int, str]] = []
    for row in rows:
        name = str(row.get("phase", ""))
        if not found or found[-1][1] != name:
            found.append((row["epoch"], name))
    return found


def _name_marks(axes: Axes, rows: Sequence[Mapping[str, Any]], best_epoch: int | None) -> None:
    """Label the phases and the chosen epoch's dotted line above the first panel."""
    above: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "fontsize": 11,
    }
    phases = _phases(rows)
    if len(phases) > 1:
        for number, (epoch, name) in enumerate(phases):
            start = epoch if number == 0 else epoch - 0.5
            label = f"phase {name}" if name.isdigit() else name
            axes.annotate(label, (start, 1), xytext=(3, 2), color=QUIET, **above)
    if best_epoch is not None:
        axes.annotate(
            f"best: epoch {best_epoch}", (best_epoch, 1), xytext=(0, 16), color=INK, ha="center",
            **above,
        )  # fmt: skip


def _with_both(sides: ScoresBySplit, what: str) -> dict[str, tuple[Logits, Truth]]:
    both = {n: s for n, s in sides.items() if 0 < s[1].sum() < len(s[1])}
    if not both:
        raise UsageError(
            f"{what} needs reals and fakes; got one class only: {', '.join(sides)}",
            code="dataset.unsuitable",
        )
    return both


def _some(counts: npt.NDArray[np.int64], unit: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _percents() -> PercentFormatter:
    return PercentFormatter(1, symbol=" %")


def _percent_up(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(_percents())
    axes.set_ylabel(label)


def as_png(figure: Figure) -> bytes:
    """Encode a figure as PNG, without metadata about the software."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return sink.getvalue()
