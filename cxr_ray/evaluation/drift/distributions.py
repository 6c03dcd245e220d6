"""Whether scores, and what headers say, are distributed as before: a night against those before it, or any two sets.

Shapes: N rows, F findings, M members, B bins. Knows arrays only: no files, no score table, no clock. Which rows are
compared is said in nightly.py, for a night, and in comparing.py, for any two sets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from cxr_ray.config import DriftConfig

CERTAINTY = 0.999  # share of samples without drift whose index stays below the level of chance, per comparison


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
    """How far one quantity has moved. `finding` is None for what is not a finding's.

    `ks` (0..1) is None for what has categories instead of values. `reference` and `current` are means; of categories
    they are the shares of `category`, the one whose share changed most; of faults, the share of faulted rows.
    """

    measure: str
    finding: str | None
    psi: float
    chance: float
    ks: float | None
    reference: float
    current: float
    category: str | None = None

    @property
    def name(self) -> str:
        """What moved, in words."""
        return f"{self.measure} of {self.finding}" if self.finding else self.measure

    def drifted(self, max_psi: float) -> bool:
        """Whether it moved farther than allowed, and farther than chance would move so few rows."""
        return self.psi > max(max_psi, self.chance)


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
        """What has drifted, farthest first."""
        beyond = [shift for shift in self.shifts if shift.drifted(self.max_psi)]
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
    shifts = [fault_shift((reference.scored, reference.faulted), (current.scored, current.faulted))]
    for f, finding in enumerate(current.findings):
        probabilities = reference.probabilities[:, f], current.probabilities[:, f]
        edges = equal_bins(probabilities[0], config.num_bins)
        shifts.append(value_shift("probability", finding, *probabilities, edges=edges))
        shifts.append(vote_shift(finding, reference.votes[:, f], current.votes[:, f], current.num_members))
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
    return float(chi2.ppf(CERTAINTY, num_bins - 1) * (1 / reference_rows + 1 / current_rows))


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


def own_bins(reference: ArrayLike, num_bins: int) -> NDArray[np.float64]:
    """Like `equal_bins`, and a value that fills a bin by itself has that bin to itself.

    Header fields need it: where all films have 2,500 rows, the bins must not join them with those of 3,000.
    """
    edges, times = np.unique(
        np.quantile(np.asarray(reference, np.float64), np.linspace(0, 1, num_bins + 1)), return_counts=True
    )
    heavy = edges[times > 1]
    return np.unique(np.concatenate([edges[1:-1], heavy, np.nextafter(heavy, np.inf)]))


def value_shift(
    measure: str, finding: str | None, reference: NDArray[Any], current: NDArray[Any], *, edges: NDArray[np.float64]
) -> Shift:
    """The shift of values (N,), none of them NaN, in the bins between `edges`."""
    return _shift(
        measure,
        finding,
        histogram(reference, edges),
        histogram(current, edges),
        means=(float(reference.mean(dtype=np.float64)), float(current.mean(dtype=np.float64))),
        ks=ks_distance(reference, current),
    )


def vote_shift(finding: str, reference: NDArray[np.int8], current: NDArray[np.int8], num_members: int) -> Shift:
    """The shift of the votes (N,) for one finding, 0..M: how far the members agree."""
    counts = [np.bincount(votes, minlength=num_members + 1) for votes in (reference, current)]
    return _shift("votes", finding, *counts, means=(float(reference.mean()), float(current.mean())))


def category_shift(measure: str, reference: Mapping[str, int], current: Mapping[str, int]) -> Shift:
    """The shift of counts by category; a category that one side lacks counts as an empty bin there."""
    names = sorted({*reference, *current})
    counts = [np.array([side.get(name, 0) for name in names]) for side in (reference, current)]
    shares = [side / side.sum() for side in counts]
    moved = int(np.abs(shares[1] - shares[0]).argmax())
    means = (float(shares[0][moved]), float(shares[1][moved]))
    return _shift(measure, None, *counts, means=means, category=names[moved])


def fault_shift(reference: tuple[int, int], current: tuple[int, int]) -> Shift:
    """The shift of the share of faulted rows; a side is its numbers of scored and of faulted rows."""
    means = (reference[1] / sum(reference), current[1] / sum(current))
    return _shift("faults", None, np.array(reference), np.array(current), means=means)


def _shift(
    measure: str,
    finding: str | None,
    reference: NDArray[np.int64],
    current: NDArray[np.int64],
    *,
    means: tuple[float, float],
    ks: float | None = None,
    category: str | None = None,
) -> Shift:
    """One comparison from the two histograms."""
    filled = int(np.count_nonzero(reference + current))
    chance = chance_level(int(reference.sum()), int(current.sum()), filled)
    return Shift(measure, finding, psi(reference, current), chance, ks, *means, category=category)
