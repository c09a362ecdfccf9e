"""A face dataset on disk: ``faces/``, ``videos/``, ``dataset.json``, ``README.md``.

A unit of work commits ``faces/UNIT.parquet``, then ``videos/UNIT.parquet``, both named by a hash
of the unit's input (configuration, video ids, versions). The second file is the commit: a video
is done when a row of ``videos/`` says so. A run that dies between the two leaves a faces file
that the same unit overwrites when it is done again, since equal input has the equal name. There
is no ledger that could disagree with the files.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.errors import OutputError, SourceError
from dfscan.recipe import FaceRecipe, differences
from dfscan.records import (
    FACE_SCHEMA,
    RETRIED,
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
            old = self.header()
            changed = differences(old.get("config"), header["config"])
            if changed:
                raise OutputError(
                    f"{self.root} was made with another configuration ({'; '.join(changed)}): "
                    "give another --out, or --overwrite to start anew"
                )
        storage.commit_json(self.root / MARKER, {**header, "finished": False})

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

    def commit(self, unit: str, videos: Sequence[VideoRow], faces: Sequence[FaceRow]) -> None:
        """Commit one unit: its faces, then a row for every one of its videos."""
        path = self.faces / f"{unit}.parquet"
        if faces:
            storage.commit_table(path, to_table(faces, FACE_SCHEMA), ROW_GROUP)
        else:
            storage.remove(path)  # of a run that died between the two files
        storage.commit_table(self.videos / f"{unit}.parquet", to_table(videos, VIDEO_SCHEMA))

    def done(self, videos: Iterable[VideoRef]) -> set[str]:
        """Ids of the ``videos`` that need no more work.

        Committed with the same version and the same label, original and group, and not with a
        status that a second look may mend (:data:`~dfscan.records.RETRIED`).
        """
        columns = ["video_id", "committed_at", "version", "label", "original", "group", "status"]
        latest: dict[str, tuple[Any, ...]] = {}
        for _, table in storage.read_tables(self.videos, columns):
            rows = zip(*table.select(columns).to_pydict().values(), strict=True)
            for name, *row in rows:
                if name not in latest or row[0] > latest[name][0]:
                    latest[name] = tuple(row)
        wanted = {v.video_id: (v.version, v.label, v.original, v.group) for v in videos}
        return {
            name
            for name, (_, *known, status) in latest.items()
            if wanted.get(name) == tuple(known) and status not in RETRIED
        }

    def reconcile(self) -> None:
        """Leave every video once and every face once: run when all units are committed.

        Rewrites units that hold rows superseded by a later one (a changed file was read again),
        and removes face files that no committed unit names.
        """
        owners: dict[str, tuple[Any, str]] = {}
        for path, table in storage.read_tables(self.videos, ["video_id", "committed_at"]):
            columns = table.to_pydict()
            for name, when in zip(*columns.values(), strict=True):
                if name not in owners or when > owners[name][0]:
                    owners[name] = (when, path)
        for path, table in storage.read_tables(self.videos):
            names = table.column("video_id").to_pylist()
            stale = {n for n in names if owners[n][1] != path}
            if stale:
                self._rewrite(Path(path), table, stale)
        committed = {p.name for p in storage.parquet_files(self.videos)}
        for path_ in storage.parquet_files(self.faces):
            if path_.name not in committed:
                storage.remove(path_)

    def _rewrite(self, path: Path, videos: pa.Table, stale: set[str]) -> None:
        faces_path = self.faces / path.name
        if storage.exists(faces_path):
            faces = _without(storage.read_table(faces_path), stale)
            if faces.num_rows:
                storage.commit_table(faces_path, faces, ROW_GROUP)
            else:
                storage.remove(faces_path)
        rest = _without(videos, stale)
        if rest.num_rows:
            storage.commit_table(path, rest)
        else:
            storage.remove(path)

    def finish(self, header: Mapping[str, Any], card: str) -> dict[str, Any]:
        """Count what is there, write ``dataset.json`` and the dataset card; returns the counts."""
        counts = self.counts()
        storage.commit_json(self.root / MARKER, {**header, "finished": True, "counts": counts})
        storage.commit_bytes(self.root / "README.md", card.encode())
        return counts

    def counts(self) -> dict[str, Any]:
        """Videos by status and label, frames and faces."""
        statuses: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        columns = ["status", "label", "frames_sampled", "frames_decoded", "faces"]
        for _, table in storage.read_tables(self.videos, columns):
            statuses.update(table.column("status").to_pylist())
            labels.update(v or "unlabelled" for v in table.column("label").to_pylist())
            for name in columns[2:]:
                sums[name] += pc.sum(table.column(name)).as_py() or 0
        return {
            "videos": sum(statuses.values()),
            "status": dict(sorted(statuses.items())),
            "label": dict(sorted(labels.items())),
            **{name: sums[name] for name in columns[2:]},
        }


def open_facesets(paths: Iterable[str]) -> list[FaceSet]:
    """Face datasets that a command names, each once.

    :raises SourceError: one of them is missing or is none.
    """
    sets = {Path(p).resolve(): FaceSet(Path(p).absolute()) for p in paths}
    for faceset in sets.values():
        faceset.header()
    return list(sets.values())


def _without(table: pa.Table, video_ids: set[str]) -> pa.Table:
    named = pc.is_in(table.column("video_id"), value_set=pa.array(sorted(video_ids)))
    return table.filter(pc.invert(named))
