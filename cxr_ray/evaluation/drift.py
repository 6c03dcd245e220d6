"""Whether tonight's scores are distributed as those of the nights before.

Shapes: N rows, F findings, M members, B bins. Knows arrays only: no files, no score table, no clock.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from cxr_ray.config import DriftConfig

_CERTAINTY = 0.999  # share of nights without drift whose index stays below the level of chance, per comparison

Measure = Literal["probability", "votes", "faults"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows of some nights: probabilities and votes (N, F) of the scored ones, and the number of faulted ones."""

    findings: tuple[str, ...]
    num_members: int
    probabilities: NDArray[np.float32]
    votes: NDArray[np.int8]
    faulted: int

    @property
    def scored(self) -> int:
        """N, rows with a score."""
        return len(self.probabilities)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one quantity has moved. `finding` is None for the faults, `ks` (0..1) for all but probabilities.

    `reference` and `current` are means: of the probability, of the votes, or the share of faulted rows.
    """

    measure: Measure
    finding: str | None
    psi: float
    chance: float
    ks: float | None
    reference: float
    current: float

    @property
    def name(self) -> str:
        """What moved, in words."""
        return f"{self.measure} of {self.finding}" if self.finding else self.measure


@dataclass(frozen=True, slots=True)
class Drift:
    """Tonight against the nights before; `missing` says why there are no `shifts`, and is None where there are."""

    nights: int
    reference_rows: int
    current_rows: int
    max_psi: float
    shifts: tuple[Shift, ...] = ()
    missing: str | None = None

    @property
    def worst(self) -> Shift | None:
        """What has moved farthest."""
        return max(self.shifts, key=lambda shift: shift.psi, default=None)

    @property
    def drifted(self) -> tuple[Shift, ...]:
        """What has moved farther than allowed, and farther than chance would move so few rows; farthest first."""
        beyond = [shift for shift in self.shifts if shift.psi > max(self.max_psi, shift.chance)]
        return tuple(sorted(beyond, key=lambda shift: -shift.psi))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {**asdict(self), "drifted": [shift.name for shift in self.drifted]}

    def words(self) -> str:
        """The comparison as a part of a sentence."""
        if self.worst is None:
            return f"no drift computed: {self.missing}"
        over = self.drifted
        return (
            (f"DRIFT in {len(over)} of {len(self.shifts)} comparisons" if over else "no drift")
            + f" against {self.nights} nights (PSI at most {self.worst.psi:.2f}, {self.worst.name},"
            f" mean {self.worst.reference:.3f} -> {self.worst.current:.3f})"
        )


def compare(reference: Sample, current: Sample, *, nights: int, config: DriftConfig) -> Drift:
    """Compare two samples of the same findings: probabilities and votes per finding, and the share of faults.

    With fewer than `min_rows` scored rows on a side nothing is computed, and `missing` says so.
    """
    sides = {"the nights before have": reference.scored, "tonight has": current.scored}
    few = [f"{side} {rows:,}" for side, rows in sides.items() if rows < config.min_rows]
    rows = (reference.scored + reference.faulted, current.scored + current.faulted)
    if not reference.scored + reference.faulted:
        return Drift(nights, *rows, config.max_psi, missing="no earlier night has rows of this ensemble")
    if few:
        missing = f"{' and '.join(few)} scored rows, it takes {config.min_rows:,} (drift.min_rows)"
        return Drift(nights, *rows, config.max_psi, missing=missing)
    shifts = [_faults(reference, current)]
    for f, finding in enumerate(current.findings):
        shifts.append(
            _probability(reference.probabilities[:, f], current.probabilities[:, f], finding, config.num_bins)
        )
        shifts.append(_votes(reference.votes[:, f], current.votes[:, f], finding, current.num_members))
    return Drift(nights, *rows, config.max_psi, tuple(shifts))


def psi(reference: ArrayLike, current: ArrayLike) -> float:
    """Population stability index of two histograms (B,) of counts over the same bins, 0 for equal shares.

    PSI = sum over bins of (c - r) ln(c / r), with r and c the shares of the bin: Jeffreys' divergence. A bin without a
    count is taken to hold half a one, or one empty bin would make it infinite; a bin that is empty on both sides says
    nothing and is left out.

    Source: Jeffreys 1946, as used by Siddiqi, Credit Risk Scorecards, 2006.

    Raises:
        ValueError: The histograms differ in shape, or one of them holds nothing.
    """
    r, c = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if r.shape != c.shape or r.ndim != 1 or not r.sum() or not c.sum():
        raise ValueError(f"histograms of shapes {r.shape} and {c.shape}, {r.sum():g} and {c.sum():g} counts")
    told = (r > 0) | (c > 0)
    r, c = np.maximum(r[told], 0.5) / r.sum(), np.maximum(c[told], 0.5) / c.sum()
    return float(np.sum((c - r) * np.log(c / r)))


def chance_level(reference_rows: int, current_rows: int, num_bins: int) -> float:
    """The index that samples of one distribution stay below in 999 of 1,000 cases.

    Without drift PSI / (1/n + 1/m) is distributed about as chi-square with B - 1 degrees of freedom.
    Source: Yurdakul and Naranjo, Statistical properties of the population stability index, Journal of Risk Model
    Validation, 2020.
    """
    if num_bins < 2:
        return 0.0
    return float(chi2.ppf(_CERTAINTY, num_bins - 1) * (1 / reference_rows + 1 / current_rows))


def ks_distance(reference: ArrayLike, current: ArrayLike) -> float:
    """Kolmogorov and Smirnov's distance: the largest gap between the two empirical distribution functions, 0..1."""
    r, c = np.sort(np.asarray(reference)), np.sort(np.asarray(current))
    points = np.concatenate([r, c])
    gaps = np.searchsorted(r, points, side="right") / len(r) - np.searchsorted(c, points, side="right") / len(c)
    return float(np.abs(gaps).max())


