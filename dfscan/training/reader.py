"""Face datasets → batches. Each rank reads its own share of the Parquet row groups."""

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dfscan import storage
from dfscan.errors import SourceError
from dfscan.faces.crops import PictureError, cut
from dfscan.facesets import FaceSet
from dfscan.recipe import NetworkInput

SHUFFLE_BUFFER: Final = 1024
"""Encoded faces held for shuffling, some 80 MB."""

_COLUMNS: Final = ["image", "crop_box", "box"]


@dataclass(frozen=True)
class FaceIndex:
    """Every labelled face of some datasets, in file order, without its pixels.

    Arrays of equal length: ``file`` (index into ``files``), ``row_group``, ``row`` (inside the
    row group), ``video`` (index into ``video_ids``), ``fake``, ``group`` (index into ``groups``).
    """

    files: tuple[str, ...]
    video_ids: tuple[str, ...]
    groups: tuple[str, ...]
    file: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    video: npt.NDArray[np.int32]
    fake: npt.NDArray[np.bool_]
    group: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.file)

    def where(self, groups: frozenset[str]) -> npt.NDArray[np.int64]:
        """Positions of the faces whose group is among ``groups``."""
        chosen = np.array([g in groups for g in self.groups], dtype=bool)
        return np.flatnonzero(chosen[self.group])


def build_index(datasets: Sequence[FaceSet]) -> FaceIndex:
    """Read labels, groups and positions; unlabelled faces are left out.

    :raises SourceError: there is no labelled face, or two datasets hold the same video.
    """
    files: list[str] = []
    columns: dict[str, list[Any]] = {
        k: [] for k in ("file", "row_group", "row", "video", "fake", "group")
    }
    videos: dict[str, int] = {}
    groups: dict[str, int] = {}
    for dataset in datasets:
        before = len(videos)
        for path in storage.parquet_files(dataset.faces):
            files.append(str(path))
            parquet = storage.open_parquet(path)
            for number in range(parquet.num_row_groups):
                table = parquet.read_row_group(number, columns=["video_id", "label", "group"])
                rows = zip(*table.to_pydict().values(), strict=True)
                for row, (video, label, group) in enumerate(rows):
                    if label is None:
                        continue
                    columns["file"].append(len(files) - 1)
                    columns["row_group"].append(number)
                    columns["row"].append(row)
                    if videos.setdefault(video, len(videos)) < before:
                        raise SourceError(
                            f"{video} is in {dataset.root} and in a dataset before it: its faces "
                            "would count twice; leave one of them out"
                        )
                    columns["video"].append(videos[video])
                    columns["fake"].append(label == "FAKE")
                    columns["group"].append(groups.setdefault(group, len(groups)))
    if not columns["file"]:
        names = ", ".join(str(d.root) for d in datasets)
        raise SourceError(
            f"no labelled face in {names}: labels come from the source's layout (dfdc, ffpp, "
            "folders); extract again with --layout"
        )
    arrays = {k: np.asarray(v, dtype=bool if k == "fake" else np.int32) for k, v in columns.items()}
    return FaceIndex(tuple(files), tuple(videos), tuple(groups), **arrays)


@dataclass(frozen=True)
class Batch:
    """``pixels`` (N, S, S, 3) uint8, ``fake`` (N,) float32 in {0, 1}, ``position`` in the index."""

    pixels: Tensor
    fake: Tensor
    position: npt.NDArray[np.int64]


