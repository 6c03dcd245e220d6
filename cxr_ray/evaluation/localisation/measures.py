"""How well one heat map finds one lesion, and what that comes to over many maps of many methods.

Shapes: G heat-map grid, S input side, P pairs of an image and a finding it has, D draws. Knows no model and no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ray.evaluation.bootstrap import Interval, drawn_weights
from cxr_ray.evaluation.localisation.covering import Mask, lengths
from cxr_ray.evaluation.localisation.pointing import contains
from cxr_ray.images.preprocess import Placement
from cxr_ray.scoring.rows import locate

Floats = NDArray[np.float64]
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
MEASURES = ("pointing_game", "pointing_game_tolerant", "hit_rate", "iou", "miou", "iobb")
TOLERANCE = 15.0 / 500.0  # of the film's longer side: Zhang's 15 pixels of photographs about 500 pixels long


def measure(heatmap: NDArray[np.uint8], lesion: Mask, *, placement: Placement, height: int, width: int) -> Floats:
    """MEASURES (6,) of a heat map (G, G) 0..255 against the pixels (S, S) of a lesion in the model input.

    `pointing_game`: the middle of the strongest cell lies in the lesion; `tolerant`: or at most TOLERANCE beside it.
    `hit_rate`: the peak of the map, interpolated to the input, does. `miou`: intersection over union of the lesion and
    the interpolated map above Otsu's threshold. `iou` and `iobb`: the intersection of the lesion and the map's box, as
    the score table has it, over their union, and over the box. All of the film alone, not of the margin that pads it.
    A map that is zero everywhere has no peak, no segmentation and no box: 0 in all.

    Source: Zhang et al. 2018 (pointing game); Saporta et al. 2022, CheXlocalize (hit rate, mIoU); Wang et al. 2017,
    ChestX-ray8, section 4.3 (IoBB).
    """
    if heatmap.max() == 0:
        return np.zeros(len(MEASURES))
    found = locate(heatmap, lesion.shape[0], placement, height, width)
    row, column = placement.point_in_model(found["peak_row"], found["peak_column"])
    beside = _distance(lesion, row, column, placement) <= TOLERANCE * max(height, width)
    film = _film(placement, height, width)
    shown = cv2.resize(heatmap.astype(np.float32), lesion.shape[::-1], interpolation=cv2.INTER_LINEAR)[film]
    peak = np.unravel_index(int(shown.argmax()), shown.shape)
    inside = contains(lesion, row, column)
    values = (inside, inside or beside, lesion[film][peak], *_box_overlap(found["box"], lesion, placement))
    pointing, tolerant, hit, iou, iobb = (float(value) for value in values)
    return np.array([pointing, tolerant, hit, iou, _overlap(segment(shown), lesion[film]), iobb])


def segment(heatmap: NDArray[np.floating[Any]]) -> Mask:
    """The cells of a heat map above Otsu's threshold; none of a map that is the same everywhere.

    Source: Saporta et al. 2022, CheXlocalize, section Segmentation; min-max normalised to 0..255 as in their code.
    """
    low, high = float(heatmap.min()), float(heatmap.max())
    if high <= low:
        return np.zeros(heatmap.shape, bool)
    grey = np.ascontiguousarray(255.0 * (heatmap - low) / (high - low)).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(grey > threshold)


def _film(placement: Placement, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of the model input that the film fills."""
    top, left = (round(edge) for edge in placement.point_in_model(0.0, 0.0))
    bottom, right = (round(edge) for edge in placement.point_in_model(height, width))
    return slice(top, bottom), slice(left, right)


def _distance(lesion: Mask, row: float, column: float, placement: Placement) -> float:
    """Film pixels from a point of the model input to the nearest edge of the lesion, 0 inside; infinite without one."""
    rows, columns = np.nonzero(lesion)
    if len(rows) == 0:
        return float("inf")
    down = np.maximum(np.abs(rows + 0.5 - row) - 0.5, 0.0) * placement.row_scale
    across = np.maximum(np.abs(columns + 0.5 - column) - 0.5, 0.0) * placement.column_scale
    return float(np.hypot(down, across).min())


def _overlap(found: Mask, lesion: Mask) -> float:
    """Intersection over union of two masks, 0 where both are empty."""
    return float((found & lesion).sum() / max(1, (found | lesion).sum()))


def _box_overlap(box: dict[str, float], lesion: Mask, placement: Placement) -> tuple[float, float]:
    """IoU and IoBB of a box on the film and a lesion in the model input; 0 for a box without area."""
    top, left = placement.point_in_model(box["top"], box["left"])
    bottom, right = placement.point_in_model(box["bottom"], box["right"])
    area = (bottom - top) * (right - left)
    if area <= 0:
        return 0.0, 0.0
    rows, columns = lengths(top, bottom, lesion.shape[0]), lengths(left, right, lesion.shape[1])
    both = float(rows @ lesion @ columns)
    return both / (area + float(lesion.sum()) - both), both / area


