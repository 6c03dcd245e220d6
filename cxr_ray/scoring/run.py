"""One scoring run from start to accounted end: worklist, pipeline, verification, run manifest.

The output folder is the ledger. OUT/scores holds the rows, OUT/worklists what each run had to do, OUT/runs one run
manifest per finished run, written last. OUT/lease.json keeps a second run away, OUT/heartbeat.json shows how far it is.
"""

import json
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

from cxr_ray import __version__, storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.images.gate import check_codes
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.scoring import ledger, table
from cxr_ray.scoring.engine import open_engine
from cxr_ray.scoring.heartbeat import Heartbeat
from cxr_ray.scoring.lease import Lease
from cxr_ray.scoring.progress import Progress, bottleneck
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.work import Engine, Job
from cxr_ray.scoring.worklist import Worklist, build_worklist

Log = Callable[[str], None]
_ROWS_PER_FILE = (64, 4096)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. listed = already_done + deferred + scored + faulted, or the run failed.

    `stopped` says that it was asked to stop before its end; what it left is among `deferred`.
    """

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
    too_old: int = 0
    bottleneck: str | None = None
    advice: str | None = None
    stopped: bool = False
    reduced_to: int | None = None  # images of a forward pass, where the device's memory did not take `batch_size`

    @property
    def adds_up(self) -> bool:
        """Whether every listed object is accounted for."""
        return self.listed == self.already_done + self.deferred + self.scored + self.faulted

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result for a person."""
        if not self.listed:
            return [f"Nothing new: the inputs hold no image that is wanted ({self.too_old:,} are older than --since)."]
        if self.adds_up and not self.scored + self.faulted and not self.deferred:
            return [f"Nothing new: all {self.listed:,} images listed have a row in {self.output} already."]
        faults = ", ".join(f"{code} {count:,}" for code, count in self.faults.items())
        lines = [
            f"Run {self.run_id}: {self.listed:,} images listed = {self.scored:,} scored + {self.faulted:,} faulted"
            f" + {self.already_done:,} done already"
            + (f" + {self.deferred:,} left for later" if self.deferred else ""),
            *([f"Faults: {faults}"] if faults else []),
            f"Ensemble {self.ensemble_digest}; rows in {self.output}/scores; {self.wall_seconds:.1f} s"
            + (f", held up by {self.bottleneck} (add {self.advice})." if self.bottleneck else "."),
        ]
        if self.reduced_to:
            lines.append(
                f"The memory of a device did not take a whole batch: {self.reduced_to:,} images at a time; say"
                f" batch_size={self.reduced_to} next time."
            )
        if self.stopped:
            lines.append("Stopped on request; the same command does the rest.")
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
    prepare: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
    log: Log,
) -> RunResult:
    """Score every image of `inputs` that OUTPUT does not hold yet, one row each, by the engine of `config`.

    `prepare` is called once it is known that there is work, before the pipeline is fitted to the cluster. Once `stop`
    is set nothing new is begun: what is in flight is finished and written, and the run ends accounted.

    Raises:
        BundleError: The ensemble is incomplete or inconsistent.
        ConfigError: There is nothing to list, `output` cannot be written, or it belongs to another ensemble and
            `rescore` is not set.
        LeaseError: Another run is at work on `output`, or has taken it over from this one.
        StoppedError: `stop` was set before there was anything to write.
        StorageError: An input cannot be listed, or `output` stops taking what is written.
    """
    clock = time.monotonic()
    stop = stop or threading.Event()
    check_codes(config.gate)
    storage.configure(config.storage)
    started_at = datetime.now(UTC)
    bundle, output = storage.absolute(bundle), storage.absolute(output)
    engine = open_engine(config.engine)
    if config.runtime == "onnx":
        log("Networks by ONNX Runtime; a member's first time on a machine takes up to half a minute.")
    spec = engine.load(bundle, config)
    contract = contract_of(spec)
    storage.check_writable(output)
    run_id = f"{started_at:%Y%m%dT%H%M%S%f}"[:18]
    with (
        Lease(output, run_id, seconds=config.lease_seconds, log=log) as lease,
        Heartbeat(
            output,
            run_id,
            lease=lease,
            every=config.heartbeat_every,
            say_every=config.progress_every,
            stop=stop,
            log=log,
        ) as heartbeat,
    ):
        check_output(output, contract, rescore=rescore)
        work = build_worklist(
            inputs,
            output,
            contract,
            run_id,
            config=config,
            limit=limit,
            over=partial(engine.over, stores=config.storage, stop=stop),
            progress=heartbeat.listed,
        )
        heartbeat.speak(_what_is_listed(work))
        heartbeat.facts = {"listed": work.listed, "already_done": work.already_done}
        heartbeat.progress.todo, heartbeat.state = work.todo, "preparing"
        if work.todo and prepare is not None:
            prepare()
        slots = {} if stop.is_set() else _do(work, spec, config, heartbeat, engine=engine, bundle=bundle)
        late = ledger.settle(output, contract, run_id, work.known, memory_bytes=config.worklist_bytes)
        if late:
            log(f"{late:,} rows that a dead run's tasks wrote after this run had begun were dropped for its own.")
        progress = heartbeat.progress
        narrowest, advice = bottleneck(dict(progress.seconds), dict(slots))
        result = RunResult(
            run_id=run_id,
            output=output,
            ensemble_digest=spec.digest,
            listed=work.listed,
            already_done=work.already_done,
            deferred=work.deferred + (progress.left if stop.is_set() else 0),
            scored=progress.scored,
            faulted=progress.faulted,
            left_out=work.left_out,
            faults=dict(progress.faults.most_common()),
            wall_seconds=round(time.monotonic() - clock, 3),
            too_old=work.too_old,
            bottleneck=narrowest,
            advice=advice,
            stopped=stop.is_set() and progress.left > 0,
            reduced_to=progress.images_per_pass if progress.was_reduced else None,
        )
        manifest = _run_manifest(
            *(result, work, spec, config, progress),
            inputs=inputs,
            bundle=bundle,
            engine=engine.name,
            start=started_at,
        )
        storage.put(storage.join(output, "runs", f"{run_id}.json"), json.dumps(manifest, indent=2).encode())
        heartbeat.state = "stopped" if result.stopped else "finished"
    return result


