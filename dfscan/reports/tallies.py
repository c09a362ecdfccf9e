"""What every report counts and lists: values, reasons, where things came from."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dfscan import storage
from dfscan.evaluation.summaries import kind_of
from dfscan.rendering.page import Cell, Counts, Plot, Table
from dfscan.schemas.status import SUCCEEDED

MANY: Final = 12
"""Up to so many values of one property are drawn as bars."""

_GROUPS: Final = 100
_EXAMPLES: Final = 3
_PLOT_BYTES: Final = 4 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def by_value(title: str, values: Iterable[str | None], order: Sequence[str] = ()) -> Counts:
    """How often each value occurs: those of ``order`` first, then the most frequent.

    None counts as ``none``; what is beyond :data:`MANY` values counts together.
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
    """Videos that could not be judged or read, by status and reason; None where there are none.

    Reasons of one :func:`kind_of` are one.

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
    note = f"{left:,} rarer reasons are left out." if left > 0 else ""
    return Table(
        "Videos without a result, by reason",
        ("status", "reason", "videos", "for example"),
        rows,
        note,
    )


def failed(statuses: Iterable[str | None]) -> int:
    """How many count as failed."""
    return sum(status not in SUCCEEDED for status in statuses)


def resolution(width: int | None, height: int | None) -> str | None:
    """``"1920 × 1080"``, in which no line breaks; None where it is not known."""
    return f"{width}\u00a0×\u00a0{height}" if width and height else None


def in_words(values: Mapping[str, Any]) -> str:
    """``"name mtcnn, min_face auto"``: a mapping on one line, nothing that is null."""
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
    """Different values, sorted, on one line; at most so many."""
    names = sorted({str(value) for value in values if value is not None})
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plots_of(folder: storage.StoragePath, first: str = "") -> list[Plot]:
    """The PNGs of a folder by name, one of them first; what is no PNG, or huge, is left out."""
    found = []
    paths = sorted(storage.in_folder(folder, "*.png"), key=lambda p: (p.name != first, p.name))
    for path in paths:
        if storage.size(path) <= _PLOT_BYTES:
            data = storage.read_bytes(str(path))
            if data.startswith(_PNG):
                found.append(Plot(path.stem.replace("_", " "), data))
    return found
