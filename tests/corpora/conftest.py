import json

import pytest


@pytest.fixture
def tree(tmp_path):
    """``tree("name", {path: content})`` → the folder; dicts become JSON, None an empty file."""

    def make(name, files):
        root = tmp_path / name
        for path, content in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content) if isinstance(content, dict) else content or ""
            target.write_text(text, encoding="utf-8")
        return str(root)

    return make
