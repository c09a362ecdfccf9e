"""What a training run will do, worked out and checked before any worker starts."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dfscan import storage
from dfscan.config.train import TrainConfig
from dfscan.datasets.face_dataset import FaceSet, open_facesets
from dfscan.datasets.splits import SIDES, Splits, fold_groups, split_groups
from dfscan.errors import ConfigError, SourceError, UsageError
from dfscan.faces.crops import check_margin
from dfscan.models.backbones import create_network, has_published_weights, network_input
from dfscan.models.freezing import unfreeze
from dfscan.schemas.fingerprint import differences
from dfscan.schemas.recipe import FaceRecipe, NetworkInput
from dfscan.training.audits import audit_leaks, audit_shortcuts, check_videos, read_pictures
from dfscan.training.augment import SELF_BLENDED
from dfscan.training.identities import merge_identities
from dfscan.training.index import FaceIndex, build_index
from dfscan.training.sampling import Sampler, make_sampler

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A checked training run.

    Positions are into ``index``; ``share`` is the number of faces a step and rank, ``steps`` those
    of an epoch. ``fake_weight`` is a fake's weight in the loss against a real's 1, ``fake_share``
    the share of fakes among the faces to train on. ``audits`` holds
    what the audits found, for ``metrics.json``; ``notes`` what a user should hear before the start.
    """

    config: TrainConfig
    recipe: FaceRecipe
    index: FaceIndex
    sides: Mapping[str, Positions]
    sampler: Sampler
    pretrained: bool
    share: int
    steps: int
    fake_weight: float
    fake_share: float
    audits: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """Of all phases."""
        return sum(phase.epochs for phase in self.config.stages())

    def fingerprint(self) -> dict[str, Any]:
        """What a run that goes on must find unchanged: who is on which side, and the steps."""
        found: dict[str, Any] = {"faces_per_step": self.share, "steps": self.steps}
        for side, positions in self.sides.items():
            used, counts = np.unique(self.index.video[positions], return_counts=True)
            named = sorted(
                f"{self.index.videos[v].video_id}\0{n}"
                for v, n in zip(used.tolist(), counts.tolist(), strict=True)
            )
            found[side] = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        return found

    def summary(self) -> dict[str, dict[str, int]]:
        """Counts of each side, for the log and ``metrics.json``."""
        return {name: self._count(self.sides[name]) for name in SIDES}

    def _count(self, positions: Positions) -> dict[str, int]:
        fake = self.index.fake[positions]
        return {
            "groups": len(np.unique(self.index.group[positions])),
            "videos": len(np.unique(self.index.video[positions])),
            "faces": len(positions),
            "real_faces": int((~fake).sum()),
            "fake_faces": int(fake.sum()),
        }


def make_plan(config: TrainConfig, world: int) -> Plan:
    """Read the datasets' index, split it, audit it, and check everything that can be checked early.

    :param world: number of ranks.
    :raises UsageError: missing or unlabelled faces, recipes that differ, a margin wider than
        stored, one class only, an unknown backbone, too few faces for the batch, a leak.
    """
    if not config.faces:
        raise SourceError(
            "no faces: give a face dataset, or train.faces in dfscan.yaml", code="source.missing"
        )
    if config.weights is not None:  # workers change folder
        config = config.model_copy(
            update={"weights": str(storage.as_path(config.weights).absolute())}
        )
    wanted = network_input(config.backbone, config.input)
    _check_phases(config, wanted)
    datasets = open_facesets(config.faces)
    stored = _common_recipe(datasets)
    if stored.detector.name != "none":  # of a picture taken whole there is nothing around it
        check_margin(stored.crop, wanted)
    pretrained = config.pretrained
    if pretrained is None:
        pretrained = config.weights is None and has_published_weights(config.backbone)
    index = build_index(datasets, config.group_by)
    people: Any = "not checked"
    if config.identities is not None:
        index, people = merge_identities(index, config.identities)
    sides, notes = _sides(index, config)
    positions = {name: index.where(getattr(sides, name)) for name in SIDES}
    audits, found = _audited(index, positions, config)
    audits["identities"] = people
    positions["train"] = _learnt_from(index, positions["train"], config)
    sampler = make_sampler(index, positions["train"], config)
    share, steps = _steps(sampler, config, world)
    fakes = int(index.fake[positions["train"]].sum())
    reals = len(positions["train"]) - fakes
    return Plan(
        config=config,
        recipe=stored.model_copy(update={"input": wanted}),
        index=index,
        sides=positions,
        sampler=sampler,
        pretrained=pretrained,
        share=share,
        steps=steps,
        fake_weight=reals / fakes if config.balance == "weights" else 1.0,
        fake_share=fakes / len(positions["train"]),
        audits=audits,
        notes=(*notes, *found),
    )


def _check_phases(config: TrainConfig, wanted: NetworkInput) -> None:
    """Make the network once and thaw it as every phase will: what cannot be is refused now."""
    network = create_network(config.backbone, wanted.size, head=config.head, weights=config.weights)
    for phase in config.stages():
        unfreeze(network, phase.train)


