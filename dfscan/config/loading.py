"""From flags, files and presets to one validated configuration; unknown keys are refused.

Order of precedence, strongest first: flags (and ``--set``), the environment
(``RAY_ADDRESS``), ``dfscan.yaml`` (or ``--config FILE``), the named ``--preset``, defaults.
"""

import os
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dfscan.config.base import CommandConfig
from dfscan.errors import ConfigError, did_you_mean
from dfscan.schemas.fingerprint import Strict

CONFIG_FILE: Final = "dfscan.yaml"


_NO_COMMANDS: Final = frozenset({"base", "flags", "loading", "types"})
"""Modules of this package that hold no command's configuration."""

_SHARED: Final = frozenset(CommandConfig.model_fields) - {"overwrite"}


Config = TypeVar("Config", bound=CommandConfig)


def command_names() -> list[str]:
    """Names of all sections but ``run``: one module of this package each."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return [m.name for m in modules if m.name not in _NO_COMMANDS]


def config_class(command: str) -> type[CommandConfig]:
    """The model of a command's section: ``import_model`` → ``import_model.ImportModelConfig``."""
    name = "".join(word.capitalize() for word in command.split("_")) + "Config"
    found: type[CommandConfig] = getattr(import_module(f"dfscan.config.{command}"), name)
    return found


def section_name(config: type[CommandConfig]) -> str:
    """``ImportModelConfig`` → ``"import_model"``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", config.__name__.removesuffix("Config")).lower()


def resolve(
    verb: type[Config],
    flags: Mapping[str, Any],
    *,
    config_file: str | Path | None = None,
    preset: str | None = None,
    sets: Iterable[str] = (),
) -> Config:
    """The configuration of one verb from everything the user said.

    :param flags: key → value as given on the command line; None means not given. A dotted key
        (``crop.context``) reaches into a section.
    :param config_file: a YAML file; None takes ``dfscan.yaml`` where there is one.
    :param sets: ``"extract.detector.min_face=40"``, values as YAML.
    :raises ConfigError: an unknown key or a value that is not allowed; nothing was started.
    """
    name = section_name(verb)
    merged: dict[str, Any] = {}
    if preset is not None:
        _layer(merged, _load_preset(name, preset), verb)
    _layer(merged, _load_file(verb, config_file), verb)
    if os.environ.get("RAY_ADDRESS"):
        merged["ray_address"] = os.environ["RAY_ADDRESS"]
    given: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            _put(given, key.split("."), value)
    for text in sets:
        _apply_set(name, given, text)
    _layer(merged, given, verb)
    return build(verb, merged)


def build(verb: type[Config], values: Mapping[str, Any]) -> Config:
    """Validate ``values``; every complaint names the key, the value got and what is allowed."""
    try:
        return verb.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(section_name(verb), verb, error.errors())) from None


def preset_names(verb: str) -> list[str]:
    """Names that ``--preset`` takes for this verb: files of ``configs/VERB/``."""
    folder = configs_folder() / verb
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def configs_folder() -> Path:
    """Where presets lie: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _load_preset(verb: str, preset: str) -> dict[str, Any]:
    names = preset_names(verb)
    if preset not in names:
        raise ConfigError(
            f"unknown preset {preset!r} for {verb}: {did_you_mean(preset, names)}",
            code="config.unknown_name",
        )
    return _read_yaml(configs_folder() / verb / f"{preset}.yaml")


def _load_file(verb: type[CommandConfig], path: str | Path | None) -> dict[str, Any]:
    if path is None:
        path = Path(CONFIG_FILE)
        if not path.is_file():
            return {}
    content = _read_yaml(Path(path))
    known = {*command_names(), section_name(verb), "run"}
    for key in content:
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {key!r}: {did_you_mean(str(key), known)}",
                code="config.unknown_key",
            )
    shared = _load_section(path, content, "run")
    for key in shared:
        if key not in _SHARED:
            hint = did_you_mean(str(key), _SHARED)
            raise ConfigError(f"{path}: unknown key 'run.{key}': {hint}", code="config.unknown_key")
    for name in content:
        _check_section(path, name, verb, _load_section(path, content, name))
    score = _load_section(path, content, "score")
    borrowed = {key: score[at] for key, at in verb.from_score.items() if at in score}
    return {**shared, **borrowed, **_load_section(path, content, section_name(verb))}


