"""ONNX with 8-bit integers: smaller, often faster, and its logits are not the original's.

Weights and activations are quantised by their ranges over faces (QDQ, static: Jacob et al.,
Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
2018), weights for each output channel apart.
"""

import tempfile
from pathlib import Path
from typing import Final

from dfscan import storage
from dfscan.errors import ModelError
from dfscan.models.exporters import onnx
from dfscan.models.exporters.base import INPUT, Exporter, Facts, PixelNetwork, Pixels, refusal

BATCH: Final = 16
"""Faces that the ranges are taken over at a time."""

QUANTISED: Final = ("Conv", "Gemm", "MatMul")
"""What takes the time and holds the weights. The rest stays in floats: where all is quantised, hog_mlp
loses its AUC. So do the results of these: eight bits are too few for dct_resnet's spectra, and for a
logit."""


class _Faces:
    """ONNX Runtime's reader of calibration data: batches, then None."""

    def __init__(self, faces: Pixels) -> None:
        self._batches = (faces[i : i + BATCH] for i in range(0, len(faces), BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def convert(network: PixelNetwork, facts: Facts, faces: Pixels) -> bytes:
    """The file, fitted to ``faces``; see :class:`~dfscan.models.exporters.base.Exporter`.

    :raises ModelError: the network cannot be exported or quantised.
    """
    import onnx as protobuf
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(faces):
        raise ModelError("onnx-int8 is fitted to faces, and there are none: give --faces DATASET")
    with tempfile.TemporaryDirectory(prefix="dfscan-export-") as folder:
        plain, folded, quantised = (Path(folder) / f"{n}.onnx" for n in ("plain", "folded", "int8"))
        storage.commit_bytes(plain, onnx.convert(network, facts, faces))
        try:
            # Folds batch normalisations into convolutions: fewer roundings.
            quant_pre_process(plain, folded, skip_symbolic_shape=True)
            quantize_static(
                folded,
                quantised,
                _Faces(faces),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": list(QUANTISED)},
            )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise refusal("onnx-int8", error) from None
        made = protobuf.load_model_from_string(storage.read_bytes(str(quantised)))
    onnx.describe_graph(made, facts)
    data: bytes = made.SerializeToString()
    return data


ONNX_INT8 = Exporter(
    ".int8.onnx", convert, onnx.load, onnx.facts, extra="onnx", packages=onnx.PACKAGES,
    tolerance=None, fitted=True,
)  # fmt: skip
