"""Intervals of metrics by drawing patients anew: a patient's images are alike, and count as one.

Shapes: N images, F findings, D draws. A draw is a weight per image, how often its patient was drawn, so that every
metric is computed for all draws at once. Knows arrays only.

What is undefined is NaN: a draw in which a finding has one class only says nothing about that finding, and the macro
mean of a draw is over the findings that it does define. An interval is over the draws that define the value, and NaN
when fewer than half of them do, or when the labels themselves do not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MACRO = "macro"
RANKED = ("auroc", "average_precision", "f1")
_VALUES_AT_ONCE = 20_000_000  # weights in memory, 8 bytes each


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % percentile interval; what is undefined is NaN."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Floats) -> "Interval":
        """The interval of a value from what it was in each draw (D,)."""
        low, high = percentiles(drawn[:, None])
        return cls(value, *((float("nan"),) * 2 if np.isnan(value) else (float(low[0]), float(high[0]))))

    def to_dict(self) -> dict[str, float | None]:
        """As JSON knows it: NaN becomes None."""
        return {name: None if np.isnan(number) else number for name, number in asdict(self).items()}

    def words(self, digits: int = 3) -> str:
        """Such as `0.812 (0.770 to 0.850)`; `undefined` without a value."""
        if np.isnan(self.value):
            return "undefined"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def intervals(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    thresholds: Sequence[float],
    patients: Sequence[str],
    findings: Sequence[str],
    num_draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """95 % percentile intervals of AUROC, average precision and F1 of labels and probabilities (N, F).

    Rows are the findings and `macro`, columns METRIC_low and METRIC_high; `patients` (N,) are drawn with replacement.

    Source: Field and Welsh 2007, Bootstrapping clustered data, the cluster bootstrap.
    """
    drawn = draw(labels, probabilities, thresholds=thresholds, patients=patients, num_draws=num_draws, seed=seed)
    names = [*findings, MACRO]
    columns: dict[str, Floats] = {}
    for metric, values in drawn.items():
        low, high = percentiles(np.column_stack([values, macro_of(values)]))
        columns |= {f"{metric}_low": low, f"{metric}_high": high}
    return pd.DataFrame(columns, index=pd.Index(names, name="finding", dtype="str"))


def draw(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    thresholds: Sequence[float],
    patients: Sequence[str],
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Each metric (D, F) of labels and probabilities (N, F) in every draw; the same seed draws the same patients."""
    blocks = []
    for weights in drawn_weights(patients, num_draws=num_draws, seed=seed):
        columns = zip(labels.T, probabilities.T, thresholds, strict=True)
        blocks.append([_one_finding(truth, scores, threshold, weights) for truth, scores, threshold in columns])
    whole = np.concatenate(blocks, axis=2)  # (F, metrics, D)
    return {metric: whole[:, number].T for number, metric in enumerate(RANKED)}


def macro_of(values: Floats) -> Floats:
    """Mean (D,) of values (D, F) over the findings that a draw defines; NaN when it defines none."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=1)
    sums: Floats = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """The 2.5th and 97.5th percentile (K,) of values (D, K) over the draws where they are not NaN."""
    bounds = np.full((2, values.shape[1]), np.nan)
    for number, column in enumerate(values.T):
        defined = column[~np.isnan(column)]
        if len(defined) >= max(1, len(column) / 2):
            bounds[:, number] = np.percentile(defined, [2.5, 97.5])
    return bounds[0], bounds[1]


def weighted_auroc(truth: NDArray[np.bool_], scores: NDArray[Any], weights: Floats) -> Floats:
    """AUROC (D,) of scores (N,) with weights (D, N): the share of pairs ranked rightly, ties half; NaN undefined."""
    positives, negatives = _by_value(truth, scores, weights)
    below = np.cumsum(negatives, axis=1) - negatives
    ranked = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return _ratio(ranked, positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_average_precision(truth: NDArray[np.bool_], scores: NDArray[Any], weights: Floats) -> Floats:
    """Average precision (D,) of scores (N,) with weights (D, N), tied scores as one step; NaN without both classes."""
    positives, negatives = (values[:, ::-1] for values in _by_value(truth, scores, weights))
    hits = np.cumsum(positives, axis=1)
    called = hits + np.cumsum(negatives, axis=1)
    summed = (positives * np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)).sum(axis=1)
    both = (negatives.sum(axis=1) > 0) & (hits[:, -1] > 0)
    return np.where(both, _ratio(summed, hits[:, -1]), np.nan)


def weighted_f1(truth: NDArray[np.bool_], called: NDArray[np.bool_], weights: Floats) -> Floats:
    """F1 (D,) of decisions (N,) with weights (D, N); NaN unless both classes are drawn."""
    positives, negatives = weights[:, truth].sum(axis=1), weights[:, ~truth].sum(axis=1)
    hits = weights[:, truth & called].sum(axis=1)
    f1 = _ratio(2.0 * hits, positives + weights[:, called].sum(axis=1))
    return np.where((positives > 0) & (negatives > 0), f1, np.nan)


def _one_finding(truth: NDArray[Any], scores: NDArray[Any], threshold: float, weights: Floats) -> list[Floats]:
    """The metrics of one finding, (D,) each, over its stated labels."""
    stated = ~np.isnan(truth)
    present, values, kept = truth[stated] == 1, scores[stated].astype(np.float64), weights[:, stated]
    if present.all() or not present.any():
        return [np.full(len(weights), np.nan)] * len(RANKED)
    return [
        weighted_auroc(present, values, kept),
        weighted_average_precision(present, values, kept),
        weighted_f1(present, values >= threshold, kept),
    ]


def _by_value(truth: NDArray[np.bool_], scores: NDArray[Any], weights: Floats) -> tuple[Floats, Floats]:
    """Weight of the positives and of the negatives (D, V) at each of the V different scores, from low to high."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn, present = weights[:, order], truth[order]
    return np.add.reduceat(drawn * present, starts, axis=1), np.add.reduceat(drawn * ~present, starts, axis=1)


def _ratio(parts: Floats, wholes: Floats) -> Floats:
    """`parts / wholes`, NaN where there is no whole."""
    ratio: Floats = np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)
    return ratio


def drawn_weights(patients: Sequence[str], *, num_draws: int, seed: int) -> Iterator[Floats]:
    """Weights (d, N) of the images, a block of draws at a time: how often each one's patient was drawn."""
    random = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(owner)))
    for start in range(0, num_draws, at_once):
        drawn = random.integers(0, len(names), (min(at_once, num_draws - start), len(names)))
        counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        yield counts[:, owner].astype(np.float64)
