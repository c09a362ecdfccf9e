"""Size of a page about 10,000 verdicts, and the time to write and to open it.

    python benchmarks/report.py              # about a minute

The verdicts are of invented videos with 32 frames each and one to three people, without video files:
``dfscan report --faces 0`` writes the page. Then 300 faces are added as its own collector would do (no video
is decoded), and a headless Chromium opens it several times: seconds until the document is ready and the
first paint is done, by its Navigation Timing, compared with an empty page in the same browser. Needs chromium,
chromedriver and selenium.
"""

import argparse
import dataclasses
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfscan import storage
from dfscan.config.report import ReportConfig
from dfscan.pipeline.progress import Progress
from dfscan.rendering.page import Face, Gallery, render
from dfscan.reports import verdicts as report_verdicts
from dfscan.schemas.records import VERDICT_SCHEMA, Custody, FrameScore, Verdict, to_table

FRAMES = 32
FACES = 300
OPENINGS = 5
CUSTODY = Custody("0.1.0", "r" * 16, "c" * 16, ("ab" * 32,), "av 14", "cpu", "float32", {})


def write_verdicts(path: Path, videos: int, seed: int = 0) -> Path:
    """Write a verdict file whose rows are as large as those written by scoring."""
    random = np.random.default_rng(seed)
    rows = [_row(number, random) for number in range(videos)]
    storage.commit_table(path, to_table(rows, VERDICT_SCHEMA))
    return path


def _row(number: int, random: np.random.Generator) -> Verdict:
    name = f"archive/part_{number % 50:02d}/{random.bytes(8).hex()}.mp4"
    common: dict[str, Any] = {
        "video_id": name, "uri": f"/data/{name}", "bytes": 5_000_000, "version": str(number),
        "custody": CUSTODY, "content_sha256": random.bytes(32).hex(), "scanned_at": 1.7e9 + number,
        "calibrated": True, "threshold": 0.5,
    }  # fmt: skip
    if number % 40 == 0:
        status = "timeout" if number % 80 else "no_face"
        common |= {"verdict": None, "reason": status, "score_raw": None, "p_fake": None}
        return Verdict(status=status, **common)
    people, mean = 1 + number % 3, float(random.normal(-2, 2))
    logits = mean + random.normal(0, 0.7, FRAMES)
    frames = tuple(
        FrameScore(
            i * 0.4 + 0.013, i * 10, i % people, tuple((100 + random.random(4) * 300).tolist()), float(z)
        )
        for i, z in enumerate(logits)
    )  # fmt: skip
    share = 1 / (1 + np.exp(-mean))
    tracks = tuple(
        {"track_id": t, "first_s": 0.0, "last_s": 12.0, "faces": FRAMES // people,
         "score_raw": float(logits[t::people].mean()),
         "p_fake": float(1 / (1 + np.exp(-logits[t::people].mean()))),
         "box": [100.0, 100.0, 200.0, 200.0]}
        for t in range(people)
    )  # fmt: skip
    verdict = "UNCERTAIN" if 0.4 < share < 0.6 else "FAKE" if share >= 0.6 else "REAL"
    common |= {"verdict": verdict, "score_raw": mean, "p_fake": float(share), "reason": None}
    return Verdict(
        status="ok", tracks=tracks, frames=frames, width=1920, height=1080, fps=25.0,
        duration_s=12.8, face_px=120.0, **common,
    )  # fmt: skip


def with_faces(page: Any, count: int) -> Any:
    """The page with ``count`` invented faces that are as large as real ones."""
    random = np.random.default_rng(1)
    faces = []
    for number in range(count):
        noise = Image.fromarray(random.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        sink = io.BytesIO()
        noise.resize((112, 112), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=70)
        facts = {"p_fake": 1 - number / 1000, "score": 3.0, "at": "1.2 s", "face, px": 120}
        faces.append(Face(f"video {number}", sink.getvalue(), facts, "FAKE", video=number))
    return dataclasses.replace(page, galleries=[Gallery("Most suspicious", "…", faces)])


def opened_s(driver: Any, path: Path) -> float:
    """Seconds from requesting a page until it is ready and painted."""
    driver.get(path.as_uri())
    script = (
        "const n = performance.getEntriesByType('navigation')[0];"
        "const p = performance.getEntriesByName('first-contentful-paint')[0];"
        "return [n.domContentLoadedEventEnd, n.loadEventEnd, p ? p.startTime : 0];"
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ready, loaded, painted = driver.execute_script(script)
        if ready and loaded and (painted or path.name == "empty.html"):
            return max(ready, painted) / 1000
        time.sleep(0.05)
    raise SystemExit(f"{path} is not ready after 10 s")


def browser(profile: str) -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise SystemExit("no chromium or chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(executable_path=driver))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--videos", type=int, default=10_000)
    arguments.add_argument("--keep", help="folder in which to keep the page")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.keep or temporary)
        verdicts = write_verdicts(folder / "verdicts.parquet", given.videos)
        started = time.monotonic()
        config = ReportConfig(path=str(verdicts), faces=0)
        page = report_verdicts.collect(verdicts, verdicts.name, config, Progress())
        document = render(with_faces(page, FACES))
        made_s = time.monotonic() - started
        target, empty = folder / "report.html", folder / "empty.html"
        target.write_bytes(document)
        empty.write_bytes(b"<!DOCTYPE html><title>empty</title><p>empty</p>")
        driver = browser(str(Path(temporary) / "profile"))
        try:
            opened_s(driver, empty)
            pairs = [(opened_s(driver, empty), opened_s(driver, target)) for _ in range(OPENINGS)]
        finally:
            driver.quit()
    nothing, page_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{given.videos:,} verdicts with {FRAMES} frames each and {FACES} faces")
    print(f"size {len(document) / 1e6:.2f} MB; written in {made_s:.1f} s, no video opened")
    print(
        f"opens in {page_s:.2f} s (median of {OPENINGS}, maximum "
        f"{max(pair[1] for pair in pairs):.2f}), {page_s / max(nothing, 1e-3):.0f} times an empty "
        f"page ({nothing:.3f} s)"
    )


if __name__ == "__main__":
    main()
