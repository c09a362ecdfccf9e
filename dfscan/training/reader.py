"""Face datasets → batches. Each rank reads its own share of the Parquet row groups."""

import functools
import queue
import threading
import time
from collections.abc import Generator, Iterator
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
from dfscan.faces.crops import PictureError, cut_out, decode
from dfscan.schemas.recipe import NetworkInput
from dfscan.training.augment import (
    PRESETS,
    SELF_BLENDED,
    SampledAugmentation,
    apply,
    draw,
    landmarks_in_cut,
)
from dfscan.training.index import FaceIndex
from dfscan.training.selfblend import self_blend

SHUFFLE_BUFFER: Final = 1024
"""Encoded faces held for shuffling, some 80 MB."""

ROW_GROUPS: Final = 16
"""Row groups held at once, some 80 MB: a fake and its original lie near each other."""

AHEAD: Final = 4
"""Batches that are decoded ahead of the training thread."""

_COLUMNS: Final = ["image", "crop_box", "box", "landmarks"]

Items = npt.NDArray[np.int64]
"""Positions in the index that are shown together: (N, 1), or (N, 2) of a fake and its original."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """``pixels`` (N, S, S, 3) uint8, ``fake`` (N,) float32 in {0, 1}, ``position`` in the index."""

    pixels: Tensor
    fake: Tensor
    position: npt.NDArray[np.int64]


@dataclass
class _Tally:
    """How many items of a stream could be shown so far, and how many could not."""

    shown: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Item:
    """Encoded faces that are shown together, and the seed of what is drawn for them."""

    positions: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]
    seed: tuple[int, ...]
    tally: _Tally


_Face = tuple[int, bool, Pixels]
"""Its position in the index, whether it is fake, and what the network is shown: (S, S, 3)."""


class FaceReader:
    """Batches for one rank.

    Row groups are read whole, decoded, cut and augmented on threads of the reader's own.
    Pictures that do not decode are named in ``bad``, once; ``unblended`` counts faces that have no
    landmarks to blend by, or are too small. Both are ``skipped``, and others take their places.
    ``pictures`` were made in ``core_s`` seconds of a core.

    :param ahead: decode while the consumer works, as suits one that works on a GPU. False: encoded
        faces are still read ahead, but decoded while the consumer waits for them. A network on a
        CPU shares every layer among all cores and waits for the slowest: with decoding beside it
        EfficientNet-B0 on two cores trained at 0.89 of its own rate, turn about at 0.96.
    """

    def __init__(
        self,
        index: FaceIndex,
        recipe: NetworkInput,
        *,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        ahead: bool = True,
    ) -> None:
        self._index, self._recipe = index, recipe
        self._rank, self._world, self._threads, self._ahead = rank, world, threads, ahead
        self._group = functools.lru_cache(maxsize=ROW_GROUPS)(_read_row_group)
        self._lock = threading.Lock()
        self.bad: list[str] = []
        self.unblended = self.pictures = self.skipped = 0
        self.core_s = 0.0

    def train_batches(
        self, items: Items, batch: int, steps: int, seed: int, augmentation: str
    ) -> Generator[Batch, None, None]:
        """``steps`` shuffled batches of ``batch`` faces; every rank gets as many.

        The classes are spread evenly over the batches, as they are over ``items``. The same seed
        gives the same batches, however many threads decode them.

        :param items: of this epoch, the same on every rank.
        :param seed: of this epoch; the same on every rank.
        :param augmentation: a key of :data:`~dfscan.training.augment.PRESETS`.
        """
        random = np.random.default_rng(seed)
        streams: list[tuple[Iterator[_Item], int]] = []
        first_fake = self._index.fake[items[:, 0]]
        for side in (items[~first_fake], items[first_fake]):
            own = np.array_split(self._by_row_group(side, random), self._world)[self._rank]
            if len(own):
                mine = np.random.default_rng((seed, self._rank, len(streams)))
                streams.append((self._endless(own, mine, (seed, len(streams))), len(own)))
        yield from islice(self._batches(_evenly(streams), batch, augmentation), steps)

    def all_batches(self, positions: npt.NDArray[np.int64], batch: int) -> Iterator[Batch]:
        """Each face of this rank's share once, in file order."""
        own = np.array_split(positions, self._world)[self._rank]
        yield from self._batches(self._encoded(own[:, None], (0,), _Tally()), batch, "none")

    def _endless(
        self, items: Items, random: np.random.Generator, seed: tuple[int, ...]
    ) -> Iterator[_Item]:
        """The items again from the start when pictures that do not decode left a gap.

        :raises SourceError: a round over the items gave no picture at all.
        """
        tally = _Tally()
        for rounds in count():
            if not tally.shown and tally.failed >= len(items):
                raise SourceError(self._nothing())
            yield from _buffered(self._encoded(items, (*seed, self._rank, rounds), tally), random)

    def _nothing(self) -> str:
        if len(self.bad) > self.unblended:
            return f"no picture decodes; the first: {self.bad[0]}"
        return (
            "train.augment: sbi needs landmarks and faces of some size, no face here has both: "
            "extract with the detector mtcnn"
        )

    def _by_row_group(self, items: Items, random: np.random.Generator) -> Items:
        """Items with the row groups in random order, those of one row group together."""
        if not len(items):
            return items
        first, index = items[:, 0], self._index
        keys = (index.file[first].astype(np.int64) << 32) | index.row_group[first]
        _, inverse = np.unique(keys, return_inverse=True)
        rank_of = random.permutation(inverse.max() + 1)
        return items[np.argsort(rank_of[inverse], kind="stable")]

    def _encoded(self, items: Items, seed: tuple[int, ...], tally: _Tally) -> Iterator[_Item]:
        for number, positions in enumerate(items.tolist()):
            rows = tuple(self._row(position) for position in positions)
            yield _Item(tuple(positions), rows, (*seed, number), tally)

    def _row(self, position: int) -> dict[str, Any]:
        index = self._index
        table = self._group(index.files[index.file[position]], int(index.row_group[position]))
        row = int(index.row[position])
        return {name: table[name][row].as_py() for name in _COLUMNS}

    def _batches(self, items: Iterator[_Item], size: int, augmentation: str) -> Iterator[Batch]:
        """Decode on threads, a few batches ahead of the consumer or while it waits.

        Every batch but the last has ``size`` faces, whatever was skipped: ranks that take their
        batches apart do so alike.
        """
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=AHEAD)
        stop, asked = threading.Event(), threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            if not self._ahead:
                asked.clear()  # before the consumer can ask for the next
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def produce() -> None:
            left: list[_Face] = []
            try:
                with ThreadPoolExecutor(self._threads) as pool:
                    for chunk in _chunks(items, size):
                        while not (stop.is_set() or asked.wait(0.1)):
                            continue
                        if stop.is_set():
                            return
                        for made in pool.map(lambda item: self._faces(item, augmentation), chunk):
                            left += made
                        while len(left) >= size:
                            put(_batch(left[:size]))
                            left = left[size:]
                if left:
                    put(_batch(left))
                put(None)
            except BaseException as error:  # noqa: BLE001  (handed to the consumer, who raises it)
                put(error)

        thread = threading.Thread(target=produce, daemon=True, name="dfscan-reader")
        thread.start()
        try:
            while True:
                asked.set()
                item = ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _faces(self, item: _Item, augmentation: str) -> list[_Face]:
        """(position, whether it is fake, pixels) of an item's faces: all of them, or none.

        All are augmented alike: what differs between a fake and its original is the forgery.
        """
        began = time.thread_time()
        made = []
        changes = draw(PRESETS[augmentation], np.random.default_rng((*item.seed, 0)))
        for position, row in zip(item.positions, item.rows, strict=True):
            try:
                crop = decode(row["image"]["bytes"])
            except PictureError:
                name = self._index.name(position)
                with self._lock:
                    if name not in self.bad:
                        self.bad.append(name)
                return self._left_out(item)
            shown = [(bool(self._index.fake[position]), crop)]
            if augmentation == SELF_BLENDED:
                pair = _blend(crop, row, np.random.default_rng((*item.seed, 1)))
                if pair is None:
                    with self._lock:
                        self.unblended += 1
                    return self._left_out(item)
                shown = [(False, pair[0]), (True, pair[1])]
            made += [(position, fake, self._shown(p, row, changes)) for fake, p in shown]
        with self._lock:
            self.core_s += time.thread_time() - began
            self.pictures += len(made)
            item.tally.shown += 1
        return made

    def _left_out(self, item: _Item) -> list[_Face]:
        with self._lock:
            self.skipped += 1
            item.tally.failed += 1
        return []

    def _shown(self, crop: Pixels, row: dict[str, Any], changes: SampledAugmentation) -> Pixels:
        """What the network is shown of a decoded crop: (S, S, 3)."""
        pixels = cut_out(crop, row["crop_box"], row["box"], self._recipe)
        marks = row["landmarks"]
        if marks is not None:
            size = crop.shape[1], crop.shape[0]
            marks = landmarks_in_cut(marks, size, row["crop_box"], row["box"], self._recipe)
        return apply(pixels, marks, changes)


