"""All scored rows of one ensemble as arrays, and the numbers that are said about them.

Shapes: N rows, F findings, M members. Reads the score table; knows no labels, no pixels and no HTML.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray.errors import FAULT_MEANINGS, Fault
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import FAULTED, SCORED, Contract, choose_contract, read_scores

NUM_BINS = 25
NUM_EXAMPLES = 5
_ROW_COLUMNS = ["uri", "object_version", "status", "fault", "fault_detail", "run_id", "scored_at"]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Every current row of one ensemble, in order of uri; faulted rows have NaN in the three arrays (N, F)."""

    contract: Contract
    rows: pd.DataFrame
    probabilities: NDArray[np.float32]
    votes: NDArray[np.float32]
    spread: NDArray[np.float32]

    @property
    def num_scored(self) -> int:
        """Rows with a score."""
        return int((self.rows["status"] == SCORED).sum())

    @property
    def num_faulted(self) -> int:
        """Rows without one."""
        return int((self.rows["status"] == FAULTED).sum())


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """The faulted rows of one code; `examples` are pairs of uri and sentence."""

    code: str
    meaning: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FindingSummary:
    """One finding over all scored rows. Means are NaN where there is no row to take them over."""

    finding: str
    threshold: float
    num_scored: int
    num_present: int
    histogram: tuple[int, ...]  # rows in NUM_BINS equal bins of probability, 0..1
    votes: tuple[int, ...]  # rows with 0..M votes
    mean_spread: float
    mean_spread_present: float

    @property
    def share_present(self) -> float:
        """Share of the scored rows at or above the threshold."""
        return self.num_present / self.num_scored if self.num_scored else float("nan")


def read_cohort(output: str, *, ensemble_digest: str | None = None) -> Cohort:
    """The cohort of one ensemble below `output`, or of the only one; heat maps are left on disk.

    Raises ConfigError when there are no scores, or several ensembles and none was chosen.
    """
    contract = choose_contract(output, ensemble_digest)
    names = {
        kind: [f"{kind}_{column_suffix(finding)}" for finding in contract.findings]
        for kind in ("probability", "votes", "spread")
    }
    wanted = [*_ROW_COLUMNS, *(name for group in names.values() for name in group)]
    scores, _ = read_scores(output, wanted=wanted, ensemble_digest=contract.ensemble_digest)
    rows = scores.select(_ROW_COLUMNS).to_pandas()
    return Cohort(contract, rows, *(_matrix(scores, group) for group in names.values()))


def _matrix(table: pa.Table, names: list[str]) -> NDArray[np.float32]:
    """Columns side by side, (N, F); null becomes NaN."""
    return np.stack([table[name].cast(pa.float32()).to_numpy() for name in names], axis=1)


def fault_groups(cohort: Cohort) -> tuple[FaultGroup, ...]:
    """The faulted rows by code, the most frequent first, each with its first few examples."""
    faulted = cohort.rows[cohort.rows["status"] == FAULTED]
    groups = []
    for code, rows in faulted.groupby("fault", sort=True):
        first = rows.head(NUM_EXAMPLES)
        examples = tuple(zip(first["uri"], first["fault_detail"].fillna(""), strict=True))
        groups.append(FaultGroup(str(code), _meaning(str(code)), len(rows), examples))
    return tuple(sorted(groups, key=lambda group: -group.count))


def _meaning(code: str) -> str:
    """What a fault code says; a code of a newer version has no meaning here."""
    return FAULT_MEANINGS[Fault(code)] if code in set(Fault) else "This version of cxr-ray does not know the code."


def summarise(cohort: Cohort) -> tuple[FindingSummary, ...]:
    """One summary per finding, in the contract's order."""
    contract = cohort.contract
    scored = (cohort.rows["status"] == SCORED).to_numpy()
    present = at_or_above(cohort.probabilities, contract.thresholds)[scored]
    probabilities, spread = cohort.probabilities[scored], cohort.spread[scored]
    votes = cohort.votes[scored].astype(np.int64)
    return tuple(
        FindingSummary(
            finding=finding,
            threshold=contract.thresholds[f],
            num_scored=int(scored.sum()),
            num_present=int(present[:, f].sum()),
            histogram=tuple(np.histogram(probabilities[:, f], bins=NUM_BINS, range=(0.0, 1.0))[0].tolist()),
            votes=tuple(np.bincount(votes[:, f], minlength=len(contract.members) + 1).tolist()),
            mean_spread=_mean(spread[:, f]),
            mean_spread_present=_mean(spread[present[:, f], f]),
        )
        for f, finding in enumerate(contract.findings)
    )


def _mean(values: NDArray[np.float32]) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")
