"""Arrays out of an HDF5 file, as Keras writes its weights. Read as data: no Keras, no pickles."""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfscan.errors import ModelError
from dfscan.models.weights import printable

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
"""What HDF5 files begin with."""

_LARGEST: Final = 64 << 20
"""Bytes of all arrays together; a small compressed file can declare far more than a machine has."""

Array = npt.NDArray[np.float32]


def read_arrays(file: str, data: bytes) -> dict[str, Array]:
    """Every array of an HDF5 file by its path (``conv2d_1/conv2d_1/kernel:0``), as float32.

    :param file: its name, for messages.
    :param data: its content.
    :raises ModelError: h5py is missing; the file is damaged, refers to other files or places, holds
        something else than numbers, or declares more than 64 MiB.
    """
    try:
        import h5py
    except ImportError:
        raise ModelError(
            f"{file}: reading Keras' HDF5 files needs h5py: pip install 'dfscan[keras]'"
        ) from None
    if not data.startswith(SIGNATURE):
        raise ModelError(f"{file} is not an HDF5 file: give the .h5 file as it was published")
    try:
        with h5py.File(io.BytesIO(data), "r") as opened:
            found = _datasets(file, h5py, opened, seen=set())
            if sum(dataset.nbytes for dataset in found.values()) > _LARGEST:
                raise ModelError(
                    f"{file} declares more than {_LARGEST >> 20} MiB of arrays", code="model.unsafe"
                )
            return {name: np.asarray(dataset[()], np.float32) for name, dataset in found.items()}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ModelError(
            f"{file} is damaged or cut off ({' '.join(str(error).split())[:160]}): download it again"
        ) from None


def _datasets(file: str, h5py: Any, group: Any, seen: set[int], at: str = "") -> dict[str, Any]:
    """Datasets below a group by path; links and storage that lead elsewhere are refused.

    :param seen: addresses of what was met; under two names a thing could be met for ever.
    """
    found: dict[str, Any] = {}
    seen.add(h5py.h5o.get_info(group.id).addr)
    for name in group:
        path = printable(f"{at}{name}")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ModelError(
                f"{file}: {path} is a link, which weights have no use for: refused",
                code="model.unsafe",
            )
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ModelError(
                f"{file}: {path} is a second name of something else in it: refused",
                code="model.unsafe",
            )
        seen.add(address)
        if isinstance(item, h5py.Group):
            found |= _datasets(file, h5py, item, seen, f"{path}/")
        elif not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or not item.shape:
            what = f"of {item.dtype} and shape {getattr(item, 'shape', None)}"
            raise ModelError(f"{file}: {path} is {what}; weights are float arrays")
        elif item.is_virtual or item.external:
            raise ModelError(
                f"{file}: {path} takes its values from other files: refused", code="model.unsafe"
            )
        else:
            found[path] = item
    return found
