"""Helpers of all reports: counts by value and reason, lists and plots."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dfscan import storage
from dfscan.evaluation.summaries import kind_of
from dfscan.rendering.page import Cell, Counts, Plot, Table
from dfscan.schemas.status import SUCCEEDED

MANY: Final = 12
"""Largest number of bars per property."""

_GROUPS: Final = 100
_EXAMPLES: Final = 3
_PLOT_BYTES: Final = 4 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def by_value(title: str, values: Iterable[str | None], order: Sequence[str] = ()) -> Counts:
    """Count each value: those of ``order`` first, then the most frequent.

    None counts as ``none``; values beyond :data:`MANY` are counted together.
    """
    found = Counter("none" if value is None else value for value in values)
    names = [name for name in order if name in found]
    names += [name for name, _ in found.most_common() if name not in order]
    rest = names[MANY:]
    others = (len(rest), sum(found[name] for name in rest))
    return Counts(title, {name: found[name] for name in names[:MANY]}, others)


def by_reason(
    names: Sequence[str], statuses: Sequence[str | None], reasons: Sequence[str | None]
) -> Table | None:
    """Videos without a result, by status and reason; None if there are none.

    Reasons are grouped by :func:`kind_of`.

    :param names: (N,) of the videos. :param statuses: (N,). :param reasons: (N,) or None.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, status, reason in zip(names, statuses, reasons, strict=True):
        found[status or "none", kind_of(reason or "")].append(name)
    if not found:
        return None
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [
        [status, reason or None, len(mine), ", ".join(mine[:_EXAMPLES])]
        for (status, reason), mine in ranked[:_GROUPS]
    ]
    left = len(ranked) - _GROUPS
    note = f"{left:,} rarer reasons are omitted." if left > 0 else ""
    return Table(
        "Videos without a result, by reason",
        ("status", "reason", "videos", "for example"),
        rows,
        note,
    )


def failed(statuses: Iterable[str | None]) -> int:
    """Number of failed statuses."""
    return sum(status not in SUCCEEDED for status in statuses)


def resolution(width: int | None, height: int | None) -> str | None:
    """``"1920 × 1080"``, without line breaks; None if unknown."""
    return f"{width}\u00a0×\u00a0{height}" if width and height else None


def in_words(values: Mapping[str, Any]) -> str:
    """``"name mtcnn, min_face auto"``: a mapping on one line, without nulls."""
    shown = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = f"({in_words(value)})"  # noqa: PLW2901
        if isinstance(value, list | tuple):
            value = " ".join(str(v) for v in value)  # noqa: PLW2901
        if value not in (None, "", "()"):
            shown.append(f"{key} {value}")
    return ", ".join(shown)


def listed(values: Iterable[Cell], most: int = 10) -> str:
    """Distinct values, sorted, on one line; at most ``most``."""
    names = sorted({str(value) for value in values if value is not None})
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plots_of(folder: storage.StoragePath, first: str = "") -> list[Plot]:
    """The PNGs of a folder by name, ``first`` first; other or very large files are skipped."""
    found = []
    paths = sorted(storage.in_folder(folder, "*.png"), key=lambda p: (p.name != first, p.name))
    for path in paths:
        if storage.size(path) <= _PLOT_BYTES:
            data = storage.read_bytes(str(path))
            if data.startswith(_PNG):
                found.append(Plot(path.stem.replace("_", " "), data))
    return found
