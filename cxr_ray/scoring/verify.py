"""Re-checking the accounting of an output folder from what lies in it, in bounded memory. Knows no Ray and no model."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow.compute as pc

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.scoring import table
from cxr_ray.scoring.database import database, number, stream
from cxr_ray.scoring.table import FAULTED, KEY, SCORED, Contract
from cxr_ray.scoring.worklist import WORKLIST, worklists

# 16 bytes for a key, of which ten million fit where their names do not. Equal by chance: 1 in 10 to the 24 of them.
_KEY = "md5_number(concat_ws(chr(0), uri, object_version))"


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


def verify(output: str, *, memory_bytes: int | None = None) -> Verification:
    """Re-check an output folder: every run adds up, all of every worklist has a row, and no key has two.

    The worklists of runs that were killed count too: what they did not finish is reported until another run does.
    `memory_bytes` None is the default of `worklist_bytes`.

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
        with database(memory_bytes or ScoreConfig().worklist_bytes) as connection:
            status.update(_load(connection, output, contract))
            problems += _check_rows(connection, output, contract)
            problems += _check_worklists(connection, output, contract, runs)
    for manifest in runs.values():
        problems += _check_counts(manifest)
    return Verification(output, len(found), len(runs), status[SCORED], status[FAULTED], tuple(problems))


def _manifests(output: str) -> dict[str, dict[str, Any]]:
    """The run manifests of an output folder by run, oldest first."""
    items = storage.list_objects(storage.join(output, "runs"), missing_ok=True)
    manifests = [json.loads(storage.get(item.uri)) for item in items if item.uri.endswith(".json")]
    return {manifest["run_id"]: manifest for manifest in sorted(manifests, key=lambda item: str(item["run_id"]))}


def _load(connection: duckdb.DuckDBPyConnection, output: str, contract: Contract) -> dict[str, int]:
    """Make the table `held` (key, preprocess, status, fits, copies) of the rows of an ensemble; returns rows by status.

    `fits`: a row has a fault if and only if it is faulted.
    """
    _register(connection, output, contract, [*KEY, "status", "fault"])
    connection.execute(
        f"create temp table held as select {_KEY} as key, hash(preprocess_digest) as preprocess, status,"
        f" (fault is not null) = (status = '{FAULTED}') as fits, count(*) as copies from rows group by all"
    )
    return dict(connection.execute("select status, sum(copies)::bigint from held group by status").fetchall())


def _register(connection: duckdb.DuckDBPyConnection, output: str, contract: Contract, wanted: list[str]) -> None:
    """Let the rows of an ensemble be read once as `rows`."""
    files, chosen = list(table.score_files(output, contract)), pc.field("ensemble_digest") == contract.ensemble_digest
    connection.register("rows", stream(files, table.schema(contract), wanted, where=chosen))


def _check_rows(connection: duckdb.DuckDBPyConnection, output: str, contract: Contract) -> list[str]:
    """Problems within the rows of one ensemble."""
    problems = []
    connection.execute(
        "create temp table repeated as select key from held group by key, preprocess having sum(copies) > 1"
    )
    repeated = number(connection, "select count(*) from repeated")
    if repeated:
        _register(connection, output, contract, ["uri", "object_version"])
        query = f"select min(uri) from rows where {_KEY} in (select key from repeated)"
        ((example,),) = connection.execute(query).fetchall()
        problems.append(
            f"{repeated} images have more than one row under ensemble {contract.ensemble_digest},"
            f" for example {example}."
        )
    wrong = number(connection, "select coalesce(sum(copies), 0) from held where not fits")
    if wrong:
        problems.append(f"{wrong} rows have a fault but are not faulted, or the reverse.")
    return problems


def _check_worklists(
    connection: duckdb.DuckDBPyConnection, output: str, contract: Contract, runs: dict[str, Any]
) -> list[str]:
    """Images of worklists that have no row: of finished runs, and of a run that broke off after the last.

    A run that broke off earlier does not count: the one that finished after it listed everything anew.
    """
    newest, problems = max(runs, default=""), []
    for work in worklists(output):
        if work.ensemble_digest != contract.ensemble_digest or (work.run_id not in runs and work.run_id <= newest):
            continue
        connection.register("work", stream(work.parts, WORKLIST, ["uri", "object_version"]))
        query = f"select count(*), min(uri) from work where {_KEY} not in (select key from held)"
        ((lost, example),) = connection.execute(query).fetchall()
        if lost > _left(runs.get(work.run_id, {})):
            problems.append(
                f"{lost} images of run {work.run_id} have no row, for example {example}; run the same score command"
                " again."
            )
    return problems


def _left(manifest: dict[str, Any]) -> int:
    """How many images a run left when it was asked to stop; none if it came to its end, or to no manifest."""
    return int(manifest["counts"]["deferred"]) if manifest.get("stopped") else 0


def _check_counts(manifest: dict[str, Any]) -> list[str]:
    """Whether the counts of one run manifest add up."""
    counts = manifest["counts"]
    total = counts["already_done"] + counts["deferred"] + counts["scored"] + counts["faulted"]
    if counts["listed"] == total:
        return []
    return [f"Run {manifest['run_id']} listed {counts['listed']} images but accounts for {total}."]
