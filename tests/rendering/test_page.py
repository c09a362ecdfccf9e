import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from dfscan.rendering.page import (
    HEAD_BYTES,
    STATIC_ROWS,
    Column,
    Counts,
    Face,
    Gallery,
    Histogram,
    Page,
    Plot,
    Table,
    Tile,
    Timeline,
    Track,
    Videos,
    about_of,
    render,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028.mp4"
PAGE = Page("Verdicts", "a.parquet", "two videos", "a.parquet", datetime(2026, 1, 2, tzinfo=UTC))


class Elements(HTMLParser):
    """Every element of a document with its attributes, and the text of each."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(document.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def data(document: bytes, name: str) -> Any:
    text = document.decode()
    found = re.search(f'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found
    assert not set("<>&\u2028\u2029") & set(found[1])
    return json.loads(found[1])


def full(name: str, rows: int = 2) -> Page:
    """A page with something in every section, every text of it ``name``."""
    columns = [
        Column(name, [name] * rows),
        Column("verdict", (["FAKE", "REAL"] * rows)[:rows], pill=True),
        Column("p_fake", [0.9, float("nan"), *[None] * rows][:rows], 3),
        Column("reason", [None, name, *[name] * rows][:rows]),
    ]
    timeline = Timeline(4.0, 0.5, [Track(1, [0.0, 0.5, 2.25], [0.1, 0.9, 0.4567])])
    return replace(
        PAGE,
        kind=name, heading=name, under=name, about=name,
        tiles=[Tile(name, 1, name), Tile("AUC", 0.5, kind="FAKE")],
        notes=[name],
        figures=[Table(name, (name, "n"), [[name, 3], [name, None]], name)],
        counts=[Counts(name, {name: 3, "REAL": 1}, (4, 9))],
        histograms=[Histogram(name, {name: [0, 2, 1]}, (name,), name)],
        plots=[Plot(name, b"\x89PNG")],
        galleries=[
            Gallery(
                name, name,
                [
                    Face(name, b"\xff\xd8jpeg", {"p_fake": 0.9, name: name}, name, video=0),
                    Face(name, None, {"p_fake": None}, "FAKE", name, None),
                ],
            )
        ],
        failures=Table(name, (name,), [[name]]),
        videos=Videos(columns, [timeline, *[None] * (rows - 1)], "p_fake", name),
        provenance={name: name},
    )  # fmt: skip


def test_no_text_becomes_markup_wherever_it_stands() -> None:
    plain, evil = Elements(render(full("a"))), Elements(render(full(EVIL)))
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in plain.found]
    assert {k for _, a in evil.found for k in a} == {k for _, a in plain.found for k in a}
    assert any(EVIL in text for text in evil.texts)


def test_data_come_back_as_they_were() -> None:
    document = render(full(EVIL))
    videos = data(document, "videos-data")
    assert videos["columns"][0]["values"] == [EVIL, EVIL] or videos["columns"][0]["words"] == [EVIL]
    assert videos["columns"][2] | {"values": 0} == {
        "title": "p_fake", "digits": 3, "pill": False, "detail": False, "values": 0
    }  # fmt: skip
    assert videos["columns"][2]["values"] == [0.9, None]
    assert (videos["timed"], videos["sorted"]) == ([1, 0], "p_fake")
    assert data(document, "timelines-data") == [
        [4.0, 0.5, [[1, [0, 50, 175], [100, 900, 457]]]],
        None,
    ]


def test_words_that_recur_stand_once() -> None:
    column = Column("status", ["ok", "timeout", "ok", None, "ok"])
    document = render(replace(PAGE, videos=Videos([Column("video", list("abcde")), column])))
    status = data(document, "videos-data")["columns"][1]
    assert (status["words"], status["values"]) == (["ok", "timeout"], [0, 1, 0, None, 0])


def test_only_the_own_script_may_run_and_nothing_is_fetched() -> None:
    document = render(full("a"))
    elements = Elements(document)
    policy = next(
        a["content"] or "" for t, a in elements.found if a.get("http-equiv") and t == "meta"
    )
    script = re.findall(r"<script>(.*?)</script>", document.decode(), re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
    links = [v for _, a in elements.found for k, v in a.items() if k in ("src", "href", "action")]
    assert links
    assert all(link and link.startswith(("data:", "#")) for link in links)
    assert not [k for _, a in elements.found for k in a if k.startswith("on")]
    styles = re.findall(r"<style>(.*?)</style>", document.decode(), re.S)
    assert not any("url(" in s or "@import" in s for s in styles)


def test_the_page_knows_what_it_is_about_and_no_other_file_does() -> None:
    document = render(replace(PAGE, about='run/"a" & b'))
    assert about_of(document[:HEAD_BYTES]) == 'run/"a" & b'
    for other in (b"", b"\xff\xfe\x00", b"<html><head><title>dfscan 1</title>", b"PAR1" * 500):
        assert about_of(other) is None


def test_what_is_empty_is_left_out_and_not_in_the_navigation() -> None:
    document = render(PAGE).decode()
    sections = re.findall(r'<section id="(\w+)"', document)
    assert sections == []
    every = render(full("a")).decode()
    sections = re.findall(r'<section id="(\w+)"', every)
    assert sections == re.findall(r'<a href="#(\w+)">', every.split("<nav")[1].split("</nav>")[0])
    assert sections == [
        "summary", "figures", "counts", "plots", "faces", "timelines", "failures", "videos",
        "provenance",
    ]  # fmt: skip


def test_without_the_script_the_first_rows_are_there() -> None:
    rows = STATIC_ROWS + 20
    names = [f"v{i:04}.mp4" for i in range(rows)]
    videos = Videos([Column("video", names), Column("p_fake", [0.123456] * rows, 3)])
    text = render(replace(PAGE, videos=videos)).decode()
    static = re.search(r"<noscript><div.*?</noscript>", text, re.S)
    assert static
    assert static[0].count("<tr>") == STATIC_ROWS + 1
    assert names[STATIC_ROWS - 1] in static[0]
    assert names[STATIC_ROWS] not in static[0]
    assert f"The first {STATIC_ROWS} of {rows}" in static[0]
    assert "0.123" in static[0]


def test_a_face_is_blurred_until_it_is_shown_and_says_of_whom_it_is() -> None:
    elements = Elements(render(full("a.mp4")))
    looks = [a for t, a in elements.found if a.get("class") == "look"]
    assert [(a["aria-pressed"], a["aria-label"]) for a in looks] == [
        ("false", "Show the face in a.mp4")
    ]
    keys = [json.loads(a["data-keys"] or "") for t, a in elements.found if a.get("class") == "face"]
    assert keys == [{"p_fake": 0.9, "a.mp4": "a.mp4"}, {"p_fake": None}]
    assert elements.count("img") == 2  # the plot and the face


def test_counts_say_shares_and_what_else_there_is() -> None:
    text = render(replace(PAGE, counts=[Counts("by part", {"p": 3}, (4, 9))])).decode()
    cells = [html.unescape(c) for c in re.findall(r"<td[^>]*>([^<]*)</td>", text)]
    assert [c for c in cells if c] == ["3", "25.0 %", "9", "75.0 %"]
    assert "4 others" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, ""])
def test_what_is_not_known_is_a_dash(value: Any) -> None:
    text = render(replace(PAGE, provenance={"x": value})).decode()
    assert "<dd>–</dd>" in text


def test_a_name_that_is_no_text_is_still_a_page() -> None:
    assert b"\\udc80" in render(replace(PAGE, heading="caf\udc80.mp4"))
