"""Pieces that every result is shown with: tables, numbers, coloured verdicts."""

import re
from collections.abc import Iterable
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

FEW: Final = 20
"""Up to this number of verdicts are shown one by one."""

MANY: Final = 60
"""Up to this number of parts or differing verdicts are shown."""

_COLOURS: Final = {"REAL": "green", "FAKE": "red", "UNCERTAIN": "bright_black"}


_COMMANDS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: control characters, and the direction of writing."""


def as_shown(text: str) -> str:
    r"""A text whose names strangers chose, fit for a terminal: ``\x1b`` stands for an escape."""
    return _COMMANDS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


class TextConsole(Console):
    """A console on which no text is a command, whatever it holds."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As any console does; the commands are the console's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=as_shown(segment.text))


def open_console() -> Console:
    """stdout, without colours for what merely looks like a number."""
    return TextConsole(highlight=False, soft_wrap=True)


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
