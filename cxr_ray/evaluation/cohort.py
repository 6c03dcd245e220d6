"""All scored rows of one ensemble as arrays, and the numbers the report says about them.

Shapes: N rows, F findings, M members. Reads the score table and the run manifests; knows no pixels and no HTML.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.errors import FAULT_MEANINGS, Fault
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import FAULTED, SCORED, Contract, read_scores

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


@dataclass(frozen=True, slots=True)
class Run:
    """What a run manifest says of the run's accounting; what it does not say is None."""

    run_id: str
    started_at: str | None
    wall_seconds: float | None
    listed: int | None
    scored: int | None
    faulted: int | None
    already_done: int | None

    @property
    def adds_up(self) -> bool | None:
        """Whether listed = scored + faulted + already done; None where a number is missing."""
        if self.listed is None or self.scored is None or self.faulted is None or self.already_done is None:
            return None
        return self.listed == self.scored + self.faulted + self.already_done


def read_cohort(output: str, *, ensemble_digest: str | None = None) -> Cohort:
    """The cohort of one ensemble below `output`, or of the only one; heat maps are left on disk.

    Raises ConfigError when there are no scores, or several ensembles and none was chosen.
    """
    # The contract comes first, because it names the columns to ask for.
    _, contract = read_scores(output, wanted=["uri"], ensemble_digest=ensemble_digest)
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


def newest_run(output: str, ensemble_digest: str) -> Run | None:
    """The last started run of this ensemble, from OUT/runs/RUN_ID.json; None where no manifest tells."""
    found = []
    for item in storage.list_objects(storage.join(output, "runs"), missing_ok=True):
        if item.uri.endswith(".json"):
            manifest = _manifest(storage.get(item.uri))
            if _mapping(manifest, "ensemble").get("digest") == ensemble_digest:
                found.append(manifest)
    newest = max(found, key=lambda manifest: str(manifest.get("started_at") or ""), default=None)
    return None if newest is None else _run(newest)


def _manifest(data: bytes) -> dict[str, Any]:
    """A run manifest, empty when the bytes are none: the report does without."""
    try:
        values = json.loads(data)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _run(manifest: Mapping[str, Any]) -> Run:
    """The accounting in a run manifest."""
    counts, wall, started = _mapping(manifest, "counts"), manifest.get("wall_seconds"), manifest.get("started_at")
    numbers = {
        name: counts[name] if isinstance(counts.get(name), int) else None
        for name in ("listed", "scored", "faulted", "already_done")
    }
    return Run(
        run_id=str(manifest.get("run_id", "")),
        started_at=None if started is None else str(started),
        wall_seconds=float(wall) if isinstance(wall, int | float) else None,
        **numbers,
    )


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under `key`, empty when there is none."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}
