"""The verbs and their flags. A flag that is not given stays None and leaves the key alone."""

import sys
from typing import Annotated

import typer

from dfscan import __version__
from dfscan.cli import judging
from dfscan.cli.flags import (
    AllowGone,
    ConfigFile,
    Decoder,
    Decoders,
    DryRun,
    Gpus,
    Inline,
    Json,
    LayoutFlag,
    MaxFailed,
    Overwrite,
    Phase,
    Preset,
    Quiet,
    RayAddress,
    Retry,
    Sets,
    Sources,
    StrideFlag,
    Timeout,
    Verbose,
    Workers,
    run_with,
)
from dfscan.errors import DfscanError

app = typer.Typer(
    name="dfscan",
    help="Finds deepfakes in large video archives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dfscan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Finds deepfakes in large video archives."""


@app.command()
def init(
    source: Annotated[
        str | None, typer.Option(help="Where the videos are (default: asked or guessed).")
    ] = None,
    faces: Annotated[str, typer.Option(help="Face dataset to write.")] = "faces",
    run: Annotated[str, typer.Option(help="Run folder to write, with the model.")] = "run",
    verdicts: Annotated[str, typer.Option(help="Verdict file to write.")] = "verdicts.parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dfscan.yaml.")] = False,
) -> None:
    """Write a commented dfscan.yaml for this folder."""
    from dfscan.commands.init import guess_source
    from dfscan.commands.init import init as write

    if source is None:
        source = guess_source()
        if sys.stdin.isatty() and sys.stdout.isatty():
            source = typer.prompt("Where are the videos (a folder or .zip)?", default=source)
            faces = typer.prompt("Where should the faces go?", default=faces)
            run = typer.prompt("Where should the model go?", default=run)
            verdicts = typer.prompt("Where should the verdicts go?", default=verdicts)
    path = write(source=source, faces=faces, run=run, verdicts=verdicts, overwrite=overwrite)
    typer.echo(f"wrote {path}: source {source}, faces {faces}, model {run}, verdicts {verdicts}")
    typer.echo("next: dfscan extract, dfscan train, dfscan score")


@app.command()
def extract(
    source: Sources = None,
    out: Annotated[str | None, typer.Option(help="Face dataset to write (default: faces).")] = None,
    stride: StrideFlag = None,
    phase: Phase = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            help="exact; nearest (frames others are predicted from) or keyframes: less decoding."
        ),
    ] = None,
    layout: LayoutFlag = None,
    min_face: Annotated[str | None, typer.Option(help="Smallest face in pixels, or auto.")] = None,
    face_size: Annotated[
        int | None, typer.Option(help="Scale every stored face to this longer side.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Context stored around the box (default: 0.6 of it).")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="mtcnn, or none: take each picture whole.")
    ] = None,
    max_faces: Annotated[
        int | None, typer.Option(help="Faces kept a frame, the largest (default: all).")
    ] = None,
    boxes_from: Annotated[
        str | None,
        typer.Option(help="detected, or original: cut fakes where their original's faces are."),
    ] = None,
    retry: Retry = None,
    allow_gone: AllowGone = None,
    timeout: Timeout = None,
    decoder: Decoder = None,
    decoders: Decoders = None,
    dry_run: DryRun = None,
    max_failed: MaxFailed = None,
    inline: Inline = None,
    workers: Workers = None,
    gpus: Gpus = None,
    ray_address: RayAddress = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Videos -> a face dataset (Parquet)."""
    flags = {
        "source": source or None, "out": out, "stride": stride, "phase": phase, "layout": layout,
        "sampling": sampling, "detector.min_face": min_face, "crop.face_size": face_size, "crop.context": margin,
        "detector.name": detector, "detector.max_faces": max_faces, "boxes_from": boxes_from,
        "retry": retry, "allow_gone": allow_gone, "timeout": timeout, "dry_run": dry_run,
        "decoder": decoder, "decoders": decoders,
        "max_failed": max_failed, "inline": inline, "workers": workers, "gpus": gpus,
        "ray_address": ray_address, "overwrite": overwrite,
    }  # fmt: skip
    run_with("extract", flags, config, preset, sets, as_json, quiet, verbose)


@app.command()
def train(
    faces: Annotated[
        list[str] | None,
        typer.Argument(metavar="FACES...", help="Face datasets.", show_default=False),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Run folder to write (default: run).")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="mesoinception4, dct_resnet … or any timm model.")
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--no-pretrained", help="timm's published weights.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A safetensors file with timm's names, to begin with.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the faces (default: 10).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Faces a step, over all workers.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (AdamW, one cycle).")] = None,
    size: Annotated[int | None, typer.Option(help="Input of the network in pixels.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="What the network sees around the box (default: 0.3 of it)."),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, flip, light, classic, dfdc or sbi (default: flip).")
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(help="uniform, weights, undersample or none (default: uniform)."),
    ] = None,
    paired: Annotated[
        bool | None,
        typer.Option("--paired", help="Batches of fakes with their originals.", show_default=False),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="A weight for each dataset, as in 2,1.", show_default=False)
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="A regular expression on video_id that names its group; file: each its own, for "
            "pictures that have nothing to do with each other."
        ),
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the groups to choose by (default: 0.2).")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of the groups for the last word (default: 0.1).")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation with so many parts.")] = None,
    fold: Annotated[int | None, typer.Option(help="This part alone, counted from 0.")] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="Once on each of these shares of the training groups: 0.1,0.3,1."),
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="youden, f1, or a false-positive rate: fpr=0.01.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a lower validation loss, then stop.")
    ] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights: 0.999.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 or fp16 (default: auto).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, weights and order.")] = None,
    inline: Inline = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train together (default: 1); with --inline, CPU threads (all)."
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs, a process each (default: none).")] = None,
    ray_address: RayAddress = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Faces -> a classifier (model.safetensors)."""
    flags = {
        "faces": faces or None, "out": out, "backbone": backbone, "pretrained": pretrained,
        "weights": weights, "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "input.size": size, "input.margin": margin, "augment": augment, "balance": balance,
        "paired": paired, "mix": mix, "group_by": group_by, "val_fraction": val_fraction,
        "test_fraction": test_fraction, "folds": folds, "fold": fold, "sweep": sweep,
        "threshold": threshold, "patience": patience, "ema": ema, "precision": precision,
        "seed": seed, "inline": inline, "workers": workers, "gpus": gpus,
        "ray_address": ray_address, "overwrite": overwrite,
    }  # fmt: skip
    run_with("train", flags, config, preset, sets, as_json, quiet, verbose)


