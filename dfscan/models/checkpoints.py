"""Tensors out of torch checkpoints, without running what a pickle in them asks for.

``torch.load(weights_only=True)`` reads the pickle with an unpickler of its own, which makes tensors
and plain containers and refuses every other name; numpy's scalars, which many training scripts save
beside the weights, are allowed here too. They hold data alone.
"""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from dfscan.errors import ModelError
from dfscan.models.hdf5 import SIGNATURE
from dfscan.models.weights import printable

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which training scripts save a network's tensors, in the order they are looked for."""

_PARALLEL: Final = "module."
"""Before every name of a network that was wrapped in ``DataParallel``."""

_NUMPY_1: Final = "numpy.core.multiarray"
"""Where numpy 1 had what numpy 2 has in ``numpy._core.multiarray``: pickles name the old place."""

_DAMAGED: Final = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch raises on a file that is damaged, or that somebody made to do harm."""


def read_checkpoint(file: str, data: bytes) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint or a safetensors file, by name, on the CPU.

    A ``state_dict`` that is wrapped with other things (:data:`WRAPPERS`) is taken out, and the
    prefix ``module.`` off its names where all of them have it.

    :param file: its name, for messages.
    :param data: its content.
    :raises ModelError: it is damaged, wants to run code, or holds no tensors by name.
    """
    found = _unwrapped(file, _load(file, data))
    if found and all(name.startswith(_PARALLEL) for name in found):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in found.items()}
    return found


def _load(file: str, data: bytes) -> Any:
    if data[8:9] == b"{":  # after a header's length comes JSON; in no pickle or zip
        try:
            return load_safetensors(data)
        except SafetensorError as error:
            raise ModelError(
                f"{file} is not a safetensors file, or is cut off: {error}; download it again"
            ) from None
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"{file} holds tensors that torch cannot make ({_gist(error)}): give one with floats "
                "of 16 bits or more"
            ) from None
    if data.startswith(SIGNATURE):
        raise ModelError(f"{file} is an HDF5 file, as Keras writes them, and no torch checkpoint")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickles; what fails is told below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} is damaged, or holds more than tensors and numbers, which is never loaded as "
            f"it could run code ({_gist(error)}): give the file with the weights alone"
        ) from None
    except _DAMAGED as error:
        raise ModelError(
            f"{file} is no torch checkpoint or safetensors file, or is cut off ({_gist(error)}): "
            "download it again"
        ) from None


def _numpy_scalars() -> list[Any]:
    """What the pickle of a numpy number names: its maker, ``dtype``, and the classes of dtypes."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    dtypes = [type(np.dtype(kind)) for kind in kinds]
    return [scalar, (scalar, f"{_NUMPY_1}.scalar"), np.dtype, *dtypes]


def _unwrapped(file: str, content: Any) -> dict[str, Tensor]:
    found = content
    if isinstance(content, Mapping) and not _named_tensors(content):
        found = next((content[key] for key in WRAPPERS if _named_tensors(content.get(key))), None)
    if not _named_tensors(found):
        keys = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{file} holds no tensors by name (found {printable(str(keys))}): give a state_dict, alone "
            f"or under {', '.join(WRAPPERS)}"
        )
    odd = [name for name, tensor in found.items() if not _is_plain(tensor)]
    if odd:
        raise ModelError(
            f"{file}: {printable(odd[0])} is sparse, nested, quantised or without values: weights are "
            "plain tensors"
        )
    return {name: tensor.detach() for name, tensor in found.items()}


def _is_plain(tensor: Tensor) -> bool:
    odd = tensor.is_meta or tensor.is_nested or tensor.is_quantized
    return tensor.layout == torch.strided and not odd


def _named_tensors(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())
    )


def _gist(error: BaseException) -> str:
    """What an error says, in one short line; torch's advice on switching the check off left out."""
    text = " ".join(str(error).split())
    for start in ("WeightsUnpickler error: ", "Unsupported "):
        if start in text:
            text = text[text.index(start) :].removeprefix("WeightsUnpickler error: ")
    for advice in (". ", " Please use", " Check the documentation"):
        text = text.split(advice)[0]
    return text[:160] or type(error).__name__
