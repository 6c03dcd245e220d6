"""One night over an archive: score what is new, compare it with the nights before, and say in a line what happened.

OUT/nights holds a record of every night that came to its end. Scoring, table and drift are those of the other commands.
"""

import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cxr_ray import autoscale, storage
from cxr_ray.config import DriftConfig, NightlyConfig
from cxr_ray.evaluation.drift.distributions import Drift, Sample, compare
from cxr_ray.evaluation.drift.sides import thinned_rows
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring import table
from cxr_ray.scoring.run import RunResult, score
from cxr_ray.scoring.table import Contract

DONE, FAILED, TOO_MANY_FAULTS, DRIFTED, STOPPED = 0, 1, 3, 4, 143

Log = Callable[[str], None]


_OUTCOMES = {
    DONE: "done",
    FAILED: "FAILED, the counts do not add up: run it again, then `cxr-ray verify`",
    TOO_MANY_FAULTS: "TOO MANY FAULTS",
    DRIFTED: "DRIFT above the limit",
    STOPPED: "stopped on request: the same command goes on",
}


@dataclass(frozen=True, slots=True)
class Night:
    """What one night did. `drift` is None when it scored nothing or did not come to its end."""

    result: RunResult
    drift: Drift | None
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """The night as plain values."""
        return {
            "line": self.line(),
            "exit_code": self.exit_code,
            "result": self.result.to_dict(),
            "drift": None if self.drift is None else self.drift.to_dict(),
        }

    def line(self) -> str:
        """What happened, in one line."""
        result = self.result
        finished = result.scored + result.faulted
        if result.already_done == result.listed:
            parts = [f"nothing new, all {result.listed:,} images have a row"]
        else:
            faults = ", ".join(f"{code} {count:,}" for code, count in result.faults.items())
            parts = [
                f"{finished:,} of {result.listed:,} images were new: {result.scored:,} scored,"
                f" {result.faulted:,} faulted" + (f" ({faults})" if faults else "")
            ]
        if result.deferred:
            parts.append(f"{result.deferred:,} left for later")
        if self.drift is not None:
            parts.append(self.drift.words())
        parts += [f"{result.wall_seconds:.0f} s", f"{_OUTCOMES[self.exit_code]} (exit {self.exit_code})"]
        return f"Night {result.run_id}: {'; '.join(parts)}."


def run_night(config: NightlyConfig, *, stop: threading.Event | None = None, log: Log) -> Night:
    """Score what is new, and compare it with the nights before. Needs an initialised Ray.

    Nodes are asked for when it is known that there is work for them. `stop` ends the night in good order.

    Raises:
        ClusterError: The nodes asked for did not come.
        BundleError, ConfigError, LeaseError, StorageError, StoppedError: As `cxr_ray.scoring.run.score` says.
    """
    result = score(
        config.inputs,
        bundle=config.ensemble,
        output=config.output,
        config=config.score,
        rescore=config.rescore,
        prepare=lambda: autoscale.wait_for_nodes(config.cluster, stop=stop, log=log),
        stop=stop,
        log=log,
    )
    if result.stopped or not result.adds_up:
        return Night(result, None, STOPPED if result.stopped else FAILED)
    drift = tonights_drift(result, config.drift) if result.scored + result.faulted else None
    for shift in drift.drifted if drift else ():
        log(
            f"Drift: {shift.name}, PSI {shift.psi:.2f} above {config.drift.max_psi:g},"
            f" mean {shift.reference:.3f} -> {shift.current:.3f}."
        )
    night = Night(result, drift, exit_code(result, drift, config))
    record = storage.join(result.output, "nights", f"{result.run_id}.json")
    storage.put(record, json.dumps(night.to_dict(), indent=2).encode())
    return night


def exit_code(result: RunResult, drift: Drift | None, config: NightlyConfig) -> int:
    """The exit code of a night that came to its end: too many faults count for more than drift."""
    finished = result.scored + result.faulted
    if finished and result.faulted / finished > config.score.max_fault_share:
        return TOO_MANY_FAULTS
    if drift is not None and drift.drifted and config.drift.on_drift == "fail":
        return DRIFTED
    return DONE


def tonights_drift(result: RunResult, config: DriftConfig) -> Drift:
    """The rows since the last night against those of the nights before it, under the ensemble of `result`.

    Rows of a run that broke off belong to the night that took its work up again.
    """
    records = storage.list_objects(storage.join(result.output, "nights"), missing_ok=True)
    earlier = [item.uri.rpartition("/")[2].removesuffix(".json") for item in records]
    files = files_by_night([*earlier, result.run_id], list(table.score_files(result.output)))
    tonight, before = files[result.run_id], [files[night] for night in sorted(earlier) if files[night]]
    contract = table.read_contract(tonight[-1])
    reference = [uri for night in before[-config.nights :] for uri in night]
    return compare(
        read_sample(reference, contract, max_rows=config.max_rows),
        read_sample(tonight, contract, max_rows=config.max_rows),
        nights=min(len(before), config.nights),
        config=config,
    )


def files_by_night(nights: Sequence[str], files: Sequence[str]) -> dict[str, list[str]]:
    """Score files by the night whose run wrote them, or was the next to come to its end.

    `nights` are the runs of finished nights. The name of a score file begins with its run, and runs sort by time.
    """
    order = sorted(nights)
    found: dict[str, list[str]] = {night: [] for night in order}
    for uri in sorted(files, key=lambda uri: uri.rpartition("/")[2]):
        place = bisect_left(order, uri.rpartition("/")[2].partition("-")[0])
        if place < len(order):
            found[order[place]].append(uri)
    return found


def read_sample(files: Sequence[str], contract: Contract, *, max_rows: int) -> Sample:
    """Probabilities, votes and faults in score files under one ensemble; of more than `max_rows` rows every k-th."""
    suffixes = [column_suffix(finding) for finding in contract.findings]
    names = [f"{kind}_{suffix}" for kind in ("probability", "votes") for suffix in suffixes]
    sample = thinned_rows(files, contract, ["status", *names], max_rows=max_rows)
    scored = sample.filter(pc.equal(sample["status"], table.SCORED))
    columns = [scored[name].to_numpy() for name in names]
    return Sample(
        findings=contract.findings,
        num_members=len(contract.members),
        probabilities=np.column_stack(columns[: len(suffixes)]),
        votes=np.column_stack(columns[len(suffixes) :]),
        faulted=sample.num_rows - scored.num_rows,
    )
