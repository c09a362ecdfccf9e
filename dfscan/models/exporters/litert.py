"""LiteRT (TensorFlow Lite), for phones and small boards: one face at a time.

The metadata are files of a zip that follows the network, as TensorFlow Lite's own tools append
them: ``unzip -p FILE.tflite description.txt``. Runtimes read the network before it.
"""

import contextlib
import io
import zipfile
from typing import Final

import numpy as np
import numpy.typing as npt

from dfscan.models.exporters.base import (
    HEADER,
    Exporter,
    Facts,
    PixelNetwork,
    Pixels,
    Runner,
    facts_in_zip,
    refusal,
)

BATCH: Final = 1
"""Networks with flattened features cannot be resized to another one once converted."""


def convert(network: PixelNetwork, facts: Facts, faces: Pixels) -> bytes:
    """The file; see :class:`~dfscan.models.exporters.base.Exporter`.

    :raises ModelError: the network does something that LiteRT cannot.
    """
    import litert_torch

    del faces
    try:
        # The converter prints its steps; stdout belongs to the result.
        with contextlib.redirect_stdout(io.StringIO()):
            made = litert_torch.convert(network, (network.example(BATCH),)).model_content()
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        raise refusal("litert", error) from None
    return with_facts(made, facts)


def with_facts(network: bytes, facts: Facts) -> bytes:
    """A network with a zip of its facts behind it."""
    sink = io.BytesIO(network)
    with zipfile.ZipFile(sink, "a") as archive:
        for name, text in facts.items():
            archive.writestr(f"{name}.{'json' if name == HEADER else 'txt'}", text)
    return sink.getvalue()


def load(data: bytes, threads: int) -> Runner:
    """The network on the CPU, with so many threads; several faces are run one by one."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=threads)
    interpreter.allocate_tensors()
    taken, given = (
        details[0]["index"]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(pixels: Pixels) -> npt.NDArray[np.float32]:
        logits = np.empty(len(pixels), np.float32)
        for place in range(len(pixels)):
            interpreter.set_tensor(taken, pixels[place : place + 1])
            interpreter.invoke()
            logits[place] = interpreter.get_tensor(given)[0]
        return logits

    return run


def facts(data: bytes) -> dict[str, str]:
    """What the file says of itself; see :class:`~dfscan.models.exporters.base.Exporter`."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    return facts_in_zip(data, lambda name: name.partition(".")[0])


LITERT = Exporter(
    ".tflite", convert, load, facts, extra="litert",
    packages=("litert_torch", "ai_edge_litert"), batch=BATCH,
)  # fmt: skip
