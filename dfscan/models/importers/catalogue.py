"""Published detectors that can be imported: where they are, and under which licence.

Facts as their authors' pages stated them; dfscan downloads none of them.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Published:
    """A detector that its authors published.

    ``where``: the page to get its file from; ``size``: its input, in pixels; ``notes``: what to
    know before relying on it.
    """

    what: str
    where: str
    licence: str
    size: int
    notes: tuple[str, ...] = ()


MESONET: Final = Published(
    what="MesoNet: Meso4_DF, Meso4_F2F, MesoInception_DF, MesoInception_F2F (.h5)",
    where="https://github.com/DariusAf/MesoNet",
    licence="Apache-2.0",
    size=256,
    notes=(
        "_DF learned deepfakes, _F2F Face2Face, of 2018, in aligned square crops; here faces are "
        "cut upright by their box",
    ),
)

DFDC_WINNER: Final = Published(
    what="DFDC, first place: final_*_DeepFakeClassifier_tf_efficientnet_b7_ns_* (seven files)",
    where="https://github.com/selimsef/dfdc_deepfake_challenge/releases/tag/0.0.1",
    licence="MIT",
    size=380,
    notes=("the winning system averages all seven; a GPU is advised (66 million parameters each)",),
)
