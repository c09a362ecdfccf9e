"""A short campaign, and that a long one could fail. ``make fuzz`` is the long one."""

from pathlib import Path

import pytest
from fuzz import fuzz

from dfscan.errors import VideoError
from dfscan.storage import read_bytes
from dfscan.video import containers


def test_a_hundred_and_ten_files_do_no_harm(tmp_path: Path) -> None:
    outcome = fuzz.run(tmp_path, 110, seed=7)
    assert outcome.files == 110
    assert outcome.references > 60
    assert outcome.of_references["refused"] > 25
    assert outcome.sound == 5
    assert outcome.children.started == 1, "one process for all of them"


def test_a_campaign_notices_what_it_is_there_for(tmp_path: Path) -> None:
    watch = fuzz.Watch(tmp_path)
    fuzz.check_watch(watch, fuzz.references(watch.canary, watch.port))
    assert watch.touched() == (0, 0)
    before = fuzz.snapshot(tmp_path, tmp_path / "out")
    read_bytes(str(watch.canary))
    assert watch.touched()[0] > 0
    (tmp_path / "new").touch()
    assert fuzz.snapshot(tmp_path, tmp_path / "out") != before


@pytest.mark.parametrize("name", ["file-hls", "http-concat", "path-sdp", "http-dash"])
def test_references_are_refused_before_ffmpeg_sees_them(tmp_path: Path, name: str) -> None:
    watch = fuzz.Watch(tmp_path)
    with pytest.raises(VideoError, match="refused"):
        containers.recognise(fuzz.references(watch.canary, watch.port)[name])
