"""How well a signal ranks decisions from sure to doubtful: error AUROC, risk and coverage, relation given confidence.

Every measure is of weights (P, d), how often each of P patients counts in each of d draws, so that all decisions of a
patient move together and all draws are computed at once. Decisions are summed by patient in sparse matrices, exactly:
only the tied groups that hold an error matter, so that the work of a draw grows with the errors, not the decisions.
Shapes: J decisions, S strata. Knows arrays only. What is undefined is NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from cxr_ray.evaluation.bootstrap import Floats
from cxr_ray.models.calibration import equal_count_bins

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
_ROUNDING = 1e-12  # a mean square up to this is none


@dataclass(frozen=True, slots=True)
class Ranking:
    """Decisions in order of a signal, surest first, within each of S strata; G tied groups hold an error.

    Right decisions are summed by segment: before the first such group, in it, between it and the next, and so on.
    """

    right_by_segment: Any  # sparse (2G + 1, P)
    errors_by_group: Any  # sparse (G, P)
    right_by_stratum: Any  # sparse (S, P)
    groups_by_stratum: Any  # sparse (S, G), ones
    stratum: Integers  # (G,)

    @classmethod
    def of(
        cls,
        sureness: Floats,
        wrong: Flags,
        owner: Integers,
        *,
        num_patients: int,
        strata: Integers | None = None,
        num_strata: int = 1,
    ) -> "Ranking":
        """The ranking of decisions (J,) by `sureness`, larger is surer; `strata` (J,) 0..S - 1, None is one."""
        layers = np.zeros(len(wrong), dtype=np.int64) if strata is None else strata
        order = np.lexsort((-sureness, layers))
        values, layer, bad, patient = sureness[order], layers[order], wrong[order], owner[order]
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (values[1:] != values[:-1]) | (layer[1:] != layer[:-1])
        group = np.cumsum(starts) - 1
        holds = np.bincount(group, bad) > 0
        number = np.cumsum(holds)
        num_groups = int(holds.sum())
        segment = (2 * number - holds)[group]
        stratum = layer[starts][holds]
        return cls(
            summed(segment[~bad], patient[~bad], (2 * num_groups + 1, num_patients)),
            summed((number - 1)[group][bad], patient[bad], (num_groups, num_patients)),
            summed(layer[~bad], patient[~bad], (num_strata, num_patients)),
            summed(stratum, np.arange(num_groups), (num_strata, num_groups)),
            stratum,
        )

    def measure(self, weights: Floats) -> tuple[Floats, Floats]:
        """AUROC and Mantel-Haenszel weight (S, d) of each stratum; see `error_auroc` and `pooled`."""
        right, errors = self.right_by_segment @ weights, self.errors_by_group @ weights
        in_stratum = self.right_by_stratum @ weights
        earlier = np.cumsum(in_stratum, axis=0) - in_stratum
        before = np.cumsum(right, axis=0)[:-1:2] - earlier[self.stratum]
        ranked = self.groups_by_stratum @ (errors * (before + 0.5 * right[1::2]))
        wrong = self.groups_by_stratum @ errors
        pairs = wrong * in_stratum
        return ratio(ranked, pairs), ratio(pairs, wrong + in_stratum)

    def error_auroc(self, weights: Floats) -> Floats:
        """AUROC (S, d): share of pairs of an error and a right decision in which the error is less sure, ties half.

        1: all errors are ranked below all right decisions; 0.5: no better than chance; NaN without both.

        Source: Hendrycks and Gimpel 2017, A baseline for detecting misclassified examples.
        """
        return self.measure(weights)[0]

    def risk_areas(self, weights: Floats) -> Floats:
        """Area under the risk-coverage curve and its excess over the best order of as many errors (2, d), one stratum.

        The area is the mean, over k of n decisions, of the share of errors among the k surest; a tied group counts as
        the mean over its orders. With H the harmonic numbers, an error at place q counts H(n) - H(q - 1), and
        H(0) + .. + H(x - 1) = x H(x) - x. Weights must be whole numbers.

        Source: Geifman and El-Yaniv 2017, Selective classification for deep neural networks; the excess: Geifman et
        al. 2019, Bias-reduced uncertainty estimation.
        """
        right, errors = self.right_by_segment @ weights, self.errors_by_group @ weights
        inside = right[1::2] + errors
        first = np.cumsum(right, axis=0)[:-1:2] + np.cumsum(errors, axis=0) - errors
        wrong = errors.sum(axis=0)
        number = right.sum(axis=0) + wrong
        harmonic, sums = _harmonic(int(number.max(initial=0.0)))
        area = _area(errors, first, inside, number, harmonic, sums)
        best = _area(wrong[None], (number - wrong)[None], wrong[None], number, harmonic, sums)
        return np.stack([area, area - best])


def pooled(auroc: Floats, weight: Floats) -> Floats:
    """Mean (d,) of AUROC (S, d) over strata with Mantel-Haenszel weights, errors x right / decisions: (S, d).

    Only pairs of one stratum are compared, so a signal gains nothing by telling the strata apart.

    Source: van Elteren 1960, On the combination of independent two-sample tests of Wilcoxon.
    """
    defined = ~np.isnan(auroc)
    total = np.where(defined, weight, 0.0).sum(axis=0)
    return ratio(np.where(defined, auroc * weight, 0.0).sum(axis=0), total)


def risk_coverage(sureness: Floats, wrong: Flags, *, num_points: int = 100) -> list[list[float]]:
    """Share of errors among the surest decisions, as [coverage, risk]; the errors of a tied group lie evenly in it."""
    number = len(wrong)
    order = np.argsort(-sureness, kind="stable")
    ends = np.flatnonzero(np.r_[sureness[order][1:] != sureness[order][:-1], np.ones(min(1, number), dtype=bool)]) + 1
    covered = np.unique(np.ceil(np.linspace(0, 1, num_points + 1)[1:] * number).astype(int)) if number else ends
    errors = np.interp(covered, np.r_[0, ends], np.r_[0, np.cumsum(wrong[order])[ends - 1]])
    return [[int(k) / number, float(value) / int(k)] for k, value in zip(covered, errors, strict=True)]


class Partial:
    """What a signal says of being right once the probability is known: a partial rank correlation, -1..1.

    The signal is its rank within the finding. It and being right are both freed of the probability, by a straight line
    within each of up to ten bins of probability of each finding and side of its threshold; what is left is correlated
    over all bins. Within a finding and side, confidence, margin and entropy follow from the probability, so all three
    are known at once, and so are the finding and the decision. 0: nothing more; above: the surer are more often right.
    The lines matter: in bins alone a mere copy of the confidence would still tell the upper end from the lower.

    Source: Shah and Peters 2020, The hardness of conditional independence testing and the generalised covariance
    measure, the correlation of two residuals, here with piecewise linear regressions.
    """

    def __init__(
        self,
        sureness: Floats,
        wrong: Flags,
        owner: Integers,
        *,
        num_patients: int,
        finding: Integers,
        present: Flags,
        probability: Floats,
    ) -> None:
        """Sum the moments of decisions (J,) by patient and stratum."""
        bins = quantile_bins(probability, 2 * finding + present, most=10, least=25)
        self.shape = (int(bins.max(initial=-1)) + 1, num_patients)
        # Scaled too: a bin of probabilities near 0 can be 1e-9 wide.
        known = _centred(probability, bins, scaled=True)
        right, signal = _centred(np.where(wrong, 0.0, 1.0), bins), _centred(_ranks_within(sureness, finding), bins)
        columns = [np.ones(len(bins)), known, right, signal]
        pairs = [(1, 1), (2, 2), (3, 3), (1, 2), (1, 3), (2, 3)]
        moments = [*columns, *(columns[first] * columns[second] for first, second in pairs)]
        self.sums = [summed(bins, owner, self.shape, values) for values in moments]

    def measure(self, weights: Floats) -> Floats:
        """The partial correlation (d,); NaN when the signal or being right does not vary given the probability."""
        number, *rest = (matrix @ weights for matrix in self.sums)
        known, right, signal, *products = rest
        means = [(known, known), (right, right), (signal, signal), (known, right), (known, signal), (right, signal)]
        centred = (product - ratio(a * b, number, 0.0) for product, (a, b) in zip(products, means, strict=True))
        known_2, right_2, signal_2, known_right, known_signal, right_signal = centred
        varies = known_2 > _ROUNDING * number
        by_right, by_signal = (
            np.divide(values, known_2, out=np.zeros_like(values), where=varies)
            for values in (known_right, known_signal)
        )
        shared = (right_signal - by_right * known_signal).sum(axis=0)
        left = (right_2 - by_right * known_right).sum(axis=0), (signal_2 - by_signal * known_signal).sum(axis=0)
        least = _ROUNDING * number.sum(axis=0)
        varying = (left[0] > least) & (left[1] > least)
        return ratio(shared, np.sqrt(np.where(varying, left[0] * left[1], 0.0)))


def quantile_bins(values: Floats, within: Integers, *, most: int, least: int) -> Integers:
    """Bin (J,) of each decision, 0, 1, ..: every group of `within` is cut by quantiles of `values`.

    A group has at most `most` bins of about equal count, and one for each `least` decisions; ties stay together.
    """
    bins = np.zeros(len(values), dtype=np.int64)
    for group in np.unique(within):
        chosen = np.flatnonzero(within == group)
        number = max(1, min(most, len(chosen) // least))
        bins[chosen] = group * most + equal_count_bins(values[chosen], number)
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def summed(rows: Integers, owner: Integers, shape: tuple[int, int], values: Floats | None = None) -> Any:
    """Sparse matrix of the values (J,), or ones, summed by row and owner; times weights (P, d) it sums the draws."""
    entries = np.ones(len(rows)) if values is None else values
    return csr_array((entries, (rows, owner)), shape=shape)


def _area(errors: Floats, first: Floats, inside: Floats, number: Floats, harmonic: Floats, sums: Floats) -> Floats:
    """Area (d,) of `errors` (G, d) in tied groups of `inside` decisions that follow on `first` others."""
    start, end = first.astype(np.int64), (first + inside).astype(np.int64)
    mean = np.divide(sums[end] - sums[start], inside, out=np.zeros_like(inside), where=inside > 0)
    return ratio((errors * (harmonic[number.astype(np.int64)] - mean)).sum(axis=0), number)


def _harmonic(most: int) -> tuple[Floats, Floats]:
    """H(x) = 1 + 1/2 + .. + 1/x and H(0) + .. + H(x - 1), for x of 0..most."""
    places = np.arange(most + 1, dtype=np.float64)
    harmonic = np.r_[0.0, np.cumsum(1.0 / places[1:])]
    return harmonic, places * harmonic - places


def _ranks_within(values: Floats, finding: Integers) -> Floats:
    """Middle rank of each value within its finding, over 0..1."""
    ranks = np.empty(len(values))
    for number in np.unique(finding):
        chosen = finding == number
        ranks[chosen] = rankdata(values[chosen]) / chosen.sum()
    return ranks


def _centred(values: Floats, bins: Integers, *, scaled: bool = False) -> Floats:
    """Values less their bin's mean, so that sums of squares lose no digits; `scaled` to a deviation of 1 as well."""
    counts = np.maximum(np.bincount(bins), 1)
    centred: Floats = values - (np.bincount(bins, values) / counts)[bins]
    if not scaled:
        return centred
    deviation = np.sqrt(np.bincount(bins, centred**2) / counts)[bins]
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def ratio(parts: Floats, wholes: Floats, without: float = np.nan) -> Floats:
    """`parts / wholes`, `without` where there is no whole."""
    shares: Floats = np.divide(parts, wholes, out=np.full(np.shape(parts), without), where=wholes > 0)
    return shares
