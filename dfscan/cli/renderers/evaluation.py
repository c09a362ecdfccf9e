"""Results of evaluate and stress on a terminal."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfscan.cli.console import (
    as_duration,
    as_number,
    as_verdict,
    new_table,
    open_console,
)
from dfscan.commands.evaluate import EvaluateResult
from dfscan.commands.stress import StressResult
from dfscan.evaluation.metrics import TITLES

_FEW_REASONS: Final = 10


_FIGURES: Final = TITLES | {
    "tpr_at_1pct_fpr": "fakes found at 1 % FPR",  # a table has 80 columns
    "tpr_at_01pct_fpr": "fakes found at 0.1 % FPR",
}


_FEW: Final = {"tpr_at_1pct_fpr": "1 % FPR", "recall": "recall"}


_ALL_REALS: Final = "all reals"


def show_evaluation(value: EvaluateResult) -> None:
    """Truth against verdicts, figures with intervals, breakdowns, the comparison."""
    console, found = open_console(), value.metrics
    console.print(_truth_by_verdict(found))
    _show_reasons(console, found)
    console.print(_figures(found))
    console.print(_competition(found["competition"]))
    for name, values in found["breakdown"].items():
        _show_breakdown(console, name, values)
    if "comparison" in found:
        _show_comparison(console, found["comparison"])
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"wrote {value.out}: metrics.json, plots, report.html; {value.elapsed_s:.1f} s",
        markup=False,
    )


def _truth_by_verdict(found: Mapping[str, Any]) -> Table:
    """Nothing is left out: what is uncertain and what has no verdict have columns."""
    counts, videos = found["truth_by_verdict"], found["videos"]
    columns = list(counts["REAL"])
    table = new_table(
        f"{videos['rows']:,} videos, {videos['labelled']:,} with a label, in {videos['groups']:,} groups",
        "truth", *columns, "all",
    )  # fmt: skip
    for truth, row in counts.items():
        cells = (f"{row[verdict]:,}" for verdict in columns)
        table.add_row(as_verdict(truth), *cells, f"{sum(row.values()):,}")
    _to_the_right(table)
    return table


def _show_reasons(console: Console, found: Mapping[str, Any]) -> None:
    for what, rows in (("no verdict", "without_verdict"), ("UNCERTAIN", "uncertain")):
        for row in found[rows][:_FEW_REASONS]:
            reason = row["reason"] if row["reason"] != row["status"] else ""
            status = "" if reason and row["status"] == "ok" else row["status"]
            told = ": ".join(t for t in (status, reason) if t)
            console.print(f"  {what}: {row['videos']:,} × {told}", markup=False)
        if len(found[rows]) > _FEW_REASONS:
            console.print(
                f"  … and {len(found[rows]) - _FEW_REASONS} more reasons: see metrics.json"
            )


def _figures(found: Mapping[str, Any]) -> Table:
    ways = {"by video": found["by_video"], "by frame": found["by_frame"]}
    table = new_table("figures, 95 % intervals", "", *ways)
    table.add_row("real, fake", *(f"{m['reals']:,}, {m['fakes']:,}" for m in ways.values()))
    for name, title in _FIGURES.items():
        if name == "accuracy":
            table.add_section()
            table.add_row("called REAL or FAKE", *(_share_decided(m) for m in ways.values()))
        table.add_row(title, *(_with_interval(m, name) for m in ways.values()))
    _to_the_right(table)
    return table


def _share_decided(found: Mapping[str, Any]) -> str:
    rows = found["reals"] + found["fakes"]
    return f"{rows - found['undecided']:,} of {rows:,}"


def _with_interval(found: Mapping[str, Any], name: str) -> str:
    """``0.912 (0.880–0.941)``, a dash for a figure that does not exist."""
    bounds = found["intervals"].get(name)
    around = f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds and found[name] is not None else ""
    return as_number(found[name]) + around


def _competition(found: Mapping[str, Any]) -> str:
    filled = f"; {found['filled_in']:,} without a score at 0.5" if found["filled_in"] else ""
    return (
        f"log loss as the DFDC competition took it: {found['log_loss']:.5f} over "
        f"{found['videos']:,} videos{filled}"
    )


def _show_breakdown(console: Console, name: str, values: Mapping[str, Any]) -> None:
    table = new_table(f"by {name}", "", "real, fake", "undecided", "AUC (95 %)", *_FEW.values())
    for value, found in values.items():
        counts = found["truth_by_verdict"]
        others = sum(row[v] for row in counts.values() for v in ("UNCERTAIN", "none"))
        mark = "*" if found["against"] == _ALL_REALS else ""
        table.add_row(
            Text(value + mark),
            f"{sum(counts['REAL'].values()):,}, {sum(counts['FAKE'].values()):,}",
            f"{others:,}",
            _with_interval(found, "auc"),
            *(as_number(found[n]) for n in _FEW),
        )
    _to_the_right(table)
    for column in table.columns[1:]:
        column.no_wrap = True
    console.print(table)
    if any(found["against"] == _ALL_REALS for found in values.values()):
        console.print("* against all reals, as no real has this value")


def _show_comparison(console: Console, found: Mapping[str, Any]) -> None:
    others = {"this one": "only_first", "the other": "only_second", "neither": "neither"}
    rest = ", ".join(f"{found[name]:,} {who}" for who, name in others.items())
    title = f"against {found['against']}, on {found['both']:,} videos scored by both"
    table = new_table(title, "", "this one", "the other", "difference (95 %)")
    for name, text in _FIGURES.items():
        sides = (as_number(found[side][name]) for side in ("first", "second"))
        table.add_row(text, *sides, _difference(found["difference"], name))
    _to_the_right(table)
    console.print(table)
    test = found["difference"]["mcnemar"]
    console.print(f"scored by one alone: {rest}", markup=False)
    if found["changed"]:
        console.print(f"of another content there, and left out: {found['changed']:,}")
    console.print(
        f"of {test['rows']:,} videos that both decide, {test['only_first']:,} are right here alone and "
        f"{test['only_second']:,} there alone: p = {test['p']:.3g} (McNemar, exact)"
    )


def _difference(found: Mapping[str, Any], name: str) -> str:
    """``+0.012 (−0.004 to +0.028)``."""
    if found[name] is None:
        return "–"
    bounds = found["intervals"].get(name)
    around = f" ({_signed(bounds[0])} to {_signed(bounds[1])})" if bounds else ""
    return _signed(found[name]) + around


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _to_the_right(table: Table) -> None:
    """All but the first column holds numbers."""
    for column in table.columns[1:]:
        column.justify = "right"


def show_stress(value: StressResult) -> None:
    """A row per condition."""
    console = open_console()
    table = new_table("verdicts by condition, against those on the originals", "condition")
    for name in ("AUC", "95 %", "REAL\n→ FAKE", "FAKE\n→ REAL", "→ UNC.", "→ none", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.columns[0].no_wrap = True
    for row in value.rows:
        low, high = row["auc_interval"] or (None, None)
        change = row["score_change_median"]
        table.add_row(
            row["condition"],
            as_number(row["auc"]),
            "–" if low is None else f"{low:.2f}–{high:.2f}",
            *(
                f"{row[name]:,}" if row["compared"] else "–"
                for name in ("real_to_fake", "fake_to_real", "to_uncertain", "to_none")
            ),
            "–" if change is None else f"{round(change, 2) + 0.0:+.2f}",  # no −0.00
        )
    console.print(table)
    failed = ", ".join(f"{r['condition']} {r['failed']:,}" for r in value.rows if r["failed"])
    if failed:
        console.print(f"videos that failed: {failed}")
    original = value.rows[0]
    console.print(
        f"{original['videos']:,} videos, {original['auc_videos']:,} of them labelled and with a score; "
        f"score: the median change of the logit; {as_duration(value.elapsed_s)}"
    )
    for note in value.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"wrote {value.out}: stress.json, stress.csv, stress.png, verdicts/", markup=False
    )