def equal_bins(reference: ArrayLike, num_bins: int) -> NDArray[np.float64]:
    """Inner edges of at most `num_bins` bins that the reference fills equally; fewer where its values repeat."""
    return np.unique(np.quantile(np.asarray(reference, np.float64), np.linspace(0, 1, num_bins + 1)[1:-1]))


def histogram(values: ArrayLike, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts (len(edges) + 1,) of values in the bins between the edges; a value on an edge is in the upper bin."""
    places = np.searchsorted(edges, np.asarray(values, np.float64), side="right")
    return np.bincount(places, minlength=len(edges) + 1)


def _probability(reference: NDArray[np.float32], current: NDArray[np.float32], finding: str, num_bins: int) -> Shift:
    """The probabilities (N,) of one finding."""
    edges = equal_bins(reference, num_bins)
    return _shift(
        "probability",
        finding,
        histogram(reference, edges),
        histogram(current, edges),
        means=(float(reference.mean(dtype=np.float64)), float(current.mean(dtype=np.float64))),
        ks=ks_distance(reference, current),
    )


def _votes(reference: NDArray[np.int8], current: NDArray[np.int8], finding: str, num_members: int) -> Shift:
    """The votes (N,) for one finding, 0..M: how far the members agree."""
    counts = [np.bincount(votes, minlength=num_members + 1) for votes in (reference, current)]
    return _shift("votes", finding, *counts, means=(float(reference.mean()), float(current.mean())))


def _faults(reference: Sample, current: Sample) -> Shift:
    """The share of faulted rows."""
    counts = [np.array([side.scored, side.faulted]) for side in (reference, current)]
    return _shift(
        "faults", None, *counts, means=(float(counts[0][1] / counts[0].sum()), float(counts[1][1] / counts[1].sum()))
    )


def _shift(
    measure: Measure,
    finding: str | None,
    reference: NDArray[np.int64],
    current: NDArray[np.int64],
    *,
    means: tuple[float, float],
    ks: float | None = None,
) -> Shift:
    """One comparison from the two histograms."""
    filled = int(np.count_nonzero(reference + current))
    chance = chance_level(int(reference.sum()), int(current.sum()), filled)
    return Shift(measure, finding, psi(reference, current), chance, ks, *means)
