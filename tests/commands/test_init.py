from collections.abc import Callable
from pathlib import Path

import pytest

from dfscan.commands.init import guess_source, init
from dfscan.config.extract import ExtractConfig
from dfscan.config.loading import resolve
from dfscan.config.score import ScoreConfig
from dfscan.config.train import TrainConfig
from dfscan.errors import OutputError


def test_the_file_it_writes_is_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    init(source="/videos: all", faces="my faces", run="r", verdicts="v.parquet")
    extract = resolve(ExtractConfig, {})
    assert extract.source == ("/videos: all",)
    assert extract.out == "my faces"
    assert resolve(TrainConfig, {}).faces == ("my faces",)
    assert resolve(ScoreConfig, {}).model == ("r",)
    assert resolve(ScoreConfig, {}).out == "v.parquet"
    defaults = ExtractConfig(source=extract.source, out=extract.out)
    assert extract == defaults


def test_it_guesses_the_folder_with_videos(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    assert guess_source(str(tmp_path)) == "."
    (tmp_path / "empty").mkdir()
    write_clip("media/deep/a.mp4")
    assert guess_source(str(tmp_path)) == "media"


def test_it_does_not_overwrite_unasked(tmp_path: Path) -> None:
    path = init(str(tmp_path))
    path.write_text("run: {workers: 3}\n")
    with pytest.raises(OutputError, match="exists already"):
        init(str(tmp_path))
    assert path.read_text() == "run: {workers: 3}\n"
    init(str(tmp_path), overwrite=True)
    assert "extract:" in path.read_text()
