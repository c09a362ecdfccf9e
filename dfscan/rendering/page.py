"""Render a report as one self-contained HTML document.

The document fetches nothing: it contains style, script, pictures and data, and its content security
policy forbids everything else. Text from files and file names is escaped in HTML and JSON, and
inserted by the script as text only. Faces are embedded and blurred; the table of videos and the
timelines are data that the script draws on demand. Without scripts, counts, metrics, plots, faces
and the first rows are still shown.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from string import Template
from typing import Any, Final

from dfscan import __version__

Cell = str | int | float | None

GENERATOR: Final = f"dfscan {__version__}"
STATIC_ROWS: Final = 500
"""Rows of the table of videos that are shown without the script."""

HEAD_BYTES: Final = 4096
"""Number of leading bytes that :func:`about_of` reads."""

_WORDS: Final = 60
"""Largest number of values for which a text column gets a filter."""

_KINDS: Final = {"FAKE": "fake", "REAL": "real", "UNCERTAIN": "unsure"}


@dataclass(frozen=True)
class Tile:
    """A number at the top; ``note`` is a small line below it, ``kind`` may be a verdict."""

    title: str
    value: Cell
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Counts:
    """Counts by the values of one property, drawn as bars.

    ``others``: the number of further values, and their total count.
    """

    title: str
    counts: Mapping[str, int]
    others: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Table:
    """A small table, complete in the document; numbers are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Histogram:
    """Bars of equal width, one row per series with its own scale: readable without colour.

    ``series``: name → counts, all of the same length; ``axis``: labels below the bars, left to
    right.
    """

    title: str
    series: Mapping[str, Sequence[int]]
    axis: Sequence[str]
    unit: str = "videos"


@dataclass(frozen=True)
class Plot:
    """A PNG."""

    title: str
    png: bytes


@dataclass(frozen=True)
class Face:
    """A face, or the reason why it has no picture.

    ``facts`` are shown below it, and faces can be sorted by them; ``badge`` is its verdict or
    label. ``video``: its row in the table of videos, None if absent.
    """

    name: str
    jpeg: bytes | None
    facts: Mapping[str, Cell]
    badge: str = ""
    missing: str = ""
    video: int | None = None


@dataclass(frozen=True)
class Gallery:
    """Faces under one heading, in initial order."""

    title: str
    intro: str
    faces: Sequence[Face]


@dataclass(frozen=True)
class Column:
    """A column of the table of videos: one value per row.

    ``digits``: decimals of a number, None for text. ``pill``: verdicts and labels. ``detail``:
    shown only in the details of a video.
    """

    title: str
    values: Sequence[Cell]
    digits: int | None = None
    pill: bool = False
    detail: bool = False


@dataclass(frozen=True)
class Track:
    """p_fake of one person's faces: ``times_s`` seconds, ascending, and ``p_fake`` of each."""

    person: int | None
    times_s: Sequence[float]
    p_fake: Sequence[float]


@dataclass(frozen=True)
class Timeline:
    """The people of a video; ``duration_s`` and ``threshold`` (on p_fake) if known."""

    duration_s: float | None
    threshold: float | None
    tracks: Sequence[Track]


@dataclass(frozen=True)
class Videos:
    """All videos: the first column is their name; one timeline or None per row.

    ``sorted_by`` names the column by which rows are sorted, in descending order.
    """

    columns: Sequence[Column]
    timelines: Sequence[Timeline | None] = ()
    sorted_by: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The content of a page; empty parts are omitted.

    ``about`` is the path of the input relative to the page, by which a later run recognises its
    page. ``failures`` is a table by reason, ``provenance`` name → value.
    """

    kind: str
    heading: str
    under: str
    about: str
    made: datetime
    tiles: Sequence[Tile] = ()
    notes: Sequence[str] = ()
    figures: Sequence[Table] = ()
    counts: Sequence[Counts] = ()
    histograms: Sequence[Histogram] = ()
    plots: Sequence[Plot] = ()
    galleries: Sequence[Gallery] = ()
    failures: Table | None = None
    videos: Videos | None = None
    provenance: Mapping[str, Cell] = field(default_factory=dict)


def render(page: Page) -> bytes:
    """The document, UTF-8."""
    sections = {name: body for name, body in _sections(page) if body}
    script = _asset("page.js")
    digest = hashlib.sha256(script.encode()).digest()
    text = Template(_asset("page.html")).substitute(
        hash=base64.b64encode(digest).decode(),
        generator=_text(GENERATOR),
        about=_text(page.about),
        title=_text(f"{page.heading} · {page.kind} · dfscan"),
        style=_asset("page.css"),
        kind=_text(page.kind),
        heading=_text(page.heading),
        under=_text(page.under),
        nav=_navigation(sections),
        body="\n".join(_section(name, body) for name, body in sections.items()),
        made=_text(f"{page.made:%Y-%m-%d %H:%M %Z}"),
        videos=_json(_videos_data(page.videos)),
        timelines=_json(_timelines_data(page.videos)),
        script=script,
    )
    return text.encode(errors="backslashreplace")


def about_of(head: bytes) -> str | None:
    """The input of a report page; None if the file is not a report page.

    :param head: its first :data:`HEAD_BYTES` bytes.
    """
    text = head.decode(errors="replace")
    if not re.search(r'<meta name="generator" content="dfscan [^"]*">', text):
        return None
    found = re.search(r'<meta name="dfscan:about" content="([^"]*)">', text)
    return html.unescape(found[1]) if found else None


def _asset(name: str) -> str:
    return resources.files("dfscan.rendering").joinpath(name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- text and data


def _text(value: Cell) -> str:
    """A value as HTML text, in element or attribute; a dash for None."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}" if math.isfinite(value) else "–"
    return html.escape(f"{value:,}" if isinstance(value, int) else value)


