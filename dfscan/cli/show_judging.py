"""Results of the verbs that look at what others made, as tables on stdout.

Importing it registers them with :func:`dfscan.cli.show.result`.
"""

from typing import Final

from rich.text import Text

from dfscan.cli.show import result
from dfscan.cli.show_evaluation import show_evaluation
from dfscan.cli.tables import as_bytes, as_duration, as_number, as_verdict, new_table, open_console
from dfscan.pipeline.results import (
    AnnotateResult,
    EvaluateResult,
    ExportResult,
    ImportModelResult,
    ListModelsResult,
    ReportResult,
    StressResult,
)

# ---------------------------------------------------------------- evaluate


@result.register
def _(value: EvaluateResult) -> None:
    show_evaluation(value)


# ---------------------------------------------------------------- report


@result.register
def _(value: ReportResult) -> None:
    open_console().print(
        f"{value.kind}: {value.faces:,} faces, {as_bytes(value.bytes)}, "
        f"{as_duration(value.elapsed_s)}; open it in a browser\nwrote {value.out}",
        markup=False,
    )


# ---------------------------------------------------------------- annotate


@result.register
def _(value: AnnotateResult) -> None:
    console = open_console()
    drawn = [person for person in value.people if person["drawn"]]
    if drawn:
        table = new_table(
            "people", "#", "verdict", "p_fake", "score_raw", "seen", "faces", "reason"
        )
        for person in drawn:
            table.add_row(
                str(person["track_id"] + 1),
                as_verdict(person["verdict"]),
                as_number(person["p_fake"]) if person["calibrated"] else "–",
                as_number(person["score_raw"]),
                f"{person['first_s']:.1f}–{person['last_s']:.1f} s",
                f"{person['faces']:,}",
                Text(person["reason"] or ""),
            )
        console.print(table)
    once = len(value.people) - len(drawn)
    if once:
        faces = "1 face seen only once is" if once == 1 else f"{once:,} faces seen only once are"
        console.print(f"{faces} not drawn")
    shown = as_verdict(value.verdict)
    if value.verdict is None:
        shown = Text("no face found" if value.reason == "no_face" else "not judged")
    why = f" ({value.reason})" if value.reason not in (None, "no_face") else ""
    score = f", p_fake {as_number(value.p_fake)}" if value.calibrated else ""
    console.print(
        Text.assemble(
            shown,
            f"{score}{why}; {value.judged:,} of {value.frames:,} frames judged, "
            f"{as_duration(value.elapsed_s)}",
        )
    )
    for note in value.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {value.out}", markup=False)


# ---------------------------------------------------------------- stress


@result.register
def _(value: StressResult) -> None:
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


# ---------------------------------------------------------------- models

_SQUARED: Final = {"stretch": "stretched", "pad": "padded", "grow": "grown"}


@result.register
def _(value: ImportModelResult) -> None:
    console = open_console()
    seen, counts = value.input, value.tensors
    table = new_table(f"{value.kind} → {value.backbone}", "", "")
    table.show_header = False
    table.add_row("source", Text(value.source))
    table.add_row("licence", Text(value.licence))
    table.add_row(
        "input",
        f"{seen['size']} px, the face's box and {seen['margin']:.0%} of it on each side, "
        f"{_SQUARED[seen['square']]} to a square",
    )
    table.add_row(
        "tensors",
        f"{counts['used']} used, {counts['counters']} counters, {counts['left_out']} left out by rule",
    )
    console.print(table)
    for note in value.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {value.out} ({value.model_sha256[:12]})", markup=False)


@result.register
def _(value: ListModelsResult) -> None:
    console = open_console()
    for row in value.rows:
        command = f"dfscan models import {row['kind']} FILE"
        if row["mapping"]:
            command += f" --mapping {row['mapping']}"
        table = new_table("", "", "")
        table.show_header = False
        for name, fact in (
            ("what", row["what"]), ("where", row["where"]), ("licence", row["licence"]),
            ("input", f"{row['size']} px"), ("notes", "; ".join(row["notes"])), ("import", command),
        ):  # fmt: skip
            table.add_row(name, Text(fact))
        console.print(table)
    console.print(
        "dfscan downloads none of them; what a licence allows is between you and its owner"
    )


# ---------------------------------------------------------------- export


@result.register
def _(value: ExportResult) -> None:
    console = open_console()
    columns = ("size", "ms, 1", "ms, 32", "max Δ", "AUC", "accuracy")
    table = new_table("formats", "format", *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in value.rows:
        table.add_row(
            row["format"],
            as_bytes(row["bytes"]),
            f"{row['ms_batch_1']:.2f}",
            f"{row['ms_batch_32']:.2f}",
            f"{row['max_delta']:.1e}" if row["max_delta"] else "0",
            as_number(row["auc"]),
            as_number(row["accuracy"]),
        )
    console.print(table)
    faces = value.faces
    what = (
        "synthetic pictures, not faces"
        if faces["fakes"] is None
        else (f"faces ({faces['fakes']:,} FAKE) of {faces['groups']:,} groups")
    )
    fitted = f"; int8 fitted to {faces['fitted']:,} others" if faces["apart"] else ""
    console.print(f"on {faces['compared']:,} {what}{fitted}")
    console.print(
        "ms a face on one thread, alone and 32 at a time; max Δ: of logits, from the original"
    )
    files = ", ".join(row["file"] for row in value.rows[1:])
    console.print(f"wrote {value.out}: {files}", markup=False)
