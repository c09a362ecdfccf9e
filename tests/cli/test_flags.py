"""The options of every command, frozen in ``flags.txt``: a change there is a change for users."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dfscan.cli.app import app
from dfscan.cli.registry import COMMANDS, load

FROZEN = Path(__file__).with_name("flags.txt")


def names(command: click.Command) -> list[str]:
    """Positional arguments in their order, then the options."""
    context = click.Context(command, help_option_names=["-h", "--help"])
    arguments, found = [], set()
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Argument):
            arguments.append(parameter.make_metavar(context))
        else:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return arguments + sorted(found)


def all_commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context, found = click.Context(group), {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= all_commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


def test_the_flags_of_every_command_are_those_of_the_list() -> None:
    lines = [f"{name}: {' '.join(names(c))}" for name, c in sorted(all_commands(app).items())]
    assert lines == FROZEN.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_every_flag_has_a_field_with_a_description(command) -> None:
    config = load(command.config)
    keys = [flag.key for flag in config.flags]
    assert len(keys) == len(set(keys))
    done = CliRunner().invoke(app, [*command.name.split(), "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    for parameter in all_commands(app)[command.name].params:
        assert len(parameter.get_help_record(click.Context(app))[1]) > 10, parameter.name


def test_paths_of_the_registry_lead_somewhere() -> None:
    for command in COMMANDS:
        for path in (command.config, command.run, command.render):
            assert callable(load(path)), path
