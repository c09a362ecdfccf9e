"""The verbs that look at what others made: evaluate, report, annotate, stress, export, models."""

from typing import Annotated

import typer

from dfscan.cli.flags import (
    ConfigFile,
    Gpus,
    Inline,
    Json,
    LayoutFlag,
    MaxFailed,
    Overwrite,
    Preset,
    Quiet,
    RayAddress,
    Sets,
    Sources,
    Timeout,
    Verbose,
    Workers,
    run_with,
)

models = typer.Typer(
    name="models",
    help="Published detectors: what there is, and their weights as dfscan models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    for verb in (evaluate, report, annotate, stress, export):
        app.command()(verb)
    app.add_typer(models)


# ---------------------------------------------------------------- evaluate


def evaluate(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERDICTS|FACES]",
            help="Verdicts, or with --model a face dataset (default: verdicts.parquet).",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Truth: a table with video_id or filename, and label; metadata.json; or the labelled "
            "source itself (default: the verdicts' own labels)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Judge the faces of a dataset with this model.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Other verdicts on the same videos (of faces: another model): a paired comparison."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Break down by part, resolution, face_size, people or any attribute.",
            metavar="NAME,…",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="p_fake from which a video counts as FAKE (default: each verdict's own)."
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder to write (default: evaluation).")] = None,
    layout: LayoutFlag = None,
    gpus: Gpus = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Verdicts or faces against the truth: metrics with intervals, plots, a page."""
    flags = {
        "path": path, "labels": labels, "model": model, "against": against, "by": by,
        "threshold": threshold, "out": out, "layout": layout, "gpus": gpus, "overwrite": overwrite,
    }  # fmt: skip
    run_with("evaluate", flags, config, preset, sets, as_json, quiet, verbose)


# ---------------------------------------------------------------- report


def report(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]",
            help="A face dataset, a run, verdicts or an evaluation (default: verdicts.parquet).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Page to write (default: report.html in or beside PATH).")
    ] = None,
    faces: Annotated[
        int | None, typer.Option(help="Faces to show, the most suspicious (default: 300).")
    ] = None,
    timeout: Timeout = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    preset: Preset = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """One static page to look at: counts, plots, faces, timelines, failures."""
    flags = {
        "path": path, "out": out, "faces": faces, "timeout": timeout, "overwrite": overwrite,
    }  # fmt: skip
    run_with("report", flags, config, preset, sets, as_json, quiet, verbose)


# ---------------------------------------------------------------- annotate


def annotate(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A video or a picture.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="model.safetensors, or a run folder; several: averaged.", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="File to write (default: FILE_annotated.mp4, or FILE_results.png)."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="p_fake from which a person is FAKE.")
    ] = None,
    gpus: Gpus = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A video or picture with boxes: green real, red fake, grey uncertain."""
    flags = {
        "file": file, "model": model or None, "out": out, "threshold": threshold, "gpus": gpus,
        "overwrite": overwrite,
    }  # fmt: skip
    run_with("annotate", flags, config, None, sets, as_json, quiet, verbose)


# ---------------------------------------------------------------- stress


def stress(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The model to try.", show_default=False),
    ] = None,
    source: Sources = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Truth, as for evaluate (default: what the source's layout says)."),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            help="Some of reencoded, fps15, half, crf23, crf32, crf40, jpeg, border, mirrored (default: all).",
            metavar="NAME,…",
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="So many videos, chosen at random (default: all).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of that choice (default: 0).")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames a video, spread evenly (default: 32).")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="p_fake from which a video is FAKE.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder to write (default: stress).")] = None,
    layout: LayoutFlag = None,
    timeout: Timeout = None,
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
    """The same clips re-encoded and scored again: what compression does to a model."""
    flags = {
        "model": model, "source": source or None, "labels": labels, "conditions": conditions,
        "sample": sample, "seed": seed, "frames": frames, "threshold": threshold, "out": out,
        "layout": layout, "timeout": timeout, "max_failed": max_failed, "inline": inline,
        "workers": workers, "gpus": gpus, "ray_address": ray_address, "overwrite": overwrite,
    }  # fmt: skip
    run_with("stress", flags, config, preset, sets, as_json, quiet, verbose)


# ---------------------------------------------------------------- export


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="model.safetensors, or a run folder.", show_default=False
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Some of onnx, onnx-int8, torchscript, litert (default: onnx).",
            metavar="FORMAT,…",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write (default: export, beside the model).")
    ] = None,
    faces: Annotated[
        str | None,
        typer.Option(help="A face dataset to compare the formats on, and to fit int8 to."),
    ] = None,
    overwrite: Overwrite = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A model for another runtime, checked against the original."""
    flags = {
        "model": model, "formats": formats, "out": out, "faces": faces, "overwrite": overwrite,
    }  # fmt: skip
    run_with("export", flags, config, None, sets, as_json, quiet, verbose)


# ---------------------------------------------------------------- models


@models.command("import")
def import_model(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="What it is: see dfscan models list.")
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Its published weights.")],
    out: Annotated[
        str | None, typer.Option(help="Model file to write (default: FILE.safetensors here).")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            help="For KIND mapping: a YAML file that says which tensor goes where, or the name of one "
            "that comes with dfscan (see dfscan models list)."
        ),
    ] = None,
    overwrite: Overwrite = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A published detector's weights -> a dfscan model; no code in them is run."""
    flags = {"kind": kind, "file": file, "out": out, "mapping": mapping, "overwrite": overwrite}
    run_with("import_model", flags, None, None, sets, as_json, quiet, verbose)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """Detectors that can be imported: where they are, under which licence."""
    run_with("list_models", {}, None, None, None, as_json, quiet=False, verbose=False)
