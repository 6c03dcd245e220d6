"""All measures of one set of probabilities with their intervals: per finding, macro and weighted by prevalence.

Shapes: N images, F findings, D draws. Knows arrays only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_ray.evaluation.bootstrap import PREVALENCE, Interval, draw
from cxr_ray.evaluation.metrics import Floats, finding_metrics, macro_of


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of each finding, and what they were in every draw of patients."""

    points: pd.DataFrame  # one row per finding, as `finding_metrics` makes it
    drawn: dict[str, Floats]  # measure -> (D, F)

    def interval(self, f: int, measure: str) -> Interval:
        """A measure of the f-th finding."""
        return Interval.of(float(self.points[measure].iloc[f]), self.drawn[measure][:, f])

    def macro(self, measure: str, chosen: Sequence[int] | None = None) -> Interval:
        """Mean of a measure over the findings that define it, or over the `chosen` of them."""
        return Interval.of(self.macro_value(measure, chosen), self.macro_draws(measure, chosen))

    def macro_value(self, measure: str, chosen: Sequence[int] | None = None) -> float:
        """The macro mean of the full sample."""
        return float(macro_of(_of(self.points[[measure]].to_numpy(float).T, chosen))[0])

    def macro_draws(self, measure: str, chosen: Sequence[int] | None = None) -> Floats:
        """The macro mean in every draw (D,)."""
        return macro_of(_of(self.drawn[measure], chosen))

    def weighted(self, measure: str) -> Interval:
        """Mean of a measure, each finding weighted by its prevalence, which is drawn as well."""
        values, shares = (self.points[[name]].to_numpy(float).T for name in (measure, PREVALENCE))
        drawn = macro_of(self.drawn[measure], self.drawn[PREVALENCE])
        return Interval.of(float(macro_of(values, shares)[0]), drawn)

    def num_defined(self, measure: str) -> int:
        """Findings that define a measure."""
        return int(self.points[measure].notna().sum())


def measure(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    thresholds: Sequence[float],
    patients: Sequence[str],
    findings: Sequence[str],
    num_draws: int,
    seed: int,
) -> Measured:
    """All measures of labels and probabilities (N, F); the same seed and patients are the same draws."""
    points = finding_metrics(labels, probabilities, thresholds, findings)
    drawn = draw(labels, probabilities, thresholds=thresholds, patients=patients, num_draws=num_draws, seed=seed)
    return Measured(points, drawn)


def difference(value: float, other: float, drawn: Floats, of_other: Floats) -> Interval:
    """`value` minus `other`, and the interval of their difference under the same draws."""
    return Interval.of(value - other, drawn - of_other)


def _of(values: Floats, chosen: Sequence[int] | None) -> Floats:
    """Columns of values (D, F)."""
    return values if chosen is None else values[:, np.array(chosen, np.intp)]
