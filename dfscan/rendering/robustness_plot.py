"""The plot of ``dfscan stress``: a model's robustness to each condition, as PNG in memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dfscan.rendering.plots import FAKE, INK, QUIET, REAL, STYLE, as_png

_STYLE: Final[dict[Any, Any]] = STYLE | {
    "axes.spines.left": False,
    "axes.grid.axis": "x",
    "hatch.linewidth": 1.2,
}
_MOVES: Final = {
    "real_to_fake": ("REAL → FAKE", FAKE, "white", ""),
    "fake_to_real": ("FAKE → REAL", REAL, INK, "///"),
    "to_uncertain": ("→ UNCERTAIN", "#c4c4c4", INK, "..."),
    "to_none": ("→ no verdict", "white", INK, "xxx"),
}
"""Column → name, colour, line colour, and a pattern that identifies it without colour."""


def robustness(rows: Sequence[Mapping[str, Any]], title: str = "Robustness") -> bytes:
    """AUC (without labels: change of the score) and changed verdicts, one line per condition.

    :param rows: as in ``stress.json``, the original first; see :mod:`dfscan.commands.stress.robustness`.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(12, 1.9 + 0.5 * len(rows)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.1])
        if any(row["auc"] is not None for row in rows):
            _draw_auc(left, rows)
        else:
            _draw_score(left, rows)
        _draw_moves(right, rows)
        left.set_yticks(range(len(rows)), [row["condition"] for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
        figure.suptitle(title, x=0.01, ha="left", fontsize=15)
        keys = [Patch(label=name, **_look(column)) for column, (name, *_) in _MOVES.items()]
        figure.legend(handles=keys, loc="outside lower right", ncols=len(_MOVES))
        return as_png(figure)


def _draw_auc(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """One dot with its interval per condition; lines mark the original and guessing."""
    lowest = 0.5
    for place, row in enumerate(rows):
        auc, bounds = row["auc"], row["auc_interval"]
        if auc is None:
            _note(axes, 0.5, place, "no AUC")
            continue
        low, high = bounds or (auc, auc)
        lowest = min(lowest, low)
        axes.plot(
            [low, high],
            [place, place],
            color=INK,
            linewidth=2,
            solid_capstyle="butt",
            clip_on=False,
        )
        axes.plot(auc, place, "o", color=INK, markersize=8, clip_on=False, zorder=3)
        _note(axes, 1.02, place, f"{auc:.3f}")
    if rows[0]["auc"] is not None:
        axes.axvline(rows[0]["auc"], color=INK, linewidth=1, linestyle="--")
    axes.axvline(0.5, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xlim(max(0.0, lowest - 0.03), 1.0)
    videos = max(row["auc_videos"] for row in rows)
    axes.set_title("AUC and its 95 % interval")
    axes.set_xlabel(f"AUC ({videos:,} labelled videos; dashed: original, dotted: guessing)")


def _draw_score(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The median change of the logit."""
    for place, row in enumerate(rows):
        change = row["score_change_median"]
        if change is None:
            _note(axes, 0.5, place, "no score")
            continue
        axes.plot([0, change], [place, place], color=INK, linewidth=2)
        axes.plot(change, place, "o", color=INK, markersize=8)
        _note(axes, 1.02, place, f"{round(change, 2) + 0.0:+.2f}".replace("-", "−"))
    axes.axvline(0, color=QUIET, linewidth=1)
    axes.margins(x=0.1)
    axes.set_title("median change of the score")
    axes.set_xlabel("logit, higher = more fake (no AUC without labels)")


def _draw_moves(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stacked shares of videos whose verdict differs from the original's."""
    longest = 0.0
    for place, row in enumerate(rows):
        start = 0.0
        for column in _MOVES:
            share = 100 * row[column] / row["compared"] if row["compared"] else 0.0
            if share:
                axes.barh(place, share, left=start, height=0.62, **_look(column))
            start += share
        changed = sum(row[column] for column in _MOVES)
        longest = max(longest, start)
        _note(axes, 1.02, place, f"{changed:,} of {row['compared']:,}")
    axes.set_xlim(0, max(5.0, 1.05 * longest))
    axes.set_title("verdicts that change")
    axes.set_xlabel("% of the videos compared")


def _look(column: str) -> dict[str, Any]:
    _, colour, line, hatch = _MOVES[column]
    return {"facecolor": colour, "edgecolor": line, "hatch": hatch}


def _note(axes: Axes, across: float, place: int, text: str) -> None:
    """Text beside a line, at a share of the panel's width."""
    axes.text(
        across, place, text, va="center", ha="left" if across > 1 else "center",
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip
