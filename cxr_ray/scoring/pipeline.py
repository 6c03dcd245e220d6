"""The scoring pipeline on Ray Data: worklist -> fetch, decode, resize -> ensemble actors -> Parquet.

One chained expression. Full-size pixels never leave the task that decoded them; the driver sees one small row per
written file. Only DecodeError and StorageError turn into faults: every other exception is a bug and ends the run.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from cxr_ray import storage
from cxr_ray.cluster import attempt
from cxr_ray.config import PreprocessConfig, ScoreConfig, digest_of
from cxr_ray.errors import ConfigError
from cxr_ray.images.intake import Intake, decode_images
from cxr_ray.models.ensemble import choose_device, load_ensemble
from cxr_ray.scoring import rows, table
from cxr_ray.scoring.lease import check_held
from cxr_ray.scoring.meter import STAGES, telling
from cxr_ray.scoring.table import FAULTED, SCORED, Contract
from cxr_ray.scoring.worklist import WORKLIST

PATIENT_KEY = "CXR_RAY_PATIENT_KEY"  # environment variable with the secret of the patient hash


# Of a writing task. Asking for as much as a decoding one, it waited behind all of them on few CPUs: 1,100 images were
# through the ensemble before the next file was written, and would have been lost with the driver.
_WRITE_CPUS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """How the pipeline sits on the cluster: numbers of actors, CPUs and GPUs of each kind of work, and its slots."""

    actors: int
    actor_cpus: float
    actor_gpus: float
    task_cpus: float
    tasks: float  # decode tasks that run at the same time

    @property
    def device(self) -> str:
        """The device of an ensemble actor."""
        return "cuda" if self.actor_gpus else "cpu"

    def slots(self) -> dict[str, float]:
        """How many tasks of each stage work at the same time; without GPUs all share the same cores."""
        if not self.actor_gpus:
            return dict.fromkeys(STAGES, 1.0)
        return {"fetch": self.tasks, "decode": self.tasks, "ensemble": float(self.actors), "write": self.tasks}


def make_plan(config: ScoreConfig, cluster: dict[str, float]) -> Plan:
    """Fit the pipeline to a cluster's resources: one ensemble actor per GPU, or one per CPU where there is none.

    Without GPUs the forward passes are most of the work, so every core runs an actor with one thread and the decoding
    fits in between. With them an actor takes a whole core to feed its GPU, and a share of one where cores are few.
    Some CPU must stay free for the tasks: Ray Data's own, which cut the worklist into blocks, ask for one whole CPU,
    and wait for ever when the actors hold them all.

    Raises:
        ConfigError: The cluster has less than two CPUs, or cannot hold the actors asked for.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if cpus < 2:
        raise ConfigError(f"The pipeline needs a cluster of at least 2 CPUs, this one has {cpus:g}; add a worker.")
    if gpus > 0:
        actors = config.actors or max(1, int(gpus))
        share = _share_of(cpus / 2, actors, cpus)
        gpu_share = min(1.0, int(100 * gpus / actors) / 100)
        if gpu_share < 0.01:
            raise ConfigError(f"{actors} ensemble actors do not fit on {gpus:g} GPUs; lower `actors`.")
        return Plan(actors, share, gpu_share, task_cpus=1.0, tasks=max(1.0, cpus - actors * share))
    actors = config.actors or int(cpus)
    return Plan(actors, _share_of(0.6 * cpus, actors, cpus), actor_gpus=0.0, task_cpus=0.4, tasks=cpus)


def _share_of(cpus: float, actors: int, all_cpus: float) -> float:
    """The CPUs of one actor, at most a whole one, when all actors together get `cpus` and one core stays free."""
    share = int(100 * min(cpus, all_cpus - 1) / actors) / 100
    if share < 0.01:
        raise ConfigError(f"{actors} ensemble actors do not fit on {all_cpus:g} CPUs; lower `actors`.")
    return min(1.0, share)


def score_worklist(
    parts: Sequence[str],
    *,
    bundle: str,
    config: ScoreConfig,
    contract: Contract,
    preprocess: PreprocessConfig,
    output: str,
    run_id: str,
    rows_per_file: int,
    plan: Plan,
    meter: Any,
) -> ray.data.Dataset:
    """The pipeline over the parts of a worklist, not yet started: one summary row per score file that it writes.

    The parts are read by tasks of ours: the credentials that read_parquet would take along may be expired when the
    last of them are read, hours later. `meter` is the handle of a Meter.
    """
    settings = config.model_dump(mode="json")
    shared = {"contract": contract.to_json(), "run_id": run_id, "meter": meter}
    told = {"config": settings, "meter": meter}
    return (
        ray.data.from_arrow([pa.table({"part": [part]}) for part in parts])
        .map_batches(
            read_part,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=told,
            num_cpus=plan.task_cpus,
        )
        .repartition(target_num_rows_per_block=config.images_per_task)
        .map_batches(
            decode_batch,
            batch_size=config.images_per_task,
            batch_format="pyarrow",
            fn_kwargs={**told, "preprocess_config": preprocess.model_dump(), "tasks": plan.tasks},
            num_cpus=plan.task_cpus,
        )
        .map_batches(
            EnsembleActor,
            batch_size=config.batch_size,
            batch_format="pyarrow",
            fn_constructor_kwargs={**shared, "bundle": bundle, "config": settings, "plan": asdict(plan)},
            compute=ray.data.ActorPoolStrategy(size=plan.actors),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(
            write_rows,
            batch_size=rows_per_file,
            batch_format="pyarrow",
            fn_kwargs={**shared, "config": settings, "output": output},
            num_cpus=_WRITE_CPUS,
        )
    )


def read_part(batch: pa.Table, *, config: dict[str, Any], meter: Any) -> pa.Table:
    """The rows of one part of a worklist; none once the run drains."""
    if ray.get(meter.is_draining.remote()):
        return WORKLIST.empty_table()
    storage.configure(ScoreConfig.model_validate(config).storage)
    with telling(meter):
        parts = [pq.read_table(pa.BufferReader(storage.get(uri))) for uri in batch["part"].to_pylist()]
    return pa.concat_tables(parts).replace_schema_metadata()


def decode_batch(
    batch: pa.Table, *, config: dict[str, Any], preprocess_config: dict[str, Any], tasks: float, meter: Any
) -> pa.Table:
    """Fetch, decode and resize every image of a block; faults become data here. None once the run drains.

    A task that Ray repeats may have lost its process to one of its images: its block is decoded in a child process.
    """
    if ray.get(meter.is_draining.remote()):
        return rows.DECODED.empty_table()
    settings, target = ScoreConfig.model_validate(config), PreprocessConfig.model_validate(preprocess_config)
    key = os.environ.get(PATIENT_KEY)
    secret = key.encode() if key else None
    storage.configure(settings.storage, share=1.0 / tasks)
    items = list(zip(*(batch[name].to_pylist() for name in ("uri", "object_version", "size")), strict=True))
    intake = Intake(target, settings.limits, settings.gate, secret)
    with telling(meter):
        images = list(decode_images(items, intake, alone=attempt() > 0))
    meter.add.remote(
        dict.fromkeys(("fetch", "decode"), len(images)),
        {
            "fetch": sum(image.fetch_seconds for image in images),
            "decode": sum(image.decode_seconds for image in images),
        },
        Counter(image.fault.value for image in images if image.fault is not None),
    )
    return rows.decoded_table(images)


class EnsembleActor:
    """Holds the ensemble of one bundle on one device and turns decoded batches into score rows."""

    def __init__(
        self, *, bundle: str, contract: str, run_id: str, config: dict[str, Any], plan: dict[str, Any], meter: Any
    ) -> None:
        """Load and check the bundle; raises BundleError when it scores its golden image differently here."""
        self.plan, self.meter = Plan(**plan), meter
        if not self.plan.actor_gpus:
            torch.set_num_threads(max(1, int(self.plan.actor_cpus)))
        self.contract, self.run_id = Contract.from_json(contract), run_id
        self.config = ScoreConfig.model_validate(config)
        storage.configure(self.config.storage)
        self.ensemble = load_ensemble(bundle, device=choose_device(self.plan.device))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Score rows of a batch, with the seconds each image took in every stage."""
        images, places = rows.stack_pixels(decoded, size=self.contract.size)
        started = time.perf_counter()
        scores = None
        if len(places):
            scores = self.ensemble.score(
                torch.from_numpy(images.copy()),
                with_heatmaps=self.config.heatmaps != "none",
                method=self.config.heatmap_method,
                keep_member_maps=self.config.member_heatmaps,
            )
        scored = rows.score_rows(
            decoded, places, scores, self.contract, run_id=self.run_id, heatmaps=self.config.heatmaps
        )
        seconds = time.perf_counter() - started
        self.meter.add.remote({"ensemble": decoded.num_rows}, {"ensemble": seconds}, {})
        forward = np.zeros(decoded.num_rows)
        forward[places] = seconds / max(1, len(places))
        for name in ("fetch_seconds", "decode_seconds"):
            scored = scored.append_column(name, decoded[name])
        return scored.append_column("ensemble_seconds", pa.array(forward))


def write_rows(
    batch: pa.Table, *, output: str, contract: str, run_id: str, config: dict[str, Any], meter: Any
) -> pa.Table:
    """Write one score file, whole or not at all, and return its summary as one row.

    The name is a digest of the rows' keys, so a task that Ray repeats replaces its own file with the same rows. A
    worker that outlives its driver writes nothing any more once another run has taken over the lease.

    Raises:
        LeaseError: Another run is at work on the output.
        StorageError: The output does not take the file.
    """
    started = time.perf_counter()
    storage.configure(ScoreConfig.model_validate(config).storage)
    schema = table.schema(Contract.from_json(contract))
    keys = [batch[name].to_pylist() for name in ("uri", "object_version")]
    uri = table.file_uri(output, run_id, digest_of(keys))
    with telling(meter):
        check_held(output, run_id)
        storage.put(uri, table.encode(batch.select(schema.names).cast(schema)))
    faults = batch.filter(pc.equal(batch["status"], FAULTED))["fault"]
    seconds = {name: float(pc.sum(batch[f"{name}_seconds"]).as_py()) for name in STAGES[:3]}
    summary = {
        "uri": uri,
        "scored": int(pc.sum(pc.equal(batch["status"], SCORED)).as_py()),
        "faulted": len(faults),
        "faults": {item["values"]: item["counts"] for item in pc.value_counts(faults).to_pylist()},
        "seconds": {**seconds, "write": time.perf_counter() - started},
        "syntaxes": _by_syntax(batch),
    }
    return pa.table({"summary": [json.dumps(summary)]})


def _by_syntax(batch: pa.Table) -> dict[str, list[float]]:
    """Images and decode seconds per transfer syntax; everything that is not DICOM counts as `none`."""
    grouped = (
        batch.select(["transfer_syntax_uid", "decode_seconds"])
        .group_by("transfer_syntax_uid")
        .aggregate([("decode_seconds", "count"), ("decode_seconds", "sum")])
    )
    return {
        row["transfer_syntax_uid"] or "none": [row["decode_seconds_count"], row["decode_seconds_sum"]]
        for row in grouped.to_pylist()
    }


def summaries(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Execute the pipeline: every file's summary as it appears."""
    for row in dataset.iter_rows():
        yield json.loads(row["summary"])
