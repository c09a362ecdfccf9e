"""``dfscan extract``: list, plan, run units, finish the dataset."""

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dfscan import __version__, faults, storage
from dfscan.config import ExtractConfig
from dfscan.errors import DfscanError
from dfscan.facesets import FaceSet
from dfscan.jobs.estimate import estimate
from dfscan.jobs.looking import left_to_do, list_sources, make_looker
from dfscan.jobs.pool import run_units
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import ExtractResult, PlanResult
from dfscan.recipe import FaceRecipe, fingerprint
from dfscan.records import SCHEMA_VERSION, VideoRef
from dfscan.steps.extract import ExtractStep
from dfscan.steps.units import family, plan_units

ROUNDS: Final = 3
"""A round goes over what the one before it left undone; the last has nothing to do."""

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


def run(config: ExtractConfig, progress: Progress) -> ExtractResult | PlanResult:
    """Extract, or continue to.

    :raises UsageError: nothing at the source, or the output cannot be used.
    :raises DfscanError: the run cannot be finished; the same command continues.
    """
    started = time.monotonic()
    storage.check_is_local(config.out)
    videos = list_sources(config, progress)
    target = FaceSet(Path(config.out).absolute())
    if config.dry_run:
        return _plan(config, videos, target, progress)
    header = _header(config, config.recipe())
    with storage.Lock(target.root / ".dfscan.lock", target.root) as lock:
        target.prepare(header, config.overwrite)
        target.sweep(lock.now)
        new = _work(config, videos, target, lock.lease, header["config_hash"], progress)
        target.compact()
        counts = target.counts()
        faults.reach("finish")
        target.finish(header, counts, dataset_card(config.recipe(), counts))
        kept = counts["videos"] - len(target.committed(videos))
    if kept:
        progress.note(
            f"{kept} video(s) of the dataset are not at this source; they stay (dfscan purge "
            f"{config.out} --video ID removes one)"
        )
    return ExtractResult(
        out=str(target.root),
        videos=counts["videos"],
        status=counts["status"],
        max_failed=config.max_failed,
        elapsed_s=time.monotonic() - started,
        new=new,
        counts=counts,
    )


def _work(
    config: ExtractConfig,
    videos: Sequence[VideoRef],
    target: FaceSet,
    lease: storage.Lease,
    config_hash: str,
    progress: Progress,
) -> int:
    """Do what is left, until nothing is; returns the number of videos worked on.

    :raises DfscanError: units vanish as often as they are done.
    """
    looker = make_looker(config, config.recipe(), progress)
    step = ExtractStep(looker, target, lease, config.boxes_from == "original")
    todo = _choose(config, videos, target)
    if len(todo) < len(videos):
        progress.note(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    first = len(todo)
    for number in range(ROUNDS):
        if number:
            status = target.committed(videos)
            todo = [v for v in todo if v.video_id not in status]
        if not todo:
            break
        progress.start("extract", len(todo), "videos")
        run_units(step, plan_units(todo, config.unit_size, config_hash), config, progress, lease)
        progress.stop()
        target.reconcile()
    else:
        raise DfscanError(
            f"{target.root}: {len(todo)} video(s) were committed and vanished, {ROUNDS} times: does "
            "another program change this folder?"
        )
    return first


def _choose(config: ExtractConfig, videos: Sequence[VideoRef], target: FaceSet) -> list[VideoRef]:
    """What is left to do; with boxes from originals, families whole."""
    target.reconcile()
    todo = left_to_do(videos, target.committed(videos), config.retry)
    if config.boxes_from != "original":
        return todo
    touched = {family(v) for v in todo}
    return [v for v in videos if family(v) in touched]


def _plan(
    config: ExtractConfig, videos: Sequence[VideoRef], target: FaceSet, progress: Progress
) -> PlanResult:
    """What there is to do; nothing is written."""
    todo = list(videos)
    if storage.exists(target.root / "dataset.json") and not config.overwrite:
        target.check(_header(config, config.recipe()))
        todo = left_to_do(videos, target.committed(videos), config.retry)
    units = plan_units(todo, config.unit_size, "")
    looker = make_looker(config, config.recipe(), progress)
    return estimate(config, videos, todo, units, looker)


def _header(config: ExtractConfig, recipe: FaceRecipe) -> dict[str, Any]:
    """``dataset.json``: what decides about the content of the dataset, and who made it."""
    deciding = recipe.model_dump(mode="json", exclude={"input"})
    deciding |= {"layout": config.layout, "max_bytes": config.max_bytes}
    if config.boxes_from != "detected":
        deciding |= {"boxes_from": config.boxes_from}
    return {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.hash(),
        "config": deciding,
        "config_hash": fingerprint(deciding),
        "source": list(config.source),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def dataset_card(recipe: FaceRecipe, counts: dict[str, Any]) -> str:
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
failed ones with their reason. Faces are personal data: keep to the terms of the source, and
remove a video that must go with `dfscan purge`.
"""
