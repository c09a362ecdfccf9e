"""Command-line options made from the fields of a configuration.

Values stay text here; the configuration parses and checks them, as it does those of a file.
"""

import types
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dfscan.config.base import CommandConfig
from dfscan.config.flags import Flag

GENERAL: Final = "General"
_METAVARS: Final = {int: "N", float: "X"}


class Option(click.Option):
    """An option that knows its section of ``--help`` and its configuration key."""

    def __init__(self, *args: Any, panel: str = GENERAL, key: str | None = None, **rest: Any):
        super().__init__(*args, **rest)
        self.panel, self.key = panel, key


class Argument(click.Argument):
    """A positional argument with help."""

    def __init__(self, *args: Any, panel: str, key: str, help: str, **rest: Any):
        super().__init__(*args, **rest)
        self.panel, self.key, self.text = panel, key, help

    def make_metavar(self, ctx: click.Context) -> str:
        """The metavar alone: ``SOURCE...``, not ``[SOURCE...]...``."""
        return self.metavar or self.name or ""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Name and help, as options have them."""
        return self.make_metavar(ctx), self.text


def options(config: type[CommandConfig]) -> list[Option | Argument]:
    """The options of a command: those of its configuration's ``flags``, in their order."""
    return [_parameter(config, flag) for flag in config.flags]


def _parameter(config: type[CommandConfig], flag: Flag) -> Option | Argument:
    field = _field(config, flag.key)
    kinds = _kinds(field.annotation)
    dest = flag.key.replace(".", "__")
    about: dict[str, Any] = {"panel": flag.panel, "key": flag.key, "help": _help(field, kinds)}
    if flag.argument:
        count = -1 if flag.many else 1
        return Argument(
            [dest], nargs=count, required=flag.required, metavar=flag.metavar, type=str, **about
        )
    name = flag.name or "--" + flag.key.rpartition(".")[2].replace("_", "-")
    if kinds == [bool]:
        return Option([f"{name}/{flag.off}" if flag.off else name, dest], is_flag=True, **about)
    literal = all(get_origin(kind) is Literal for kind in kinds)
    metavar = flag.metavar or ("NAME" if literal else _METAVARS.get(kinds[0], "TEXT"))
    return Option([name, dest], type=str, multiple=flag.many, metavar=metavar, **about)


def _field(model: type[BaseModel], key: str) -> FieldInfo:
    """The field that a dotted key names."""
    *path, last = key.split(".")
    for part in path:
        kinds = _kinds(model.model_fields[part].annotation)
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return model.model_fields[last]


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows beside None, unions and Annotated unfolded."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [] if annotation is type(None) else [annotation]


def _help(field: FieldInfo, kinds: Sequence[Any]) -> str:
    """The field's description, then the allowed values and the default where they are plain."""
    text = field.description or ""
    if all(get_origin(kind) is Literal for kind in kinds):
        choices = [str(choice) for kind in kinds for choice in get_args(kind)]
        text = f"{text}. One of {', '.join(choices[:-1])} or {choices[-1]}"
    default = field.default
    if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
        text += (
            f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        )
    return text + "."


def general_options() -> list[Option]:
    """What every command takes."""
    return [
        Option(["--config"], metavar="PATH", help="Configuration file (default: dfscan.yaml here)."),
        Option(["--preset"], metavar="NAME", help="A named configuration that dfscan ships."),
        Option(
            ["--set", "sets"], multiple=True, metavar="COMMAND.KEY=VALUE",
            help="Set any configuration key; VALUE is YAML. May be repeated.",
        ),
        Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON and nothing else."),
        Option(["--quiet", "-q"], is_flag=True, help="Show no progress."),
        Option(["--verbose", "-v"], is_flag=True, help="Show progress as plain lines, and Ray's log."),
    ]  # fmt: skip
