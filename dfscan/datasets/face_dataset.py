"""A face dataset on disk: ``faces/``, ``videos/``, ``dataset.json``, ``README.md``.

A unit of work commits ``faces/UNIT.parquet``, then ``videos/UNIT.parquet``, both named by the
unit's input (configuration, video ids, versions) and the run, so that no run overwrites a file of
another. The second file is the commit: a video is done once it has a row in ``videos/``. A run that
dies between the two leaves an unreferenced faces file, which the next run removes. There is no
separate ledger that could disagree with the files.
"""

import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from dfscan import storage
from dfscan.errors import OutputError, SourceError
from dfscan.schemas.evolution import read_version, upgrade_keys
from dfscan.schemas.fingerprint import differences
from dfscan.schemas.recipe import ExtractionInputs, FaceRecipe
from dfscan.schemas.records import (
    FACE_SCHEMA,
    VIDEO_SCHEMA,
    FaceRow,
    VideoRef,
    VideoRow,
    to_table,
)
from dfscan.storage import fault_injection as faults

MARKER: Final = "dataset.json"
ROW_GROUP: Final = 64
"""Faces per row group: about 5 MB, so that training can read scattered groups."""

COMPACT_BYTES: Final = 128 << 20
"""Units are merged until their faces take about this many bytes, …"""

COMPACT_VIDEOS: Final = 8192
"""… or until they hold about this many videos."""

SMALL_TABLES: Final = 1024
"""Small tables are concatenated in batches of this size: alone, a table of 0.7 kB takes 13 kB."""


@dataclass(frozen=True)
class Committed:
    """The state of some videos in a dataset.

    ``status``: by ``video_id``, for videos whose row matches the file's version, label and
    original. ``known``: videos with any row. ``regroup``: new group by ``video_id`` if nothing else
    has changed. ``others``: ids in the dataset that are not among the videos. ``latest``: seconds
    since the epoch of the last commit.
    """

    status: dict[str, str]
    known: set[str]
    regroup: dict[str, str]
    others: set[str]
    latest: float


def _always() -> None:
    """The default check: allows every commit."""


