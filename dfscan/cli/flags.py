"""Flags that several verbs share, and the way from flags to a verb's run."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

Inline = Annotated[
    bool | None,
    typer.Option("--inline/--ray", help="In this process, without Ray.", show_default=False),
]
Workers = Annotated[int | None, typer.Option(help="Processes (default: one a CPU).")]
Gpus = Annotated[int | None, typer.Option(help="GPUs they share (default: none).")]
RayAddress = Annotated[str | None, typer.Option(help="A Ray cluster (default: a local Ray).")]
Overwrite = Annotated[
    bool | None, typer.Option("--overwrite", help="Start anew where output exists.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration (default: dfscan.yaml here).")
]
Preset = Annotated[str | None, typer.Option(help="A named configuration of configs/.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="VERB.KEY=VALUE", help="Any key; values as YAML."),
]
Json = Annotated[
    bool, typer.Option("--json", help="The result as JSON on stdout, nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Progress as plain lines, Ray's log too.")
]
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, videos, pictures, .zip or .tar archives, lists (.txt, .csv, .parquet); "
        "here or at s3://, gs://, abfs://, hdfs://.",
        show_default=False,
    ),
]
LayoutFlag = Annotated[
    str | None,
    typer.Option(
        "--layout", help="Where labels come from: auto, dfdc, ffpp, celebdf, folders, flat."
    ),
]
StrideFlag = Annotated[
    str | None, typer.Option("--stride", help="Every n-th frame: 30, or real=30,fake=100.")
]
Phase = Annotated[
    str | None, typer.Option(help="First frame: hash (each video its own) or a number.")
]
AllowGone = Annotated[
    bool | None, typer.Option("--allow-gone", help="Accept that many known videos are missing.")
]
Retry = Annotated[
    str | None,
    typer.Option(help="Only videos that ended so: timeout,crashed.", metavar="STATUS,…"),
]
DryRun = Annotated[bool | None, typer.Option("--dry-run", help="Only say what there is to do.")]
Decoder = Annotated[
    str | None,
    typer.Option(help="auto, decord or pyav: the same frames; auto decodes least to get them."),
]
Decoders = Annotated[
    int | None,
    typer.Option(
        help="Decoding processes that feed a worker's detector (default: with GPUs their share of the CPUs)."
    ),
]
Timeout = Annotated[
    str | None, typer.Option(help="Seconds a video, one more a megabyte (default: 120).")
]
MaxFailed = Annotated[
    float | None, typer.Option(help="Share of failed videos above which the exit code is 3.")
]


_CONTINUE: Final = frozenset(("extract", "train", "score", "stress"))
"""Verbs that go on from what an interrupted run left."""


def run_with(
    verb: str,
    flags: dict[str, Any],
    config: Path | None,
    preset: str | None,
    sets: list[str] | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run a verb; its exit code becomes the command's. A flag that is None leaves its key alone."""
    from dfscan.cli.run import run_verb

    try:
        code = run_verb(
            verb, flags, config=config, preset=preset, sets=sets or (),
            as_json=as_json, quiet=quiet, verbose=verbose,
        )  # fmt: skip
    except KeyboardInterrupt:
        then = "continues" if verb in _CONTINUE else "starts this run anew"
        typer.echo(f"dfscan: interrupted; the same command {then}", err=True)
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)