@app.command()
def score(
    source: Sources = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="model.safetensors, or a run folder; several: averaged.", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Verdicts to write: one .parquet file, or a folder of files as NAME/ (default: "
            "verdicts.parquet)."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames a video, spread evenly (default: 32).")
    ] = None,
    every: Annotated[str | None, typer.Option(help="One frame in so many seconds: 1s.")] = None,
    stride: StrideFlag = None,
    phase: Phase = None,
    threshold: Annotated[
        float | None, typer.Option(help="p_fake from which a video is FAKE.")
    ] = None,
    at_fpr: Annotated[
        float | None,
        typer.Option(help="Threshold that called this share of the model's held-out reals FAKE."),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(help="Share of fakes that p_fake assumes (default: the model's, a half)."),
    ] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="mean, confident, max_track or trimmed (default: mean).")
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="exact, nearest or keyframes (default: the model's).")
    ] = None,
    triage: Annotated[
        bool | None,
        typer.Option(
            "--triage",
            help="Key frames first, the full look where those are not clearly real.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto (float32; float16 on GPUs), float32, bfloat16 or float16 (default: auto)."
        ),
    ] = None,
    layout: LayoutFlag = None,
    stale: Annotated[
        str | None,
        typer.Option(help="Verdicts of another model or configuration: keep (default) or rescan."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Work only on files changed since: 2026-11-01, or 24h ago.")
    ] = None,
    limit_time: Annotated[
        str | None, typer.Option(help="Begin no unit after so long: 6h (then exit code 6).")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="Exit code 4 if this run finds such: fake, uncertain, failed.", metavar="OUTCOME,…"
        ),
    ] = None,
    diff: Annotated[
        bool | None, typer.Option("--diff", help="Tell what changed against the last verdicts.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Append events to this file, as JSON lines.", metavar="FILE")
    ] = None,
    metrics_file: Annotated[
        str | None,
        typer.Option(help="Write a summary in Prometheus' text format.", metavar="FILE"),
    ] = None,
    allow_gone: AllowGone = None,
    dry_run: DryRun = None,
    max_failed: MaxFailed = None,
    inline: Inline = None,
    workers: Workers = None,
    gpus: Gpus = None,
    ray_address: RayAddress = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Videos -> one verdict each (Parquet)."""
    flags = {
        "source": source or None, "model": model or None, "out": out, "frames": frames,
        "every": every, "stride": stride, "phase": phase, "threshold": threshold,
        "at_fpr": at_fpr, "prevalence": prevalence, "aggregation": aggregation, "sampling": sampling, "triage": triage,
        "precision": precision, "layout": layout, "stale": stale, "since": since, "limit_time": limit_time,
        "fail_on": fail_on, "diff": diff, "log": log, "metrics_file": metrics_file,
        "dry_run": dry_run,
        "allow_gone": allow_gone, "max_failed": max_failed, "inline": inline, "workers": workers,
        "gpus": gpus, "ray_address": ray_address, "overwrite": overwrite,
    }  # fmt: skip
    run_with("score", flags, config, preset, sets, as_json, quiet, verbose)


@app.command()
def calibrate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The model to fit.", show_default=False),
    ] = None,
    verdicts: Annotated[
        str | None,
        typer.Argument(
            metavar="VERDICTS", help="Its verdicts on your own videos.", show_default=False
        ),
    ] = None,
    quick: Annotated[
        str | None,
        typer.Option(
            help="Verdicts on the same videos' key frames: fits score --triage as well.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Truth: a table with video_id or filename, and label; metadata.json; or REAL, "
            "where every video is (default: the verdicts' own label)."
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Model file to write.")] = None,
    threshold_rule: Annotated[
        str | None, typer.Option(help="youden (default), f1, or a false-positive rate: fpr=0.01.")
    ] = None,
    at_fpr: Annotated[
        float | None, typer.Option(help="Share of the reals that may be called FAKE.")
    ] = None,
    alert_budget: Annotated[
        float | None, typer.Option(help="False alarms a night; reals alone are enough.")
    ] = None,
    videos_a_night: Annotated[
        int | None, typer.Option(help="Of so many videos (default: as many as VERDICTS has).")
    ] = None,
    prevalence: Annotated[
        float | None, typer.Option(help="Prior share of fakes that p_fake is for (default: 0.5).")
    ] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="What score was given as --aggregation (default: mean).")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames a video that VERDICTS were scored with.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="Or one frame in so many seconds: 1s.")] = None,
    stride: StrideFlag = None,
    phase: Phase = None,
    sampling: Annotated[
        str | None, typer.Option(help="What score was given as --sampling (default: the model's).")
    ] = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit p_fake and the threshold of a model to your own videos."""
    flags = {
        "model": model, "verdicts": verdicts, "labels": labels, "quick": quick, "out": out,
        "threshold_rule": threshold_rule, "at_fpr": at_fpr, "alert_budget": alert_budget,
        "videos_a_night": videos_a_night, "prevalence": prevalence,
        "aggregation": aggregation, "frames": frames, "every": every, "stride": stride, "phase": phase, "sampling": sampling, "overwrite": overwrite,
    }  # fmt: skip
    run_with("calibrate", flags, config, preset, sets, as_json, quiet, verbose)


