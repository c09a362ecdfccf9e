"""Results as tables on stdout."""

import functools
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfscan import storage
from dfscan.jobs.results import ExtractResult, QuickstartResult, ScoreResult, TrainResult
from dfscan.records import HEALTHY

FEW: Final = 20
"""Up to so many verdicts are shown one by one."""

_COLOURS: Final = {"REAL": "green", "FAKE": "red", "UNCERTAIN": "bright_black"}


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@functools.singledispatch
def result(value: Any) -> None:
    """Show what a verb returned."""
    raise TypeError(f"no table for {type(value).__name__}")


@result.register
def _(value: ExtractResult) -> None:
    counts = value.counts
    table = _table("videos by status", "status", "videos")
    for status, number in counts["status"].items():
        table.add_row(status, f"{number:,}")
    console = _console()
    console.print(table)
    labels = ", ".join(f"{n:,} {label}" for label, n in counts["label"].items())
    console.print(
        f"{counts['faces']:,} faces in {counts['frames_sampled']:,} frames of "
        f"{counts['videos']:,} videos ({labels}); {value.new} new, {value.elapsed_s:.1f} s"
    )
    _show_failures(console, Path(value.out) / "videos")
    console.print(f"wrote {value.out}")


def _show_failures(console: Console, folder: Path) -> None:
    """The first few videos that are not ``ok``, failed ones before those without a face."""
    columns = ["video_id", "status", "reason"]
    rows = [r for _, table in storage.read_tables(folder, columns) for r in table.to_pylist()]
    odd = [r for r in rows if r["status"] != "ok"]
    odd.sort(key=lambda r: (r["status"] in HEALTHY, r["video_id"]))
    for row in odd[:FEW]:
        console.print(f"  {row['video_id']}: {row['status']}: {row['reason']}", markup=False)
    if len(odd) > FEW:
        console.print(f"  … and {len(odd) - FEW:,} more: see status and reason in {folder}")


@result.register
def _(value: TrainResult) -> None:
    metrics = value.metrics
    table = _table(
        f"held out, epoch {metrics['best_epoch']}",
        "",
        "reals",
        "fakes",
        "AUC",
        "log loss",
        "accuracy",
    )
    for side in ("by_frame", "by_video"):
        m = metrics["validation"][side]
        table.add_row(
            side.replace("_", " "), str(m["reals"]), str(m["fakes"]),
            *(_number(m[k]) for k in ("auc", "log_loss", "accuracy")),
        )  # fmt: skip
    console = _console()
    console.print(table)
    for note in metrics["notes"]:
        console.print(f"note: {note}", markup=False)
    fitted = "calibrated" if metrics["calibration"] else "not calibrated"
    console.print(
        f"wrote {value.model} ({metrics['parameters']:,} parameters, {fitted}), {value.elapsed_s:.1f} s"
    )


@result.register
def _(value: ScoreResult) -> None:
    console = _console()
    table = storage.read_table(value.out).select(["video_id", "verdict", "p_fake", "reason"])
    if table.num_rows <= FEW:
        shown = _table("verdicts", "video", "verdict", "p_fake", "reason")
        for row in table.to_pylist():
            shown.add_row(
                Text(row["video_id"]),
                _coloured(row["verdict"]),
                _number(row["p_fake"]),
                Text(row["reason"] or ""),
            )
        console.print(shown)
    verdicts = ", ".join(f"{n:,} {v}" for v, n in value.verdicts.items())
    console.print(f"{value.videos:,} videos: {verdicts}; {value.new} new, {value.elapsed_s:.1f} s")
    if value.gone:
        console.print(f"{value.gone} known video(s) are gone from the source; their rows say so")
    console.print(f"wrote {value.out}")


@result.register
def _(value: QuickstartResult) -> None:
    console = _console()
    table = _table("held-out clips (synthetic)", "clip", "truth", "verdict", "p_fake")
    for clip in value.clips:
        table.add_row(
            clip["clip"],
            _coloured(clip["truth"]),
            _coloured(clip["verdict"]),
            _number(clip["p_fake"]),
        )
    console.print(table)
    console.print(
        f"AUC {_number(value.auc)}, accuracy {_number(value.accuracy)} over {len(value.clips)} clips "
        "of people that training never saw."
    )
    console.print(
        "This corpus is synthetic: one portrait, warped and blended. The figures show that the\n"
        "pipeline learns something true, and nothing about deepfakes in the wild."
    )
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in value.elapsed_s.items())
    console.print(f"{times}; everything is in {value.out}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _coloured(label: str | None) -> Text:
    return Text(label or "–", style=_COLOURS.get(label or "", ""))
