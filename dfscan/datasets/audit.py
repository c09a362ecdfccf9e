"""Audit a split: leaks, near-duplicates and shortcuts.

Pure functions over arrays; callers read the datasets. A leak (:func:`check_sides`) stops the
training, because every metric would be wrong. Near-duplicates (:func:`near_duplicates`) and
shortcuts (:func:`shortcuts`) give warnings.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.class_weight import compute_sample_weight

from dfscan.datasets.splits import SIDES
from dfscan.errors import UsageError

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

DISTANCE: Final = 4
"""Largest Hamming distance, of 64 bits, between the hashes of near-duplicates.

Faces look alike: of over a million pairs of different faces, cropped alike, 3 were within 6 bits
and none within 4. With a hundred thousand people in training, a few percent of the held-out faces
match one by chance.
"""

NO_HASH: Final = 0
"""Marks a picture without a perceptual hash; every real hash has as many ones as zeros."""

FACES: Final = 20_000
"""Largest number of faces in the shortcut audit."""

SUSPICIOUS: Final = 0.55
"""Columns with a higher AUC, and an interval above 0.5, are a shortcut."""

MIN_GROUPS: Final = 10
"""Fewest groups per label for the shortcut audit; with fewer, the interval says nothing."""

_FOLDS: Final = 5
_WIDER: Final = (1 + _FOLDS / (_FOLDS - 1)) ** 0.5
_RESAMPLES: Final = 500
_FLAT: Final = 0.5
_PAIRS: Final = 1 << 20
_ONES: Final = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class SidedVideos:
    """The videos of a split, as sequences of length V. ``side`` is an index into
    :data:`dfscan.datasets.splits.SIDES`.

    ``original`` is the ``video_id`` of a fake's source video, which may be absent.
    """

    video_id: Sequence[str]
    side: npt.NDArray[np.int8]
    group: Sequence[str]
    original: Sequence[str | None]
    content_sha256: Sequence[str | None]


@dataclass(frozen=True)
class SidedPictures:
    """The faces of a split, as arrays of length N.

    ``video`` indexes the videos; ``digest`` comes from :func:`picture_digest`, ``perceptual`` from
    :func:`perceptual_hash`.
    """

    video: npt.NDArray[np.int32]
    digest: Hashes
    perceptual: Hashes


def picture_digest(picture: bytes) -> int:
    """The first 64 bits of an encoded picture's SHA-256.

    Among 3 million pictures the probability of a collision is 2.4e-7.
    """
    return int.from_bytes(hashlib.sha256(picture).digest()[:8], "big")


def perceptual_hash(picture: bytes) -> int:
    """64 bits that change little when a picture is scaled or encoded again.

    The signs, relative to their median, of the 8 × 8 lowest frequencies (without those constant
    along an axis) of the cosine transform of the 32 × 32 grey picture (Zauner, Implementation and
    benchmarking of perceptual image hash functions, 2010).

    :param picture: encoded, in any format that Pillow reads.
    :returns: :data:`NO_HASH` if the picture does not decode or is flat.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.draft("L", (64, 64))
            grey = image.convert("L").resize((32, 32), Image.Resampling.BOX)
    except (OSError, ValueError, Image.DecompressionBombError):
        return NO_HASH
    low = dctn(np.asarray(grey, np.float64), norm="ortho")[1:9, 1:9]
    if np.sqrt((low**2).sum()) / 32 < _FLAT:  # grey levels, root mean square (Parseval)
        return NO_HASH
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def check_sides(videos: SidedVideos, pictures: SidedPictures | None = None) -> None:
    """Refuse a split with related material on two sides.

    :raises UsageError: a group, an original and its fake, a video's content or a stored picture is
        on two sides; the message counts them and names up to two.
    """
    sides = videos.side.tolist()
    numbers = range(len(sides))
    remedy = "related videos must stay together; split by group"
    _stop(videos, _torn(zip(videos.group, numbers, strict=True), sides), "group(s)", remedy)
    remedy = "keep them in one group: leave --group-by out, or widen it"
    kin = [*zip(videos.video_id, numbers, strict=True), *_given(videos.original)]
    _stop(videos, _torn(kin, sides), "original(s) with fakes", remedy)
    remedy = (
        "put them into one group (--group-by, or the column group of a list), or take one out with "
        "dfscan purge FACES --video ID"
    )
    _stop(videos, _torn(_given(videos.content_sha256), sides), "identical file(s)", remedy)
    if pictures is not None:
        _stop(videos, _same_pictures(pictures, videos.side), "identical picture(s)", remedy)


