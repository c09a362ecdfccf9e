"""What extracting and scoring share: the videos a command names, and how they are looked at."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dfscan.config.base import VideoInputConfig
from dfscan.corpora import list_videos
from dfscan.errors import SourceError
from dfscan.pipeline.extraction.extractor import FaceExtractor, InProcessExtractor
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import cpu_count, pick_device
from dfscan.pipeline.sandbox import seccomp
from dfscan.pipeline.sandbox.process import Limits, SandboxedExtractor
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import RETRIED
from dfscan.video import ORDERS

GONE_LIMIT: Final = 0.05
"""More than this share of known videos missing at once looks like an unmounted disk."""


def list_sources(config: VideoInputConfig, progress: Progress) -> list[VideoRef]:
    """The videos a command names; says what was recognised.

    :raises SourceError: no source was given, or one is missing or empty.
    """
    if not config.source:
        raise SourceError(
            "no source: give a folder, an archive (.zip, .tar), a list (.txt, .csv, .parquet), a video "
            "or a picture, or write one into dfscan.yaml (dfscan init)",
            code="source.missing",
        )
    listing = list_videos(config.source, config.layout)
    if config.layout == "auto":
        layouts = Counter(listing.layouts.values())
        if len(listing.layouts) == 1:
            progress.message(f"layout: {next(iter(layouts))}")
        else:
            named = ", ".join(f"{n} {layout}" for layout, n in layouts.most_common())
            progress.message(f"layouts of {len(listing.layouts)} sources: {named}")
    for name in listing.unreadable:
        progress.message(
            f"{name} cannot be read in place as an archive (damaged, or compressed inside another: "
            "store it with zip -0): it gets a row of its own"
        )
    return listing.videos


def make_extractor(
    config: VideoInputConfig, recipe: FaceRecipe, progress: Progress
) -> FaceExtractor:
    """How to look at videos: in a child process, unless told otherwise.

    :raises ConfigError: GPUs are asked for and there are none.
    """
    extractor = InProcessExtractor(
        recipe, pick_device(config), config.max_bytes, ORDERS[config.decoder]
    )
    if not config.isolate:
        return extractor
    if not sys.platform.startswith("linux"):
        progress.message(f"{sys.platform}: no limit on a decoder's memory here, only on its time")
    for what in seccomp.lacking():
        progress.message(f"{what} (SECURITY.md)")
    memory = None if config.max_memory is None else int(config.max_memory)
    return SandboxedExtractor(
        extractor, Limits(config.timeout, memory, config.recycle), decoders(config)
    )


def decoders(config: VideoInputConfig) -> int:
    """Decoding processes that feed one worker's detector; 0: each finds its own faces."""
    if config.decoders is not None:
        return config.decoders
    return max(1, cpu_count() // config.gpus) if config.gpus else 0


def pending_videos(
    videos: Sequence[VideoRef], status: Mapping[str, str], retry: Iterable[str]
) -> list[VideoRef]:
    """Videos to work on.

    :param status: status by ``video_id`` of the videos that have a row.
    :param retry: work only on videos with these statuses; none: on those without a row, and on
        those whose file could not be found.
    """
    again = frozenset(retry)
    if again:
        return [v for v in videos if status.get(v.video_id) in again]
    return [v for v in videos if status.get(v.video_id, "missing") in RETRIED]
