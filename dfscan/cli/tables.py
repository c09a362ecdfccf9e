"""Pieces that every result is shown with: tables, numbers, coloured verdicts."""

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

FEW: Final = 20
"""Up to so many verdicts are shown one by one."""

_COLOURS: Final = {"REAL": "green", "FAKE": "red", "UNCERTAIN": "bright_black"}


def open_console() -> Console:
    """stdout, without colours for what merely looks like a number."""
    return Console(highlight=False, soft_wrap=True)


def new_table(title: str, *columns: str) -> Table:
    """An empty table with its title on the left; brackets in names are no markup."""
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def as_bytes(value: float) -> str:
    """``"471.84 GB"``: decimal units, as disks and archives are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.2f} {unit}"
        value /= 1000
    return f"{value:,.2f} TB"


def as_duration(seconds: float) -> str:
    """``"41 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def as_number(value: float | None) -> str:
    """Three digits after the point; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def as_verdict(label: str | None) -> Text:
    """A verdict in its colour; a dash for None."""
    return Text(label or "–", style=_COLOURS.get(label or "", ""))
