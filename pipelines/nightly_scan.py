"""Nightly scan: score new files, write a report of the changes, return an exit code for the scheduler.

    python pipelines/nightly_scan.py --config dfscan.yaml --nights NIGHTS [SOURCE…]

Source, model, output and limits come from the section ``score`` of the configuration, as for
``dfscan score``; arguments of this script override them. The folder NIGHTS gets ``2026-11-21.json``
(counts and changes), ``2026-11-21.txt`` (the same as text, for mail), ``events.jsonl`` and
``dfscan.prom``, a summary for the textfile collector of node exporter. The text is also printed. A second
report on the same day is named ``2026-11-21_2``.

Exit codes are those of ``dfscan score``: 0 done, 3 too many videos failed, 4 fakes were found, 6 the
time limit left videos to the next run, 1 and 2 the scan could not be done, 130 interrupted. A scheduler
should raise an alarm for 1, 2 and 3; 4 is a normal result.
"""

import argparse
import dataclasses
import itertools
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from dfscan import storage
from dfscan.cli.progress import pick_progress
from dfscan.commands.score import run
from dfscan.commands.score.result import ScoreResult
from dfscan.config.loading import resolve
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError, DfscanError
from dfscan.verdicts.diff import Change

MAX_LISTED = 50
"""Changes listed in the text, per section; the JSON has all of them."""


def main() -> int:
    """Scan, write the reports, return the exit code."""
    given = _arguments()
    try:
        config = _settings(given)
        progress = pick_progress(quiet=given.quiet, plain=True)
        result = run(config, progress)
    except DfscanError as error:
        print(f"nightly scan: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("nightly scan: interrupted; the next run continues", file=sys.stderr)
        return 130
    nights = Path(given.nights)
    night = free_name(nights, datetime.now().astimezone().date().isoformat())
    text = summary_text(night, config, result)
    report = {"night": night, "exit_code": result.exit_code, **dataclasses.asdict(result)}
    storage.commit_json(nights / f"{night}.json", report)
    storage.commit_bytes(nights / f"{night}.txt", text.encode())
    print(text, end="")
    return int(result.exit_code)


def free_name(nights: Path, day: str) -> str:
    """Return the day, with a number added from the second report of that day on."""
    names = itertools.chain([day], (f"{day}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not storage.exists(nights / f"{name}.json"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score the files that are new since the last run.")
    parser.add_argument(
        "source", nargs="*", help="folders, archives, lists (default: from the configuration)"
    )
    parser.add_argument("--config", type=Path, default=Path("dfscan.yaml"))
    parser.add_argument(
        "--nights", default="nights", help="folder for the reports (default: nights)"
    )
    parser.add_argument("--limit-time", help="start no new work after this time, e.g. 6h")
    parser.add_argument(
        "--fail-on",
        default="fake",
        help="exit code 4 if the run found any of: fake, uncertain, failed",
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], help="score.KEY=VALUE")
    parser.add_argument("-q", "--quiet", action="store_true")
    return parser.parse_args()


def _settings(given: argparse.Namespace) -> ScoreConfig:
    """The configuration of ``dfscan score``, with the log and metrics in the report folder."""
    nights = storage.local(given.nights, "the log and reports of --nights")
    flags: dict[str, Any] = {
        "source": given.source or None,
        "diff": True,
        "fail_on": given.fail_on,
        "limit_time": given.limit_time,
        "log": str(nights / "events.jsonl"),
        "metrics_file": str(nights / "dfscan.prom"),
    }
    config = resolve(ScoreConfig, flags, config_file=given.config, sets=given.sets)
    if config.dry_run:
        raise ConfigError(
            "score.dry_run: the nightly scan does not support it: use dfscan score --dry-run"
        )
    return config


def summary_text(night: str, config: ScoreConfig, result: ScoreResult) -> str:
    """The report as text, most important facts first."""
    changes = result.changes or []
    fakes = [c for c in changes if c.after == "FAKE" and c.change in ("new", "changed")]
    kinds = Counter(c.change.replace("_", " ") for c in changes)
    lines = [
        f"dfscan, nightly scan {night}: {len(fakes)} video(s) newly FAKE",
        f"{result.new:,} scored, {result.recognised:,} recognised, {result.failed:,} of "
        f"{result.videos:,} failed, {result.left:,} left to the next run; "
        f"{result.elapsed_s / 60:.1f} minutes",
        "verdicts: " + ", ".join(f"{n:,} {v}" for v, n in result.verdicts.items()),
        "changes: " + (", ".join(f"{n:,} {kind}" for kind, n in kinds.items()) or "none"),
    ]
    if result.stale:
        lines.append(f"{result.stale:,} verdict(s) are from another model (score.stale: rescan)")
    for title, some in (
        ("newly FAKE", fakes),
        ("other changes", [c for c in changes if c not in fakes]),
    ):
        if some:
            lines += ["", f"{title}:"]
            lines += [f"  {c.video_id}: {_describe(c)}" for c in some[:MAX_LISTED]]
            lines += [f"  … and {len(some) - MAX_LISTED:,} more"] if len(some) > MAX_LISTED else []
    lines += ["", f"verdicts in {config.out}"]
    return "\n".join(lines) + "\n"


def _describe(change: Change) -> str:
    before = change.before or "no verdict"
    if change.change == "new":
        return change.after or "no verdict"
    if change.change == "gone":
        return f"gone (was {before})"
    if change.change == "came_back":
        return f"came back ({change.after or 'no verdict'})"
    return f"{before} → {change.after or 'no verdict'}"


if __name__ == "__main__":
    sys.exit(main())
