"""Results of export, models import and models list on a terminal."""

from typing import Final

from rich.text import Text

from dfscan.cli.console import (
    as_bytes,
    as_number,
    new_table,
    open_console,
)
from dfscan.commands.export import ExportResult
from dfscan.commands.import_model import ImportModelResult
from dfscan.commands.list_models import ListModelsResult


def show_export(value: ExportResult) -> None:
    """A row per format: size, speed, difference from the original."""
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


_SQUARED: Final = {"stretch": "stretched", "pad": "padded", "grow": "grown"}


def show_import_model(value: ImportModelResult) -> None:
    """Source, licence, input and tensors of an imported model."""
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


def show_list_models(value: ListModelsResult) -> None:
    """A table per detector that can be imported."""
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
