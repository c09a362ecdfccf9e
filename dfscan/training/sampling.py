"""Which faces an epoch shows: one remedy for unequal classes, never two at once.

``uniform``: the classes 1:1, within each the datasets by their weight, then group, video, frame
and face uniformly, so that neither a long video nor an original with many fakes counts more.
``weights``: every face once; the loss weighs each class by half. ``undersample``: every real once
and as many fakes, others each epoch. ``none``: every face once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan.config.train import Balance, TrainConfig
from dfscan.errors import UsageError
from dfscan.training.augment import SELF_BLENDED
from dfscan.training.index import FaceIndex

Positions = npt.NDArray[np.int64]
Items = npt.NDArray[np.int64]

MIN_OVERLAP: Final = 0.5
"""IoU from which two faces at one frame of a fake and its original are one person's."""


@dataclass(frozen=True)
class Sampler:
    """What is shown of the training side, an epoch at a time.

    ``items`` (N, 1) or, of a fake and its original, (N, 2) positions in ``index``; ``count`` of
    them an epoch. ``mix`` has a weight for each dataset.
    """

    index: FaceIndex
    items: Items
    balance: Balance
    mix: tuple[float, ...]
    count: int

    def epoch(self, seed: int) -> Items:
        """The items of the epoch with this seed, in no particular order."""
        random = np.random.default_rng(seed)
        if self.balance == "uniform":
            return self.items[self._uniform(random)]
        items = self.items
        if self.balance == "undersample":
            fake = self.index.fake[items[:, 0]]
            reals, fakes = np.flatnonzero(~fake), np.flatnonzero(fake)
            some = random.choice(fakes, min(len(reals), len(fakes)), replace=False)
            items = items[np.concatenate([reals, some])]
        if self.count == len(items):
            return items
        equal = np.full(len(items), 1 / len(items))
        return items[_systematic(equal, self.count, random)]

    def _uniform(self, random: np.random.Generator) -> Positions:
        """Rows of ``items``, as many of each class, one more of either where the count is odd."""
        shares = uniform_shares(self.index, self.items[:, 0], self.mix)
        fake = self.index.fake[self.items[:, 0]]
        classes = [rows for rows in (np.flatnonzero(~fake), np.flatnonzero(fake)) if len(rows)]
        counts = [self.count // len(classes)] * len(classes)
        counts[int(random.integers(len(classes)))] += self.count % len(classes)
        drawn = [
            rows[_systematic(shares[rows], count, random)]
            for rows, count in zip(classes, counts, strict=True)
        ]
        return np.concatenate(drawn)


def make_sampler(index: FaceIndex, positions: Positions, config: TrainConfig) -> Sampler:
    """The sampler that a configuration asks for.

    :param positions: (N,) the training side.
    :raises UsageError: ``paired`` without pairs, or ``sbi`` without reals.
    """
    items = positions[:, None]
    if config.paired:
        items = pairs(index, positions)
    elif config.augment == SELF_BLENDED:
        items = items[~index.fake[positions]]
        if not len(items):
            raise UsageError(
                "train.augment: sbi makes fakes of real faces, and there are none here",
                code="dataset.unsuitable",
            )
    count = len(items)
    if config.balance == "undersample":
        fakes = int(index.fake[items[:, 0]].sum())
        reals = len(items) - fakes
        count = reals + min(reals, fakes)
    if config.epoch_faces is not None:
        together = 2 if config.augment == SELF_BLENDED else items.shape[1]
        count = max(1, config.epoch_faces // together)
    mix = config.mix or (1.0,) * len(index.datasets)
    return Sampler(index, items, config.balance, mix, count)


def uniform_shares(
    index: FaceIndex, positions: Positions, mix: Sequence[float]
) -> npt.NDArray[np.float64]:
    """The share of draws of each face (N,), 1 in all: classes, datasets, groups, videos, frames.

    :param mix: a weight for each dataset.
    """
    classes = index.fake[positions].astype(np.int64)
    dataset = index.dataset[positions]
    parents, first, _ = _children(classes, dataset)
    weight = np.asarray(mix, np.float64)[dataset]
    total = np.bincount(classes[first], weight[first])
    shares = weight / total[classes] / len(np.unique(classes))
    for level in (index.group, index.video, index.frame, np.arange(len(index))):
        children, _, counts = _children(parents, level[positions])
        shares /= counts[parents]
        parents = children
    return shares


def pairs(index: FaceIndex, positions: Positions) -> npt.NDArray[np.int64]:
    """Each fake's face with its original's at the same frame: (N, 2) positions, fake first.

    Of several faces there the one that overlaps it most, where that is an IoU of
    :data:`MIN_OVERLAP`.

    :raises UsageError: no fake has its original's face beside it.
    """
    at: dict[tuple[int, int], list[int]] = {}
    for position in positions[~index.fake[positions]].tolist():
        at.setdefault((int(index.video[position]), int(index.frame[position])), []).append(position)
    found = []
    for position in positions[index.fake[positions]].tolist():
        there = at.get((int(index.original[position]), int(index.frame[position])), [])
        overlaps = [_iou(index.box[position], index.box[other]) for other in there]
        if overlaps and max(overlaps) >= MIN_OVERLAP:
            found.append((position, there[int(np.argmax(overlaps))]))
    if not found:
        raise UsageError(
            "train.paired: no fake's face has its original's at the same frame: extract both with "
            "--boxes-from original, or the same --stride and --phase 0 for both, or leave --paired out",
            code="dataset.unsuitable",
        )
    return np.array(found, np.int64)


def _children(
    parents: Positions, keys: npt.NDArray[np.integer[Any]]
) -> tuple[Positions, Positions, Positions]:
    """The distinct (parent, key): each row's number, their first rows, and how many a parent has."""
    combined = parents * (int(keys.max()) + 1) + keys
    _, first, numbers = np.unique(combined, return_index=True, return_inverse=True)
    return numbers, first, np.bincount(parents[first])


def _systematic(
    shares: npt.NDArray[np.float64], count: int, random: np.random.Generator
) -> Positions:
    """``count`` rows drawn by their shares, each as often as expected but for rounding.

    Systematic resampling (Kitagawa, 1996, 10.2307/1390750) in a random order of rows.
    """
    order = random.permutation(len(shares))
    reached = np.cumsum(shares[order]) * (count / shares.sum())
    reached[-1] = count
    times = np.diff(np.floor(reached + random.random()).astype(np.int64), prepend=0)
    return np.repeat(order, times)


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    begin, end = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.clip(end - begin, 0, None).prod())
    areas = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod())
    return shared / (areas - shared) if areas > shared else 0.0
