"""Checkpoints whose layout a mapping file describes: which tensor goes where, and what to feed.

Shipped ones are files of ``configs/models/``; a user's own is given by its path.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from torch import Tensor, nn

from dfscan import storage
from dfscan.config.loading import configs_folder, preset_names
from dfscan.errors import ConfigError, ModelError, did_you_mean
from dfscan.models.checkpoints import read_checkpoint
from dfscan.models.heads import TimmClassifier, classifiers
from dfscan.models.importers.base import Imported, check_is_float, fill, make_network
from dfscan.models.importers.catalogue import Published
from dfscan.models.weights import printable
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Crop, Detector, FaceRecipe, Fraction, NetworkInput, Sampling
from dfscan.schemas.scoring import Aggregation

FOLDER: Final = "models"
"""Of ``configs/``, where the shipped ones are."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]


class Rename(Strict):
    """``match`` (a regular expression, anywhere in a name) becomes ``to`` (``\\1``: its groups)."""

    match: Pattern
    to: str

    @model_validator(mode="after")
    def _groups_are_there(self) -> "Rename":
        try:
            re.compile(self.match + "|").sub(self.to, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"to: {self.to!r} does not suit {self.match!r}: {error}") from None
        return self


class TensorMapping(Strict):
    """One published layout, and what its detector expects.

    ``leave_out``: names that hold one of these are no part of the network. ``rename``: rules for the
    names of the others, applied one after the other; they must end as the backbone's names of all its
    tensors. ``outputs``: the label of each of the file's outputs, in order; of two outputs the
    difference is taken, of a single one for REAL the negative. ``aggregation`` is how its authors make
    one score of a video's faces, for the user to choose.
    """

    what: str = Field(min_length=1)
    where: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    notes: tuple[str, ...] = ()
    backbone: str
    input: NetworkInput
    detector: Detector = Detector()
    crop: Crop = Crop()
    sampling: Sampling = Sampling(frames=32)
    leave_out: tuple[Pattern, ...] = ()
    rename: tuple[Rename, ...] = ()
    outputs: Annotated[tuple[Literal["REAL", "FAKE"], ...], Field(min_length=1, max_length=2)]
    threshold: Fraction = 0.5
    aggregation: Aggregation = "mean"

    @model_validator(mode="after")
    def _can_be_used(self) -> "TensorMapping":
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs: two outputs are one REAL and one FAKE, in the file's order")
        if self.input.margin > self.crop.context:
            raise ValueError(
                f"input.margin: got {self.input.margin}; at most crop.context ({self.crop.context})"
            )
        return self

    @property
    def published(self) -> Published:
        """What it says of the detector itself."""
        return Published(self.what, self.where, self.licence, self.input.size, self.notes)

    @property
    def recipe(self) -> FaceRecipe:
        """What it says of faces."""
        return FaceRecipe(
            sampling=self.sampling, detector=self.detector, crop=self.crop, input=self.input
        )


def shipped() -> list[str]:
    """Names of the mapping files that come with dfscan."""
    return preset_names(FOLDER)


def load_mapping(mapping: str | None) -> TensorMapping:
    """A mapping file, by its path or the name of a shipped one.

    :raises ConfigError: there is none, or a key or value is not allowed.
    """
    if mapping is None:
        raise ConfigError(
            f"give --mapping FILE.yaml, or one of: {', '.join(shipped())}", code="config.missing"
        )
    named = mapping in shipped()
    path = configs_folder() / FOLDER / f"{mapping}.yaml" if named else Path(mapping)
    if not path.is_file():
        hint = did_you_mean(mapping, shipped())
        raise ConfigError(
            f"no mapping file {mapping!r}: {hint}, or the path of your own",
            code="config.unreadable",
        )
    try:
        return TensorMapping.model_validate(yaml.safe_load(storage.read_text(path)))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"{mapping} is not valid YAML: {text}", code="config.unreadable"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{mapping}: {_complaint(error)}") from None