def _given(names: Sequence[str | None]) -> Iterator[tuple[str, int]]:
    """Each name that is not None, with the index of its video."""
    return ((name, number) for number, name in enumerate(names) if name is not None)


def _torn(keys: Iterable[tuple[str, int]], sides: Sequence[int]) -> list[tuple[int, int]]:
    """For each key on two sides, two of its videos, one on each."""
    first: dict[str, int] = {}
    torn: dict[str, tuple[int, int]] = {}
    for key, number in keys:
        other = first.setdefault(key, number)
        if sides[other] != sides[number]:
            torn.setdefault(key, (other, number))
    return list(torn.values())


def _same_pictures(pictures: SidedPictures, side: npt.NDArray[np.int8]) -> list[tuple[int, int]]:
    """For each picture on two sides, the two videos that contain it."""
    order = np.argsort(pictures.digest, kind="stable")
    digest, video = pictures.digest[order], pictures.video[order]
    sides = side[video]
    border = np.flatnonzero((digest[1:] == digest[:-1]) & (sides[1:] != sides[:-1]))
    _, first = np.unique(digest[border], return_index=True)
    border = border[first]
    return list(zip(video[border].tolist(), video[border + 1].tolist(), strict=True))


def _stop(videos: SidedVideos, torn: list[tuple[int, int]], what: str, remedy: str) -> None:
    if torn:
        pairs = "; ".join(f"{_on(videos, a)} and {_on(videos, b)}" for a, b in torn[:2])
        raise UsageError(
            f"the split leaks: {len(torn)} {what} on two sides, as in {pairs}: {remedy}",
            code="dataset.leak",
        )


def _on(videos: SidedVideos, number: int) -> str:
    return f"{videos.video_id[number]} ({SIDES[videos.side[number]]})"


@dataclass(frozen=True)
class NearDuplicates:
    """Held-out pictures with a near-duplicate on another side.

    ``found`` of ``compared`` pictures of the validation and test sides have a hash within
    ``distance`` bits of a picture of an earlier side. ``examples`` name two videos and their
    distance in bits, each pair of videos once.
    """

    compared: int
    found: int
    distance: int
    examples: tuple[tuple[str, str, int], ...]

    @property
    def warning(self) -> str | None:
        """A line for the user; None where nothing was found."""
        if not self.found:
            return None
        pairs = "; ".join(f"{a} and {b} ({bits} bits)" for a, b, bits in self.examples[:2])
        return (
            f"{self.found} of {self.compared} held-out faces look like one of another side "
            f"(perceptual hashes within {self.distance} of 64 bits), as in {pairs}: if these are "
            "copies, put them into one group (--group-by), otherwise the metrics are too optimistic"
        )


def near_duplicates(
    videos: SidedVideos, pictures: SidedPictures, distance: int = DISTANCE, examples: int = 8
) -> NearDuplicates:
    """Compare the perceptual hashes of validation with training, and of test with both.

    Of pictures with equal hashes on one side, only the first is compared. Pictures without a hash
    are skipped.

    :param distance: largest Hamming distance in bits.
    :param examples: largest number of example pairs.
    """
    side = videos.side[pictures.video]
    hashed = pictures.perceptual != NO_HASH
    compared = found = 0
    named: dict[tuple[str, str], int] = {}
    for held in range(1, len(SIDES)):
        mine = np.flatnonzero(hashed & (side == held))
        others = np.flatnonzero(hashed & (side < held))
        hashes, first, counts = np.unique(
            pictures.perceptual[mine], return_index=True, return_counts=True
        )
        known, known_first = np.unique(pictures.perceptual[others], return_index=True)
        match = matches_within(hashes, known, distance)
        near = np.flatnonzero(match >= 0)
        compared += len(mine)
        found += int(counts[near].sum())
        bits = hamming(hashes[near], known[match[near]])
        for at in np.argsort(bits, kind="stable"):
            if len(named) >= examples:
                break
            pair = (others[known_first[match[near[at]]]], mine[first[near[at]]])
            a, b = (videos.video_id[pictures.video[p]] for p in pair)
            named.setdefault((a, b), int(bits[at]))
    pairs = tuple((a, b, bits) for (a, b), bits in named.items())
    return NearDuplicates(compared, found, distance, pairs)


