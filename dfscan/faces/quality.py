"""How much there is to see of a face."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import laplace

from dfscan.faces.crops import Box, region_of

_SIDE: Final = 96


def sharpness(crop: npt.NDArray[np.uint8], crop_box: Box, box: Box) -> float:
    """Variance of the Laplacian over that of the face, in grey at 96 × 96 pixels.

    After Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000; over the face's own
    variance, so that dark and pale faces count alike. Of compressed videos' faces 0.005 (the lowest
    hundredth) to 0.05 (the median); blurred by a Gaussian of 3 % of the face's width, 0.002 to 0.007.

    :param crop: (H, W, 3) uint8 RGB, a stored crop, which shows ``crop_box`` of the frame.
    :param box: the face, in pixels of the frame.
    """
    picture = Image.fromarray(crop)
    region = region_of(picture.size, crop_box, box)
    grey = np.asarray(
        picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=region),
        np.float32,
    )
    return float(laplace(grey).var() / max(float(grey.var()), 1.0))
