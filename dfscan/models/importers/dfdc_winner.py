"""The seven EfficientNet-B7s that won DFDC (Seferbekov, github.com/selimsef/dfdc_deepfake_challenge).

``training/zoo/classifiers.py``, ``DeepFakeClassifier``: a timm encoder's ``forward_features``, average
pooling, dropout, one linear layer; so the encoder's own classifier of 1000 classes is never used.
``kernel_utils.py``: faces by MTCNN at half size (hence twice its smallest face of 20 pixels) with
thresholds 0.7, 0.8, 0.8; a third of the box on each side; scaled to 380 pixels as it is, in the middle of
zeros; ImageNet's normalisation; 32 frames a video; ``confident_strategy`` over them. Frames were
scaled down by area, which bilinear with antialiasing is nearest to, and up by a cubic: bicubic serves both.
"""

from typing import Final

from dfscan.models.importers import mapping as mappings
from dfscan.models.importers.base import Imported
from dfscan.models.importers.catalogue import DFDC_WINNER
from dfscan.schemas.recipe import Detector, NetworkInput

MAPPING: Final = mappings.TensorMapping(
    what=DFDC_WINNER.what,
    where=DFDC_WINNER.where,
    licence=DFDC_WINNER.licence,
    notes=DFDC_WINNER.notes,
    backbone="tf_efficientnet_b7.ns_jft_in1k",
    input=NetworkInput(
        size=DFDC_WINNER.size,
        margin=1 / 3,
        square="pad",
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    detector=Detector(min_face=40, thresholds=(0.7, 0.8, 0.8), min_score=0.8),
    leave_out=(r"^encoder\.classifier\.",),
    rename=(
        mappings.Rename(match=r"^encoder\.", to=""),
        mappings.Rename(match=r"^fc\.", to="classifier."),
    ),
    outputs=("FAKE",),
    aggregation="confident",
)


def read(file: str, data: bytes, mapping: str | None = None) -> Imported:
    """One of the seven checkpoints.

    :raises ModelError: it is damaged, wants to run code, or has another layout.
    """
    del mapping  # it is known
    return mappings.apply(MAPPING, file, data)