def hamming(left: Hashes, right: Hashes) -> npt.NDArray[np.uint8]:
    """Element-wise Hamming distance of two (N,) arrays of hashes, in bits: (N,) uint8."""
    different = np.ascontiguousarray(left ^ right).view(np.uint16).reshape(-1, 4)
    bits: npt.NDArray[np.uint8] = _ONES[different].sum(axis=1, dtype=np.uint8)
    return bits


def matches_within(hashes: Hashes, known: Hashes, distance: int) -> Positions:
    """For each of (N,) hashes, the index of a known one within ``distance`` bits, or -1.

    If d of 64 bits differ, at least two of d + 2 blocks are equal, so only hashes that agree in a
    pair of blocks are compared (Manku, Jain and Das Sarma, Detecting near-duplicates for web
    crawling, 2007). Time grows with the number of similar pictures, not with N × M.
    """
    match = np.full(len(hashes), -1, np.int64)
    for mask in _masks(distance):
        left = np.flatnonzero(match < 0)
        keys = known & mask
        order = np.argsort(keys, kind="stable")
        keys, wanted = keys[order], hashes[left] & mask
        start = np.searchsorted(keys, wanted, "left")
        count = np.searchsorted(keys, wanted, "right") - start
        for lines in _portions(count):
            many = count[lines]
            mine = np.repeat(lines, many)
            begin = np.repeat(start[lines] - np.cumsum(many) + many, many)
            other = order[begin + np.arange(len(mine))]
            close = hamming(hashes[left[mine]], known[other]) <= distance
            match[left[mine[close]]] = other[close]
    return match


def _masks(distance: int) -> Iterator[np.uint64]:
    """The pairs of ``distance + 2`` blocks of 64 bits."""
    edges = np.linspace(0, 64, distance + 3).astype(int).tolist()
    blocks = [(1 << b) - (1 << a) for a, b in pairwise(edges)]
    return (np.uint64(a | b) for a, b in combinations(blocks, 2))


def _portions(counts: Positions) -> Iterator[Positions]:
    """Rows with candidates, in portions whose pairs fit into memory."""
    lines = np.flatnonzero(counts)
    ends = np.cumsum(counts[lines]) // _PAIRS
    yield from np.split(lines, np.flatnonzero(np.diff(ends)) + 1) if len(lines) else ()


@dataclass(frozen=True)
class Shortcuts:
    """How well metadata alone, without pixels, separates fakes from reals.

    ``auc`` with its 95 % interval (``low``, ``high``) is for all columns together, ``alone`` for
    each column by itself, highest first. They are null, with the reason in ``note``, if there is
    too little data.
    """

    faces: int
    groups: int
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    alone: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None

    @property
    def warning(self) -> str | None:
        """A one-line warning that names the columns; None if they do not separate."""
        if self.auc is None or self.low is None or self.auc <= SUSPICIOUS or self.low <= 0.5:
            return None
        telling = [
            f"{name} (AUC {auc:.2f})" for name, auc in self.alone.items() if auc > SUSPICIOUS
        ]
        named = ", ".join(telling) or f"{', '.join(self.alone)}, though by none of them alone"
        return (
            f"fakes can be separated from reals without any pixels, by {named}: AUC {self.auc:.2f} "
            f"(95 % interval {self.low:.2f} to {self.high:.2f}; chance is 0.50) on {self.faces} "
            f"faces of {self.groups} groups; a network may learn that in place of faces, so take "
            "reals and fakes alike: from one source, at one size and compression, sampled with one "
            "--stride and --phase hash"
        )


