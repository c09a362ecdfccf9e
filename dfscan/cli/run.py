"""From flags to a job to what is shown; and stdout kept clean for ``--json``."""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dfscan.cli import show, show_judging  # noqa: F401 (it registers more tables with show)
from dfscan.cli.progress import pick_progress
from dfscan.config.loading import config_class, resolve


def run_verb(
    verb: str,
    flags: Mapping[str, Any],
    *,
    config: Path | None,
    preset: str | None,
    sets: Iterable[str],
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Resolve the configuration, run the job, show its result; returns the exit code.

    :raises DfscanError: the job could not start or finish.
    :raises KeyboardInterrupt: the user stopped it; the same command continues.
    """
    settings = resolve(config_class(verb), flags, config_file=config, preset=preset, sets=sets)
    if not verbose:
        os.environ.setdefault("RAY_LOGGER_LEVEL", "error")
    with _stdout_aside(as_json) as out:
        job = _job(verb)
        progress = pick_progress(quiet=quiet, plain=verbose)
        try:
            result = job(settings, progress)
        finally:
            progress.stop()
        if as_json:
            out.write(json.dumps(dataclasses.asdict(result), default=str) + "\n")
        else:
            show.result(result)
    return int(result.exit_code)


def _job(verb: str) -> Callable[[Any, Any], Any]:
    job: Callable[[Any, Any], Any] = importlib.import_module(f"dfscan.commands.{verb}").run
    return job


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