@dataclass(frozen=True, slots=True)
class Pairs:
    """What was measured: for each of P pairs its image, patient and finding, and MEASURES of each method.

    `values` is (P, methods, MEASURES), NaN where a method has no map of the pair. `called` (P,): the ensemble's
    probability reaches the threshold, so that the pair is a true positive.
    """

    uris: tuple[str, ...]
    patients: tuple[str, ...]
    numbers: NDArray[np.int64]  # (P,) of the finding
    probabilities: Floats
    called: NDArray[np.bool_]
    values: Floats

    def weights(self, *, num_draws: int, seed: int) -> Floats:
        """How often each pair is drawn, (D, P), the pairs of a patient together."""
        return np.concatenate(list(drawn_weights(self.patients, num_draws=num_draws, seed=seed)))


def mean_interval(values: Floats, weights: Floats) -> Interval:
    """The mean of values (P,) that are not NaN, and its interval over draws (D, P); NaN of nothing."""
    stated = ~np.isnan(values)
    value = float(values[stated].mean()) if stated.any() else float("nan")
    return Interval.of(value, weighted_mean(values[:, None], weights)[:, 0])


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Means (D, K) of the columns of values (P, K) under weights (D, P); NaN takes no part, NaN where nothing is."""
    stated = ~np.isnan(values)
    sums, counts = weights @ np.where(stated, values, 0.0), weights @ stated
    means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def summarise(values: Floats, weights: Floats) -> dict[str, Any]:
    """The intervals of MEASURES (P, 6) of one method, as the audit's JSON has them."""
    columns = dict(zip(MEASURES, values.T, strict=True))
    iobb = columns.pop("iobb")
    reached = {str(t): np.where(np.isnan(iobb), np.nan, iobb >= t) for t in IOBB_THRESHOLDS}
    return {
        "num_maps": int((~np.isnan(iobb)).sum()),
        **{name: mean_interval(column, weights).to_dict() for name, column in columns.items()},
        "iobb": {threshold: mean_interval(share, weights).to_dict() for threshold, share in reached.items()},
    }


def against_best(ensemble: Floats, members: Floats, *, patients: Sequence[str], weights: Floats, seed: int) -> Interval:
    """How much better the ensemble's values (P,) are than its best member's, of the members' (P, M), with interval.

    The best of many is best by luck too. So patients are dealt into two halves, and on each half the ensemble is
    compared with the member that is best on the other one; each draw chooses anew.

    Source: cross-fitting, as in Chernozhukov et al. 2018, Double machine learning, section 3.
    """
    names, owners = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    first = (np.random.default_rng(seed).permutation(len(names)) % 2 == 0)[owners]
    ahead = ensemble[:, None] - members

    def gain(drawn: Floats) -> Floats:
        """The difference (D,) under weights (D, P)."""
        total, count = np.zeros(len(drawn)), np.zeros(len(drawn))
        for half in (first, ~first):
            means = weighted_mean(members[~half], drawn[:, ~half])
            best = np.nan_to_num(means, nan=-np.inf).argmax(axis=1)
            stated = ~np.isnan(ahead[half])
            sums, counts = drawn[:, half] @ np.where(stated, ahead[half], 0.0), drawn[:, half] @ stated
            rows = np.arange(len(drawn))
            total, count = total + sums[rows, best], count + counts[rows, best]
        result: Floats = np.divide(total, count, out=np.full(len(drawn), np.nan), where=count > 0)
        return result

    return Interval.of(float(gain(np.ones((1, len(ensemble))))[0]), gain(weights))


def verdict(pointing: Interval, overlap: Interval, *, num_members: int) -> str:
    """Whether the ensemble's map is better than its best member's, by the differences in pointing game and mIoU."""
    if num_members == 1:
        return "The ensemble has one member, whose map is its own."
    said = {name: _comparison(found) for name, found in (("pointing game", pointing), ("mIoU", overlap))}
    parts = [
        f"{word} in {name} ({found.words()})"
        for (name, word), found in zip(said.items(), (pointing, overlap), strict=True)
    ]
    return f"Compared with its best member's map the ensemble's is {' and '.join(parts)}."


def _comparison(difference: Interval) -> str:
    """What an interval of a difference says."""
    if np.isnan(difference.value) or np.isnan(difference.low):
        return "not comparable"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not shown to differ"