def _json(value: Any) -> str:
    """JSON that cannot close the surrounding HTML element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _pill(value: Cell) -> str:
    kind = _KINDS.get(str(value), "")
    return f'<span class="pill {kind}">{_text(value)}</span>' if kind else _text(value)


def _cell(value: Cell, tag: str = "td") -> str:
    number = isinstance(value, (int, float))
    return f"<{tag}{' class=n' if number else ''}>{_pill(value)}</{tag}>"


# ---------------------------------------------------------------- sections


def _sections(page: Page) -> Iterable[tuple[str, str]]:
    yield "Summary", _summary(page)
    yield "Figures", _cards((_table(t) for t in page.figures), "wide")
    counts = [_bars(c) for c in page.counts if c.counts]
    yield "Counts", _cards([*(_histogram(h) for h in page.histograms), *counts])
    yield "Plots", _plots(page.plots)
    yield "Faces", _faces(page.galleries)
    yield "Timelines", _timelines(page.videos)
    yield "Failures", "" if page.failures is None else _cards([_table(page.failures)], "single")
    yield "Videos", "" if page.videos is None else _videos(page.videos)
    yield "Provenance", _listed(page.provenance)


def _navigation(names: Iterable[str]) -> str:
    items = (f'<li><a href="#{name.lower()}">{name}</a></li>' for name in names)
    return f"<ul>{''.join(items)}</ul>"


def _section(name: str, body: str) -> str:
    place = name.lower()
    return (
        f'<section id="{place}" aria-labelledby="{place}-title">'
        f'<h2 id="{place}-title">{name}</h2>\n{body}\n</section>'
    )


def _summary(page: Page) -> str:
    tiles = "".join(
        f'<div class="tile {_KINDS.get(t.kind, "")}"><dt>{_text(t.title)}</dt>'
        f"<dd>{_text(t.value)}{f'<small>{_text(t.note)}</small>' if t.note else ''}</dd></div>"
        for t in page.tiles
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in page.notes)
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    return (f'<dl class="tiles">{tiles}</dl>' if tiles else "") + listed


def _cards(bodies: Iterable[str], shape: str = "") -> str:
    cards = [f'<div class="card">{body}</div>' for body in bodies]
    if shape == "single":
        return "".join(cards)
    return f'<div class="grid {shape}">{"".join(cards)}</div>' if cards else ""


def _table(table: Table) -> str:
    numbers = [
        any(isinstance(row[place], (int, float)) for row in table.rows)
        for place in range(len(table.columns))
    ]
    head = "".join(
        f'<th scope="col"{" class=n" if number else ""}>{_text(name)}</th>'
        for name, number in zip(table.columns, numbers, strict=True)
    )
    rows = "".join(
        f'<tr><th scope="row">{_pill(first)}</th>{"".join(_cell(v) for v in rest)}</tr>'
        for first, *rest in table.rows
    )
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.title)}"><table>'
        f"<caption>{_text(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _bars(counts: Counts) -> str:
    values, rest = counts.others
    total, most = sum(counts.counts.values()) + rest, max(counts.counts.values())
    rows = [
        f'<tr class="{_KINDS.get(name, "")}"><th scope="row">{_pill(name)}</th>'
        f'<td class="bar"><i style="width:{100 * count / max(most, 1):.1f}%"></i></td>'
        f'<td class="n">{count:,}</td><td class="n">{_share(count, total)}</td></tr>'
        for name, count in counts.counts.items()
    ]
    if values:
        rows.append(
            f'<tr><th scope="row">{values:,} others</th><td></td><td class="n">{rest:,}</td>'
            f'<td class="n">{_share(rest, total)}</td></tr>'
        )
    caption = f"<caption>{_text(counts.title)}</caption>"
    return f'<table class="bars">{caption}<tbody>{"".join(rows)}</tbody></table>'


def _share(count: int, total: int) -> str:
    return f"{100 * count / max(total, 1):.1f} %"


def _histogram(histogram: Histogram) -> str:
    figures = "".join(
        _row_of_bars(name, counts, histogram) for name, counts in histogram.series.items()
    )
    axis = "".join(f"<span>{_text(mark)}</span>" for mark in histogram.axis)
    return f'<h3>{_text(histogram.title)}</h3>{figures}<div class="axis">{axis}</div>'


def _row_of_bars(name: str, counts: Sequence[int], histogram: Histogram) -> str:
    most, total = max(*counts, 1), sum(counts)
    bars = "".join(
        f'<rect x="{place + 0.06:.2f}" y="{1 - count / most:.4f}" width="0.88" '
        f'height="{count / most:.4f}"><title>{count:,}</title></rect>'
        for place, count in enumerate(counts)
        if count
    )
    said = f"{histogram.title}, {name}: {total:,} {histogram.unit}, at most {most:,} a bar"
    return (
        f'<figure class="hist {_KINDS.get(name, "")}"><figcaption><span>{_pill(name)} {total:,} '
        f"{_text(histogram.unit)}</span><span>tallest bar {most:,}</span></figcaption>"
        f'<svg viewBox="0 0 {len(counts)} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{_text(said)}">{bars}</svg></figure>'
    )


def _plots(plots: Sequence[Plot]) -> str:
    figures = "".join(
        f'<figure class="plot"><img src="data:image/png;base64,{_base64(plot.png)}" '
        f'alt="{_text(plot.title)}" decoding="async"></figure>'
        for plot in plots
    )
    return f'<div class="grid wide">{figures}</div>' if figures else ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _listed(facts: Mapping[str, Cell]) -> str:
    items = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    return f'<div class="card"><dl class="plainlist">{items}</dl></div>' if items else ""


# ---------------------------------------------------------------- faces


def _faces(galleries: Sequence[Gallery]) -> str:
    some = [gallery for gallery in galleries if gallery.faces]
    if not some:
        return ""
    faces = [face for gallery in some for face in gallery.faces]
    parts = [
        f'<h3>{_text(g.title)}</h3><p class="intro">{_text(g.intro)}</p>'
        f'<ul class="faces">{"".join(_face(face) for face in g.faces)}</ul>'
        for g in some
    ]
    return _face_controls(faces) + "".join(parts)


def _face_controls(faces: Sequence[Face]) -> str:
    orders = ['<option value="|up">as listed: most relevant first</option>']
    for name in dict.fromkeys(name for face in faces for name in face.facts):
        number = any(isinstance(face.facts.get(name), (int, float)) for face in faces)
        ways = {"down": "highest first", "up": "lowest first"} if number else {"up": "A to Z"}
        orders += (
            f'<option value="{_text(name)}|{way}">{_text(name)}: {said}</option>'
            for way, said in ways.items()
        )
    badges = sorted({face.badge for face in faces if face.badge})
    filters = (
        '<label>Only<select id="face-badge"><option value="">all</option>'
        + "".join(f'<option value="{_text(b)}">{_text(b)}</option>' for b in badges)
        + "</select></label>"
        if len(badges) > 1
        else ""
    )
    return (
        '<div class="controls needs-script" id="face-controls" role="group" aria-label="Faces">'
        '<label>Find<input type="search" placeholder="name or fact" autocomplete="off"></label>'
        f'{filters}<label>Sort by<select id="face-order">{"".join(orders)}</select></label>'
        '<button type="button" class="plain" id="unblur" aria-pressed="false">Unblur all</button>'
        '<span id="face-count" role="status" class="intro"></span></div>'
        '<p class="intro">Faces are blurred until clicked (or Enter, or Space).</p>'
    )


def _face(face: Face) -> str:
    name = _text(face.name)
    if face.jpeg is None:
        picture = f'<div class="gone">{_text(face.missing)}</div>'
    else:
        picture = (
            f'<button type="button" class="look" aria-pressed="false" aria-label="Show the face in '
            f'{name}"><img src="data:image/jpeg;base64,{_base64(face.jpeg)}" alt="" '
            'decoding="async"></button>'
        )
    link = "div" if face.video is None else "button"
    attributes = "" if face.video is None else ' type="button" aria-haspopup="dialog"'
    called = "name" if face.video is None else "link name"
    facts = "".join(
        f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in face.facts.items() if v is not None
    )
    row = "" if face.video is None else f' data-video="{face.video}"'
    keys = html.escape(_json({k: _finite(v) for k, v in face.facts.items()}))
    badge = _pill(face.badge) if face.badge else ""
    return (
        f'<li class="face"{row} data-badge="{html.escape(face.badge)}" data-keys="{keys}">{picture}'
        f'<div class="facts">{badge}<{link}{attributes} class="{called}" title="{name}">{name}'
        f"</{link}><dl>{facts}</dl></div></li>"
    )


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- videos


def _timelines(videos: Videos | None) -> str:
    if videos is None or not any(videos.timelines):
        return ""
    return (
        '<p class="intro">p_fake of each face over time, one line per person. Every video in the table '
        "below opens its timeline.</p>"
        '<noscript><p class="note">Timelines are drawn by the page\'s script.</p></noscript>'
        '<div class="grid wide needs-script" id="timeline-list"></div>'
        '<p class="pager needs-script"><button type="button" class="plain" id="more-timelines">'
        "More</button></p>"
    )


def _videos(videos: Videos) -> str:
    shown = [c for c in videos.columns if not c.detail]
    filters = "".join(
        _filter(c) for c in shown[1:] if 1 < len(set(c.values)) <= _WORDS and _words(c)
    )
    note = f'<p class="intro">{_text(videos.note)}</p>' if videos.note else ""
    sizes = "".join(f"<option>{n}</option>" for n in (50, 100, 500))
    buttons = {"first": "First", "before": "Previous", "after": "Next", "last": "Last"}
    pager = "".join(
        f'<button type="button" class="plain" id="{k}">{v}</button>' for k, v in buttons.items()
    )
    return (
        f'{note}<div class="controls needs-script" role="search" aria-label="Videos">'
        '<label>Find<input type="search" id="words" placeholder="name or reason" autocomplete="off">'
        f'</label><span id="filters">{filters}</span>'
        f'<label>Rows<select id="size">{sizes}</select></label></div>'
        '<div class="card needs-script"><div class="scroll" role="region" tabindex="0" '
        'aria-label="All videos"><table id="table"><thead></thead><tbody></tbody></table></div>'
        f'<div class="pager">{pager}<span id="where" role="status"></span></div></div>'
        f"<noscript>{_first_rows(videos, shown)}</noscript>"
    )


def _words(column: Column) -> bool:
    return column.digits is None


def _filter(column: Column) -> str:
    words = sorted({"–" if v is None else str(v) for v in column.values})
    options = "".join(f'<option value="{_text(w)}">{_text(w)}</option>' for w in words)
    return (
        f'<label>{_text(column.title)}<select data-title="{_text(column.title)}">'
        f'<option value="">all</option>{options}</select></label>'
    )


def _first_rows(videos: Videos, shown: Sequence[Column]) -> str:
    count = len(videos.columns[0].values)
    few = min(count, STATIC_ROWS)
    rows = [[_rounded(c.values[i], c.digits) for c in shown] for i in range(few)]
    note = "" if few == count else f"The first {few:,} of {count:,}; the others need the script."
    return _cards([_table(Table("All videos", [c.title for c in shown], rows, note))], "single")


def _videos_data(videos: Videos | None) -> dict[str, Any]:
    if videos is None:
        return {}
    return {
        "columns": [_column_data(column) for column in videos.columns],
        "timed": [0 if t is None else 1 for t in videos.timelines]
        or [0] * len(videos.columns[0].values),
        "sorted": videos.sorted_by,
    }


def _column_data(column: Column) -> dict[str, Any]:
    """Encode a column: each distinct text once, with one index per row."""
    values: list[Cell] = [_rounded(v, column.digits) for v in column.values]
    data: dict[str, Any] = {
        "title": column.title, "digits": column.digits, "pill": column.pill,
        "detail": column.detail, "values": values,
    }  # fmt: skip
    words = sorted({v for v in values if isinstance(v, str)})
    if column.digits is None and len(words) < len(values) / 2:
        place = {word: number for number, word in enumerate(words)}
        data |= {"words": words, "values": [None if v is None else place[str(v)] for v in values]}
    return data


def _rounded(value: Cell, digits: int | None) -> Cell:
    if digits is None or value is None or isinstance(value, str):
        return value
    found = _finite(value)
    if not isinstance(found, (int, float)):
        return None
    return round(found, digits) if digits else round(found)


def _timelines_data(videos: Videos | None) -> list[Any]:
    return [] if videos is None else [t and _timeline_data(t) for t in videos.timelines]


def _timeline_data(timeline: Timeline) -> list[Any]:
    """Encode a timeline: time steps in 1/100 s, p_fake in 1/1000."""
    tracks = []
    for track in timeline.tracks:
        ticks = [round(100 * s) for s in track.times_s]
        steps = [after - before for before, after in zip([0, *ticks], ticks, strict=False)]
        tracks.append([track.person, steps, [round(1000 * p) for p in track.p_fake]])
    return [_rounded(timeline.duration_s, 2), _rounded(timeline.threshold, 4), tracks]
