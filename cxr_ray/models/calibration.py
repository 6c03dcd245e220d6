"""Per-finding calibration and operating thresholds, fitted on validation data, kept in the bundle.

Shapes: N images, F findings. Labels are 1, 0 or NaN (not stated, takes no part).
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve
from torch import Tensor

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


# Of a probability to 0 and to 1. In float32 a confident network comes as near, and its ranking has to stay.
_NEAREST = 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling of each finding: calibrated = sigmoid(slope * logit(probability) + intercept)."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    @classmethod
    def identity(cls, num_findings: int) -> "Calibration":
        """The calibration that changes nothing."""
        return cls((1.0,) * num_findings, (0.0,) * num_findings)

    def apply(self, probabilities: Tensor) -> Tensor:
        """Calibrated probabilities (..., F) of raw ones; monotone in each finding, so rankings stay."""
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=probabilities.device)
        intercepts = torch.tensor(self.intercepts, dtype=torch.float64, device=probabilities.device)
        logits = torch.logit(probabilities.double(), eps=_NEAREST)
        return torch.sigmoid(logits * slopes + intercepts).to(probabilities.dtype)


def fit_platt(probabilities: Array, labels: Array) -> Calibration:
    """Platt scaling per finding of probabilities (N, F) against labels (N, F).

    A finding with fewer than two positives or two negatives, with one probability for all images, or whose slope would
    not be positive, keeps its raw probability: a fit to nothing would be worse than none, and a negative slope would
    turn the ranking round.

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """
    fitted = [_fit_one(probabilities[:, index], labels[:, index]) for index in range(labels.shape[1])]
    return Calibration(tuple(slope for slope, _ in fitted), tuple(intercept for _, intercept in fitted))


def _fit_one(probabilities: Array, labels: Array) -> tuple[float, float]:
    """Slope and intercept of one finding."""
    stated = ~np.isnan(labels)
    truth = labels[stated]
    if min(truth.sum(), (1 - truth).sum()) < 2:
        return 1.0, 0.0
    inside = np.clip(probabilities[stated], _NEAREST, 1 - _NEAREST)
    logits = np.log(inside / (1 - inside))
    if np.ptp(logits) == 0.0:
        return 1.0, 0.0
    centre, width = float(logits.mean()), float(logits.std())
    # In units of their own width: the optimiser and its penalty would else depend on how large the logits are.
    model = LogisticRegression(C=10.0).fit(((logits - centre) / width)[:, None], truth)
    slope = float(model.coef_[0, 0]) / width
    return (slope, float(model.intercept_[0]) - slope * centre) if slope > 0 else (1.0, 0.0)


def fit_thresholds(probabilities: Array, labels: Array) -> tuple[float, ...]:
    """Threshold of the highest F1 per finding of probabilities (N, F); 0.5 where there is no positive or no negative.

    The threshold lies half-way to the next lower probability, so that rounding does not flip the image it was set by.
    """
    return tuple(_best_f1(probabilities[:, index], labels[:, index]) for index in range(labels.shape[1]))


def _best_f1(probabilities: Array, labels: Array) -> float:
    """Threshold of the highest F1 of one finding."""
    stated = ~np.isnan(labels)
    truth, values = labels[stated], probabilities[stated]
    if truth.sum() == 0 or truth.sum() == len(truth):
        return 0.5
    precision, recall, thresholds = precision_recall_curve(truth, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = float(thresholds[int(np.argmax(f1[:-1]))])
    below = values[values < best]
    return (best + float(below.max())) / 2 if len(below) else best


def calibration_errors(probabilities: Array, labels: Array, *, num_bins: int = 10) -> tuple[float, ...]:
    """Expected calibration error per finding of probabilities (N, F): mean distance of probability and prevalence.

    Bins hold equally many images, not equal ranges: a rare finding would lie in one bin. NaN without a stated label.

    Source: Naeini 2015, Obtaining well calibrated probabilities using Bayesian binning, ECE.
    """
    columns = zip(probabilities.T, labels.T, strict=True)
    return tuple(_calibration_error(values, truth, num_bins) for values, truth in columns)


def _calibration_error(probabilities: Array, labels: Array, num_bins: int) -> float:
    """The error of one finding."""
    stated = ~np.isnan(labels)
    if not stated.any():
        return float("nan")
    order = np.argsort(probabilities[stated], kind="stable")
    gaps = (probabilities[stated] - labels[stated])[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, num_bins)) / len(gaps))