@app.command()
def quickstart(
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]", help="Where everything goes (default: quickstart).", show_default=False
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the faces.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of corpus, split and weights.")] = None,
    inline: Inline = None,
    workers: Workers = None,
    overwrite: Overwrite = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A small synthetic corpus through extract, train, score and evaluate."""
    flags = {
        "out": folder, "epochs": epochs, "seed": seed, "inline": inline, "workers": workers,
        "overwrite": overwrite,
    }  # fmt: skip
    run_with("quickstart", flags, None, None, sets, as_json, quiet, verbose)


@app.command()
def inspect(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A source, a video, or what a verb wrote."),
    ],
    as_json: Json = False,
) -> None:
    """What is this archive, video, dataset, run, model, export, evaluation or verdict file?"""
    run_with("inspect", {"path": path}, None, None, None, as_json, quiet=False, verbose=False)


@app.command()
def purge(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A face dataset, or verdicts.")],
    video: Annotated[
        list[str] | None, typer.Option(help="A video_id; as often as needed.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove every trace of a video from a dataset or from verdicts."""
    flags = {"path": path, "video": video or None}
    run_with("purge", flags, None, None, None, as_json, quiet=False, verbose=False)


@app.command()
def verify(
    verdicts: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERDICTS]",
            help="Verdicts (default: verdicts.parquet).",
            show_default=False,
        ),
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(help="A video_id; as often as needed (default: all).", show_default=False),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="So many verdicts, chosen at random.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of that choice (default: 0).")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="What scored: model.safetensors, or a run folder; as often as models did.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far two logits may lie apart (default: 0.001; more for half precision)."
        ),
    ] = None,
    timeout: Timeout = None,
    max_failed: Annotated[
        float | None,
        typer.Option(help="Share that cannot be checked above which the exit code is 3."),
    ] = None,
    inline: Inline = None,
    workers: Workers = None,
    gpus: Gpus = None,
    ray_address: RayAddress = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make verdicts again from their custody record and compare (exit code 5: one differs)."""
    flags = {
        "verdicts": verdicts, "video": video or None, "sample": sample, "seed": seed,
        "model": model or None, "tolerance": tolerance, "timeout": timeout, "max_failed": max_failed,
        "inline": inline, "workers": workers, "gpus": gpus, "ray_address": ray_address,
    }  # fmt: skip
    run_with("verify", flags, config, None, sets, as_json, quiet, verbose)


judging.add_to(app)


def main() -> None:
    """The ``dfscan`` command."""
    try:
        app()
    except DfscanError as error:
        from dfscan.cli.tables import as_shown  # rich, which --help does without

        print(as_shown(f"dfscan: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
