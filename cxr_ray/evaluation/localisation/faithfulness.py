"""Do the marked pixels move the score: deletion and insertion curves.

Shapes: B images, F findings, S input side, K shares from 0 to 1. Knows no model: a score is a callable.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cxr_ray.evaluation.localisation.measures import mean_interval

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Score = Callable[[Pixels], NDArray[Any]]  # model inputs (B, S, S) -> probabilities (B, F)
_BLUR = 1 / 16  # of the side: no lesion of a few cells is left, and no edge is made


def blurred(pixels: Pixels) -> Pixels:
    """The image without its detail: what deleted pixels become, since black ones would be a sign of their own."""
    smooth: Pixels = np.rint(gaussian_filter(pixels.astype(np.float32), sigma=len(pixels) * _BLUR)).astype(np.uint8)
    return smooth


def order_of(heatmap: NDArray[np.uint8], side: int, *, seed: int) -> NDArray[np.int64]:
    """The pixels of an (S, S) image from the strongest to the weakest of a map (G, G), equal ones in random order."""
    shown = cv2.resize(heatmap.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR).ravel()
    chance = np.random.default_rng(seed).random(shown.size)
    return np.lexsort((chance, -shown))


def curves(
    score: Score, pixels: Pixels, finding: int, heatmaps: Sequence[NDArray[np.uint8]], *, num_steps: int, seed: int
) -> Floats:
    """Probabilities of a finding (maps, 2, K) while each map's strongest pixels are deleted, and inserted.

    Deletion turns pixels of the image into those of the blurred one, insertion the reverse; K = num_steps + 1 equal
    shares of all pixels, from none to all.

    Source: Petsiuk et al. 2018, RISE, section 4.2.
    """
    side, blank = len(pixels), blurred(pixels)
    counts = np.rint(np.linspace(0, pixels.size, num_steps + 1)).astype(np.int64)[1:-1]
    whole, gone = score(np.stack([pixels, blank]))[:, finding]  # the ends, which all curves share
    found = []
    for heatmap in heatmaps:
        rank = np.empty(pixels.size, np.int64)
        rank[order_of(heatmap, side, seed=seed)] = np.arange(pixels.size)
        taken = rank.reshape(1, side, side) < counts[:, None, None]
        deleted = score(np.where(taken, blank, pixels))[:, finding]
        inserted = score(np.where(taken, pixels, blank))[:, finding]
        found.append([[whole, *deleted, gone], [gone, *inserted, whole]])
    return np.asarray(found, np.float64)


def area(curve: Floats) -> Floats:
    """Area under curves (..., K) over shares 0..1 by trapezia: the mean probability on the way, 0..1."""
    under: Floats = (curve[..., 1:] + curve[..., :-1]).mean(axis=-1) / 2.0
    return under


def summarise(found: Floats, weights: Floats) -> dict[str, Any]:
    """Curves (P, 2, K) of one method with weights (D, P) as the audit's JSON has them; NaN pairs take no part."""
    known = found[~np.isnan(found).any(axis=(1, 2))]
    shares = np.linspace(0.0, 1.0, found.shape[2])
    values: dict[str, Any] = {}
    for number, name in enumerate(("deletion", "insertion")):
        means = known[:, number].mean(axis=0) if len(known) else np.full(len(shares), np.nan)
        points = zip(shares.tolist(), means.tolist(), strict=True)
        values[name] = [[share, probability] for share, probability in points if len(known)]
        values[f"{name}_auc"] = mean_interval(area(found[:, number]), weights).to_dict()
    return values
