"""``dfscan extract``: list, plan, run units, finish the dataset."""

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dfscan import __version__, storage
from dfscan.config.extract import ExtractConfig
from dfscan.datasets.card import dataset_card
from dfscan.datasets.face_dataset import MARKER, Committed, FaceSet
from dfscan.errors import DfscanError, OutputError
from dfscan.execution.executor import check_cluster, run_units
from dfscan.pipeline.estimate import PlanResult, estimate
from dfscan.pipeline.extract_task import ExtractTask
from dfscan.pipeline.extraction.extractor import FaceExtractor
from dfscan.pipeline.inputs import GONE_LIMIT, list_sources, make_extractor, pending_videos
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.work_units import NOTHING, Outcome, UnitResult, family, plan_units
from dfscan.schemas.fingerprint import ALGORITHM, MARK, fingerprint
from dfscan.schemas.recipe import ExtractionInputs, FaceRecipe
from dfscan.schemas.records import SCHEMA_VERSION, VideoRef
from dfscan.storage import fault_injection as faults


@dataclass(frozen=True)
class ExtractResult(Outcome):
    """What is in the face dataset now; ``new`` videos were worked on by this run.

    ``frames``: those it looked at; ``decoding_share``: its speed as a share of what decoding alone
    would reach, 0 to 1 (None where nothing was decoded).
    """

    new: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    decoding_share: float | None = None


ROUNDS: Final = 3
"""A round goes over what the one before it left undone; the last has nothing to do."""

MANY_UNITS: Final = 500
"""A run that finds more units than this merges them first: each is read several times."""

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
    check_cluster(config)
    videos = list_sources(config, progress)
    target = FaceSet(storage.as_path(config.out).absolute())
    header = _header(config, config.recipe())
    extractor = make_extractor(config, config.recipe(), progress)
    if config.dry_run:
        return _plan(config, videos, target, header, extractor)
    with storage.Lock(target.root / ".dfscan.lock", target.root) as lock:
        target = replace(target, check=lock.lease.check)
        if not config.overwrite:
            _choose(config, videos, target.committed(videos))  # refuses before anything is written
        target.prepare(header, config.overwrite)
        target.sweep(lock.now)
        run_ = _Run(config, videos, header["config_hash"], extractor, lock, progress)
        new, done, target, known = run_.work(target)
        target.compact()
        counts = target.counts()
        left = sum(v.video_id not in known.known for v in videos)
        faults.fault_point("finish")
        target.finish(header, counts, dataset_card(config.recipe(), counts), not left)
    _tell(config, known, left, progress)
    return ExtractResult(
        out=str(target.root),
        videos=counts["videos"],
        status=counts["status"],
        max_failed=config.max_failed,
        elapsed_s=time.monotonic() - started,
        new=new,
        counts=counts,
        frames=done.frames,
        decoding_share=1 - done.faces_s / done.look_s if done.look_s else None,
    )


