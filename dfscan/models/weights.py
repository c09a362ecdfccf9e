"""Weights from a safetensors file into a network. Nothing is ever unpickled."""

import sys
from collections.abc import Mapping
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from dfscan import storage
from dfscan.errors import ModelError, VideoError

_AUXILIARY: Final = ("AuxLogits.",)
"""Classifiers that helped to train a backbone and are no part of it (Inception-v3's)."""

_MODEL: Final = "model."
"""Before timm's names in a model file of dfscan."""

COUNTER: Final = ".num_batches_tracked"
"""How the names of batch normalisation's counts end, which nothing is computed from."""

_PICKLES: Final = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def refuse_pickle(path: object, start: bytes) -> None:
    """Refuse a file that begins as torch checkpoints and other pickles do.

    :raises ModelError: with the way to convert it.
    """
    if start[:2] in _PICKLES and start[8:9] != b"{":  # a header's length may look like a pickle
        raise ModelError(
            f"{path} is a torch checkpoint or another pickle or zip, which can run code when "
            "loaded: dfscan opens safetensors only; if you trust it, convert it with "
            "safetensors.torch.save_file(torch.load(OLD, weights_only=True), NEW)",
            code="model.unsafe",
        )


def read_tensors(path: str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    :raises ModelError: the file is missing, a pickle, or damaged.
    """
    try:
        data = storage.read_bytes(path)
    except VideoError as error:
        raise ModelError(
            f"no weights at {path!r} ({error.reason}): give a safetensors file",
            code="model.missing",
        ) from None
    refuse_pickle(path, data[:9])
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is not a safetensors file, or is cut off: {error}") from None


def load_weights(network: nn.Module, path: str, left_out: tuple[nn.Module, ...] = ()) -> None:
    """Give a network the tensors of a file, which must name and shape all of its own.

    :param path: a safetensors file in the network's names, or a model file of dfscan's with a timm
        backbone, whose head is left out.
    :param left_out: modules that keep their values, whatever the file holds for them.
    :raises ModelError: no such file, a pickle, damaged, or its tensors do not fit.
    """
    skipped = tuple(f"{n}." for n, m in network.named_modules() if any(m is o for o in left_out))
    tensors = read_tensors(path)
    ours = {k.removeprefix(_MODEL): v for k, v in tensors.items() if k.startswith(_MODEL)}
    given = _without(ours or tensors, (*skipped, *_AUXILIARY))
    wanted = _without(network.state_dict(), skipped)
    if misfits(wanted, given):
        given = _without(_adapted(network, given), skipped)
    check_fit(path, type(network).__name__, wanted, given)
    network.load_state_dict(given, strict=False)


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def check_fit(
    path: str, network: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    """Refuse tensors that are not, one for one, those of a network.

    :param path: :param network: where they come from and whose they should be, for the message.
    :raises ModelError: naming the first three that are missing, unknown or of another shape.
    """
    wrong = misfits(wanted, given)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        first = ", ".join(printable(text) for text in wrong[:3])
        raise ModelError(f"{path}: its tensors do not fit {network}: {first}{more}")


def printable(text: str) -> str:
    """A name from somebody's file, fit for one line on a terminal: at most 200 plain characters."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= 200 else plain[:199] + "…"


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``given`` from being ``wanted``; a count of batches may be missing."""
    counters = {name for name in wanted if name.endswith(COUNTER)}
    missing = [f"no {name}" for name in wanted if name not in given and name not in counters]
    unexpected = [f"an unknown {name}" for name in given if name not in wanted]
    shapes = [
        f"{name} of shape {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return shapes + missing + unexpected


def _adapted(network: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm does to published weights of this family: old names, another size's positions."""
    family = sys.modules[type(network).__module__]
    adapt = getattr(family, "checkpoint_filter_fn", None)
    if adapt is None:
        return given
    try:
        adapted: dict[str, Tensor] = adapt(given, network)
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError):
        return given  # another family's tensors; the caller says what does not fit
    return {name: tensor for name, tensor in adapted.items() if torch.is_tensor(tensor)}
