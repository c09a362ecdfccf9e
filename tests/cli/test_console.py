"""What strangers named reaches a terminal as text."""

import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.text import Text

from dfscan.cli import main
from dfscan.cli.console import as_shown, new_table, open_console
from dfscan.cli.progress import LiveProgress, PlainProgress
from dfscan.cli.renderers.other import show_inspect
from dfscan.cli.renderers.scoring import show_score
from dfscan.commands.inspect.result import InspectResult
from dfscan.commands.score.result import ScoreResult

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.4pm\r.mp4"


def obeyed(text: str) -> list[str]:
    return [c for c in text if c in "\x1b\x07\x9b\u202e\r"]


def test_no_text_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    console = open_console()
    table = new_table(EVIL, EVIL, "b")
    table.add_row(Text(EVIL), EVIL)
    console.print(table)
    console.print(f"  {EVIL}: missing", markup=False)
    show_inspect(InspectResult(EVIL, "source", {EVIL: EVIL}, [{EVIL: EVIL}, {EVIL: 1}]))
    row = {"video_id": EVIL, "verdict": "FAKE", "p_fake": 0.9, "reason": EVIL}
    show_score(ScoreResult(EVIL, 1, {"ok": 1}, 0.05, 1.0, rows=[row]))
    for progress in (PlainProgress(), LiveProgress()):
        progress.message(EVIL)
    told = capsys.readouterr()
    assert obeyed(told.out + told.err) == []
    assert r"\x1b[2J" in told.out
    assert r"\x1b[2J" in told.err


def test_colours_and_lines_of_our_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console = open_console()
    with console.capture() as captured:
        console.print(Text(f"FAKE\n\tcafé \u65e5\u672c {EVIL[:2]}", style="red"))
    assert "\x1b[31mFAKE" in captured.get()
    assert "café \u65e5\u672c a\\x1b" in captured.get()
    assert as_shown("a\n\tb caf\\xe9") == "a\n\tb caf\\xe9"


def test_an_error_names_a_file_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{EVIL}.zip").write_bytes(b"none")
    argv = ["dfscan", "inspect", str(tmp_path / f"{EVIL}.zip")]
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert obeyed(told) == []
    assert "dfscan: " in told
