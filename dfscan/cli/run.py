"""From flags to a result to what is shown; and stdout kept clean for ``--json``."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from dfscan.cli.progress import pick_progress
from dfscan.cli.registry import Command, load
from dfscan.config.loading import resolve


def run_command(
    command: Command,
    flags: Mapping[str, Any],
    *,
    config: str | None,
    preset: str | None,
    sets: Iterable[str],
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Resolve the configuration, run the command, show its result; returns the exit code.

    :raises DfscanError: the command could not start or finish.
    :raises KeyboardInterrupt: the user stopped it.
    """
    settings = resolve(load(command.config), flags, config_file=config, preset=preset, sets=sets)
    if not verbose:
        os.environ.setdefault("RAY_LOGGER_LEVEL", "error")
    with _stdout_aside(as_json) as out:
        run = load(command.run)
        progress = pick_progress(quiet=quiet, plain=verbose)
        try:
            result = run(settings, progress)
        finally:
            progress.stop()
        if as_json:
            out.write(json.dumps(dataclasses.asdict(result), default=str) + "\n")
        else:
            load(command.render)(result)
    return int(result.exit_code)


@contextlib.contextmanager
def _stdout_aside(aside: bool) -> Iterator[IO[str]]:
    """With ``aside``, everything printed goes to stderr, even by native code and by Ray.

    The real stdout is what this yields.
    """
    if not aside:
        yield sys.stdout
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
