"""The ``dfscan`` command: a group that loads a command only when it is used."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from dfscan import __version__
from dfscan.cli.registry import COMMANDS, GROUPS, INIT, Command, load
from dfscan.errors import DfscanError

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class LazyGroup(click.Group):
    """The commands of the registry whose names start with ``prefix``."""

    def __init__(self, name: str, prefix: str = "", **rest: Any) -> None:
        super().__init__(name, no_args_is_help=True, context_settings=dict(_SETTINGS), **rest)
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the registry, groups last."""
        return list(self._summaries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, with its options."""
        if not self._prefix and cmd_name == INIT[0]:
            from dfscan.cli.init import init

            return init
        if not self._prefix and cmd_name in GROUPS:
            return LazyGroup(cmd_name, f"{cmd_name} ", help=GROUPS[cmd_name])
        name = self._prefix + cmd_name
        found = next((command for command in COMMANDS if command.name == name), None)
        return None if found is None or " " in cmd_name else _build(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and summaries, without loading a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries().items()))

    def _summaries(self) -> Mapping[str, str]:
        here = {
            command.name.removeprefix(self._prefix): command.summary
            for command in COMMANDS
            if command.name.startswith(self._prefix)
        }
        alone = {name: text for name, text in here.items() if " " not in name}
        return alone if self._prefix else {INIT[0]: INIT[1], **alone, **GROUPS}


class PanelCommand(click.Command):
    """A command whose ``--help`` lists its options by panel, the general ones last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section per panel."""
        from dfscan.cli.options import GENERAL

        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(getattr(parameter, "panel", GENERAL), []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records, col_max=26)


def _build(command: Command) -> click.Command:
    """The click command of a registry entry."""
    from dfscan.cli.options import general_options, options

    def call(config: str | None, preset: str | None, sets: Sequence[str], as_json: bool,
             quiet: bool, verbose: bool, **values: Any) -> None:  # fmt: skip
        from dfscan.cli.run import run_command

        context = click.get_current_context()
        given = click.core.ParameterSource.COMMANDLINE
        flags = {
            dest.replace("__", "."): value
            for dest, value in values.items()
            if context.get_parameter_source(dest) is given and value != ()
        }
        try:
            code = run_command(
                command, flags, config=config, preset=preset, sets=sets,
                as_json=as_json, quiet=quiet, verbose=verbose,
            )  # fmt: skip
        except KeyboardInterrupt:
            then = "continues" if command.resumable else "starts this run anew"
            click.echo(f"dfscan: interrupted; the same command {then}", err=True)
            code = 130
        except DfscanError as error:
            code = _report(error, as_json, verbose)
        context.exit(code)

    parameters: list[click.Parameter] = [*options(load(command.config)), *general_options()]
    return PanelCommand(
        command.name.rpartition(" ")[2], callback=call, params=parameters, help=command.summary,
        context_settings=dict(_SETTINGS),
    )  # fmt: skip


app: Final = LazyGroup("dfscan", help="Find deepfakes in large video archives.")
app.params.append(
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, help="Show the version.",
        callback=lambda context, _, wanted: _show_version(context) if wanted else None,
    )
)  # fmt: skip


def _show_version(context: click.Context) -> None:
    click.echo(f"dfscan {__version__}")
    context.exit()


def _report(error: DfscanError, as_json: bool = False, verbose: bool = False) -> int:
    """Print an error, with its code if asked for; returns the exit code."""
    from dfscan.cli.console import as_shown  # rich, which --help does without

    if as_json:
        facts = {"code": error.code, "message": str(error), "exit_code": error.exit_code}
        click.echo(json.dumps({"error": facts}))
    code = f" [{error.code}]" if verbose else ""
    print(as_shown(f"dfscan: {error}{code}"), file=sys.stderr)
    return error.exit_code


def main() -> None:
    """The ``dfscan`` command."""
    try:
        app(prog_name="dfscan")
    except DfscanError as error:
        sys.exit(_report(error))