def _load_section(path: str | Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(
            f"{path}: {name!r} must hold keys and values, got {section!r}", code="config.unreadable"
        )
    return section


def _check_section(
    path: str | Path, name: str, verb: type[CommandConfig], section: Mapping[str, Any]
) -> None:
    """Refuse a wrong key or value whichever command runs, and whatever flags lie over it.

    Rules about several keys, and keys that are missing, are checked when the command's own
    configuration is built: presets and flags take part in that.
    """
    if name == section_name(verb):
        model = verb
    else:  # imports the other command's model, only where the file has a section of it
        model = CommandConfig if name == "run" else config_class(name)
    try:
        model.model_validate(section)
    except ValidationError as error:
        alone = [e for e in error.errors() if not _needs_the_rest(e)]
        if alone:
            raise ConfigError(f"{path}: {_explain(name, model, alone)}") from None


def _needs_the_rest(error: Any) -> bool:
    """Whether a complaint is about several keys, or about one that is not there."""
    together = error["type"] == "value_error" and isinstance(error["input"], Mapping)
    return together or error["type"] == "missing"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration {path}: {error.strerror}", code="config.unreadable"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", code="config.unreadable"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold keys and values, got {type(content).__name__}",
            code="config.unreadable",
        )
    return content


def _apply_set(verb: str, values: dict[str, Any], text: str) -> None:
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2:
        raise ConfigError(f"--set {text!r}: write VERB.KEY=VALUE, as in --set {verb}.workers=4")
    known = [*command_names(), verb]
    if keys[0] not in known:
        raise ConfigError(
            f"--set {text!r}: unknown verb {keys[0]!r}: {did_you_mean(keys[0], known)}",
            code="config.unknown_name",
        )
    if keys[0] != verb:
        return
    try:
        _put(values, keys[1:], yaml.safe_load(raw))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: {' '.join(str(error).split())}") from None


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[key]
    values[keys[-1]] = value


def _layer(base: dict[str, Any], over: Mapping[str, Any], verb: type[CommandConfig]) -> None:
    """Lay a stronger layer over a weaker one."""
    if any(key in over for key in verb.exclusive):
        for key in verb.exclusive:
            base.pop(key, None)
    _merge(base, over)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(verb: str, model: type[Strict], errors: Sequence[Any]) -> str:
    """The first complaint of pydantic in one line: name, value got, values allowed."""
    first = errors[0]
    keys = _keys(first)
    path = ".".join([verb, *keys])
    if first["type"] == "extra_forbidden":
        section = _section(model, keys[:-1])
        return f"unknown key {path!r}: {did_you_mean(keys[-1], section.model_fields)}"
    got = type(first["input"]).__name__ if keys[:1] == ["runtime_env"] else repr(first["input"])
    allowed = "; ".join(dict.fromkeys(_message(e) for e in errors if _keys(e) == keys))
    return f"{path}: got {got}; {allowed}" if keys else f"{verb}: {allowed}"


def _keys(error: Any) -> list[str]:
    return [str(k) for k in error["loc"] if not _is_union_branch(str(k))]


def _is_union_branch(key: str) -> bool:
    """Pydantic names the branch of a union in ``loc``; users did not type that."""
    return (
        key in {"int", "float", "str"} or key.startswith(("literal", "constrained")) or "[" in key
    )


def _message(error: Any) -> str:
    text: str = error["msg"]
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[0].lower() + text[1:]


def _section(model: type[Strict], keys: list[str]) -> type[Strict]:
    for key in keys:
        if key.isdecimal():  # a place in a list, which the key before it led to
            continue
        info: FieldInfo = model.model_fields[key]
        candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Strict))
    return model
