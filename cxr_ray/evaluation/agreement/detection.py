"""Everything that is measured of one signal, as rows of numbers in every draw of patients, and their intervals.

Shapes: J decisions, F findings, P patients, d draws of a block, D all draws, K rows. Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cxr_ray.evaluation.agreement.selective import Integers, Partial, Ranking, pooled, ratio, summed
from cxr_ray.evaluation.agreement.signals import Decisions
from cxr_ray.evaluation.bootstrap import Floats, Interval, drawn_counts, macro_in_draws

Measure = Callable[[Floats], Floats]  # weights (P, d) -> (K, d)
ERROR_AUROC, AURC, EXCESS_AURC, WITHIN_FINDING, MACRO, PARTIAL, FIRST_FINDING = range(7)
_DRAWS_AT_ONCE = 8  # 133,000 decisions, 25,000 wrong: 3 MB an array, which stays in the cache and is not mapped anew


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rows as measured (K,), and in each draw (K, D)."""

    value: Floats
    drawn: Floats

    def interval(self, row: int = 0) -> Interval:
        """One row with its interval."""
        return Interval.of(float(self.value[row]), self.drawn[row])

    def distance(self, row: int) -> Interval:
        """One row that is a mean distance, such as a calibration error, with its interval."""
        return Interval.of_distance(float(self.value[row]), self.drawn[row])

    def minus(self, other: "Estimate", row: int) -> Interval:
        """How much more one row is than the same of another, in the same draws."""
        return Interval.of(float(self.value[row] - other.value[row]), self.drawn[row] - other.drawn[row])


def estimate(measures: Mapping[str, Measure], num_patients: int, *, num_draws: int, seed: int) -> dict[str, Estimate]:
    """Each measure of all patients once, and in every draw; the same seed draws the same patients for all."""
    once = np.ones((num_patients, 1))
    drawn: dict[str, list[Floats]] = {name: [] for name in measures}
    for counts in drawn_counts(num_patients, num_draws=num_draws, seed=seed):
        for start in range(0, max(1, counts.shape[1]), _DRAWS_AT_ONCE):
            block = np.ascontiguousarray(counts[:, start : start + _DRAWS_AT_ONCE])
            for name, measure in measures.items():
                drawn[name].append(measure(block))
    return {
        name: Estimate(measure(once)[:, 0], np.concatenate(drawn[name], axis=1)) for name, measure in measures.items()
    }


def error_rate(decisions: Decisions) -> Measure:
    """Share of wrong decisions, one row."""
    rows = np.zeros(len(decisions.wrong), dtype=np.int64)
    shape = (1, decisions.num_patients)
    every, wrong = (
        summed(rows, decisions.owner, shape, values) for values in (None, np.where(decisions.wrong, 1.0, 0.0))
    )
    return lambda weights: ratio(wrong @ weights, every @ weights)


def detection(decisions: Decisions, sureness: Floats, chosen: Integers, *, with_partial: bool) -> Measure:
    """How a signal (J,) detects errors among the `chosen` decisions: rows ERROR_AUROC .. PARTIAL, then the findings.

    Without `with_partial` that row is NaN.
    """
    values, wrong, owner = sureness[chosen], decisions.wrong[chosen], decisions.owner[chosen]
    finding, number = decisions.finding[chosen], decisions.num_patients
    together = Ranking.of(values, wrong, owner, num_patients=number)
    apart = Ranking.of(values, wrong, owner, num_patients=number, strata=finding, num_strata=len(decisions.findings))
    given = None
    if with_partial:
        sides, known = decisions.present[chosen], decisions.probability[chosen]
        given = Partial(values, wrong, owner, num_patients=number, finding=finding, present=sides, probability=known)

    defined = ~np.isnan(apart.measure(np.ones((number, 1)))[0][:, 0])

    def measure(weights: Floats) -> Floats:
        auroc, weight = apart.measure(weights)
        partial = np.full(weights.shape[1], np.nan) if given is None else given.measure(weights)
        summary = [together.error_auroc(weights)[0], *together.risk_areas(weights), pooled(auroc, weight)]
        return np.stack([*summary, macro_in_draws(auroc.T, defined), partial, *auroc])

    return measure
