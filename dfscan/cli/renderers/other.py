"""Results of inspect, purge, report and annotate on a terminal."""

from typing import Any

from rich.text import Text

from dfscan.cli.console import (
    MANY,
    as_bytes,
    as_duration,
    as_number,
    as_verdict,
    new_table,
    open_console,
)
from dfscan.commands.annotate import AnnotateResult
from dfscan.commands.inspect.result import InspectResult
from dfscan.commands.purge import PurgeResult
from dfscan.reports.build import ReportResult


def show_inspect(value: InspectResult) -> None:
    """Facts by name, then the parts or faces."""
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


def show_purge(value: PurgeResult) -> None:
    """What was removed."""
    open_console().print(
        f"removed {value.rows:,} row(s) and {value.faces:,} face(s) from {value.path}"
    )


def show_report(value: ReportResult) -> None:
    """What the page shows, and where it is."""
    open_console().print(
        f"{value.kind}: {value.faces:,} faces, {as_bytes(value.bytes)}, "
        f"{as_duration(value.elapsed_s)}; open it in a browser\nwrote {value.out}",
        markup=False,
    )


def show_annotate(value: AnnotateResult) -> None:
    """A row per person, then the verdict of the file."""
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
