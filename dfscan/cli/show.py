"""Results as tables on stdout."""

import functools
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfscan import storage
from dfscan.cli.tables import (
    FEW,
    as_bytes,
    as_duration,
    as_number,
    as_verdict,
    new_table,
    open_console,
)
from dfscan.pipeline.results import (
    CalibrateResult,
    Checked,
    ExtractResult,
    InspectResult,
    PlanResult,
    PurgeResult,
    QuickstartResult,
    ScorePlan,
    ScoreResult,
    TrainResult,
    VerifyResult,
)
from dfscan.schemas.status import SUCCEEDED
from dfscan.verdicts.diff import KINDS, Change
from dfscan.verdicts.table import open_verdicts

MANY: Final = 60
"""Up to so many parts are shown."""

_OUTCOMES: Final = {"agrees": "green", "differs": "red", "unchecked": "yellow"}


@functools.singledispatch
def result(value: Any) -> None:
    """Show what a verb returned."""
    raise TypeError(f"no table for {type(value).__name__}")


@result.register
def _(value: ExtractResult) -> None:
    counts = value.counts
    console = open_console()
    _show_parts(console, counts)
    labels = ", ".join(f"{n:,} {label}" for label, n in counts["label"].items())
    console.print(
        f"{counts['faces']:,} faces in {counts['frames_sampled']:,} frames of "
        f"{counts['videos']:,} videos ({labels}); {value.new} new, {value.elapsed_s:.1f} s"
    )
    if value.decoding_share is not None:
        console.print(
            f"{value.frames / value.elapsed_s:.1f} frames/s, start-up included; workers ran at "
            f"{value.decoding_share:.0%} of the speed of decoding alone"
        )
    _show_failures(console, storage.as_path(value.out) / "videos")
    console.print(f"wrote {value.out}")


def _show_parts(console: Console, counts: dict[str, Any]) -> None:
    """A line a part, a column a status; at most so many lines."""
    statuses = list(counts["status"])
    parts = counts["parts"]
    table = new_table("videos by part and status", "part", *statuses, "all")
    for column in table.columns[1:]:
        column.justify = "right"
    few = dict(list(parts.items())[:MANY])
    for part, status in few.items() if len(parts) > 1 else ():
        cells = (f"{status[s]:,}" if s in status else "" for s in statuses)
        table.add_row(Text(part), *cells, f"{sum(status.values()):,}")
    if len(parts) > MANY:
        table.add_row(f"… and {len(parts) - MANY:,} more parts")
    total = (f"{n:,}" for n in counts["status"].values())
    name = "all" if len(parts) > 1 else next(iter(parts), "all")
    table.add_section()
    table.add_row(Text(name), *total, f"{counts['videos']:,}")
    console.print(table)


def _show_failures(console: Console, folder: storage.StoragePath) -> None:
    """The first few videos that are not ``ok``, failed ones before those without a face."""
    columns = ["video_id", "status", "reason"]
    rows = [r for _, table in storage.read_tables(folder, columns) for r in table.to_pylist()]
    odd = [r for r in rows if r["status"] != "ok"]
    odd.sort(key=lambda r: (r["status"] in SUCCEEDED, r["video_id"]))
    for row in odd[:FEW]:
        console.print(f"  {row['video_id']}: {row['status']}: {row['reason']}", markup=False)
    if len(odd) > FEW:
        console.print(f"  … and {len(odd) - FEW:,} more: see status and reason in {folder}")


@result.register
def _(value: TrainResult) -> None:
    console = open_console()
    if "runs" in value.metrics:
        _show_series(console, value)
        return
    metrics = value.metrics
    console.print(_figures(f"epoch {metrics['best_epoch']}", metrics))
    for note in metrics["notes"]:
        console.print(f"note: {note}", markup=False)
    fitted = "calibrated" if metrics["calibration"] else "not calibrated"
    console.print(
        f"wrote {value.model} ({metrics['parameters']:,} parameters, {fitted}), with plots and a "
        f"model card beside it; {value.elapsed_s:.1f} s"
    )


def _figures(title: str, sides: Mapping[str, Any]) -> Table:
    """AUC with its interval and the like, of every side and way that is there."""
    table = new_table(title, "", "real, fake", "AUC (95 %)", "at 1 % FPR", "log loss", "F1")
    for side in ("validation", "test", "out_of_fold"):
        for by, m in sides.get(side, {}).items():
            bounds = m["intervals"]["auc"]
            around = f" ({bounds[0]:.2f}–{bounds[1]:.2f})" if bounds else ""
            table.add_row(
                f"{side.replace('_', ' ')}, {by.removeprefix('by_')}s",
                f"{m['reals']}, {m['fakes']}",
                as_number(m["auc"]) + around,
                *(as_number(m[k]) for k in ("tpr_at_1pct_fpr", "log_loss", "f1")),
            )
    return table