@dataclass(frozen=True)
class FaceSet:
    """The folder of a face dataset.

    ``check`` is called just before a file is committed or removed; if it raises, nothing changes.
    """

    root: storage.StoragePath
    check: Callable[[], None] = _always

    @property
    def faces(self) -> storage.StoragePath:
        """Folder of face files."""
        return self.root / "faces"

    @property
    def videos(self) -> storage.StoragePath:
        """Folder of video files; each file is a committed unit."""
        return self.root / "videos"

    def prepare(self, header: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder ready for a run with this configuration.

        :param header: must hold ``config`` and ``recipe``; written to ``dataset.json``.
        :raises OutputError: the folder holds something else, or another configuration's faces.
        """
        storage.check_output_folder(
            self.root, MARKER, overwrite, ("videos", "faces", "README.md", MARKER)
        )
        if storage.exists(self.root / MARKER):
            self.compare(header)
        storage.commit_json(self.root / MARKER, {**header, "finished": False})

    def compare(self, header: Mapping[str, Any]) -> None:
        """Refuse to mix faces of two configurations.

        :raises OutputError: the existing faces were made with another one; the message says what
            differs.
        """
        changed = differences(*(_configuration(h) for h in (self.header(), header)))
        if changed:
            raise OutputError(
                f"{self.root} was made with another configuration ({'; '.join(changed)}): "
                "give another --out, or --overwrite to start over",
                code="output.mismatch",
            )

    def sweep(self, now: float, age_s: float = storage.STALE_S) -> None:
        """Remove temporary files of runs that died ``age_s`` before ``now``."""
        for folder in (self.root, self.faces, self.videos):
            storage.sweep(folder, now, age_s)

    def header(self) -> dict[str, Any]:
        """The content of ``dataset.json``.

        :raises SourceError: it is missing, or its schema is newer than this dfscan's.
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
        read_version(content, path)
        upgraded: dict[str, Any] = upgrade_keys(content, "dataset")
        return upgraded

    def recipe(self) -> FaceRecipe:
        """The recipe its faces were made with."""
        return FaceRecipe.model_validate(self.header()["recipe"])

    def commit(self, unit: str, videos: Sequence[VideoRow], faces: Sequence[FaceRow]) -> None:
        """Commit one unit: its faces, then one row per video."""
        if faces:
            table = to_table(faces, FACE_SCHEMA)
            storage.commit_table(self.faces / f"{unit}.parquet", table, ROW_GROUP, self.check)
        rows = to_table(videos, VIDEO_SCHEMA)
        storage.commit_table(self.videos / f"{unit}.parquet", rows, check=self.check)

    def committed(self, videos: Sequence[VideoRef]) -> Committed:
        """The state of ``videos``; if a video has several rows, the last counts."""
        places = {v.video_id: i for i, v in enumerate(videos)}
        when = np.full(len(videos), -1, np.int64)
        columns = ["video_id", "committed_at", "version", "label", "original", "group", "status"]
        found = Committed({}, set(), {}, set(), 0.0)
        latest = 0
        for _, table in storage.read_tables(self.videos, columns):
            stamps = table.column("committed_at").cast(pa.int64()).to_numpy()
            latest = max(latest, int(stamps.max(initial=0)))
            lists = [table.column(c).to_pylist() for c in columns if c != "committed_at"]
            for stamp, name, *known, group, status in zip(stamps, *lists, strict=True):
                place = places.get(name)
                if place is None:
                    found.others.add(name)
                elif stamp > when[place]:
                    when[place] = stamp
                    _learn(found, videos[place], known, group, status)
        return replace(found, latest=latest / 1e6)

    def regroup(self, groups: Mapping[str, str]) -> None:
        """Write new groups, by ``video_id``, into rows and faces.

        A video added to a corpus can merge two groups without any change of pixels.
        """
        for path in storage.parquet_files(self.videos) if groups else ():
            table = storage.read_table(path)
            if not groups.keys().isdisjoint(table.column("video_id").to_pylist()):
                faces = self.faces / path.name
                if storage.exists(faces):
                    changed = _regrouped(storage.read_table(faces), groups)
                    storage.commit_table(faces, changed, ROW_GROUP, self.check)
                storage.commit_table(path, _regrouped(table, groups), check=self.check)

    def reconcile(self) -> None:
        """Remove duplicates and leftovers; call it while no unit is being committed.

        Rewrites units with superseded rows (a changed file was read again), and removes units whose
        faces do not match their rows (another run took over during the commit) and face files
        without a committed unit.
        """
        for path, stale in self._superseded().items():
            faults.fault_point("reconcile.file")
            self._rewrite(path, storage.read_table(path), stale)
        committed = {p.name for p in storage.parquet_files(self.videos)}
        for path_ in storage.parquet_files(self.faces):
            if path_.name not in committed:
                self._remove(path_)

    def _whole_units(self, columns: list[str]) -> Iterator[tuple[storage.StoragePath, pa.Table]]:
        """Yield (path, rows) of each unit; removes units whose faces do not match their rows."""

        def read(path: storage.StoragePath) -> tuple[pa.Table, int]:
            rows = storage.read_table(path, [*columns, "faces"])
            return rows, storage.row_count(self.faces / path.name)

        for path, (table, faces) in storage.each(read, storage.parquet_files(self.videos)):
            if faces == (pc.sum(table.column("faces")).as_py() or 0):
                yield path, table.select(columns)
            else:
                self._remove(path)

    def _remove(self, path: storage.StoragePath) -> None:
        self.check()
        storage.remove(path)

    def _superseded(self) -> dict[storage.StoragePath, set[str]]:
        """File → ids of its videos for which another file has a later row."""
        files: list[storage.StoragePath] = []
        tables: list[pa.Table] = []
        blocks: list[pa.Table] = []
        for path, table in self._whole_units(["video_id", "committed_at"]):
            number = pa.array(np.full(table.num_rows, len(files), np.int32))
            tables.append(table.append_column("file", number))
            files.append(path)
            if len(tables) == SMALL_TABLES:
                blocks.append(pa.concat_tables(tables).combine_chunks())
                tables.clear()
        if not files:
            return {}
        rows = pa.concat_tables([*blocks, *tables]).replace_schema_metadata(None)
        counts = rows.group_by("video_id").aggregate([("file", "count")])
        twice = counts.filter(pc.greater(counts.column("file_count"), 1)).column("video_id")
        rows = rows.filter(pc.is_in(rows.column("video_id"), value_set=twice.combine_chunks()))
        rows = rows.sort_by([("committed_at", "ascending"), ("file", "ascending")])
        lists = [rows.column(c).to_pylist() for c in ("video_id", "file")]
        owner = dict(zip(*lists, strict=True))  # the last one wins
        stale: dict[storage.StoragePath, set[str]] = defaultdict(set)
        for name, number in zip(*lists, strict=True):
            if owner[name] != number:
                stale[files[number]].add(name)
        return stale

    def _rewrite(self, path: storage.StoragePath, videos: pa.Table, without: set[str]) -> None:
        """Remove videos from a unit: the rest is committed under a new name."""
        faces_path = self.faces / path.name
        rest = _without(videos, without)
        name = uuid.uuid4().hex[:16]  # a new name, which no earlier pass can remove
        if rest.num_rows:
            if storage.exists(faces_path):
                faces = _without(storage.read_table(faces_path), without)
                if faces.num_rows:
                    target = self.faces / f"{name}.parquet"
                    storage.commit_table(target, faces, ROW_GROUP, self.check)
            faults.fault_point("rewrite.faces")
            storage.commit_table(self.videos / f"{name}.parquet", rest, check=self.check)
            faults.fault_point("rewrite.videos")
        self._remove(path)
        self._remove(faces_path)

    def compact(self) -> None:
        """Merge small units, so that a large dataset has hundreds of files rather than thousands.

        A merged unit is committed before those it replaces are removed; a run that dies in between
        leaves duplicates, which :meth:`reconcile` removes.
        """
        for batch in self._batches():
            videos = pa.concat_tables(t for _, t in storage.each(storage.read_table, batch))
            there = storage.each(storage.exists, [self.faces / p.name for p in batch])
            paths = [path for path, exists in there if exists]
            name = uuid.uuid4().hex[:16]
            if paths:
                faces = pa.concat_tables(t for _, t in storage.each(storage.read_table, paths))
                target = self.faces / f"{name}.parquet"
                storage.commit_table(target, faces, ROW_GROUP, self.check)
                faults.fault_point("compact.faces")
            storage.commit_table(self.videos / f"{name}.parquet", videos, check=self.check)
            faults.fault_point("compact.videos")
            for _ in storage.each(self._remove_unit, batch):
                pass

    def _remove_unit(self, path: storage.StoragePath) -> None:
        self._remove(path)
        faults.fault_point("compact.removing")
        self._remove(self.faces / path.name)

    def _batches(self) -> Iterator[list[storage.StoragePath]]:
        """Groups of small units to merge, in the order of their videos."""
        small: list[tuple[str, int, int, storage.StoragePath]] = []

        def look(path: storage.StoragePath) -> tuple[pa.Table, int]:
            return storage.read_table(path, ["video_id"]), storage.size(self.faces / path.name)

        for path, (table, size) in storage.each(look, storage.parquet_files(self.videos)):
            if size < COMPACT_BYTES // 2 and table.num_rows < COMPACT_VIDEOS // 2:
                first = pc.min(table.column("video_id")).as_py()
                small.append((first, size, table.num_rows, path))
        batch: list[storage.StoragePath] = []
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

    def unit_count(self) -> int:
        """Number of committed units."""
        return len(storage.parquet_files(self.videos))

    def ids(self) -> set[str]:
        """The ``video_id`` of every row."""
        tables = storage.read_tables(self.videos, ["video_id"])
        return {name for _, table in tables for name in table.column("video_id").to_pylist()}

    def purge(self, video_ids: set[str]) -> dict[str, int]:
        """Remove every row and face of some videos; returns the number of each.

        Also counts the rows of other videos that name one of them as their original.
        """
        found = Counter({"videos": 0, "faces": 0, "made_from_it": 0})
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
        self.reconcile()  # removes faces of units that were never committed
        return dict(found)

    def finish(
        self,
        header: Mapping[str, Any],
        counts: Mapping[str, Any],
        card: str,
        finished: bool = True,
    ) -> None:
        """Write ``dataset.json`` with the counts, and the dataset card."""
        storage.commit_bytes(self.root / "README.md", card.encode(), self.check)
        content = {**header, "finished": finished, "counts": counts}
        storage.commit_json(self.root / MARKER, content, self.check)

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
    """Open face datasets, each once.

    :raises SourceError: one is missing or not a face dataset.
    """
    sets = {storage.as_path(p).resolve(): FaceSet(storage.as_path(p).absolute()) for p in paths}
    for faceset in sets.values():
        faceset.header()
    return list(sets.values())


def _configuration(header: Mapping[str, Any]) -> Any:
    """What decides about the content of a dataset, as of today's version where it can be read so."""
    try:
        return ExtractionInputs.model_validate(header["config"]).as_json()
    except ValidationError:
        return header["config"]


def _learn(found: Committed, video: VideoRef, known: list[Any], group: str, status: str) -> None:
    """Add one row of a video; rows come in order of commit."""
    name = video.video_id
    found.known.add(name)
    found.status.pop(name, None)
    found.regroup.pop(name, None)
    if [video.version, video.label, video.original] == known:
        found.status[name] = sys.intern(status)
        if group != video.group:
            found.regroup[name] = video.group


def _regrouped(table: pa.Table, groups: Mapping[str, str]) -> pa.Table:
    names, old = (table.column(c).to_pylist() for c in ("video_id", "group"))
    new = [groups.get(name, group) for name, group in zip(names, old, strict=True)]
    place = table.schema.get_field_index("group")
    return table.set_column(place, table.schema.field("group"), pa.array(new, pa.string()))


def _named(table: pa.Table, column: str, values: set[str]) -> pa.ChunkedArray:
    return pc.is_in(table.column(column), value_set=pa.array(sorted(values), pa.string()))


def _without(table: pa.Table, video_ids: set[str]) -> pa.Table:
    return table.filter(pc.invert(_named(table, "video_id", video_ids)))
