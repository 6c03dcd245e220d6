"""ROC, precision-recall and reliability curves of each finding, thinned to what a plot can show.

Shapes: N images, F findings. Knows arrays only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr_ray.evaluation.bootstrap import Interval, drawn_counts
from cxr_ray.evaluation.metrics import ratio
from cxr_ray.evaluation.ranking import summing
from cxr_ray.models.calibration import NUM_BINS, equal_count_bins

MAX_POINTS = 200
Points = list[list[float]]


def curves(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    patients: Sequence[str],
    findings: Sequence[str],
    num_draws: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The curves of labels and probabilities (N, F) by finding; empty lists where a curve is undefined.

    `roc` holds pairs of false positive rate and sensitivity, `pr` of recall and precision. `reliability` has one entry
    per bin of equally many images, those of the calibration error: mean probability, observed share of positives with
    its interval over draws of patients, and the number of images.
    """
    reliable = _reliability(labels, probabilities, patients=patients, num_draws=num_draws, seed=seed)
    return {
        finding: {**_ranked(labels[:, f], probabilities[:, f]), "reliability": reliable[f]}
        for f, finding in enumerate(findings)
    }


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
    """At most `most` of the points of a curve, both ends among them, evenly along its length."""
    if len(points) <= most:
        return points
    steps = np.abs(np.diff(np.array(points), axis=0)).sum(axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    nearest = np.searchsorted(length, np.linspace(0, length[-1], most))
    kept = np.unique(np.concatenate([[0], np.minimum(nearest, len(points) - 1)[:-1], [len(points) - 1]]))
    return [points[place] for place in kept]


def _ranked(labels: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, Points]:
    """ROC and precision-recall curve of one finding; empty without both classes."""
    stated = ~np.isnan(labels)
    truth, scores = labels[stated], probabilities[stated]
    if not ((truth == 1).any() and (truth == 0).any()):
        return {"roc": [], "pr": []}
    false_rate, sensitivity, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores)
    return {
        "roc": thinned(np.column_stack([false_rate, sensitivity]).tolist()),
        "pr": thinned(np.column_stack([recall, precision])[::-1].tolist()),
    }


def _reliability(
    labels: NDArray[Any], probabilities: NDArray[Any], *, patients: Sequence[str], num_draws: int, seed: int
) -> list[list[dict[str, float | None]]]:
    """The bins of each finding, from low to high probability; bins without an image are left out."""
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    stated = ~np.isnan(labels)
    rows = [
        f * NUM_BINS + equal_count_bins(probabilities[stated[:, f], f].astype(np.float64), NUM_BINS)
        for f in range(labels.shape[1])
    ]
    places, owners = np.concatenate(rows), np.concatenate([owner[stated[:, f]] for f in range(labels.shape[1])])
    truth, values = labels.T[stated.T], probabilities.T[stated.T].astype(np.float64)
    shape = (labels.shape[1] * NUM_BINS, len(names))
    images, positives = summing(places, owners, shape=shape), summing(places, owners, truth, shape=shape)
    shares = [
        ratio(positives @ counts, images @ counts)
        for counts in drawn_counts(len(names), num_draws=num_draws, seed=seed, num_images=len(owner))
    ]
    drawn = np.concatenate(shares, axis=1)
    count = np.bincount(places, minlength=shape[0])
    observed = ratio(np.bincount(places, truth, shape[0]), count)
    predicted = ratio(np.bincount(places, values, shape[0]), count)

    def entry(place: int) -> dict[str, float | None]:
        """One bin."""
        found = Interval.of(float(observed[place]), drawn[place]).to_dict()
        ends = {"low": found["low"], "high": found["high"]}
        return {
            "predicted": float(predicted[place]),
            "observed": found["value"],
            **ends,
            "count": int(count[place]),
        }

    return [
        [entry(place) for place in range(f * NUM_BINS, (f + 1) * NUM_BINS) if count[place]]
        for f in range(labels.shape[1])
    ]
