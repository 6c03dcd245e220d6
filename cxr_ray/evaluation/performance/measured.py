"""All measures of one set of probabilities with their intervals: per finding, macro and weighted by prevalence.

Shapes: N images, F findings, D draws. Knows arrays only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_ray.evaluation.bootstrap import PREVALENCE, Interval, draw
from cxr_ray.evaluation.metrics import Floats, finding_metrics, macro_in_draws, macro_of

_LOST = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of each finding, and what they were in every draw of patients."""

    points: pd.DataFrame  # one row per finding, as `finding_metrics` makes it
    drawn: dict[str, Floats]  # measure -> (D, F)

    def interval(self, f: int, measure: str) -> Interval:
        """A measure of the f-th finding."""
        return interval_of(measure)(float(self.points[measure].iloc[f]), self.drawn[measure][:, f])

    def macro(self, measure: str, chosen: Sequence[int] | None = None) -> Interval:
        """Mean of a measure over the findings that define it, or over the `chosen` of them."""
        return interval_of(measure)(self.macro_value(measure, chosen), self.macro_draws(measure, chosen))

    def macro_value(self, measure: str, chosen: Sequence[int] | None = None) -> float:
        """The macro mean of the full sample."""
        return float(macro_of(_of(self.points[[measure]].to_numpy(float).T, chosen))[0])

    def macro_draws(self, measure: str, chosen: Sequence[int] | None = None) -> Floats:
        """The macro mean in every draw (D,), NaN where a finding of it is undefined."""
        return macro_in_draws(_of(self.drawn[measure], chosen), _of(self._defined(measure)[None], chosen)[0])

    def weighted(self, measure: str) -> Interval:
        """Mean of a measure, each finding weighted by its prevalence, which is drawn as well."""
        values, shares = (self.points[[name]].to_numpy(float).T for name in (measure, PREVALENCE))
        drawn = macro_in_draws(self.drawn[measure], self._defined(measure), self.drawn[PREVALENCE])
        return interval_of(measure)(float(macro_of(values, shares)[0]), drawn)

    def num_defined(self, measure: str) -> int:
        """Findings that define a measure."""
        return int(self._defined(measure).sum())

    def too_rare(self, measure: str) -> list[str]:
        """The findings that more than a tenth of the draws leave undefined, though the full sample defines them."""
        lost = np.isnan(self.drawn[measure]).mean(axis=0) > _LOST if len(self.drawn[measure]) else False
        return [str(finding) for finding in self.points.index[self._defined(measure) & lost]]

    def _defined(self, measure: str) -> NDArray[np.bool_]:
        """Whether each finding (F,) defines a measure."""
        defined: NDArray[np.bool_] = self.points[measure].notna().to_numpy(bool)
        return defined


def interval_of(measure: str) -> Callable[[float, Floats], Interval]:
    """How the interval of a measure is made of its value and its draws."""
    return Interval.of_distance if measure == "calibration_error" else Interval.of


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


def _of(values: NDArray[Any], chosen: Sequence[int] | None) -> NDArray[Any]:
    """Columns of values (D, F)."""
    return values if chosen is None else values[:, np.array(chosen, np.intp)]
