"""Tables of metrics with their intervals, for reports."""

from collections.abc import Mapping
from typing import Any, Final

from dfscan.evaluation.metrics import DECISION, SCALARS, TITLES
from dfscan.rendering.page import Cell, Table
from dfscan.schemas.status import LABELS

_WAYS: Final = {"by_video": "by video", "by_frame": "by frame"}


def title_of(name: str) -> str:
    """A metric's display name."""
    return TITLES.get(name, name.replace("_", " "))


def figure(figures: Mapping[str, Any], name: str) -> str | None:
    """``"0.776 (0.741 to 0.998)"``, without line breaks; None if undefined."""
    value = figures.get(name)
    if not isinstance(value, int | float):
        return None
    bounds = (figures.get("intervals") or {}).get(name)
    if not bounds:
        return f"{value:.3f}"
    return f"{value:.3f}\u00a0({bounds[0]:.3f}\u00a0to\u00a0{bounds[1]:.3f})"


def side_table(title: str, ways: Mapping[str, Any]) -> Table:
    """All metrics by frame and by video.

    :param ways: ``by_frame``, ``by_video`` → the result of
        :func:`dfscan.evaluation.metrics.measure`.
    """
    shown = {key: said for key, said in _WAYS.items() if isinstance(ways.get(key), Mapping)}
    rows: list[list[Cell]] = [["reals and fakes", *(_classes(ways[key]) for key in shown)]]
    for name in (*SCALARS, "cllr_min"):
        if name == DECISION[0] and any("undecided" in ways[key] for key in shown):
            rows.append(["called REAL or FAKE", *(_decided(ways[key]) for key in shown)])
        if any(ways[key].get(name) is not None for key in shown):
            rows.append([title_of(name), *(figure(ways[key], name) for key in shown)])
    notes = dict.fromkeys(note for key in shown for note in _notes(ways[key]))
    return Table(title, ("figure", *shown.values()), rows, " ".join(notes))


def _classes(figures: Mapping[str, Any]) -> str:
    return f"{figures.get('reals', 0):,} and {figures.get('fakes', 0):,}"


def _decided(figures: Mapping[str, Any]) -> str | None:
    """``"8 of 10"``: the rows used for accuracy and similar metrics."""
    if "undecided" not in figures:
        return None
    rows = figures["reals"] + figures["fakes"]
    return f"{rows - figures['undecided']:,} of {rows:,}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _notes(figures: Mapping[str, Any]) -> list[str]:
    how = figures.get("bootstrap") or {}
    notes = [_sentence(figures["note"])] if figures.get("note") else []
    if how.get("note"):
        notes.append(_sentence(how["note"]))
    elif how:
        notes.append(
            f"In brackets: {100 * how['level']:g} % intervals over {how['groups']:,} groups of related "
            "videos."
        )
    return notes


def breakdown_table(attribute: str, values: Mapping[str, Mapping[str, Any]]) -> Table:
    """AUC and other metrics for each value of an attribute.

    Counts of reals, fakes and undecided rows are the value's own if available, otherwise those of
    the rows compared, which may include all reals (see ``against``).
    """
    names = [n for n in ("auc", "tpr_at_1pct_fpr", "recall", "log_loss") if n in SCALARS]
    rows: list[list[Cell]] = [
        [value, *_own_counts(f), f.get("against"), *(figure(f, name) for name in names)]
        for value, f in values.items()
    ]
    told = ("reals", "fakes", "undecided", "against")
    return Table(f"By {attribute}", (attribute, *told, *(title_of(name) for name in names)), rows)


def _own_counts(figures: Mapping[str, Any]) -> list[Cell]:
    """Counts of reals, fakes, and undecided rows."""
    table = figures.get("truth_by_verdict")
    if table is None:
        return [figures.get(name) for name in ("reals", "fakes", "undecided")]
    counts = [table.get(label) or {} for label in LABELS]
    neither = sum(n for own in counts for verdict, n in own.items() if verdict not in LABELS)
    return [*(sum(own.values()) for own in counts), neither]