def shortcuts(
    columns: Mapping[str, npt.NDArray[Any]], fake: Flags, groups: npt.NDArray[Any], seed: int
) -> Shortcuts:
    """Try to separate fakes from reals by metadata that should not separate them.

    Small gradient-boosted trees with equal class weights score each face in a cross-validation that
    keeps groups whole; the interval is a bootstrap over groups.

    :param columns: name → (N,) numbers or booleans, NaN if unknown; no pixels.
    :param fake: (N,) True for fakes.
    :param groups: (N,) names or numbers; related videos share one.
    """
    chosen = _chosen(fake, seed)
    fake, (_, group) = fake[chosen], np.unique(groups[chosen], return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    note = _too_little(columns, fake, group)
    if note:
        return Shortcuts(len(fake), count, note=note)
    table = np.column_stack([_binned(np.asarray(c)[chosen]) for c in columns.values()])
    split = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    folds = list(split.split(table, fake, group))
    scores = _out_of_fold(table, fake, folds, seed)
    alone = {
        name: float(roc_auc_score(fake, _out_of_fold(table[:, [i]], fake, folds, seed)))
        for i, name in enumerate(columns)
    }
    low, high = _interval(scores, fake, group, seed)
    return Shortcuts(
        faces=len(fake),
        groups=count,
        auc=float(roc_auc_score(fake, scores)),
        low=low,
        high=high,
        alone=dict(sorted(alone.items(), key=lambda item: -item[1])),
    )


def _chosen(fake: Flags, seed: int) -> Positions:
    """Indices of at most :data:`FACES` faces, balanced between the classes if possible."""
    random = np.random.default_rng(seed)
    classes = [random.permutation(np.flatnonzero(fake == label)) for label in (False, True)]
    few = min(len(c) for c in classes)
    most = max(FACES // 2, FACES - few)
    return np.sort(np.concatenate([c[:most] for c in classes]))


def _too_little(
    columns: Mapping[str, npt.NDArray[Any]], fake: Flags, group: Positions
) -> str | None:
    if not columns:
        return "no shortcut audit: no columns"
    for label, mine in (("real", ~fake), ("fake", fake)):
        have = len(np.unique(group[mine]))
        if have < MIN_GROUPS:
            return (
                f"no shortcut audit: {label} faces come from {have} group(s) of related "
                f"videos, {MIN_GROUPS} are needed to tell chance from shortcut"
            )
    return None


def _binned(column: npt.NDArray[Any]) -> Floats:
    """A column's ranks in at most 255 bins, so that scikit-learn does not sort it in every fit."""
    values = column.astype(np.float64)
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(len(values))
    edges = np.quantile(known, np.linspace(0, 1, 256)[1:-1], method="lower")
    ranks = np.searchsorted(edges, values, "right").astype(np.float64)
    return np.where(np.isnan(values), np.nan, ranks)


def _out_of_fold(
    table: Floats, fake: Flags, folds: Sequence[tuple[Positions, Positions]], seed: int
) -> Floats:
    """(N,) scores, each from a classifier trained without the face's group."""
    scores = np.zeros(len(fake))
    for train, held in folds:
        trees = HistGradientBoostingClassifier(
            max_iter=30,
            max_leaf_nodes=8,
            learning_rate=0.2,
            early_stopping=False,
            random_state=seed,
        )
        weights = compute_sample_weight("balanced", fake[train])
        trees.fit(table[train], fake[train], sample_weight=weights)
        scores[held] = trees.decision_function(table[held])
    return scores


def _interval(scores: Floats, fake: Flags, group: Positions, seed: int) -> tuple[float, float]:
    """The 95 % interval of the AUC over groups drawn with replacement.

    The AUC is the share of pairs in order, ties counting half (Hanley and McNeil, 1982), so the
    order of scores is computed once for all resamples. The bootstrap ignores the variance of
    training, so the interval is widened by the factor of Nadeau and Bengio (Inference for the
    generalization error, 2003), 1.5 for five folds.
    """
    random = np.random.default_rng(seed)
    values, rank = np.unique(scores, return_inverse=True)
    groups = int(group.max()) + 1
    aucs = []
    for _ in range(_RESAMPLES):
        weight = np.bincount(random.integers(groups, size=groups), minlength=groups)[group]
        fakes, reals = (np.bincount(rank[m], weight[m], len(values)) for m in (fake, ~fake))
        pairs = fakes.sum() * reals.sum()
        if pairs:
            aucs.append(float(fakes @ (np.cumsum(reals) - reals / 2)) / pairs)
    middle = float(roc_auc_score(fake, scores))
    low, high = middle + _WIDER * (np.percentile(aucs, [2.5, 97.5]) - middle)
    return max(float(low), 0.0), min(float(high), 1.0)
