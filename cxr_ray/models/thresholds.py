"""Operating thresholds per finding, by a named rule. Pure functions on arrays.

Shapes: N images, F findings. Labels are 1, 0 or NaN (not stated, takes no part). Probabilities are compared in
float32, as `models.ensemble` and the score table do; a threshold lies half-way to the next lower probability, so that
rounding does not flip the image it was set by.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config import ThresholdRule

Floats = NDArray[np.float64]
_F1 = ThresholdRule()
_DEFAULT = 0.5  # where the labels decide nothing


def fit_thresholds(probabilities: Floats, labels: Floats, *, rule: ThresholdRule = _F1) -> tuple[float, ...]:
    """Threshold per finding of probabilities (N, F) by one rule; 0.5 where the rule cannot be met, see below."""
    found = [fit_threshold(probabilities[:, f], labels[:, f], rule=rule) for f in range(labels.shape[1])]
    return tuple(_DEFAULT if threshold is None else threshold for threshold in found)


def fit_threshold(probabilities: Floats, labels: Floats, *, rule: ThresholdRule) -> float | None:
    """Threshold of one finding from probabilities (N,), 0..1 and no NaN, and labels (N,).

    `alerts` counts over all N images, stated or not. None where the rule cannot be met: it needs labels and there is
    no positive or no negative, or there is no image, or it would have to lie above a probability of 1.
    """
    if rule.bound is not None and rule.name == "fixed":
        return rule.bound
    values = probabilities.astype(np.float32)
    truth = labels == 1
    if rule.needs_labels:
        stated = ~np.isnan(labels)
        values, truth = values[stated], truth[stated]
        if truth.all() or not truth.any():
            return None
    return _chosen(values, truth, rule) if len(values) else None


def _chosen(values: NDArray[np.float32], truth: NDArray[np.bool_], rule: ThresholdRule) -> float | None:
    """The threshold among those that call a different set of images each, the empty set included."""
    levels, owner = np.unique(values, return_inverse=True)
    hits, false_alarms = (np.bincount(owner, kind, len(levels))[::-1].cumsum()[::-1] for kind in (truth, ~truth))
    hits, false_alarms = np.append(hits, 0.0), np.append(false_alarms, 0.0)
    index = _best(hits, false_alarms, rule)
    if index < len(levels):
        return _between(float(levels[index - 1]), float(levels[index])) if index else float(levels[0])
    return _between(float(levels[-1]), 1.0) if levels[-1] < 1.0 else None


def _between(below: float, level: float) -> float:
    """Half-way from `below` to `level`, as float32 tells it from `below`."""
    middle = (below + level) / 2
    return middle if np.float32(middle) > np.float32(below) else level


def _best(hits: Floats, false_alarms: Floats, rule: ThresholdRule) -> int:
    """Index of the best of K levels from low to high; true and false positives (K,) at or above each, none at last."""
    if rule.name == "alerts":
        return _first(100.0 * (hits + false_alarms) / (hits[0] + false_alarms[0]) <= rule.bound)
    sensitivity = hits / hits[0]
    specificity = (false_alarms[0] - false_alarms) / false_alarms[0]
    if rule.name == "sensitivity":
        return int(np.flatnonzero(sensitivity >= rule.bound)[-1])
    if rule.name == "specificity":
        return _first(specificity >= rule.bound)
    if rule.name == "youden":
        # In whole numbers, so that equals are equal.
        return int(np.argmax((hits * false_alarms[0] - false_alarms * hits[0])[:-1]))
    return int(np.argmax((2 * hits / (hits + false_alarms + hits[0]))[:-1]))


def _first(met: NDArray[np.bool_]) -> int:
    """Index of the first level that meets a bound; the level above all images always does."""
    return int(np.flatnonzero(met)[0])
