"""Re-checking the accounting of an output folder from what lies in it. Knows no Ray and no model."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.scoring import inventory, table
from cxr_ray.scoring.table import KEY, Contract


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: how many rows and runs it read, and one sentence per problem."""

    output: str
    ensembles: int
    runs: int
    scored: int
    faulted: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result for a person."""
        read = f"{self.scored:,} scored + {self.faulted:,} faulted rows of {self.runs} finished runs"
        if not self.problems:
            return [f"{self.output} adds up: {read}, every listed image has exactly one row."]
        return [f"{self.output} does NOT add up ({read}):", *(f"- {problem}" for problem in self.problems)]


def verify(output: str) -> Verification:
    """Re-check an output folder: every run adds up, all of every worklist has a row, and no key has two.

    The worklists of runs that were killed count too: what they did not finish is reported until another run does.

    Raises:
        ConfigError: The folder holds no scores.
    """
    output = storage.absolute(output)
    found = table.contracts(output)
    if not found:
        raise ConfigError(f"{output} holds no scores; run `cxr-ray score` with this --output first.")
    runs = _manifests(output)
    problems: list[str] = []
    status: Counter[str] = Counter()
    for contract in found.values():
        wanted = [*KEY, "status", "fault"]
        keys = table.rows_of(output, wanted=wanted, contract=contract)
        status.update({item["values"]: item["counts"] for item in pc.value_counts(keys["status"]).to_pylist()})
        problems += _check_rows(keys, contract)
        for run_id, work in _worklists(output, contract, runs):
            problems += _check_worklist(run_id, work, keys)
    for manifest in runs.values():
        problems += _check_counts(manifest)
    return Verification(output, len(found), len(runs), status[table.SCORED], status[table.FAULTED], tuple(problems))


def _manifests(output: str) -> dict[str, dict[str, Any]]:
    """The run manifests of an output folder by run, oldest first."""
    items = storage.list_objects(storage.join(output, "runs"), missing_ok=True)
    manifests = [json.loads(storage.get(item.uri)) for item in items if item.uri.endswith(".json")]
    return {manifest["run_id"]: manifest for manifest in sorted(manifests, key=lambda item: str(item["run_id"]))}


def _worklists(output: str, contract: Contract, runs: dict[str, Any]) -> Iterator[tuple[str, pa.Table]]:
    """The worklists to hold against the rows: those of finished runs, and of a run that broke off after the last.

    A run that broke off earlier does not count: the one that finished after it listed everything anew.
    """
    newest = max(runs, default="")
    for item in storage.list_objects(storage.join(output, "worklists"), missing_ok=True):
        run_id = item.uri.rpartition("/")[2].removesuffix(".parquet")
        if run_id in runs or run_id > newest:
            work, digest = inventory.read_worklist(item.uri)
            if digest == contract.ensemble_digest:
                yield run_id, work


def _check_rows(keys: pa.Table, contract: Contract) -> list[str]:
    """Problems within the rows of one ensemble."""
    problems = []
    grouped = keys.group_by(list(KEY)).aggregate([("status", "count")])
    repeated = grouped.filter(pc.greater(grouped["status_count"], 1))
    if repeated.num_rows:
        problems.append(
            f"{repeated.num_rows} images have more than one row under ensemble {contract.ensemble_digest},"
            f" for example {repeated['uri'][0].as_py()}."
        )
    wrong = pc.sum(pc.not_equal(pc.is_valid(keys["fault"]), pc.equal(keys["status"], table.FAULTED))).as_py()
    if wrong:
        problems.append(f"{wrong} rows have a fault but are not faulted, or the reverse.")
    return problems


def _check_worklist(run_id: str, work: pa.Table, keys: pa.Table) -> list[str]:
    """Images of one run's worklist that have no row."""
    names = ["uri", "object_version"]
    lost = work.select(names).join(keys.select(names), keys=names, join_type="left anti")
    if lost.num_rows == 0:
        return []
    example = lost.sort_by("uri")["uri"][0].as_py()
    return [
        f"{lost.num_rows} images of run {run_id} have no row, for example {example}; run the same score command again."
    ]


def _check_counts(manifest: dict[str, Any]) -> list[str]:
    """Whether the counts of one run manifest add up."""
    counts = manifest["counts"]
    total = counts["already_done"] + counts["deferred"] + counts["scored"] + counts["faulted"]
    if counts["listed"] == total:
        return []
    return [f"Run {manifest['run_id']} listed {counts['listed']} images but accounts for {total}."]
