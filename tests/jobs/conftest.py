from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten files that are no videos, each with a content and a size of its own."""
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.mp4").write_text("x" * (number + 30))
    return folder
