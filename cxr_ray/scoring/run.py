"""One scoring run from start to accounted end: worklist, pipeline, verification, run manifest.

The output folder is the ledger. OUT/scores holds the rows, OUT/worklists what each run had to do, OUT/runs one run
manifest per finished run, written last.
"""

import json
import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import ray

from cxr_ray import __version__, storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.images.gate import check_codes
from cxr_ray.models.ensemble import EnsembleSpec, load_ensemble
from cxr_ray.scoring import pipeline, table
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.worklist import Worklist, build_worklist

Log = Callable[[str], None]
_ROWS_PER_FILE = (64, 4096)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. listed = already_done + deferred + scored + faulted, or the run failed."""

    run_id: str
    output: str
    ensemble_digest: str
    listed: int
    already_done: int
    deferred: int
    scored: int
    faulted: int
    left_out: int
    faults: dict[str, int]
    wall_seconds: float

    @property
    def adds_up(self) -> bool:
        """Whether every listed object is accounted for."""
        return self.listed == self.already_done + self.deferred + self.scored + self.faulted

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result for a person."""
        if self.adds_up and not self.scored + self.faulted:
            return [f"Nothing new: all {self.listed:,} images listed have a row in {self.output} already."]
        faults = ", ".join(f"{code} {count:,}" for code, count in self.faults.items())
        lines = [
            f"Run {self.run_id}: {self.listed:,} images listed = {self.scored:,} scored + {self.faulted:,} faulted"
            f" + {self.already_done:,} done already"
            + (f" + {self.deferred:,} left for later" if self.deferred else ""),
            *([f"Faults: {faults}"] if faults else []),
            f"Ensemble {self.ensemble_digest}; rows in {self.output}/scores; {self.wall_seconds:.1f} s.",
        ]
        if not self.adds_up:
            lines.append("The counts do not add up: run the same command again, then `cxr-ray verify`.")
        return lines


def score(
    inputs: Sequence[str],
    *,
    bundle: str,
    output: str,
    config: ScoreConfig,
    limit: int | None = None,
    rescore: bool = False,
    log: Log,
) -> RunResult:
    """Score every image of `inputs` that OUTPUT does not hold yet, one row each. Needs an initialised Ray.

    Raises:
        BundleError: The ensemble is incomplete or inconsistent.
        ConfigError: There is nothing to list, `output` cannot be written, or it belongs to another ensemble and
            `rescore` is not set.
        StorageError: An input cannot be listed, or `output` stops taking what is written.
    """
    clock = time.monotonic()
    check_codes(config.gate)
    started_at = datetime.now(UTC)
    # Loaded whole, and its golden image scored, so that a spoilt bundle is one sentence here and not a dead actor.
    spec = load_ensemble(storage.absolute(bundle)).spec
    contract = contract_of(spec)
    output = storage.absolute(output)
    check_output(output, contract, rescore=rescore)
    storage.check_writable(output)
    run_id = f"{started_at:%Y%m%dT%H%M%S%f}"[:18]
    work = build_worklist(inputs, output, contract, run_id, config=config, limit=limit)
    log(
        f"{work.listed:,} images listed, {work.already_done:,} done already, {work.todo:,} to score"
        + (f", {work.deferred:,} left for later by --limit" if work.deferred else "")
        + (f"; {work.left_out:,} files left out by their names" if work.left_out else "")
        + "."
    )
    tally = _Tally(work.todo, log=log, every=config.progress_every)
    if work.todo:
        cluster = {name: float(amount) for name, amount in ray.cluster_resources().items()}
        plan = pipeline.make_plan(config, cluster)
        log(f"{plan.actors} ensemble actors on {plan.device}, {cluster.get('CPU', 0):g} CPUs.")
        dataset = pipeline.score_worklist(
            work.uri,
            bundle=storage.absolute(bundle),
            config=config,
            contract=contract,
            preprocess=spec.preprocess,
            output=output,
            run_id=run_id,
            rows_per_file=config.rows_per_file or _rows_per_file(work.todo),
            plan=plan,
        )
        pipeline.run_pipeline(dataset, tally.add)
    result = RunResult(
        run_id=run_id,
        output=output,
        ensemble_digest=spec.digest,
        listed=work.listed,
        already_done=work.already_done,
        deferred=work.deferred,
        scored=tally.scored,
        faulted=tally.faulted,
        left_out=work.left_out,
        faults=dict(tally.faults.most_common()),
        wall_seconds=round(time.monotonic() - clock, 3),
    )
    manifest = _run_manifest(result, work, spec, config, tally, inputs=inputs, bundle=bundle, started_at=started_at)
    storage.put(storage.join(output, "runs", f"{run_id}.json"), json.dumps(manifest, indent=2).encode())
    return result


