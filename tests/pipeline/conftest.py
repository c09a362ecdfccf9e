"""Children that make files of others, taken over by what they decode."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from dfscan.pipeline.sandbox import transcoding


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the child be a program that says something and ends."""

    def replace(said: str) -> None:
        program = "import sys; sys.stdin.buffer.read(); print(sys.argv[1])"
        monkeypatch.setattr(transcoding, "_CHILD", ("-c", program, said))

    return replace


@pytest.fixture
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the child run some code before it begins, with ``transcoding_worker`` at hand."""

    def replace(code: str) -> None:
        program = tmp_path / "child.py"
        begin = "from dfscan.pipeline.sandbox import transcoding_worker\n"
        end = "\ntranscoding_worker.main()\n"
        program.write_text(begin + textwrap.dedent(code) + end)
        monkeypatch.setattr(transcoding, "_CHILD", ("-P", str(program)))

    return replace