@dataclass(frozen=True)
class _Run:
    """One run over the videos, round after round until nothing is left."""

    config: ExtractConfig
    videos: Sequence[VideoRef]
    config_hash: str
    extractor: FaceExtractor
    lock: storage.Lock
    progress: Progress

    def work(self, target: FaceSet) -> tuple[int, UnitResult, FaceSet, Committed]:
        """Do what is left.

        Returns the number of videos worked on, what they came to, the dataset under its new lease,
        and what it knows.

        :raises DfscanError: units vanish as often as they are done.
        """
        known = self._tidy(target)
        first = todo = _choose(self.config, self.videos, known)
        if len(todo) < len(self.videos) and not self.config.retry:
            done = len(self.videos) - len(todo)
            self.progress.message(f"{done} of {len(self.videos)} videos are done already")
        total = NOTHING
        for _ in range(ROUNDS):
            if not todo:
                return len(first), total, target, known
            total += self._round(todo, target, known.latest)
            target = replace(target, check=self.lock.fence().check)
            target.reconcile()
            known = target.committed(self.videos)
            todo = [v for v in todo if v.video_id not in known.known]
        if todo:
            raise DfscanError(
                f"{target.root}: {len(todo)} video(s) were committed and vanished, {ROUNDS} times: "
                "does another program change this folder?",
                code="work.lost",
            )
        return len(first), total, target, known

    def _round(self, todo: Sequence[VideoRef], target: FaceSet, after: float) -> UnitResult:
        paired = self.config.boxes_from == "original"
        task = ExtractTask(self.extractor, target, self.lock.lease.token[:8], after, paired)
        units = plan_units(todo, self.config.unit_size, self.config_hash, paired)
        self.progress.start("extract", len(todo), "videos")
        result = run_units(task, units, self.config, self.progress, self.lock.lease)
        self.progress.stop()
        return result

    def _tidy(self, target: FaceSet) -> Committed:
        """Mend what an earlier run left; returns what is known of the videos then.

        Groups get their new names, and the row of an archive that could not be read goes when it
        can be.
        """
        target.reconcile()
        if target.unit_count() > MANY_UNITS:
            target.compact()
        known = target.committed(self.videos)
        target.regroup(known.regroup)
        archives = {v.video_id.rpartition(storage.MEMBER)[0] for v in self.videos}
        obsolete = known.others & archives
        if obsolete:
            target.purge(obsolete)
            known.others.difference_update(obsolete)
        return known


def _choose(config: ExtractConfig, videos: Sequence[VideoRef], known: Committed) -> list[VideoRef]:
    """What is left to do; with boxes from originals, families whole.

    A listed file that is not there keeps the rows that it has from when it was.

    :raises OutputError: many files that were there are not.
    """
    seen = (v.video_id for v in videos if not v.version and v.video_id in known.known)
    gone = {name for name in seen if known.status.get(name) != "missing"}
    if len(gone) > GONE_LIMIT * len(known.known) and not config.allow_gone:
        raise OutputError(
            f"{len(gone)} of the {len(known.known)} known videos are not at the source, first "
            f"{min(gone)}: is a disk unmounted? --allow-gone goes on without them",
            code="source.many_missing",
        )
    here = [v for v in videos if v.video_id not in gone]
    todo = pending_videos(here, known.status, config.retry)
    if config.boxes_from != "original":
        return todo
    touched = {family(v) for v in todo}
    return [v for v in here if family(v) in touched]


def _tell(config: ExtractConfig, known: Committed, left: int, progress: Progress) -> None:
    """What a user should know of the videos that this run did not touch."""
    if left:
        progress.message(f"{left} video(s) have no row yet: run again without --retry")
    if known.others:
        progress.message(
            f"{len(known.others)} video(s) of the dataset are not at this source, first "
            f"{min(known.others)}; they stay (dfscan purge {config.out} --video ID removes one)"
        )


def _plan(
    config: ExtractConfig,
    videos: Sequence[VideoRef],
    target: FaceSet,
    header: dict[str, Any],
    extractor: FaceExtractor,
) -> PlanResult:
    """What there is to do; nothing is written."""
    todo = list(videos)
    if storage.exists(target.root / MARKER) and not config.overwrite:
        target.compare(header)
        todo = _choose(config, videos, target.committed(videos))
    units = plan_units(todo, config.unit_size, "", config.boxes_from == "original")
    return estimate(config, videos, todo, units, extractor)


def _header(config: ExtractConfig, recipe: FaceRecipe) -> dict[str, Any]:
    """``dataset.json``: what decides about the content of the dataset, and who made it."""
    inputs = ExtractionInputs(
        **{name: getattr(recipe, name) for name in FaceRecipe.model_fields},
        layout=config.layout,
        max_bytes=config.max_bytes,
        boxes_from=config.boxes_from,
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "dfscan": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.hash(),
        "config": inputs.as_json(),
        "config_hash": fingerprint(inputs),
        MARK: ALGORITHM,
        "source": list(config.source),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