def contract_of(spec: EnsembleSpec) -> Contract:
    """What all rows of this ensemble share."""
    return Contract(
        findings=spec.findings,
        members=spec.members,
        grid=spec.grid,
        size=spec.preprocess.size,
        thresholds=spec.thresholds,
        ensemble_digest=spec.digest,
        preprocess_digest=spec.preprocess_digest,
    )


def check_output(output: str, contract: Contract, *, rescore: bool) -> None:
    """Refuse to mix ensembles by accident. Raises ConfigError.

    With `rescore` another ensemble's rows are added beside the old ones, if it looks for the same findings.
    """
    for digest, other in table.contracts(output).items():
        if digest == contract.ensemble_digest:
            continue
        if not rescore:
            raise ConfigError(
                f"{output} holds scores of ensemble {digest}, not of {contract.ensemble_digest}; choose another"
                " --output, or add --rescore to score its images again beside the old rows."
            )
        if other.findings != contract.findings:
            raise ConfigError(
                f"{output} holds scores for other findings ({', '.join(other.findings)}); choose another --output."
            )


def _rows_per_file(todo: int) -> int:
    """Rows of one score file: a twentieth of the run, so that little is lost when it is interrupted."""
    low, high = _ROWS_PER_FILE
    return min(max(todo // 20, low), high)


class _Tally:
    """Counts what the written files hold, and reports rate and time left."""

    def __init__(self, todo: int, *, log: Log, every: float) -> None:
        self.todo, self.log, self.every = todo, log, every
        self.scored = self.faulted = self.files = 0
        self.faults: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.syntaxes: dict[str, list[float]] = {}
        self.started = self.spoke = time.monotonic()

    def add(self, summary: dict[str, Any]) -> None:
        """Count one written file, and say how far the run is."""
        self.files += 1
        self.scored += summary["scored"]
        self.faulted += summary["faulted"]
        self.faults.update(summary["faults"])
        self.seconds.update(summary["seconds"])
        for syntax, (images, seconds) in summary["syntaxes"].items():
            total = self.syntaxes.setdefault(syntax, [0, 0.0])
            total[0] += images
            total[1] += seconds
        now = time.monotonic()
        finished = self.scored + self.faulted
        if now - self.spoke >= self.every or finished == self.todo:
            self.spoke = now
            rate = finished / max(now - self.started, 1e-9)
            left = (self.todo - finished) / max(rate, 1e-9)
            self.log(
                f"{finished:,} of {self.todo:,} images ({self.faulted:,} faulted), {rate:.1f} images/s,"
                f" about {left:.0f} s left"
            )


def _run_manifest(
    result: RunResult,
    work: Worklist,
    spec: EnsembleSpec,
    config: ScoreConfig,
    tally: _Tally,
    *,
    inputs: Sequence[str],
    bundle: str,
    started_at: datetime,
) -> dict[str, Any]:
    """Everything an auditor asks about a run, as one JSON object."""
    stages = {name: round(seconds, 3) for name, seconds in tally.seconds.items()}
    return {
        "run_id": result.run_id,
        "started_at": started_at.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "wall_seconds": result.wall_seconds,
        "inputs": [storage.absolute(uri) for uri in inputs],
        "worklist": work.uri,
        "counts": {
            name: getattr(result, name)
            for name in ("listed", "already_done", "deferred", "scored", "faulted", "left_out")
        },
        "faults": result.faults,
        "ensemble": {
            "bundle": storage.absolute(bundle),
            "digest": spec.digest,
            "preprocess_digest": spec.preprocess_digest,
            "findings": spec.findings,
            "members": spec.members,
            "thresholds": spec.thresholds,
        },
        "files": tally.files,
        "cpu_seconds_by_stage": stages,
        "bottleneck": max(stages, key=lambda name: stages[name]) if stages else None,
        "decode_by_transfer_syntax": {
            syntax: {"images": int(images), "seconds_per_image": round(seconds / images, 5)}
            for syntax, (images, seconds) in sorted(tally.syntaxes.items())
        },
        "config": config.model_dump(mode="json"),
        "versions": {"cxr-ray": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("ray", "torch", "timm", "pydicom", "pyarrow", "numpy", "pillow")},
        "host": socket.gethostname(),
    }
