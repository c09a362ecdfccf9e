"""Where a run stands after an epoch, so that the same command goes on from there.

Tensors lie in safetensors and the rest in its header as JSON: a run folder may come from somebody
else, and a pickle in it could run code.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dfscan import storage
from dfscan.errors import OutputError, VideoError

FILE_NAME: Final = "checkpoint.safetensors"
_KEY: Final = "dfscan"

State = dict[str, Any]
"""What ``state_dict()`` gives: dictionaries, lists, numbers, strings and tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """``epochs`` done, and the state of everything that goes on, by name."""

    epochs: int
    states: State


def save_checkpoint(folder: storage.StoragePath, checkpoint: Checkpoint) -> None:
    """Write it atomically in place of the one before.

    :raises TypeError: a state holds something that JSON cannot.
    """
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(checkpoint.states, "", tensors)
    text = json.dumps({"epochs": checkpoint.epochs, "states": plain})
    storage.commit_bytes(folder / FILE_NAME, save_tensors(tensors, metadata={_KEY: text}))


def load_checkpoint(folder: storage.StoragePath) -> Checkpoint | None:
    """The checkpoint of a run folder; None where there is none yet.

    :raises OutputError: it is damaged.
    """
    path = folder / FILE_NAME
    if not storage.exists(path):
        return None
    try:
        data = storage.read_bytes(str(path))
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        content = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        return Checkpoint(content["epochs"], _with_tensors(content["states"], tensors))
    except (SafetensorError, VideoError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path} is damaged ({error}): the run cannot go on; --overwrite starts anew",
            code="record.damaged",
        ) from None


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON can hold it; its tensors go into ``tensors``."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        items = [[k, _without_tensors(v, f"{name}/{k}", tensors)] for k, v in value.items()]
        return {"items": items}  # JSON has no keys but strings, optimisers count from 0
    if isinstance(value, list | tuple):
        return [_without_tensors(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {k: _with_tensors(v, tensors) for k, v in value["items"]}
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    return value
