"""Results of score, calibrate and verify on a terminal."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfscan.cli.console import (
    FEW,
    MANY,
    as_bytes,
    as_number,
    as_verdict,
    new_table,
    open_console,
)
from dfscan.commands.calibrate import CalibrateResult
from dfscan.commands.score.result import ScorePlan, ScoreResult
from dfscan.commands.verify import VerifyResult
from dfscan.commands.verify.reproducibility import Checked
from dfscan.verdicts.diff import KINDS, Change
from dfscan.verdicts.table import open_verdicts


def show_score(value: ScoreResult | ScorePlan) -> None:
    """Verdicts and their counts, changes; or the plan."""
    if isinstance(value, ScorePlan):
        _show_plan(value)
        return
    console = open_console()
    if value.rows:
        console.print(_verdicts(value.rows))
        return
    if value.videos <= FEW:
        table = open_verdicts(value.out).read(["video_id", "verdict", "p_fake", "reason"])
        console.print(_verdicts(table.to_pylist()))
    if value.changes is not None:
        _show_changes(console, value.changes)
    verdicts = ", ".join(f"{n:,} {v}" for v, n in value.verdicts.items())
    console.print(f"{value.videos:,} videos: {verdicts}; {value.new} new, {value.elapsed_s:.1f} s")
    if value.recognised:
        console.print(f"{value.recognised} file(s) of known content were not scored again")
    if value.left:
        console.print(f"{value.left} video(s) are left to the next run")
    if value.gone:
        console.print(f"{value.gone} known video(s) are gone from the source; their rows say so")
    console.print(f"wrote {value.out}")


def _show_changes(console: Console, changes: list[Change]) -> None:
    """What changed, at most so many lines of each kind."""
    if not changes:
        console.print("nothing changed against the verdicts of before")
        return
    table = new_table("what changed", "video", "", "before", "after")
    for kind in KINDS:
        some = [c for c in changes if c.change == kind]
        for change in some[:FEW]:
            word = kind.replace("_", " ")
            before = Text("") if kind == "new" else as_verdict(change.before)
            table.add_row(Text(change.video_id), word, before, as_verdict(change.after))
        if len(some) > FEW:
            table.add_row(f"… and {len(some) - FEW:,} more", kind.replace("_", " "), "", "")
    console.print(table)


def _verdicts(rows: list[dict[str, Any]]) -> Table:
    shown = new_table("verdicts", "video", "verdict", "p_fake", "reason")
    for row in rows:
        shown.add_row(
            Text(row["video_id"]),
            as_verdict(row["verdict"]),
            as_number(row["p_fake"]),
            Text(row["reason"] or ""),
        )
    return shown


def _show_plan(value: ScorePlan) -> None:
    """What a run would do."""
    console = open_console()
    table = new_table("plan", "", "")
    table.show_header = False
    table.add_row("videos at the source", f"{value.videos:,}")
    table.add_row("new", f"{value.new:,}")
    table.add_row("changed, or tried again", f"{value.changed:,}")
    table.add_row("of another model or configuration", f"{value.stale:,}")
    if value.older:
        table.add_row("left out by --since", f"{value.older:,}")
    table.add_row("gone from the source", f"{value.gone:,}")
    table.add_row("to do", f"{value.todo:,} ({as_bytes(value.bytes)}), {value.units:,} unit(s)")
    console.print(table)
    if value.todo:
        console.print("files of known content among those to do are recognised when they are read")
    console.print("nothing was written")


_LEFT_OUT: Final = {
    "other_model": "of another model",
    "no_score": "without a score",
    "other_sampling": "sampled otherwise",
    "unlabelled": "without a label",
    "ambiguous": "with a file name that is not theirs alone",
}


def show_calibrate(value: CalibrateResult) -> None:
    """Figures before and after, the rows left out, the file written."""
    console = open_console()
    columns = {"before": value.before, "after, as fitted": value.fitted}
    if value.out_of_fold:
        columns[f"after, {value.folds} folds"] = value.out_of_fold
    point = value.operating_point
    title = f"{value.rows['used']:,} videos: {point['reals']:,} real, {point['fakes']:,} fake"
    table = new_table(f"{title}, {value.groups:,} groups", "", *columns)
    thresholds = [value.before["threshold"], value.threshold]
    table.add_row("threshold on p_fake", *(f"{t:.6g}" for t in thresholds))
    for name, text in (("log_loss", "log loss of p_fake"), ("cllr", "Cllr, bits")):
        table.add_row(text, *(as_number(c[name]) for c in columns.values()))
    for name, text in (("false_positive", "reals"), ("true_positive", "fakes")):
        shares = (_share(c[f"{name}_rate"]) for c in columns.values())
        table.add_row(f"{text} called FAKE", *shares)
    console.print(table)
    for name, text in _LEFT_OUT.items():
        if value.rows.get(name):
            console.print(f"left out: {value.rows[name]:,} verdict(s) {text}")
    fitted = value.calibration
    prior = f"p_fake for a prior of {fitted['prior']:g}" if fitted else "p_fake is not calibrated"
    console.print(f"threshold by {value.rule}; {prior}; in brackets exact 95 % intervals")
    console.print(f"wrote {value.out} ({value.model_sha256[:12]}), {value.elapsed_s:.1f} s")


def _share(found: Mapping[str, Any] | None) -> str:
    """``"0.50 % (0.10–1.45)"``: a rate with its interval."""
    if found is None:
        return "–"
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['rate']:.2f} % ({low:.2f}–{high:.2f})"


_OUTCOMES: Final = {"agrees": "green", "differs": "red", "unchecked": "yellow"}


def show_verify(value: VerifyResult) -> None:
    """What matches, what differs, what cannot be checked."""
    console = open_console()
    if len(value.videos) <= FEW:
        table = new_table("verdicts made again", "video", "")
        for video in value.videos:
            table.add_row(Text(video.video_id), Text(video.outcome, style=_OUTCOMES[video.outcome]))
        console.print(table)
    odd = [v for v in value.videos if v.outcome != "agrees"]
    odd.sort(key=lambda v: (v.outcome != "differs", v.video_id))
    for video in odd[:MANY]:
        _show_odd(console, video)
    if len(odd) > MANY:
        console.print(f"  … and {len(odd) - MANY:,} more: see --json")
    for note in value.notes:
        console.print(f"note: {note}", markup=False)
    counts = value.counts
    console.print(
        f"{len(value.videos):,} verdicts: {counts['agrees']:,} agree, {counts['differs']:,} differ, "
        f"{counts['unchecked']:,} cannot be checked (float32 logits to {value.tolerance:g}); "
        f"{value.elapsed_s:.1f} s"
    )


def _show_odd(console: Console, video: Checked) -> None:
    """What differs of a verdict, a line each, or why it cannot be checked."""
    if video.reason:
        console.print(f"  {video.video_id}: cannot be checked: {video.reason}", markup=False)
    for difference in video.differences[:FEW]:
        recorded, found = _value(difference.recorded), _value(difference.found)
        console.print(
            f"  {video.video_id}: {difference.what}: recorded {recorded}, found {found}",
            markup=False,
        )
    if len(video.differences) > FEW:
        more = len(video.differences) - FEW
        console.print(f"  {video.video_id}: … and {more:,} more: see --json", markup=False)


def _value(value: Any) -> str:
    """A value of a verdict, briefly."""
    if isinstance(value, list):
        items = [_value(v) for v in value[:FEW]] + ["…"] * (len(value) > FEW)
        return f"[{', '.join(items)}]"
    if isinstance(value, float):
        return f"{value:.9g}"  # single precision whole: what differs is to be seen
    return "none" if value is None else str(value)