class FaceReader:
    """Batches of one side of a split, for one rank.

    Row groups are read whole, decoded and cut on threads beside the training thread. Pictures
    that do not decode are skipped and listed in ``bad``.
    """

    def __init__(
        self,
        index: FaceIndex,
        positions: npt.NDArray[np.int64],
        recipe: NetworkInput,
        *,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
    ) -> None:
        self._index, self._positions, self._recipe = index, positions, recipe
        self._rank, self._world, self._threads = rank, world, threads
        self.bad: list[str] = []

    def train_batches(self, batch: int, steps: int, seed: int, flip: bool) -> Iterator[Batch]:
        """``steps`` shuffled batches of ``batch`` faces; every rank gets as many.

        :param seed: of this epoch; the same on every rank.
        :param flip: mirror half of the faces.
        """
        random = np.random.default_rng((seed, self._rank))
        order = self._shuffled(np.random.default_rng(seed))
        own = np.array_split(order, self._world)[self._rank]
        stream = self._endless(own, random)
        batches = self._batches(stream, batch, random if flip else None)
        yield from islice(batches, steps)

    def _endless(
        self, positions: npt.NDArray[np.int64], random: np.random.Generator
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The faces again from the start when pictures that do not decode left a gap.

        :raises SourceError: two rounds over the faces gave no picture at all.
        """
        for rounds in count():
            if rounds == 2 and len(self.bad) >= len(positions):
                raise SourceError(f"no picture decodes; the first: {self.bad[0]}")
            yield from self._buffered(self._encoded(positions), random)

    def all_batches(self, batch: int) -> Iterator[Batch]:
        """Each face of this rank's share once, in file order."""
        own = np.array_split(self._positions, self._world)[self._rank]
        yield from self._batches(self._encoded(own), batch, None)

    def _shuffled(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Positions with the row groups in random order, rows of one row group together."""
        keys = (self._index.file[self._positions].astype(np.int64) << 32) | self._index.row_group[
            self._positions
        ]
        _, inverse = np.unique(keys, return_inverse=True)
        rank_of = random.permutation(inverse.max() + 1)
        return self._positions[np.argsort(rank_of[inverse], kind="stable")]

    def _encoded(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(position, row) one row group at a time."""
        index, start = self._index, 0
        while start < len(positions):
            first = positions[start]
            file, group = index.file[first], index.row_group[first]
            stop = start
            while stop < len(positions) and (
                index.file[positions[stop]] == file and index.row_group[positions[stop]] == group
            ):
                stop += 1
            table = storage.open_parquet(index.files[file]).read_row_group(
                int(group), columns=_COLUMNS
            )
            rows = table.take(index.row[positions[start:stop]]).to_pylist()
            yield from zip(positions[start:stop].tolist(), rows, strict=True)
            start = stop

    @staticmethod
    def _buffered(
        stream: Iterator[tuple[int, dict[str, Any]]], random: np.random.Generator
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        buffer: list[tuple[int, dict[str, Any]]] = []
        for item in stream:
            if len(buffer) < SHUFFLE_BUFFER:
                buffer.append(item)
                continue
            slot = int(random.integers(SHUFFLE_BUFFER))
            yield buffer[slot]
            buffer[slot] = item
        random.shuffle(buffer)
        yield from buffer

    def _batches(
        self,
        stream: Iterator[tuple[int, dict[str, Any]]],
        size: int,
        flip: np.random.Generator | None,
    ) -> Iterator[Batch]:
        """Decode on threads, a few batches ahead of the consumer."""
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=4)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def produce() -> None:
            try:
                with ThreadPoolExecutor(self._threads) as pool:
                    for chunk in _chunks(stream, size):
                        if stop.is_set():
                            return
                        put(self._decode(pool, chunk, flip))
                put(None)
            except BaseException as error:  # noqa: BLE001  (handed to the consumer, who raises it)
                put(error)

        thread = threading.Thread(target=produce, daemon=True, name="dfscan-reader")
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if len(item.position):
                    yield item
        finally:
            stop.set()
            thread.join()

    def _decode(
        self,
        pool: ThreadPoolExecutor,
        chunk: list[tuple[int, dict[str, Any]]],
        flip: np.random.Generator | None,
    ) -> Batch:
        pictures = list(pool.map(self._cut, chunk))
        good = [
            (p, pixels)
            for (p, _), pixels in zip(chunk, pictures, strict=True)
            if pixels is not None
        ]
        positions = np.array([p for p, _ in good], dtype=np.int64)
        if not good:
            return Batch(torch.zeros(0), torch.zeros(0), positions)
        pixels = np.stack([p for _, p in good])
        if flip is not None:
            mirrored = flip.random(len(pixels)) < 0.5
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        fake = torch.from_numpy(self._index.fake[positions].astype(np.float32))
        return Batch(torch.from_numpy(pixels), fake, positions)

    def _cut(self, item: tuple[int, dict[str, Any]]) -> npt.NDArray[np.uint8] | None:
        position, row = item
        try:
            return cut(row["image"]["bytes"], row["crop_box"], row["box"], self._recipe)
        except PictureError:
            index = self._index
            video = index.video_ids[index.video[position]]
            self.bad.append(f"{video} ({index.files[index.file[position]]})")
            return None


def _chunks(stream: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in stream:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
