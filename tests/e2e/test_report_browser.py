"""Pages of ``dfscan report`` in a real browser; skipped only where there is none."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from support.faces import picture
from support.reports import verdict, write_verdicts

from dfscan.config.report import ReportConfig
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import Face, Gallery, render
from dfscan.reports import verdicts as report_verdicts

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver: apt install chromium-driver",
    ),
]

EVIL = "zz <script>document.title='owned'</script>.mp4"
VIDEOS = 130
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,900", "--force-prefers-reduced-motion",
)  # fmt: skip


def make_page(folder: Path) -> Path:
    """Verdicts of 130 videos whose files are gone, and faces as if they were not."""
    rows = [
        verdict(f"p{i % 2}/v{i:03}.mp4", {0: [i / 40, i / 40 - 1], 1: [0.1]}, label="FAKE")
        for i in range(VIDEOS - 3)
    ]
    rows += [
        verdict(EVIL, {0: [9.0, 8.0]}, label="REAL"),
        verdict("unsure.mp4", {0: [0.5]}, verdict="UNCERTAIN", reason="few_frames (1 of 9)"),
        verdict("broken.mp4", status="timeout", reason="not done after 120 s"),
    ]
    path = write_verdicts(folder / "verdicts.parquet", rows)
    config = ReportConfig(path=str(path), faces=0)
    page = report_verdicts.collect(path, path.name, config, Progress())
    names = [str(name) for name in page.videos.columns[0].values] if page.videos else []
    faces = [
        Face(name, picture(name, size=112), {"p_fake": 1 - i / 10, "size": i % 3}, "FAKE", video=i)
        for i, name in enumerate(names[:6])
    ]
    faces.append(Face("gone.mp4", None, {"p_fake": 0.2}, "REAL", "the file is gone"))
    page = replace(page, galleries=[Gallery("Most suspicious", "first", faces)])
    target = folder / "report.html"
    target.write_bytes(render(page))
    return target


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_page(tmp_path_factory.mktemp("page")).as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield found
    found.quit()


@pytest.fixture
def opened(driver: webdriver.Chrome, page: str) -> Iterator[webdriver.Chrome]:
    """The page, opened anew; nothing may be complained of or fetched while a test uses it."""
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page)
    yield driver
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert page in asked
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def names(driver: webdriver.Chrome) -> list[str]:
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#table tbody th")]


def where(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.ID, "where").text


def header(driver: webdriver.Chrome, title: str) -> Any:
    cells = driver.find_elements(By.CSS_SELECTOR, "#table thead th")
    return next(cell for cell in cells if cell.text.split("\xa0")[0] == title)


def press(driver: webdriver.Chrome, element: Any) -> None:
    """A click that needs no scrolling under the bar on top."""
    driver.execute_script("arguments[0].click()", element)


def filter_of(look: Any) -> str:
    return str(look.find_element(By.TAG_NAME, "img").value_of_css_property("filter"))


def test_a_name_with_markup_is_text(opened: webdriver.Chrome) -> None:
    assert "owned" not in opened.title
    assert names(opened)[0] == EVIL
    assert opened.find_elements(By.CSS_SELECTOR, "#table script, .face script") == []
    button = opened.find_element(By.CSS_SELECTOR, "#table tbody th button")
    press(opened, button)
    assert opened.find_element(By.ID, "video-name").text == EVIL
    assert opened.title == "verdicts.parquet · Verdicts · dfscan"


def test_rows_are_paged_sorted_and_filtered(opened: webdriver.Chrome) -> None:
    assert len(names(opened)) == 50
    assert where(opened) == "1 to 50 of 130 videos"
    assert header(opened, "p_fake").get_attribute("aria-sort") == "descending"
    assert not opened.find_element(By.ID, "before").is_enabled()
    press(opened, opened.find_element(By.ID, "last"))
    assert where(opened) == "101 to 130 of 130 videos"
    assert names(opened)[-1] == "broken.mp4"  # what has no p_fake comes last
    press(opened, header(opened, "video").find_element(By.TAG_NAME, "button"))
    assert (names(opened)[0], where(opened)) == ("broken.mp4", "1 to 50 of 130 videos")
    press(opened, header(opened, "video").find_element(By.TAG_NAME, "button"))
    assert header(opened, "video").get_attribute("aria-sort") == "descending"
    assert names(opened)[0] == EVIL
    opened.find_element(By.ID, "words").send_keys("P1/V00")
    assert names(opened) == [f"p1/v00{i}.mp4" for i in (9, 7, 5, 3, 1)]
    opened.find_element(By.ID, "words").clear()
    opened.find_element(By.ID, "words").send_keys("not done")
    assert names(opened) == ["broken.mp4"]  # reasons are looked through too


def test_rows_are_filtered_by_what_they_have(opened: webdriver.Chrome) -> None:
    choice = Select(opened.find_element(By.CSS_SELECTOR, '#filters [data-title="verdict"]'))
    assert [o.text for o in choice.options] == ["all", "FAKE", "REAL", "UNCERTAIN", "–"]
    choice.select_by_visible_text("UNCERTAIN")
    assert names(opened) == ["unsure.mp4"]
    choice.select_by_visible_text("–")
    assert names(opened) == ["broken.mp4"]


def test_a_face_is_shown_by_click_enter_and_space(opened: webdriver.Chrome) -> None:
    looks = opened.find_elements(By.CSS_SELECTOR, "main .look")
    assert len(looks) == 6
    assert all("blur" in filter_of(look) for look in looks)
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", looks[0])
    looks[0].click()
    looks[1].send_keys(Keys.ENTER)
    looks[2].send_keys(Keys.SPACE)
    pressed = [look.get_attribute("aria-pressed") for look in looks]
    assert pressed == ["true", "true", "true", "false", "false", "false"]
    assert [filter_of(look) == "none" for look in looks] == [p == "true" for p in pressed]
    looks[0].send_keys(Keys.ENTER)
    assert "blur" in filter_of(looks[0])
    every = opened.find_element(By.ID, "unblur")
    press(opened, every)
    assert [filter_of(look) for look in looks] == ["none"] * 6
    assert every.get_attribute("aria-pressed") == "true"
    press(opened, every)
    assert all("blur" in filter_of(look) for look in looks)


def test_faces_are_sorted_and_filtered(opened: webdriver.Chrome) -> None:
    def shown() -> list[str]:
        faces = opened.find_elements(By.CSS_SELECTOR, "main .face:not(.hidden)")
        return [face.find_element(By.CLASS_NAME, "name").text for face in faces]

    first = shown()
    assert (len(first), first[-1]) == (7, "gone.mp4")
    Select(opened.find_element(By.ID, "face-order")).select_by_value("p_fake|up")
    assert shown() == [first[-1], *first[-2::-1]]
    Select(opened.find_element(By.ID, "face-order")).select_by_value("size|down")
    assert shown() == [first[i] for i in (2, 5, 1, 4, 0, 3, 6)]
    Select(opened.find_element(By.ID, "face-badge")).select_by_value("REAL")
    assert shown() == ["gone.mp4"]
    assert opened.find_element(By.ID, "face-count").text == "1 of 7 faces"


def test_timelines_have_a_line_a_person_that_differ_without_colour(
    opened: webdriver.Chrome,
) -> None:
    opened.implicitly_wait(5)
    cards = opened.find_elements(By.CSS_SELECTOR, "#timeline-list article")
    opened.implicitly_wait(0)
    assert len(cards) == 12
    lines = cards[1].find_elements(By.CSS_SELECTOR, ":scope > svg path.person")
    assert len({line.get_dom_attribute("stroke-dasharray") for line in lines}) == 2
    said = cards[1].find_element(By.CSS_SELECTOR, ":scope > svg").get_dom_attribute("aria-label")
    assert said.startswith("p_fake over 10.0 seconds: person 1 between 0.")
    assert "person 2 between" in said
    press(opened, opened.find_element(By.ID, "more-timelines"))
    assert len(opened.find_elements(By.CSS_SELECTOR, "#timeline-list article")) == 24


def test_a_video_opens_with_its_faces_and_closes_with_escape(opened: webdriver.Chrome) -> None:
    name = opened.find_element(By.CSS_SELECTOR, "main .face .link")
    press(opened, name)
    dialog = opened.find_element(By.ID, "video")
    assert dialog.get_attribute("open") is not None
    assert len(dialog.find_elements(By.CSS_SELECTOR, ".face")) == 1
    look = dialog.find_element(By.CSS_SELECTOR, ".look")
    assert "blur" in filter_of(look)
    look.send_keys(Keys.ENTER)
    assert look.get_attribute("aria-pressed") == "true"
    assert "0000000000" in dialog.text  # the content's SHA-256
    look.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_everything_is_reached_by_keyboard_and_seen_to_be(opened: webdriver.Chrome) -> None:
    reached: list[str] = []
    for _ in range(60):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        element = opened.switch_to.active_element
        reached.append(element.get_attribute("id") or element.get_attribute("class") or "")
        if element.get_attribute("class") == "look":
            assert element.value_of_css_property("outline-style") == "solid"
    assert reached[0] == "skip"
    assert {"look", "unblur", "face-order"} <= set(reached)
    unnamed = opened.execute_script(
        "return [...document.querySelectorAll('button,select,input')].filter(e => "
        "!(e.textContent.trim() || e.ariaLabel || e.closest('label'))).map(e => e.outerHTML)"
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_are_readable(opened: webdriver.Chrome, scheme: str) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    contrast = opened.execute_script("""
        const light = c => {
          const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = e => {
          const c = getComputedStyle(e).backgroundColor;
          return c === 'rgba(0, 0, 0, 0)' && e.parentElement ? behind(e.parentElement) : c;
        };
        const found = {};
        for (const s of ['h1', '.under', '.pill.fake', '.pill.real', '.pill.unsure', '.tile.fake dd',
                         '.link', '#table td', '#table thead th', '.face dd', '.jump a', '.note']) {
          const e = document.querySelector(s);
          if (!e) continue;
          const a = light(getComputedStyle(e).color), b = light(behind(e));
          found[s] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }
        return [light(behind(document.body)), found];
    """)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    ground, ratios = contrast
    assert (ground < 0.2) == (scheme == "dark")
    assert len(ratios) >= 10
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}  # WCAG 2.2, AA


def test_a_phone_scrolls_down_and_not_sideways(opened: webdriver.Chrome) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True},
    )
    opened.refresh()
    for _ in range(2):
        width = opened.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert width == [375, 375]
        press(opened, opened.find_element(By.CSS_SELECTOR, "#table tbody th button"))
    dialog = opened.execute_script(
        "const d = document.getElementById('video'); return [d.scrollWidth, d.clientWidth]"
    )
    assert dialog[0] <= dialog[1]


def test_without_scripts_faces_tables_and_counts_are_there(
    driver: webdriver.Chrome, page: str
) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(page)
        text = driver.find_element(By.TAG_NAME, "main").text
        assert EVIL in text
        assert "Videos by verdict" in text
        assert not driver.find_element(By.ID, "face-controls").is_displayed()
        look = driver.find_element(By.CSS_SELECTOR, "main .look")
        assert "blur" in filter_of(look)
        look.send_keys(Keys.SPACE)  # or anything else that gives it the focus
        assert filter_of(look) == "none"
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