def _batch(faces: list[_Face]) -> Batch:
    return Batch(
        pixels=torch.from_numpy(np.stack([pixels for *_, pixels in faces])),
        fake=torch.tensor([fake for _, fake, _ in faces], dtype=torch.float32),
        position=np.array([position for position, *_ in faces], np.int64),
    )


def _blend(
    crop: Pixels, row: dict[str, Any], random: np.random.Generator
) -> tuple[Pixels, Pixels] | None:
    """A real face and a fake made of it, where it has landmarks."""
    if row["landmarks"] is None:
        return None
    x0, y0, x1, y1 = row["crop_box"]
    scale = np.array([crop.shape[1] / (x1 - x0), crop.shape[0] / (y1 - y0)])
    marks = (np.array(row["landmarks"]).reshape(5, 2) - (x0, y0)) * scale
    left, top, right, bottom = (
        ((np.array(row["box"]).reshape(2, 2) - (x0, y0)) * scale).ravel().tolist()
    )
    return self_blend(crop, marks.astype(np.float32), (left, top, right, bottom), random)


def _read_row_group(file: str, number: int) -> Any:
    return storage.read_row_group(file, number, _COLUMNS).combine_chunks()


def _buffered(stream: Iterator[_Item], random: np.random.Generator) -> Iterator[_Item]:
    """The stream, shuffled in a bounded buffer."""
    buffer: list[_Item] = []
    for item in stream:
        if len(buffer) < SHUFFLE_BUFFER:
            buffer.append(item)
            continue
        slot = int(random.integers(SHUFFLE_BUFFER))
        yield buffer[slot]
        buffer[slot] = item
    order = random.permutation(len(buffer))
    yield from (buffer[i] for i in order)


def _evenly(streams: list[tuple[Iterator[_Item], int]]) -> Iterator[_Item]:
    """Endless streams merged so that each comes in proportion to its weight at any moment."""
    given = [0] * len(streams)
    while True:
        behind = [(given[i] + 0.5) / weight for i, (_, weight) in enumerate(streams)]
        chosen = int(np.argmin(behind))
        given[chosen] += 1
        yield next(streams[chosen][0])


def _chunks(stream: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in stream:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
