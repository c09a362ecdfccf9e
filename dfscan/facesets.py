"""A face dataset on disk: ``faces/``, ``videos/``, ``dataset.json``, ``README.md``.

A unit of work commits ``faces/UNIT.parquet``, then ``videos/UNIT.parquet``, both named by a hash
of the unit's input (configuration, video ids, versions). The second file is the commit: a video
is done when a row of ``videos/`` says so. A run that dies between the two leaves a faces file
that the same unit overwrites when it is done again, since equal input has the equal name. There
is no ledger that could disagree with the files.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import faults, storage
from dfscan.errors import OutputError, SourceError
from dfscan.recipe import FaceRecipe, differences, fingerprint
from dfscan.records import (
    FACE_SCHEMA,
    SCHEMA_VERSION,
    VIDEO_SCHEMA,
    FaceRow,
    VideoRef,
    VideoRow,
    to_table,
)

MARKER: Final = "dataset.json"
ROW_GROUP: Final = 64
"""Faces a row group: some 5 MB, so that a training rank can read scattered ones."""

COMPACT_BYTES: Final = 128 << 20
"""Units are merged until their faces take about so many bytes, …"""

COMPACT_VIDEOS: Final = 8192
"""… or until they hold about so many videos."""


@dataclass(frozen=True)
class FaceSet:
    """The folder of a face dataset."""

    root: Path

    @property
    def faces(self) -> Path:
        """Folder of face files."""
        return self.root / "faces"

    @property
    def videos(self) -> Path:
        """Folder of video files; a file here is a committed unit."""
        return self.root / "videos"

    def prepare(self, header: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder ready for a run with this configuration.

        :param header: must hold ``config`` and ``recipe``; written to ``dataset.json``.
        :raises OutputError: the folder holds something else, or another configuration's faces.
        """
        storage.check_output_folder(
            self.root, MARKER, overwrite, ("videos", "faces", MARKER, "README.md")
        )
        if storage.exists(self.root / MARKER):
            self.check(header)
        storage.commit_json(self.root / MARKER, {**header, "finished": False})

    def check(self, header: Mapping[str, Any]) -> None:
        """Refuse to mix faces of two configurations.

        :raises OutputError: what is there was made with another one; says what differs.
        """
        changed = differences(self.header().get("config"), header["config"])
        if changed:
            raise OutputError(
                f"{self.root} was made with another configuration ({'; '.join(changed)}): "
                "give another --out, or --overwrite to start anew"
            )

    def sweep(self, now: float) -> None:
        """Remove temporary files of runs that died long before ``now``."""
        for folder in (self.root, self.faces, self.videos):
            storage.sweep(folder, now)

    def header(self) -> dict[str, Any]:
        """The content of ``dataset.json``.

        :raises SourceError: there is none, or its schema is newer than this dfscan.
        """
        path = self.root / MARKER
        if not storage.exists(path):
            raise SourceError(
                f"{str(self.root)!r} is not a face dataset (no {MARKER}): make one with "
                f"dfscan extract SOURCE --out {self.root}"
            )
        content = storage.read_json(str(path))
        if not isinstance(content, dict) or not {"recipe", "config"} <= content.keys():
            raise SourceError(f"{path} is not the {MARKER} of a face dataset")
        if content.get("schema_version", 0) > SCHEMA_VERSION:
            raise SourceError(
                f"{path} has schema_version {content['schema_version']}, this dfscan reads up to "
                f"{SCHEMA_VERSION}: upgrade dfscan"
            )
        return content

    def recipe(self) -> FaceRecipe:
        """The recipe its faces were made with."""
        return FaceRecipe.model_validate(self.header()["recipe"])

    def commit(
        self,
        unit: str,
        videos: Sequence[VideoRow],
        faces: Sequence[FaceRow],
        check: Callable[[], None] | None = None,
    ) -> None:
        """Commit one unit: its faces, then a row for every one of its videos.

        :param check: called at the last moment before each file gets its name.
        """
        path = self.faces / f"{unit}.parquet"
        if faces:
            storage.commit_table(path, to_table(faces, FACE_SCHEMA), ROW_GROUP, check)
        else:
            storage.remove(path)  # of a run that died between the two files
        rows = to_table(videos, VIDEO_SCHEMA)
        storage.commit_table(self.videos / f"{unit}.parquet", rows, check=check)

    def committed(self, videos: Sequence[VideoRef]) -> dict[str, str]:
        """Status by ``video_id`` of those ``videos`` that have a row.

        A row counts that was committed last, with the same version and the same label, original
        and group.
        """
        places = {v.video_id: i for i, v in enumerate(videos)}
        when = np.full(len(videos), -1, np.int64)
        columns = ["video_id", "committed_at", "version", "label", "original", "group", "status"]
        found: dict[str, str] = {}
        for _, table in storage.read_tables(self.videos, columns):
            stamps = table.column("committed_at").cast(pa.int64()).to_numpy()
            lists = [table.column(c).to_pylist() for c in columns if c != "committed_at"]
            for stamp, name, *known, status in zip(stamps, *lists, strict=True):
                place = places.get(name)
                if place is None or stamp <= when[place]:
                    continue
                when[place] = stamp
                video = videos[place]
                if [video.version, video.label, video.original, video.group] == known:
                    found[video.video_id] = sys.intern(status)
                else:
                    found.pop(video.video_id, None)
        return found

    def reconcile(self) -> None:
        """Leave every video once and every face once: run while no unit is being committed.

        Rewrites units that hold rows superseded by a later one (a changed file was read again),
        removes units whose faces are not there (whose run was overtaken by another while it
        committed), and face files that no committed unit names.
        """
        self._drop_broken_units()
        for path, stale in self._superseded().items():
            faults.reach("reconcile.file")
            self._rewrite(Path(path), storage.read_table(path), stale)
        committed = {p.name for p in storage.parquet_files(self.videos)}
        for path_ in storage.parquet_files(self.faces):
            if path_.name not in committed:
                storage.remove(path_)

    def _drop_broken_units(self) -> None:
        for path, table in storage.read_tables(self.videos, ["faces"]):
            promised = pc.sum(table.column("faces")).as_py() or 0
            there = self.faces / Path(path).name
            if promised and not storage.exists(there):
                storage.remove(path)

    def _superseded(self) -> dict[str, set[str]]:
        """File → ids of the videos in it that another file has a later row of."""
        files: list[str] = []
        tables = []
        for path, table in storage.read_tables(self.videos, ["video_id", "committed_at"]):
            number = pa.array(np.full(table.num_rows, len(files), np.int32))
            tables.append(table.append_column("file", number))
            files.append(path)
        if not tables:
            return {}
        rows = pa.concat_tables(tables).replace_schema_metadata(None)
        counts = rows.group_by("video_id").aggregate([("file", "count")])
        twice = counts.filter(pc.greater(counts.column("file_count"), 1)).column("video_id")
        rows = rows.filter(pc.is_in(rows.column("video_id"), value_set=twice.combine_chunks()))
        rows = rows.sort_by([("committed_at", "ascending"), ("file", "ascending")])
        lists = [rows.column(c).to_pylist() for c in ("video_id", "file")]
        owner = dict(zip(*lists, strict=True))  # the last one wins
        stale: dict[str, set[str]] = defaultdict(set)
        for name, number in zip(*lists, strict=True):
            if owner[name] != number:
                stale[files[number]].add(name)
        return stale

    def _rewrite(self, path: Path, videos: pa.Table, without: set[str]) -> None:
        """Take some videos out of one unit's files."""
        faces_path = self.faces / path.name
        rest = _without(videos, without)
        if storage.exists(faces_path):
            faces = _without(storage.read_table(faces_path), without)
            if faces.num_rows:
                storage.commit_table(faces_path, faces, ROW_GROUP)
            elif rest.num_rows:
                storage.remove(faces_path)
        if rest.num_rows:
            storage.commit_table(path, rest)
        else:
            storage.remove(path)
            storage.remove(faces_path)

    def compact(self) -> None:
        """Merge small units, so that a large dataset is some hundred files and not some thousand.

        A merged unit is committed like any other before those it replaces are removed; a run that
        dies between the two leaves rows twice, which :meth:`reconcile` mends.
        """
        for batch in self._batches():
            videos = pa.concat_tables([storage.read_table(p) for p in batch])
            paths = [self.faces / p.name for p in batch if storage.exists(self.faces / p.name)]
            name = fingerprint(sorted(p.stem for p in batch))
            if paths:
                faces = pa.concat_tables([storage.read_table(p) for p in paths])
                storage.commit_table(self.faces / f"{name}.parquet", faces, ROW_GROUP)
                faults.reach("compact.faces")
            storage.commit_table(self.videos / f"{name}.parquet", videos)
            faults.reach("compact.videos")
            for path in batch:
                storage.remove(path)
                faults.reach("compact.removing")
                storage.remove(self.faces / path.name)

    def _batches(self) -> Iterator[list[Path]]:
        """Groups of small units to be merged, in order of what is in them."""
        small: list[tuple[str, int, int, Path]] = []
        for path, table in storage.read_tables(self.videos, ["video_id"]):
            size = storage.size(self.faces / Path(path).name)
            if size < COMPACT_BYTES // 2 and table.num_rows < COMPACT_VIDEOS // 2:
                first = pc.min(table.column("video_id")).as_py()
                small.append((first, size, table.num_rows, Path(path)))
        batch: list[Path] = []
        total = rows = 0
        for _, size, videos, file in sorted(small):
            if batch and (total + size > COMPACT_BYTES or rows + videos > COMPACT_VIDEOS):
                if len(batch) > 1:
                    yield batch
                batch, total, rows = [], 0, 0
            batch.append(file)
            total, rows = total + size, rows + videos
        if len(batch) > 1:
            yield batch

    def purge(self, video_ids: set[str]) -> dict[str, int]:
        """Remove every row and face of some videos; returns how many of each were there.

        Also says how many rows of other videos name one of them as their original.
        """
        found = Counter[str]()
        for path in storage.parquet_files(self.videos):
            videos = storage.read_table(path)
            mine = _named(videos, "video_id", video_ids)
            others = pc.and_(_named(videos, "original", video_ids), pc.invert(mine))
            found["videos"] += pc.sum(mine).as_py() or 0
            found["made_from_it"] += pc.sum(others).as_py() or 0
            faces_path = self.faces / path.name
            if storage.exists(faces_path):
                ids = storage.open_parquet(faces_path).read(["video_id"])
                found["faces"] += pc.sum(_named(ids, "video_id", video_ids)).as_py() or 0
            if pc.any(mine).as_py():
                self._rewrite(path, videos, video_ids)
        self.reconcile()  # faces of a unit that was never committed
        return dict(found)

    def finish(
        self, header: Mapping[str, Any], counts: Mapping[str, Any], card: str | None
    ) -> None:
        """Write ``dataset.json`` with the counts, and the dataset card where there is one."""
        storage.commit_json(self.root / MARKER, {**header, "finished": True, "counts": counts})
        if card is not None:
            storage.commit_bytes(self.root / "README.md", card.encode())

    def counts(self) -> dict[str, Any]:
        """Videos by status, label and part; frames, faces and tracks."""
        statuses: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        parts: dict[str, Counter[str]] = defaultdict(Counter)
        sums: Counter[str] = Counter()
        columns = ["part", "status", "label"]
        numbers = ["frames_sampled", "frames_decoded", "frames_lost", "faces", "tracks", "bytes"]
        for _, table in storage.read_tables(self.videos, columns + numbers):
            for part, status, label in zip(
                *(table.column(c).to_pylist() for c in columns), strict=True
            ):
                statuses[status] += 1
                labels[label or "unlabelled"] += 1
                parts[part][status] += 1
            for name in numbers:
                sums[name] += pc.sum(table.column(name)).as_py() or 0
        return {
            "videos": sum(statuses.values()),
            "status": dict(sorted(statuses.items())),
            "label": dict(sorted(labels.items())),
            **{name: sums[name] for name in numbers},
            "parts": {part: dict(sorted(parts[part].items())) for part in sorted(parts)},
        }


def open_facesets(paths: Iterable[str]) -> list[FaceSet]:
    """Face datasets that a command names, each once.

    :raises SourceError: one of them is missing or is none.
    """
    sets = {Path(p).resolve(): FaceSet(Path(p).absolute()) for p in paths}
    for faceset in sets.values():
        faceset.header()
    return list(sets.values())


def _named(table: pa.Table, column: str, values: set[str]) -> pa.ChunkedArray:
    return pc.is_in(table.column(column), value_set=pa.array(sorted(values), pa.string()))


def _without(table: pa.Table, video_ids: set[str]) -> pa.Table:
    return table.filter(pc.invert(_named(table, "video_id", video_ids)))
