"""Per-finding calibration, fitted on labelled data, kept in the bundle.

Four methods, simplest first: identity, temperature (a slope on the logit), Platt scaling (slope and intercept) and
isotonic regression (a curve of straight pieces). All are monotone. The first three keep the ranking of images as it
is; isotonic regression makes images equal that lie on one level of its curve, so that AUROC and average precision may
change, and thresholds can lie between its levels only.

Shapes: N images, F findings. Labels are 1, 0 or NaN (not stated, takes no part).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Fitted = Literal["temperature", "platt", "isotonic"]

# Of a probability to 0 and to 1. In float32 a confident network comes as near, and its ranking has to stay.
_NEAREST = 1e-12
NUM_BINS = 10  # of the calibration error
_PENALTY = 10.0  # C of the logistic regression: keeps a slope finite where the classes do not overlap


@dataclass(frozen=True, slots=True)
class Scaling:
    """The calibration of one finding: sigmoid(slope * logit(probability) + intercept), or a curve if it has knots.

    `knots` are points (probability, calibrated), both rising; between them the curve is straight, beyond them level.
    """

    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    @property
    def method(self) -> str:
        """Identity, temperature, platt or isotonic."""
        if self.knots:
            return "isotonic"
        if self.intercept != 0.0:
            return "platt"
        return "temperature" if self.slope != 1.0 else "identity"

    def words(self) -> str:
        """Such as `platt 0.812 -0.301` or `isotonic, 14 knots`."""
        if self.knots:
            return f"isotonic, {len(self.knots)} knots"
        numbers = {"platt": f" {self.slope:.3f} {self.intercept:+.3f}", "temperature": f" {self.slope:.3f}"}
        return self.method + numbers.get(self.method, "")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of each finding; `knots` is empty where no finding has any, as in the first bundles."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    knots: tuple[tuple[tuple[float, float], ...], ...] = ()

    @classmethod
    def identity(cls, num_findings: int) -> "Calibration":
        """The calibration that changes nothing."""
        return cls((1.0,) * num_findings, (0.0,) * num_findings)

    @classmethod
    def of(cls, scalings: Sequence[Scaling]) -> "Calibration":
        """The calibration of these findings."""
        knots = tuple(item.knots for item in scalings)
        slopes, intercepts = tuple(item.slope for item in scalings), tuple(item.intercept for item in scalings)
        return cls(slopes, intercepts, knots if any(knots) else ())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Read what `to_dict` gave. Raises KeyError, TypeError or ValueError when it is something else."""
        curves = ((tuple((float(x), float(y)) for x, y in curve)) for curve in values.get("knots", ()))
        return cls(tuple(values["slopes"]), tuple(values["intercepts"]), tuple(curves))

    def to_dict(self) -> dict[str, Any]:
        """As in ensemble.json. Without knots it is what the first bundles hold, so that their digests stay."""
        plain: dict[str, Any] = {"slopes": self.slopes, "intercepts": self.intercepts}
        return plain | ({"knots": self.knots} if self.knots else {})

    @property
    def scalings(self) -> tuple[Scaling, ...]:
        """The calibration of each finding."""
        knots = self.knots or ((),) * len(self.slopes)
        return tuple(map(Scaling, self.slopes, self.intercepts, knots))

    def apply(self, probabilities: Tensor) -> Tensor:
        """Calibrated probabilities (..., F) of raw ones; monotone in each finding."""
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=probabilities.device)
        intercepts = torch.tensor(self.intercepts, dtype=torch.float64, device=probabilities.device)
        logits = torch.logit(probabilities.double(), eps=_NEAREST)
        calibrated = torch.sigmoid(logits * slopes + intercepts)
        for index, curve in enumerate(self.knots):
            if curve:
                calibrated[..., index] = _on_curve(probabilities[..., index].double(), curve)
        return calibrated.to(probabilities.dtype)


def _on_curve(values: Tensor, curve: tuple[tuple[float, float], ...]) -> Tensor:
    """The curve's height at each value, any shape; the first and the last knot hold beyond the ends."""
    x, y = torch.tensor(curve, dtype=torch.float64, device=values.device).T.contiguous()
    inside = values.clamp(x[0], x[-1])
    right = torch.searchsorted(x, inside.contiguous()).clamp(min=1, max=max(1, len(x) - 1))
    low, high = y[right - 1], y[right.clamp(max=len(x) - 1)]
    share = (inside - x[right - 1]) / (x[right.clamp(max=len(x) - 1)] - x[right - 1])
    # The minimum: rounding must not lift a value above the knot to its right.
    return torch.minimum(low + share * (high - low), high)


def fit_scaling(method: Fitted, probabilities: Array, labels: Array) -> Scaling | None:
    """The calibration of one finding by a method, from probabilities (N,) against labels (N,).

    None where there are fewer than two positives or two negatives, one probability for all images, or where high
    probabilities go with absence: a fit to nothing would be worse than none, and a negative slope would turn the
    ranking round.
    """
    stated = ~np.isnan(labels)
    truth, values = labels[stated], probabilities[stated].astype(np.float64)
    if min(truth.sum(), (1 - truth).sum()) < 2 or np.ptp(values) == 0.0:
        return None
    if method == "isotonic":
        return _isotonic(values, truth)
    inside = np.clip(values, _NEAREST, 1 - _NEAREST)
    logits = np.log(inside / (1 - inside))
    return _platt(logits, truth) if method == "platt" else _temperature(logits, truth)