def _complaint(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: key and what is wrong."""
    first = error.errors()[0]
    at = ".".join(str(key) for key in first["loc"])
    if first["type"] == "extra_forbidden":
        known = TensorMapping.model_fields if len(first["loc"]) == 1 else ()
        return f"unknown key {at!r}" + (f": {did_you_mean(at, known)}" if known else "")
    text = first["msg"].removeprefix("Value error, ")
    return f"{at}: {text}" if at else text


def read(file: str, data: bytes, mapping: str | None = None) -> Imported:
    """A checkpoint by a mapping file.

    :raises ConfigError: the mapping file is missing or wrong.
    :raises ModelError: the checkpoint is damaged, wants to run code, or has another layout.
    """
    return apply(load_mapping(mapping), file, data)


def apply(mapping: TensorMapping, file: str, data: bytes) -> Imported:
    """A checkpoint as a mapping describes it.

    :raises ModelError: as in :func:`read`.
    """
    tensors = read_checkpoint(file, data)
    kept = {n: t for n, t in tensors.items() if not any(re.search(p, n) for p in mapping.leave_out)}
    network = make_network(file, mapping.backbone, mapping.input.size)
    given = _renamed(file, kept, mapping)
    inner, last = _published_part(network)
    _join_outputs(file, inner, last, given, mapping)
    counts = fill(file, inner, given)
    return Imported(
        network,
        mapping.backbone,
        mapping.recipe,
        mapping.published,
        {**counts, "left_out": len(tensors) - len(kept)},
        mapping.threshold,
        mapping.aggregation,
    )


def _published_part(network: nn.Module) -> tuple[Any, tuple[nn.Module, ...]]:
    """What bears published names (timm's model without dfscan's wrapper), and its last layer."""
    if isinstance(network, TimmClassifier):
        return network.model, classifiers(network.model)
    return network, tuple([m for m in network.modules() if isinstance(m, nn.Linear)][-1:])


def _renamed(file: str, tensors: Mapping[str, Tensor], mapping: TensorMapping) -> dict[str, Tensor]:
    """The tensors under the network's names.

    :raises ModelError: two of them get one name.
    """
    given: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = name
        for rule in mapping.rename:
            new = re.sub(rule.match, rule.to, new)
        if new in origins:
            both = printable(f"{origins[new]} and {name} both become {new}")
            raise ModelError(f"{file}: {both}: leave one out, or change rename")
        origins[new] = name
        given[new] = tensor
    return given


def _join_outputs(
    file: str,
    network: nn.Module,
    last: tuple[nn.Module, ...],
    given: dict[str, Tensor],
    mapping: TensorMapping,
) -> None:
    """Make the last layer's tensors, a row an output, those of the logit of FAKE.

    log(p / (1 - p)) of two outputs' softmax is their difference, and that of a REAL output's sigmoid
    is the negative of FAKE's: either way the probability stays what it was.

    :raises ModelError: there are more or fewer outputs than the mapping names, or of no floats.
    """
    wanted = network.state_dict()
    for name in _names_of(network, last):
        tensor, ours = given.get(name), wanted[name]
        if tensor is None or tensor.ndim != ours.ndim or tensor.shape[1:] != ours.shape[1:]:
            continue  # the check of all tensors says so
        check_is_float(file, name, tensor)
        if len(tensor) != len(mapping.outputs):
            raise ModelError(
                f"{file}: {name} has {len(tensor)} output(s), the mapping names "
                f"{len(mapping.outputs)} ({', '.join(mapping.outputs)}): one or two can be imported"
            )
        rows = {label: tensor.float()[n : n + 1] for n, label in enumerate(mapping.outputs)}
        if len(rows) == 2:
            logit = rows["FAKE"] - rows["REAL"]
        else:
            logit = rows["FAKE"] if "FAKE" in rows else -rows["REAL"]
        given[name] = logit if len(ours) == 1 else _beside_zero(logit)


def _beside_zero(logit: Tensor) -> Tensor:
    """For networks that take the difference of two outputs themselves."""
    return torch.cat([torch.zeros_like(logit), logit])


def _names_of(network: nn.Module, modules: tuple[nn.Module, ...]) -> list[str]:
    """Names of some modules' tensors."""
    return [
        f"{name}.{tensor}"
        for name, module in network.named_modules()
        if any(module is m for m in modules)
        for tensor, _ in module.named_parameters()
    ]