def _sides(index: FaceIndex, config: TrainConfig) -> tuple[Splits, list[str]]:
    members = index.members()
    if config.folds is None:
        sides = split_groups(members, config.val_fraction, config.test_fraction, config.seed)
    else:
        sides = fold_groups(
            members, config.folds, config.fold or 0, config.seed, config.test_fraction
        )
    sides = _swept(sides, members, config)
    classes = {label for group, label in members if group in sides.train}
    if len(classes) < 2 and config.augment != SELF_BLENDED:
        only = classes.pop() if classes else "no"
        raise UsageError(
            f"the training side has only {only} faces: a classifier needs both labels in at least "
            "two groups of related videos",
            code="dataset.unsuitable",
        )
    notes = []
    if config.folds is not None and "val_fraction" in config.model_fields_set:
        notes.append("val_fraction is not used: each fold is the validation side once")
    for name in ("validation", "test"):
        labels = {label for group, label in members if group in getattr(sides, name)}
        if len(labels) == 1:
            kept = " and the last epoch is kept" if name == "validation" else ""
            notes.append(
                f"the {name} side has only {labels.pop()} faces: it will have no AUC{kept}"
            )
        elif not labels and (name == "validation" or config.test_fraction):
            notes.append(f"too few groups for a {name} side: {len(index.groups)} in all")
    return sides, notes


def _swept(sides: Splits, members: set[tuple[str, str]], config: TrainConfig) -> Splits:
    """Of the training groups only the share that ``sweep`` names, where it names one.

    Of each kind of group (reals, fakes, both) that share, at least one.
    """
    if len(config.sweep) != 1:
        return sides
    labels: dict[str, set[str]] = {group: set() for group in sides.train}
    for group, label in members:
        if group in labels:
            labels[group].add(label)
    kept: set[str] = set()
    for kind in sorted({tuple(sorted(found)) for found in labels.values()}):
        alike = sorted(group for group, found in labels.items() if tuple(sorted(found)) == kind)
        order = np.random.default_rng(config.seed).permutation(len(alike))
        kept |= {alike[i] for i in order[: max(1, math.ceil(config.sweep[0] * len(alike)))]}
    return Splits(train=frozenset(kept), validation=sides.validation, test=sides.test)


def _audited(
    index: FaceIndex, sides: Mapping[str, Positions], config: TrainConfig
) -> tuple[dict[str, Any], list[str]]:
    """What the audits found, and what of it a user should hear.

    :raises UsageError: a group, an original or a picture lies on two sides.
    """
    check_videos(index, sides)
    pictures = read_pictures(index)
    leaks, said = audit_leaks(index, sides, pictures)
    shortcuts, warned = audit_shortcuts(index, sides["train"], pictures, config.seed)
    return {"leaks": leaks, "shortcuts": shortcuts}, said + warned


def _learnt_from(index: FaceIndex, positions: Positions, config: TrainConfig) -> Positions:
    """Without the faces of fakes that were not touched, where that is asked for.

    :raises UsageError: no face of a fake has a known difference.
    """
    if config.min_face_diff is None:
        return positions
    fake, difference = index.fake[positions], index.face_diff[positions]
    if not np.isfinite(difference[fake]).any():
        raise UsageError(
            "train.min_face_diff: no fake's face was compared with its original's: extract with "
            "--boxes-from original, or leave min_face_diff out",
            code="dataset.unsuitable",
        )
    kept = positions[~fake | ~(difference < config.min_face_diff)]
    if not index.fake[kept].any():
        raise UsageError(
            f"train.min_face_diff: got {config.min_face_diff}; every fake's face differs less, the "
            f"most by {np.nanmax(difference[fake]):.3f}",
            code="dataset.unsuitable",
        )
    return kept


def _steps(sampler: Sampler, config: TrainConfig, world: int) -> tuple[int, int]:
    """Faces a step and rank, and steps an epoch.

    :raises UsageError: there are too few faces.
    """
    together = 2 if config.augment == SELF_BLENDED else sampler.items.shape[1]
    faces = sampler.count * together
    share = min(max(1, config.batch_size // world), faces // world)
    share -= share % together
    if share < 2:
        raise UsageError(
            f"{faces} faces to train on and a batch of {config.batch_size} over {world} worker(s) "
            "leave fewer than 2 a step: fewer --workers or a larger --batch-size",
            code="dataset.unsuitable",
        )
    return share, max(1, faces // world // share)


def _common_recipe(datasets: Sequence[FaceSet]) -> FaceRecipe:
    first = datasets[0].recipe()
    for other in datasets[1:]:
        changed = differences(first.model_dump(mode="json"), other.recipe().model_dump(mode="json"))
        if changed:
            raise ConfigError(
                f"train.faces: {datasets[0].root} and {other.root} were extracted differently "
                f"({'; '.join(changed)}): a network would learn that; extract them alike",
                code="recipe.mismatch",
            )
    return first
