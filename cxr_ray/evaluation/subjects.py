"""Images together with what is true of them, as the studies that score images again need them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.images.preprocess import Placement


@dataclass(frozen=True, slots=True)
class Subject:
    """One labelled image, decoded. Shapes: F findings of the ensemble, in its order; S input side."""

    uri: str
    patient: str
    pixels: NDArray[np.uint8]  # (S, S) model input
    placement: Placement  # original pixels = model input x scale + offset
    height: int  # of the original film, pixels
    width: int
    labels: NDArray[np.floating[Any]]  # (F,) 1, 0 or NaN
    lesions: NDArray[np.bool_] | None = None  # (F, S, S) where each finding is; None unless marked
    lungs: NDArray[np.bool_] | None = None  # (S, S)
