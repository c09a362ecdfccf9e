"""What the command line prints of an error."""

import json

import pytest

from dfscan.cli.app import app


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(list(words), prog_name="dfscan")
    return int(ended.value.code or 0)


def test_verbose_shows_the_code_of_an_error(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run("score", "nothing", "-v") == 2
    assert capfd.readouterr().err.strip().endswith("[model.missing]")
    assert run("score", "nothing") == 2
    assert "[model.missing]" not in capfd.readouterr().err


def test_json_has_the_code_of_an_error_alone_on_stdout(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run("score", "nothing", "--json") == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert (error["code"], error["exit_code"]) == ("model.missing", 2)
    assert error["message"].startswith("no model: give --model")
    assert list(tmp_path.iterdir()) == []
