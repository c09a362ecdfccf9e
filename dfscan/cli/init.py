"""``dfscan init``: asks on a terminal where things are, then writes ``dfscan.yaml``."""

import sys

import click

from dfscan.cli.registry import INIT


@click.command("init", help=INIT[1])
@click.option("--source", metavar="PATH", help="Where the videos are (default: asked or guessed).")
@click.option(
    "--faces", metavar="PATH", default="faces", help="Face dataset to write (default: faces)."
)
@click.option(
    "--run",
    metavar="PATH",
    default="run",
    help="Run folder to write, with the model (default: run).",
)
@click.option(
    "--verdicts", metavar="PATH", default="verdicts.parquet",
    help="Verdicts to write (default: verdicts.parquet).",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing dfscan.yaml.")
@click.help_option("-h", "--help")
def init(source: str | None, faces: str, run: str, verdicts: str, overwrite: bool) -> None:
    """Ask for what was not given, write the file, and say what comes next."""
    from dfscan.commands.init import guess_source
    from dfscan.commands.init import init as write

    if source is None:
        source = guess_source()
        if sys.stdin.isatty() and sys.stdout.isatty():
            source = click.prompt("Where are the videos (a folder or .zip)?", default=source)
            faces = click.prompt("Where should the faces go?", default=faces)
            run = click.prompt("Where should the model go?", default=run)
            verdicts = click.prompt("Where should the verdicts go?", default=verdicts)
    path = write(source=source, faces=faces, run=run, verdicts=verdicts, overwrite=overwrite)
    click.echo(f"wrote {path}: source {source}, faces {faces}, model {run}, verdicts {verdicts}")
    click.echo("next: dfscan extract, dfscan train, dfscan score")
