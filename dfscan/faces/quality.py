"""Quality measures of faces."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import laplace

from dfscan.faces.crops import Box, region_of

_SIDE: Final = 96


def sharpness(crop: npt.NDArray[np.uint8], crop_box: Box, box: Box) -> float:
    """Variance of the Laplacian divided by that of the face, in grey at 96 × 96 pixels.

    After Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000; divided by the
    face's variance to be independent of contrast. Typical values in compressed videos: 0.005 (1st
    percentile) to 0.05 (median); after a Gaussian blur of 3 % of the face's width, 0.002 to 0.007.

    :param crop: (H, W, 3) uint8 RGB, a stored crop of the region ``crop_box`` of the frame.
    :param box: the face, in pixels of the frame.
    """
    picture = Image.fromarray(crop)
    region = region_of(picture.size, crop_box, box)
    grey = np.asarray(
        picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=region),
        np.float32,
    )
    return float(laplace(grey).var() / max(float(grey.var()), 1.0))
