"""TorchScript: runs in libtorch and in Python without dfscan; any batch size, any device.

PyTorch has declared it deprecated and still loads it. ``torch.jit.load(FILE, _extra_files=...)``
gives the metadata.
"""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.jit._trace import TracerWarning

from dfscan.models.exporters.base import (
    Exporter,
    Facts,
    PixelNetwork,
    Pixels,
    Runner,
    facts_in_zip,
    refusal,
)


def convert(network: PixelNetwork, facts: Facts, faces: Pixels) -> bytes:
    """The file; see :class:`~dfscan.models.exporters.base.Exporter`.

    :raises ModelError: the network cannot be traced, or takes one batch size only.
    """
    del faces
    sink = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                network, network.example(), check_trace=False
            )
            traced(network.example(1))  # another batch than it was traced with
            torch.jit.save(traced, sink, _extra_files=dict(facts))
    except RuntimeError as error:
        raise refusal("torchscript", error) from None
    return _without_origins(sink.getvalue())


def load(data: bytes, threads: int) -> Runner:
    """The network on the CPU. ``threads`` are PyTorch's own, set for the process."""
    del threads
    with _quiet():
        network = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = network(torch.from_numpy(pixels)).numpy()
        return logits

    return run


def facts(data: bytes) -> dict[str, str]:
    """What the file says of itself; see :class:`~dfscan.models.exporters.base.Exporter`."""
    return facts_in_zip(data, lambda name: name.partition("/extra/")[2])


def _without_origins(data: bytes) -> bytes:
    """The archive without its debug records: they name every source file by its path here."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
        for member in old.infolist():
            if not member.filename.endswith(".debug_pkl"):
                new.writestr(member.filename, old.read(member))
    return sink.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what is known: TorchScript is deprecated, and branches on shapes are followed as they
    go for the example. Whether these hold for other batches is checked with faces afterwards."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=category)
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield


TORCHSCRIPT = Exporter(".torchscript.pt", convert, load, facts)
