"""What every importer makes of a published file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dfscan.errors import ConfigError, ModelError
from dfscan.models.backbones import create_network
from dfscan.models.importers.catalogue import Published
from dfscan.models.weights import COUNTER, check_fit
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.scoring import Aggregation

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Imported:
    """A published detector as a network of dfscan's.

    ``recipe``: how its faces are to be found, cut and scaled. ``tensors``: how many of the file
    were ``used``, were ``counters`` (of batches; nothing is computed from them) and were
    ``left_out``. ``aggregation``: how its authors make one score of a video's faces.
    """

    network: nn.Module
    backbone: str
    recipe: FaceRecipe
    published: Published
    tensors: Mapping[str, int]
    threshold: float = 0.5
    aggregation: Aggregation = "mean"


@dataclass(frozen=True)
class Importer:
    """How one kind of published file is read: ``read(name of the file, its content, mapping)``.

    ``published``: which detectors those are, where the kind says it. ``needs_mapping``: whether it
    takes the name or path of a mapping file, which says it then.
    """

    read: Callable[[str, bytes, str | None], Imported]
    published: tuple[Published, ...] = ()
    needs_mapping: bool = False


def make_network(file: str, backbone: str, size: int) -> nn.Module:
    """A fresh network for a file's tensors.

    :raises ModelError: there is no such backbone, or not of this size.
    """
    try:
        return create_network(backbone, size)
    except ConfigError as error:
        raise ModelError(f"{file}: its network cannot be made here: {error}") from None


def check_is_float(file: str, name: str, tensor: Tensor) -> None:
    """Refuse what could be made floats of, but was not trained as such.

    :raises ModelError: its numbers are of another kind.
    """
    if tensor.dtype not in FLOATS:
        allowed = ", ".join(str(kind) for kind in FLOATS)
        raise ModelError(f"{file}: {name} is of {tensor.dtype}; weights are of {allowed}")


def fill(file: str, network: nn.Module, given: Mapping[str, Tensor]) -> dict[str, int]:
    """Give a network all of its tensors; returns how many were ``used`` and were ``counters``.

    :param given: by the network's own names; every one of them is used.
    :raises ModelError: one is missing, unknown, of another shape, no float, or not finite in the
        network's own precision.
    """
    wanted = network.state_dict()
    check_fit(file, type(network).__name__, wanted, given)
    for name, tensor in given.items():
        if name.endswith(COUNTER):
            continue
        check_is_float(file, name, tensor)
        if not torch.isfinite(tensor.to(wanted[name].dtype)).all():
            raise ModelError(
                f"{file}: {name} holds values that are not finite as {wanted[name].dtype}: not a "
                "trained model"
            )
    network.load_state_dict(dict(given), strict=False)
    counters = sum(name.endswith(COUNTER) for name in given)
    return {"used": len(given) - counters, "counters": counters}
