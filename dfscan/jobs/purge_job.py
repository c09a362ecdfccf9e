"""``dfscan purge``: remove every trace of a video from a face dataset or from verdicts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.config import PurgeConfig
from dfscan.errors import SourceError
from dfscan.facesets import MARKER, FaceSet
from dfscan.jobs.extract_job import dataset_card
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import PurgeResult
from dfscan.jobs.score_job import parts_folder


def run(config: PurgeConfig, progress: Progress) -> PurgeResult:
    """Purge; files are rewritten one by one, so the same command continues.

    :raises UsageError: there is no dataset or verdict file, another run is writing it, or none of
        the videos is there.
    """
    path, videos = Path(config.path).absolute(), set(config.video)
    if not videos:
        raise SourceError("no video: name one or more with --video ID, as in column video_id")
    if storage.exists(path / MARKER):
        result = _purge_faces(FaceSet(path), videos)
    elif path.suffix == ".parquet":
        result = _purge_verdicts(path, videos)
    else:
        raise SourceError(
            f"{config.path!r} is neither a face dataset (a folder with {MARKER}) nor a verdict "
            "file (.parquet)"
        )
    if not result.rows:
        raise SourceError(f"{config.path!r} holds no row of {', '.join(sorted(videos))}")
    if result.made_from_it:
        progress.note(
            f"{result.made_from_it} fake(s) made from the purged are still there and name them as "
            "their original: purge those too where the face must go"
        )
    return result


def _purge_faces(target: FaceSet, videos: set[str]) -> PurgeResult:
    with storage.Lock(target.root / ".dfscan.lock", target.root) as lock:
        target.sweep(lock.now)
        header = target.header()
        found = target.purge(videos)
        counts = target.counts()
        finished = bool(header.pop("finished", False))
        header.pop("counts", None)
        if finished:
            target.finish(header, counts, dataset_card(target.recipe(), counts))
    return PurgeResult(
        str(target.root), found.get("videos", 0), found.get("faces", 0), found["made_from_it"]
    )


def _purge_verdicts(path: Path, videos: set[str]) -> PurgeResult:
    if not storage.exists(path):
        raise SourceError(f"{str(path)!r} does not exist: give a face dataset or a verdict file")
    rows = 0
    with storage.Lock(path.with_name(f".{path.name}.lock"), path):
        files = [path, *storage.parquet_files(parts_folder(path))]
        for file in files:
            table = storage.read_table(file)
            if "video_id" not in table.column_names:
                raise SourceError(f"{file} has no column video_id: it is no verdict file")
            mine = pc.is_in(table.column("video_id"), value_set=pa.array(sorted(videos)))
            count = pc.sum(mine).as_py() or 0
            rows += count
            if count:
                storage.commit_table(file, table.filter(pc.invert(mine)))
    return PurgeResult(str(path), rows, 0, 0)