def _show_series(console: Console, value: TrainResult) -> None:
    table = new_table("runs", "", "side", "groups", "faces", "AUC by frame", "AUC by video")
    for run in value.metrics["runs"]:
        table.add_row(
            run["run"], run["side"], str(run["groups"]), str(run["faces"]),
            as_number(run["frame_auc"]), as_number(run["video_auc"]),
        )  # fmt: skip
    console.print(table)
    if "out_of_fold" in value.metrics:
        console.print(_figures("all folds together", value.metrics))
    console.print(f"wrote {value.out}, {value.elapsed_s:.1f} s")


@result.register
def _(value: ScoreResult) -> None:
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


_LEFT_OUT: Final = {
    "other_model": "of another model",
    "no_score": "without a score",
    "other_sampling": "sampled otherwise",
    "unlabelled": "without a label",
    "ambiguous": "with a file name that is not theirs alone",
}


@result.register
def _(value: CalibrateResult) -> None:
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


@result.register
def _(value: QuickstartResult) -> None:
    console = open_console()
    table = new_table("held-out clips (synthetic)", "clip", "truth", "verdict", "p_fake")
    for clip in value.clips:
        table.add_row(
            clip["clip"],
            as_verdict(clip["truth"]),
            as_verdict(clip["verdict"]),
            as_number(clip["p_fake"]),
        )
    console.print(table)
    console.print(
        f"AUC {as_number(value.auc)}, accuracy {as_number(value.accuracy)} over {len(value.clips)} clips "
        "of people that training never saw."
    )
    console.print(
        "This corpus is synthetic: one portrait, warped and blended. The figures show that the\n"
        "pipeline learns something true, and nothing about deepfakes in the wild."
    )
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in value.elapsed_s.items())
    console.print(f"{times}; everything is in {value.out}")
    console.print(f"to look at: {storage.as_path(value.out) / 'evaluation' / 'report.html'}")


@result.register
def _(value: PlanResult) -> None:
    console = open_console()
    labels = ", ".join(f"{n:,} {label}" for label, n in value.label.items()) or "none"
    table = new_table("plan", "", "")
    table.show_header = False
    table.add_row("videos at the source", f"{value.videos:,}")
    table.add_row("to do", f"{value.todo:,} ({labels})")
    table.add_row("bytes", as_bytes(value.bytes))
    table.add_row("units", f"{value.units:,} in {value.parts:,} part(s)")
    if value.frames is not None:
        table.add_row("frames to sample", f"about {value.frames:,}")
        table.add_row("faces", f"about {value.faces:,}, {as_bytes(value.face_bytes or 0)}")
        table.add_row("time", f"about {as_duration(value.seconds or 0)}, {value.workers} worker(s)")
    console.print(table)
    if value.frames is not None:
        console.print(f"estimates: from a look at {value.looked_at} of the videos")
    elif value.todo:
        console.print("no estimates: none of the videos looked at could be decoded")
    console.print("nothing was written")


@result.register
def _(value: ScorePlan) -> None:
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


@result.register
def _(value: PurgeResult) -> None:
    open_console().print(
        f"removed {value.rows:,} row(s) and {value.faces:,} face(s) from {value.path}"
    )


@result.register
def _(value: VerifyResult) -> None:
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


@result.register
def _(value: InspectResult) -> None:
    console = open_console()
    table = new_table(f"{value.path}: {value.kind}", "", "")
    table.show_header = False
    for name, fact in value.facts.items():
        table.add_row(name, Text(_fact(name, fact)))
    console.print(table)
    if len(value.rows) < 2:
        return
    columns = list(dict.fromkeys(name for row in value.rows for name in row))
    rows = new_table("", *columns)
    for row in value.rows[:MANY]:
        rows.add_row(*(Text(_fact(c, row.get(c, ""))) for c in columns))
    if len(value.rows) > MANY:
        rows.add_row(f"… and {len(value.rows) - MANY:,} more")
    console.print(rows)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_fact(k, v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        between = "; " if name == "notes" else ", "
        return between.join(_fact(name, v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return as_bytes(value) if name.startswith("bytes") else f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
