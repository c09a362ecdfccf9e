"""``dfscan extract``: list, plan, run units, finish the dataset."""

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

from dfscan import __version__, storage
from dfscan.config import ExtractConfig, LookConfig
from dfscan.corpora import list_videos
from dfscan.errors import SourceError
from dfscan.facesets import FaceSet
from dfscan.jobs.pool import pick_device, run_units
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import ExtractResult
from dfscan.recipe import FaceRecipe, fingerprint
from dfscan.records import SCHEMA_VERSION, VideoRef
from dfscan.steps.extract import ExtractStep
from dfscan.steps.look import Look
from dfscan.steps.units import plan_units

_LIBRARIES = (
    "av",
    "decord2",
    "facenet-pytorch",
    "numpy",
    "pillow",
    "pyarrow",
    "ray",
    "torch",
    "torchvision",
)


def run(config: ExtractConfig, progress: Progress) -> ExtractResult:
    """Extract, or continue to.

    :raises UsageError: nothing at the source, or the output cannot be used.
    """
    started = time.monotonic()
    videos = list_sources(config)
    recipe = config.recipe()
    target = FaceSet(Path(config.out).absolute())
    header = _header(config, recipe)
    step = ExtractStep(Look(recipe, pick_device(config), config.max_bytes), target)
    with storage.Lock(target.root / ".dfscan.lock", target.root):
        target.prepare(header, config.overwrite)
        done = target.done(videos)
        todo = [v for v in videos if v.video_id not in done]
        if len(todo) < len(videos):
            progress.note(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
        progress.start("extract", len(todo), "videos")
        run_units(step, plan_units(todo, config.unit_size, header["config_hash"]), config, progress)
        progress.stop()
        target.reconcile()
        counts = target.finish(header, _card(recipe, target.counts()))
    return ExtractResult(
        out=str(target.root),
        videos=counts["videos"],
        status=counts["status"],
        max_failed=config.max_failed,
        elapsed_s=time.monotonic() - started,
        new=len(todo),
        counts=counts,
    )


def list_sources(config: LookConfig) -> list[VideoRef]:
    """The videos a command names.

    :raises SourceError: no source was given, or one is missing or empty.
    """
    if not config.source:
        raise SourceError(
            "no source: give a folder, a .zip or a video, or write one into dfscan.yaml (dfscan init)"
        )
    return list_videos(config.source, config.layout)


def _header(config: ExtractConfig, recipe: FaceRecipe) -> dict[str, Any]:
    """``dataset.json``: what decides about the content of the dataset, and who made it."""
    deciding = recipe.model_dump(mode="json", exclude={"input"})
    deciding |= {"layout": config.layout, "max_bytes": config.max_bytes}
    return {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.hash(),
        "config": deciding,
        "config_hash": fingerprint(deciding),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _card(recipe: FaceRecipe, counts: dict[str, Any]) -> str:
    """The dataset card, with the metadata block that dataset hubs read."""
    rows = "\n".join(f"| {k} | {v:,} |" for k, v in counts["status"].items())
    labels = ", ".join(f"{v:,} {k}" for k, v in counts["label"].items())
    sampling = recipe.sampling.model_dump(exclude_none=True)
    return f"""---
configs:
- config_name: faces
  data_files: faces/*.parquet
  default: true
- config_name: videos
  data_files: videos/*.parquet
---

# Faces extracted by dfscan {__version__}

{counts["faces"]:,} faces from {counts["frames_sampled"]:,} frames of {counts["videos"]:,} videos ({labels}).

| status | videos |
|---|---|
{rows}

- Sampling: `{sampling}`
- Detector: `{recipe.detector.model_dump()}`
- Crop: `{recipe.crop.model_dump()}`
- Recipe hash: `{recipe.hash()}`

`faces/*.parquet` has a row a face, `videos/*.parquet` a row for every video of the source,
failed ones with their reason. Faces are personal data: keep to the terms of the source.
"""