def _platt(logits: Array, truth: Array) -> Scaling | None:
    """Slope and intercept. Source: Platt 1999, Probabilistic outputs for support vector machines."""
    centre, width = float(logits.mean()), float(logits.std())
    from sklearn.linear_model import LogisticRegression  # a second to import, and scoring fits nothing

    # In units of their own width: the optimiser and its penalty would else depend on how large the logits are.
    model = LogisticRegression(C=_PENALTY).fit(((logits - centre) / width)[:, None], truth)
    slope = float(model.coef_[0, 0]) / width
    return Scaling(slope, float(model.intercept_[0]) - slope * centre) if slope > 0 else None


def _temperature(logits: Array, truth: Array) -> Scaling | None:
    """A slope alone, 1 / T, penalised as `_platt`. Source: Guo 2017, On calibration of modern neural networks."""
    width = float(np.sqrt(np.mean(logits**2)))
    scaled = logits / width
    if ((truth - 0.5) * scaled).sum() <= 0:  # minus the loss's derivative at slope 0: no positive slope is any better
        return None

    def loss(slope: float) -> float:
        nats = np.logaddexp(0.0, slope * scaled) - truth * slope * scaled
        return float(nats.sum() + slope**2 / (2 * _PENALTY))

    from scipy.optimize import minimize_scalar

    # Convex: the penalty alone keeps the slope below the square root of 2 * C * N * log(2).
    highest = float(np.sqrt(2 * _PENALTY * len(truth)))
    found = minimize_scalar(loss, bounds=(0.0, highest), method="bounded", options={"xatol": 1e-8 * highest})
    return Scaling(float(found.x) / width)


def _isotonic(values: Array, truth: Array) -> Scaling | None:
    """A rising curve, as near to 0 and 1 as Platt's targets for so many images, so that nothing is called certain.

    Source: Zadrozny 2002, Transforming classifier scores into accurate multiclass probability estimates; Platt 1999,
    section 2.2, for the bounds 1 / (negatives + 2) and (positives + 1) / (positives + 2).
    """
    from sklearn.isotonic import IsotonicRegression

    positives, negatives = truth.sum(), (1 - truth).sum()
    bounds = {"y_min": float(1 / (negatives + 2)), "y_max": float((positives + 1) / (positives + 2))}
    model = IsotonicRegression(**bounds, out_of_bounds="clip").fit(values, truth)
    knots = tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    return Scaling(knots=knots) if knots[0][1] < knots[-1][1] else None


def fit_platt(probabilities: Array, labels: Array) -> Calibration:
    """Platt scaling per finding of probabilities (N, F) against labels (N, F); raw where it cannot be fitted."""
    fitted = (fit_scaling("platt", probabilities[:, f], labels[:, f]) for f in range(labels.shape[1]))
    return Calibration.of([scaling or Scaling() for scaling in fitted])


def log_losses(probabilities: Array, labels: Array) -> Array:
    """Log loss in nats of each image (N,), NaN where the label is not stated."""
    inside = np.clip(probabilities, _NEAREST, 1 - _NEAREST)
    return np.asarray(-(labels * np.log(inside) + (1 - labels) * np.log1p(-inside)), np.float64)


def equal_count_bins(values: NDArray[Any], num_bins: int) -> NDArray[np.int64]:
    """The bin 0 .. `num_bins` - 1 of each value (N,): about equally many in each, and tied ones together.

    A bin may be empty. What lies in a bin follows from the values alone, not from their order.
    """
    below = np.searchsorted(np.sort(values), values, side="left")
    return np.asarray(below * num_bins // max(1, len(values)), np.int64)


def calibration_errors(probabilities: Array, labels: Array, *, num_bins: int = NUM_BINS) -> tuple[float, ...]:
    """Expected calibration error per finding of probabilities (N, F): mean distance of probability and prevalence.

    Bins hold equally many images, not equal ranges: a rare finding would lie in one bin. Ties stay together, since an
    isotonic curve or a share of votes has few values. NaN without a stated label.

    Source: Naeini 2015, Obtaining well calibrated probabilities using Bayesian binning, ECE.
    """
    columns = zip(probabilities.T, labels.T, strict=True)
    return tuple(_calibration_error(values, truth, num_bins) for values, truth in columns)


def _calibration_error(probabilities: Array, labels: Array, num_bins: int) -> float:
    """The error of one finding."""
    stated = ~np.isnan(labels)
    if not stated.any():
        return float("nan")
    values = probabilities[stated]
    gaps = np.bincount(equal_count_bins(values, num_bins), values - labels[stated])
    return float(np.abs(gaps).sum() / len(values))
