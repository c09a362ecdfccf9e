"""Results of extract, train and quickstart on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfscan import storage
from dfscan.cli.console import (
    FEW,
    MANY,
    as_bytes,
    as_duration,
    as_number,
    as_verdict,
    new_table,
    open_console,
)
from dfscan.commands.extract import ExtractResult
from dfscan.commands.quickstart import QuickstartResult
from dfscan.commands.train import TrainResult
from dfscan.pipeline.estimate import PlanResult
from dfscan.schemas.status import SUCCEEDED


def show_extract(value: ExtractResult | PlanResult) -> None:
    """Counts by part and status, failures, speed; or the plan."""
    if isinstance(value, PlanResult):
        _show_plan(value)
        return
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


def _show_plan(value: PlanResult) -> None:
    """What a run would do."""
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


def show_train(value: TrainResult) -> None:
    """Metrics of the kept epoch, or of each run of a series."""
    console = open_console()
    if "runs" in value.metrics:
        _show_series(console, value)
        return
    metrics = value.metrics
    console.print(_sides(f"epoch {metrics['best_epoch']}", metrics))
    for note in metrics["notes"]:
        console.print(f"note: {note}", markup=False)
    fitted = "calibrated" if metrics["calibration"] else "not calibrated"
    console.print(
        f"wrote {value.model} ({metrics['parameters']:,} parameters, {fitted}), with plots and a "
        f"model card beside it; {value.elapsed_s:.1f} s"
    )


def _sides(title: str, sides: Mapping[str, Any]) -> Table:
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
        console.print(_sides("all folds together", value.metrics))
    console.print(f"wrote {value.out}, {value.elapsed_s:.1f} s")


def show_quickstart(value: QuickstartResult) -> None:
    """Verdicts on the held-out clips, accuracy, times."""
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
