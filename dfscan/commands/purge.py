"""``dfscan purge``: remove every trace of a video from a face dataset or from verdicts."""

from dataclasses import dataclass, field, replace

from dfscan import storage
from dfscan.config.purge import PurgeConfig
from dfscan.datasets.card import dataset_card
from dfscan.datasets.face_dataset import MARKER, FaceSet
from dfscan.errors import SourceError
from dfscan.pipeline.progress import Progress
from dfscan.verdicts.store import VerdictStore
from dfscan.verdicts.table import FILE, is_verdict_folder


@dataclass(frozen=True)
class PurgeResult:
    """Rows and faces that were removed.

    ``made_from_it`` rows still name a purged original; of the ``missing`` there was no row.
    """

    path: str
    rows: int
    faces: int
    made_from_it: int
    missing: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 2 where a video was named that is not there."""
        return 2 if self.missing else 0


def run(config: PurgeConfig, progress: Progress) -> PurgeResult:
    """Purge; files are rewritten one by one, so the same command continues.

    :raises UsageError: there is no dataset or verdict file, or another run is writing it.
    """
    path, videos = storage.as_path(config.path).absolute(), set(config.video)
    if not videos:
        raise SourceError(
            "no video: name one or more with --video ID, as in column video_id",
            code="source.missing",
        )
    if storage.exists(path / MARKER):
        result = _purge_faces(FaceSet(path), videos)
    elif path.suffix == FILE or is_verdict_folder(path):
        result = _purge_verdicts(path, videos)
    else:
        raise SourceError(
            f"{config.path!r} is neither a face dataset (a folder with {MARKER}) nor verdicts "
            "(a .parquet file, or a folder of them)",
            code="source.wrong_kind",
        )
    if result.missing:
        progress.message(f"{config.path} holds no row of {', '.join(result.missing)}")
    else:
        progress.message("the next run over a source that still holds a video brings it back")
    if result.made_from_it:
        progress.message(
            f"{result.made_from_it} fake(s) made from the purged are still there and name them as "
            "their original: purge those too where the face must go"
        )
    return result


def _purge_faces(target: FaceSet, videos: set[str]) -> PurgeResult:
    with storage.Lock(target.root / ".dfscan.lock", target.root) as lock:
        target = replace(target, check=lock.lease.check)
        target.sweep(lock.now, age_s=0)  # they may hold faces, and the lock is ours
        header = target.header()
        missing = videos - target.ids()
        found = target.purge(videos)
        counts = target.counts()
        finished = bool(header.pop("finished", False))
        target.finish(header, counts, dataset_card(target.recipe(), counts), finished)
    return PurgeResult(
        path=str(target.root),
        rows=found["videos"],
        faces=found["faces"],
        made_from_it=found["made_from_it"],
        missing=sorted(missing),
    )


def _purge_verdicts(path: storage.StoragePath, videos: set[str]) -> PurgeResult:
    if not storage.exists(path):
        raise SourceError(
            f"{str(path)!r} does not exist: give a face dataset or a verdict file",
            code="source.missing",
        )
    store = VerdictStore.open(path)
    with store.lock() as lock:
        store.sweep(lock.now)
        found = store.remove(videos, lock.lease)
    return PurgeResult(str(path), found.total(), 0, 0, sorted(videos - found.keys()))
