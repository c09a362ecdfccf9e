import ast
import pickle
import re
from pathlib import Path

import pytest

from dfscan import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.DfscanError, 1),
        (errors.ClusterError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.SourceError, 2),
        (errors.OutputError, 2),
        (errors.ModelError, 2),
    ],
)
def test_each_error_has_the_exit_code_of_its_branch(kind, code):
    assert issubclass(kind, errors.DfscanError)
    assert kind("x").exit_code == code


def test_a_video_error_is_no_usage_error():
    assert not issubclass(errors.VideoError, errors.UsageError)


def test_a_video_error_keeps_status_and_reason_between_processes():
    error = pickle.loads(pickle.dumps(errors.VideoError("timeout", "after 60 s")))
    assert (error.status, error.reason) == ("timeout", "after 60 s")
    assert str(error) == "timeout: after 60 s"


def test_a_close_name_is_suggested():
    assert errors.did_you_mean("strid", ["stride", "phase"]) == "did you mean 'stride'?"


def test_without_a_close_name_the_allowed_ones_are_listed_in_order():
    assert errors.did_you_mean("zzz", {"b", "a"}) == "allowed: a, b"


def test_a_long_list_of_allowed_names_is_cut_and_counted():
    hint = errors.did_you_mean("zzz", [f"name{i}" for i in range(9)])
    assert hint == "allowed: " + ", ".join(f"name{i}" for i in range(8)) + ", … (9 in all)"


def test_an_error_keeps_its_code_between_processes():
    error = pickle.loads(pickle.dumps(errors.OutputError("in use", "output.locked")))
    assert (type(error), str(error), error.code) == (errors.OutputError, "in use", "output.locked")


def test_every_class_has_a_documented_code():
    def below(kind):
        return {kind}.union(*(below(k) for k in kind.__subclasses__()))

    assert {kind.default_code for kind in below(errors.DfscanError)} <= errors.CODES.keys()


def test_every_code_in_the_package_is_documented_and_every_documented_one_is_used():
    package = Path(errors.__file__).parent
    used = {kind.default_code for kind in vars(errors).values() if hasattr(kind, "default_code")}
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                given = [k.value for k in node.keywords if k.arg == "code"]
                used |= {value.value for value in given if isinstance(value, ast.Constant)}
    assert used == errors.CODES.keys()


def test_the_page_of_errors_lists_every_code():
    page = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", page, re.M))
    assert rows == dict(errors.CODES)
