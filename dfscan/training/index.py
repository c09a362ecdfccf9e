"""Every labelled face of some datasets, without its pixels: what splits and samplers work on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dfscan import storage
from dfscan.datasets.face_dataset import FaceSet
from dfscan.datasets.splits import GroupFacts, groups_of, regroup
from dfscan.errors import SourceError
from dfscan.schemas.records import entries_to_dict

_COLUMNS: Final = [
    "video_id", "label", "original", "group", "attributes", "frame_index", "key_frame",
    "track_id", "box", "crop_box", "detector_score", "face_diff",
]  # fmt: skip


@dataclass(frozen=True)
class Video:
    """What the datasets say of one video; ``content_sha256`` is null where no row has it."""

    video_id: str
    original: str | None
    attributes: Mapping[str, str]
    content_sha256: str | None


@dataclass(frozen=True)
class FaceIndex:
    """Labelled faces in file order; arrays are of equal length N.

    ``dataset`` (index into ``datasets``), ``file`` (into ``files``), ``row_group`` of the file,
    ``row`` inside it, ``video`` (into ``videos``), ``original`` (likewise, -1: none here),
    ``group`` (into ``groups``), ``frame`` (presentation order), ``track`` (-1: none), ``box`` and ``crop_box`` (N, 4)
    float32 in pixels of the frame, ``face_diff`` NaN where it is not known.
    """

    datasets: tuple[str, ...]
    files: tuple[str, ...]
    videos: tuple[Video, ...]
    groups: tuple[str, ...]
    dataset: npt.NDArray[np.int16]
    file: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    video: npt.NDArray[np.int32]
    original: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]
    fake: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.int32]
    key_frame: npt.NDArray[np.bool_]
    track: npt.NDArray[np.int16]
    box: npt.NDArray[np.float32]
    crop_box: npt.NDArray[np.float32]
    detector_score: npt.NDArray[np.float32]
    face_diff: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.file)

    def where(self, groups: frozenset[str]) -> npt.NDArray[np.int64]:
        """Positions of the faces whose group is among ``groups``."""
        chosen = np.array([g in groups for g in self.groups], dtype=bool)
        return np.flatnonzero(chosen[self.group])

    def name(self, position: int) -> str:
        """A face as a message names it: its video and frame, and the file that holds it."""
        video = self.videos[self.video[position]].video_id
        return f"{video}, frame {self.frame[position]} ({self.files[self.file[position]]})"

    def members(self) -> set[tuple[str, str]]:
        """(group, label) of every face."""
        distinct = np.unique(np.stack([self.group, self.fake]), axis=1)
        return {(self.groups[g], "FAKE" if f else "REAL") for g, f in distinct.T.tolist()}


def build_index(datasets: Sequence[FaceSet], group_by: str | None = None) -> FaceIndex:
    """Read everything but the pictures; unlabelled faces are left out.

    :param group_by: as :func:`~dfscan.datasets.splits.regroup` takes it; None joins an original and its
        fakes, and whatever is connected with them.
    :raises SourceError: there is no labelled face, or two datasets hold the same video.
    """
    reading = _Reading()
    for number, dataset in enumerate(datasets):
        reading.add(number, dataset)
    if not reading.parts:
        names = ", ".join(str(d.root) for d in datasets)
        raise SourceError(
            f"no labelled face in {names}: labels come from the source's layout (dfdc, ffpp, "
            "folders); extract again with --layout",
            code="labels.missing",
        )
    return reading.index(tuple(str(d.root) for d in datasets), group_by)


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self.parts: list[dict[str, npt.NDArray[Any]]] = []
        self._files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._facts: list[tuple[GroupFacts, Mapping[str, str]]] = []
        self._digests: dict[str, str] = {}

    def add(self, number: int, dataset: FaceSet) -> None:
        """Read one dataset."""
        before = len(self._numbers)
        columns = ["video_id", "content_sha256"]
        for _, table in storage.read_tables(dataset.videos, columns):
            ids, digests = (table[name].to_pylist() for name in columns)
            self._digests |= {i: d for i, d in zip(ids, digests, strict=True) if d is not None}
        for path in storage.parquet_files(dataset.faces):
            parquet = storage.open_parquet(path)
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            table = parquet.read(columns=_COLUMNS).combine_chunks()
            table = table.append_column("row_group", pa.array(np.repeat(range(len(sizes)), sizes)))
            rows = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, int)
            table = table.append_column("row", pa.array(rows))
            table = table.filter(pc.is_valid(table["label"]))
            if len(table):
                self._files.append(str(path))
                self._take(number, table, self._video_numbers(table, before, dataset))

    def _video_numbers(
        self, table: pa.Table, before: int, dataset: FaceSet
    ) -> npt.NDArray[np.int64]:
        """A number for every row's video, the same wherever it appears."""
        encoded = table["video_id"].combine_chunks().dictionary_encode()
        local = encoded.indices.to_numpy()
        _, first = np.unique(local, return_index=True)
        facts = table.select(["original", "group", "attributes"]).take(first).to_pylist()
        numbers = []
        for video_id, fact in zip(encoded.dictionary.to_pylist(), facts, strict=True):
            number = self._numbers.setdefault(video_id, len(self._numbers))
            if number < before:
                raise SourceError(
                    f"{video_id} is in {dataset.root} and in a dataset before it: its faces would "
                    "count twice; leave one of them out",
                    code="source.duplicate",
                )
            if number == len(self._facts):
                attributes = entries_to_dict(fact["attributes"])
                group = GroupFacts(video_id, fact["group"], fact["original"], attributes)
                self._facts.append((group, attributes))
            numbers.append(number)
        found: npt.NDArray[np.int64] = np.array(numbers, np.int64)[local]
        return found

    def _take(self, number: int, table: pa.Table, video: npt.NDArray[np.int64]) -> None:
        size = len(table)
        self.parts.append(
            {
                "dataset": np.full(size, number, np.int16),
                "file": np.full(size, len(self._files) - 1, np.int32),
                "row_group": _numbers(table, "row_group", np.int32),
                "row": _numbers(table, "row", np.int32),
                "video": video.astype(np.int32),
                "fake": pc.equal(table["label"], "FAKE").to_numpy(),
                "frame": _numbers(table, "frame_index", np.int32),
                "key_frame": _numbers(table, "key_frame", np.bool_),
                "track": pc.fill_null(table["track_id"], -1).to_numpy(),
                "box": _boxes(table, "box"),
                "crop_box": _boxes(table, "crop_box"),
                "detector_score": _numbers(table, "detector_score", np.float32),
                "face_diff": _numbers(table, "face_diff", np.float32),
            }
        )

    def index(self, roots: tuple[str, ...], group_by: str | None) -> FaceIndex:
        """Everything read, with its groups."""
        arrays = {k: np.concatenate([part[k] for part in self.parts]) for k in self.parts[0]}
        facts = [fact for fact, _ in self._facts]
        ids = [fact.video_id for fact in facts]
        names = groups_of(facts) if group_by is None else regroup(ids, group_by)
        groups, group = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
        originals = np.array([self._numbers.get(fact.original or "", -1) for fact in facts])
        videos = tuple(
            Video(fact.video_id, fact.original, attributes, self._digests.get(fact.video_id))
            for fact, attributes in self._facts
        )
        return FaceIndex(
            datasets=roots,
            files=tuple(self._files),
            videos=videos,
            groups=tuple(groups.tolist()),
            group=group.astype(np.int32)[arrays["video"]],
            original=originals.astype(np.int32)[arrays["video"]],
            **arrays,
        )


def _numbers(table: pa.Table, name: str, kind: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = table[name].to_numpy().astype(kind)
    return values


def _boxes(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    boxes: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(len(table), 4)
    return boxes
