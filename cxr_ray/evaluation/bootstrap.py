"""Intervals of metrics by drawing patients anew: a patient's images are alike, and count as one.

Shapes: N images, P patients, F findings, D draws. A draw is how often each patient was drawn, so that every
metric is computed for all draws at once. Knows arrays only.

What is undefined is NaN: a draw in which a finding has one class only says nothing about that finding, nor about a
macro mean that holds it. An interval is over the draws that define the value, and NaN when fewer than half of them do,
or when the labels themselves do not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cxr_ray.evaluation.metrics import MEASURES, at_or_above, decided, ratio
from cxr_ray.evaluation.metrics import Floats as Floats  # offered here as well: whoever draws needs both
from cxr_ray.evaluation.metrics import macro_in_draws as macro_in_draws
from cxr_ray.evaluation.ranking import Ranking, Whole, summing
from cxr_ray.labels.findings import ABSENT, PRESENT
from cxr_ray.models.calibration import NUM_BINS, equal_count_bins

MACRO = "macro"
RANKED = ("auroc", "average_precision", "f1")
PREVALENCE = "prevalence"
_VALUES_AT_ONCE = 2_000_000  # weights in memory, 8 bytes each; larger blocks leave the cache and are slower


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

    @classmethod
    def of_distance(cls, value: float, drawn: Floats) -> "Interval":
        """The interval of a mean distance, which noise only makes larger, by the basic bootstrap, 0 at the least.

        Draws lie as far above the value as the value, on average, above the truth; turned round they make up for it.
        The value may lie above its own interval. Simulated, 300 to 2,000 images hold a true error above 0 at 85 to
        96 %; an error of exactly 0 is held at 55 %, by percentiles never.

        Source: Davison and Hinkley 1997, Bootstrap methods and their application, section 5.2.1.
        """
        found = cls.of(value, drawn)
        return cls(value, max(2 * value - found.high, 0.0), max(2 * value - found.low, 0.0))

    def to_dict(self) -> dict[str, float | None]:
        """As JSON knows it: NaN becomes None."""
        return {name: None if np.isnan(number) else number for name, number in asdict(self).items()}

    def words(self, digits: int = 3) -> str:
        """Such as `0.812 (0.770 to 0.850)`; `0.812` without an interval, `undefined` without a value."""
        if np.isnan(self.value):
            return "undefined"
        bounds = "" if np.isnan(self.low + self.high) else f" ({self.low:.{digits}f} to {self.high:.{digits}f})"
        return f"{self.value:.{digits}f}{bounds}"


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
    defined = (labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)
    for metric in RANKED:
        values = drawn[metric]
        low, high = percentiles(np.column_stack([values, macro_in_draws(values, defined)]))
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
    """Each of MEASURES, and the prevalence, (D, F) of labels and probabilities (N, F) in every draw.

    The same seed draws the same patients, also for other labels or probabilities of the same images: NaN labels leave
    images out of a group without changing who is drawn. The calibration error keeps the bins of the full sample; as it
    sums distances, its draws lie above the value: see `Interval.of_distance`.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    columns = zip(labels.T, probabilities.T, thresholds, strict=True)
    sums = [_Sums.of(*column, owner=owner, num_patients=len(names)) for column in columns]
    drawn: dict[str, list[Floats]] = {name: [] for name in (*MEASURES, PREVALENCE)}
    for counts in drawn_counts(len(names), num_draws=num_draws, seed=seed, num_images=len(owner)):
        measured = [finding.measure(counts) for finding in sums]
        for name, blocks in drawn.items():
            blocks.append(np.column_stack([finding[name] for finding in measured]))
    return {name: np.concatenate(blocks) for name, blocks in drawn.items()}


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the measures of one finding are made of; the rows of `sums` are those of `_Sums.of`."""

    ranking: Ranking
    sums: csr_array  # (5 + NUM_BINS, P)
    decides: bool

    @classmethod
    def of(
        cls, labels: NDArray[Any], scores: NDArray[Any], threshold: float, *, owner: Whole, num_patients: int
    ) -> "_Sums":
        """The sums of labels and scores (N,): positives, negatives, hits, false alarms, squares, gaps of each bin."""
        stated = ~np.isnan(labels)
        truth, values, patient = labels[stated] == 1, scores[stated].astype(np.float64), owner[stated]
        called = at_or_above(scores[stated], threshold)
        gaps = values - truth
        kinds = [truth, ~truth, truth & called, ~truth & called]
        rows = [np.full(int(kind.sum()), row) for row, kind in enumerate(kinds)] + [
            np.full(len(gaps), 4),
            5 + equal_count_bins(values, NUM_BINS),
        ]
        owners = [patient[kind] for kind in kinds] + [patient, patient]
        held = [np.ones(int(kind.sum())) for kind in kinds] + [gaps**2, gaps]
        matrix = summing(*map(np.concatenate, (rows, owners, held)), shape=(5 + NUM_BINS, num_patients))
        return cls(Ranking.of(truth, values, patient, num_patients), matrix, not np.isnan(threshold))

    def measure(self, counts: Floats) -> dict[str, Floats]:
        """Each measure and the prevalence, (d,), of patients drawn `counts` (P, d) times."""
        positives, negatives, hits, false_alarms, squares, *gaps = self.sums @ counts
        auroc, average_precision = self.ranking.measure(counts)
        decisions = decided(hits, false_alarms, positives, negatives)
        stated = positives + negatives
        return {
            "auroc": auroc,
            "average_precision": average_precision,
            **(decisions if self.decides else dict.fromkeys(decisions, np.full(len(stated), np.nan))),
            "brier": ratio(squares, stated),
            "calibration_error": ratio(np.abs(gaps).sum(axis=0), stated),
            PREVALENCE: ratio(positives, stated),
        }


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
    return Ranking.of(truth, scores, np.arange(len(truth)), len(truth)).measure(weights.T)[0]


def weighted_average_precision(truth: NDArray[np.bool_], scores: NDArray[Any], weights: Floats) -> Floats:
    """Average precision (D,) of scores (N,) with weights (D, N), tied scores as one step; NaN without both classes."""
    return Ranking.of(truth, scores, np.arange(len(truth)), len(truth)).measure(weights.T)[1]


def drawn_counts(num_patients: int, *, num_draws: int, seed: int, num_images: int = 0) -> Iterator[Floats]:
    """How often each patient was drawn, (P, d), a block of draws at a time; its size never changes who is drawn.

    No draws are one block of none, so that what is made of the blocks has its shape.
    """
    random = np.random.default_rng(seed)
    at_once = max(1, _VALUES_AT_ONCE // max(1, num_patients, num_images))
    for start in range(0, max(1, num_draws), at_once):
        drawn = random.integers(0, num_patients, (min(at_once, num_draws - start), num_patients))
        counts = np.empty((num_patients, len(drawn)))
        for number, row in enumerate(drawn):
            counts[:, number] = np.bincount(row, minlength=num_patients)
        yield counts


def drawn_weights(patients: Sequence[str], *, num_draws: int, seed: int) -> Iterator[Floats]:
    """Weights (d, N) of the images, a block of draws at a time: how often each one's patient was drawn."""
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    for counts in drawn_counts(len(names), num_draws=num_draws, seed=seed, num_images=len(owner)):
        yield counts[owner].T