def _what_is_listed(work: Worklist) -> str:
    """What a worklist holds, as one line."""
    return (
        f"{work.listed:,} images listed, {work.already_done:,} done already, {work.todo:,} to score"
        + (f", {work.deferred:,} left for later by --limit" if work.deferred else "")
        + (f", {work.retried:,} of them again after a passing fault" if work.retried else "")
        + (f"; {work.left_out:,} files left out by their names" if work.left_out else "")
        + (f"; {work.too_old:,} left out as older than --since" if work.too_old else "")
        + "."
    )


def _do(
    work: Worklist, spec: EnsembleSpec, config: ScoreConfig, heartbeat: Heartbeat, *, engine: Engine, bundle: str
) -> Mapping[str, float]:
    """Score a worklist, and return how many tasks of each stage worked at the same time."""
    if not work.todo:
        return {}
    job = Job(
        parts=tuple(item.uri for item in storage.list_objects(work.uri) if item.uri.endswith(".parquet")),
        todo=work.todo,
        bundle=bundle,
        contract=contract_of(spec),
        preprocess=spec.preprocess,
        config=config,
        output=heartbeat.output,
        run_id=heartbeat.run_id,
        rows_per_file=config.rows_per_file or _rows_per_file(work.todo),
    )
    begun = engine.begin(job)
    heartbeat.meter, heartbeat.state = begun.meter, "scoring"
    heartbeat.speak(begun.words)
    heartbeat.progress.told({})
    with closing(begun.summaries()) as summaries:
        for summary in summaries:
            heartbeat.check()
            heartbeat.progress.written(summary)
    heartbeat.check()
    heartbeat.progress.told(dict.fromkeys(("fetch", "decode", "ensemble"), heartbeat.progress.done))
    heartbeat.speak(heartbeat.progress.line())
    return begun.slots


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
        combination=spec.combination,
        member_thresholds=spec.member_thresholds,
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


def _run_manifest(
    result: RunResult,
    work: Worklist,
    spec: EnsembleSpec,
    config: ScoreConfig,
    progress: Progress,
    *,
    inputs: Sequence[str],
    bundle: str,
    engine: str,
    start: datetime,
) -> dict[str, Any]:
    """Everything an auditor asks about a run, as one JSON object."""
    stages = {name: round(seconds, 3) for name, seconds in progress.seconds.items()}
    return {
        "run_id": result.run_id,
        "started_at": start.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "wall_seconds": result.wall_seconds,
        "inputs": [storage.absolute(uri) for uri in inputs],
        "worklist": work.uri,
        "engine": engine,
        "counts": {
            name: getattr(result, name)
            for name in ("listed", "already_done", "deferred", "scored", "faulted", "left_out", "too_old")
        },
        "faults": result.faults,
        "ensemble": {
            "bundle": bundle,
            "digest": spec.digest,
            "preprocess_digest": spec.preprocess_digest,
            "findings": spec.findings,
            "members": spec.members,
            "thresholds": spec.thresholds,
        },
        "files": progress.files,
        "precision": config.precision,
        "runtime": config.runtime,
        "images_per_pass": progress.images_per_pass,
        "cpu_seconds_by_stage": stages,
        "bottleneck": result.bottleneck,
        "advice": result.advice and f"add {result.advice}",
        "stopped": result.stopped,
        "decode_by_transfer_syntax": {
            syntax: {"images": int(images), "seconds_per_image": round(seconds / images, 5)}
            for syntax, (images, seconds) in sorted(progress.syntaxes.items())
        },
        "config": config.model_dump(mode="json"),
        "versions": {"cxr-ray": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("ray", "torch", "timm", "pydicom", "pyarrow", "numpy", "pillow")}
        | ({"onnxruntime": version("onnxruntime")} if config.runtime == "onnx" else {}),
        "host": socket.gethostname(),
    }
