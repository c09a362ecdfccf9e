"""Faces that exported networks are compared on, and those that an int8 network is fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dfscan import storage
from dfscan.datasets.face_dataset import FaceSet, open_facesets
from dfscan.datasets.splits import split_groups
from dfscan.errors import ConfigError, SourceError
from dfscan.faces.crops import PictureError, check_margin, crop_for_network
from dfscan.models.exporters.base import Pixels
from dfscan.reports.training_run import MARKER
from dfscan.schemas.recipe import NetworkInput
from dfscan.training.index import FaceIndex, build_index

COMPARED: Final = 256
"""Faces to compare on, at most."""

FITTED: Final = 128
"""Faces to fit an int8 network to, at most: ranges hardly move after that."""

INVENTED: Final = 32
"""Pictures made up where there are no faces."""

_FIT_SHARE: Final = 1 / 3
"""Of the groups, where an int8 network is fitted."""


@dataclass(frozen=True)
class Faces:
    """``pixels`` (N, S, S, 3) uint8 RGB as the network takes them, ``fake`` (N,) bool.

    ``fake`` is None for pictures that are made up. ``fitted`` (M, S, S, 3): what an int8 network is
    fitted to, of groups that are not compared on unless ``apart`` is False; none unless it was asked
    for. ``groups``: those compared on. ``source``: where they are from, in words.
    """

    pixels: Pixels
    fake: npt.NDArray[np.bool_] | None
    fitted: Pixels
    apart: bool
    groups: int
    source: str

    def summary(self) -> dict[str, Any]:
        """How many of what; ``fakes`` is null for pictures that are made up."""
        return {
            "source": self.source,
            "compared": len(self.pixels),
            "fakes": None if self.fake is None else int(self.fake.sum()),
            "groups": self.groups,
            "fitted": len(self.fitted),
            "apart": self.apart,
        }


def read_faces(datasets: Sequence[FaceSet], recipe: NetworkInput, fitting: bool) -> Faces:
    """Labelled faces, spread evenly over both classes and over the files.

    :param fitting: some of the groups are set apart to fit an int8 network to.
    :raises ConfigError: the faces were stored with less context than the network's margin.
    :raises SourceError: none is labelled, or one does not decode.
    """
    for dataset in datasets:
        check_margin(dataset.recipe().crop, recipe)
    index = build_index(datasets)
    compared = np.arange(len(index))
    fitted = np.zeros(0, np.int64)
    apart = fitting and len(index.groups) > 1
    if apart:
        sides = split_groups(index.members(), _FIT_SHARE, 0, seed=0)
        fitted, compared = index.where(sides.validation), index.where(sides.train)
    elif fitting:
        fitted = compared
    chosen = _spread(index, compared, COMPARED)
    return Faces(
        pixels=_cut(index, chosen, recipe),
        fake=index.fake[chosen],
        fitted=_cut(index, _spread(index, fitted, FITTED), recipe),
        apart=apart,
        groups=len(np.unique(index.group[chosen])),
        source=", ".join(index.datasets),
    )


def invent(size: int) -> Faces:
    """Smooth noise from dark to bright, the same every time: not faces, so nothing about accuracy."""
    random = np.random.default_rng(0)
    pictures = []
    for number in range(INVENTED):
        top = 256 * (number + 1) // INVENTED
        coarse = Image.fromarray(random.integers(0, top, (8, 8, 3), dtype=np.uint8))
        pictures.append(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)))
    pixels = np.stack(pictures)
    return Faces(pixels, None, pixels[:0], apart=False, groups=0, source="synthetic pictures")


def faces_of_run(model: storage.StoragePath) -> list[FaceSet]:
    """The datasets that the run of a model file learned from, where all of them are still there."""
    marker = model.parent / MARKER
    if not storage.exists(marker):
        return []
    named: Any = storage.read_json(str(marker)).get("config", {}).get("faces")
    try:
        return open_facesets(named or ())
    except SourceError:
        return []


def _spread(
    index: FaceIndex, positions: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """So many of the positions, half of them fakes where there are enough, in file order."""
    sides = [positions[index.fake[positions] == side] for side in (False, True)]
    few = min(len(s) for s in sides)
    shares = [count - min(few, count // 2) if len(s) > few else count // 2 for s in sides]
    chosen = [_evenly(s, n) for s, n in zip(sides, shares, strict=True)]
    return np.sort(np.concatenate(chosen))


def _evenly(positions: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    if len(positions) <= count:
        return positions
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(np.int64)]


def _cut(index: FaceIndex, positions: npt.NDArray[np.int64], recipe: NetworkInput) -> Pixels:
    """(N, S, S, 3), in the order of the positions, which is that of the files."""
    made = np.empty((len(positions), recipe.size, recipe.size, 3), np.uint8)

    def home(place: int) -> tuple[int, int]:
        position = positions[place]
        return int(index.file[position]), int(index.row_group[position])

    for (file, row_group), places in groupby(range(len(positions)), key=home):
        table = storage.read_row_group(index.files[file], row_group, ["image", "crop_box", "box"])
        for place in places:
            row = table.slice(int(index.row[positions[place]]), 1).to_pylist()[0]
            try:
                made[place] = crop_for_network(
                    row["image"]["bytes"], row["crop_box"], row["box"], recipe
                )
            except PictureError:
                raise SourceError(
                    f"{index.name(int(positions[place]))}: the face does not decode: extract again",
                    code="source.unreadable",
                ) from None
    return made


def choose_faces(
    given: str | None,
    model: storage.StoragePath,
    recipe: NetworkInput,
    fitting: bool,
    notes: list[str],
) -> Faces:
    """The faces a user names, else those of the model's run, else made-up pictures.

    :param notes: what a user should know of the choice is added.
    :raises ConfigError: there are no faces to fit an int8 network to.
    """
    datasets = open_facesets([given]) if given is not None else faces_of_run(model)
    if not datasets:
        if fitting:
            raise ConfigError(
                "export.formats: onnx-int8 is fitted to faces, and there are none (the model's own "
                "run is not beside it, or its datasets are gone): give --faces DATASET"
            )
        notes.append(
            f"no faces: compared on {INVENTED} synthetic pictures, so nothing is said of AUC and "
            "accuracy (--faces DATASET compares on real ones)"
        )
        return invent(recipe.size)
    faces = read_faces(datasets, recipe, fitting)
    if given is None:
        notes.append(
            "compared on the faces of the model's own run: AUC and accuracy tell formats apart, and "
            "say nothing of new faces"
        )
    if fitting and not faces.apart:
        notes.append(
            "all faces are of one group: onnx-int8 was fitted to the very faces it is compared on, "
            "which flatters it"
        )
    return faces
