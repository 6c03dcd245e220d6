"""The scoring pipeline on Ray Data: worklist -> fetch, decode, resize -> ensemble actors -> Parquet.

One chained expression. Full-size pixels never leave the task that decoded them; the driver sees one small row per
written file. Only DecodeError and StorageError turn into faults: every other exception is a bug and ends the run.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from cxr_ray.scoring.table import FAULTED, SCORED, Contract

PATIENT_KEY = "CXR_RAY_PATIENT_KEY"  # environment variable with the secret of the patient hash


@dataclass(frozen=True, slots=True)
class Plan:
    """How the pipeline sits on the cluster: numbers of actors, and CPUs and GPUs of each kind of work."""

    actors: int
    actor_cpus: float
    actor_gpus: float
    task_cpus: float

    @property
    def device(self) -> str:
        """The device of an ensemble actor."""
        return "cuda" if self.actor_gpus else "cpu"


def make_plan(config: ScoreConfig, cluster: dict[str, float]) -> Plan:
    """Fit the pipeline to a cluster's resources: one ensemble actor per GPU, or one per CPU where there is none.

    Without GPUs the forward passes are most of the work, so every core runs an actor with one thread and the decoding
    fits in between. Some CPU must stay free for the tasks: Ray Data's own (reading the worklist, cutting it into
    blocks) ask for one whole CPU, and wait for ever when the actors hold them all.

    Raises:
        ConfigError: The cluster has less than two CPUs, or cannot hold the actors asked for.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if cpus < 2:
        raise ConfigError(f"The pipeline needs a cluster of at least 2 CPUs, this one has {cpus:g}; add a worker.")
    if gpus >= 1:
        return Plan(config.actors or int(gpus), actor_cpus=1.0, actor_gpus=1.0, task_cpus=1.0)
    actors = config.actors or int(cpus)
    share = int(100 * min(0.6 * cpus, cpus - 1) / actors) / 100
    if share < 0.01:
        raise ConfigError(f"{actors} ensemble actors do not fit on {cpus:g} CPUs; lower `actors`.")
    return Plan(actors, actor_cpus=min(1.0, share), actor_gpus=0.0, task_cpus=0.4)


def score_worklist(
    worklist: str,
    *,
    bundle: str,
    config: ScoreConfig,
    contract: Contract,
    preprocess: PreprocessConfig,
    output: str,
    run_id: str,
    rows_per_file: int,
    plan: Plan,
) -> ray.data.Dataset:
    """The pipeline over a Parquet worklist, not yet started: one summary row per score file that it writes."""
    filesystem, path = storage.filesystem(worklist)
    shared = {"contract": contract.to_json(), "run_id": run_id}
    return (
        ray.data.read_parquet(path, filesystem=filesystem)
        .repartition(target_num_rows_per_block=config.images_per_task)
        .map_batches(
            decode_batch,
            batch_size=config.images_per_task,
            batch_format="pyarrow",
            fn_kwargs={"config": config.model_dump(), "preprocess_config": preprocess.model_dump()},
            num_cpus=plan.task_cpus,
        )
        .map_batches(
            EnsembleActor,
            batch_size=config.batch_size,
            batch_format="pyarrow",
            fn_constructor_kwargs={**shared, "bundle": bundle, "config": config.model_dump(), "plan": asdict(plan)},
            compute=ray.data.ActorPoolStrategy(size=plan.actors),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(
            write_rows,
            batch_size=rows_per_file,
            batch_format="pyarrow",
            fn_kwargs={**shared, "output": output},
            num_cpus=plan.task_cpus,
        )
    )


def decode_batch(batch: pa.Table, *, config: dict[str, Any], preprocess_config: dict[str, Any]) -> pa.Table:
    """Fetch, decode and resize every image of a block; faults become data here.

    A task that Ray repeats may have lost its process to one of its images: its block is decoded in a child process.
    """
    settings, target = ScoreConfig.model_validate(config), PreprocessConfig.model_validate(preprocess_config)
    key = os.environ.get(PATIENT_KEY)
    secret = key.encode() if key else None
    items = [(row["uri"], row["object_version"]) for row in batch.select(["uri", "object_version"]).to_pylist()]
    intake = Intake(target, settings.limits, settings.gate, settings.storage_retries, secret)
    return rows.decoded_table(list(decode_images(items, intake, alone=attempt() > 0)))


class EnsembleActor:
    """Holds the ensemble of one bundle on one device and turns decoded batches into score rows."""

    def __init__(
        self, *, bundle: str, contract: str, run_id: str, config: dict[str, Any], plan: dict[str, Any]
    ) -> None:
        """Load and check the bundle; raises BundleError when it scores its golden image differently here."""
        self.plan = Plan(**plan)
        if not self.plan.actor_gpus:
            torch.set_num_threads(max(1, int(self.plan.actor_cpus)))
        self.contract, self.run_id = Contract.from_json(contract), run_id
        self.config = ScoreConfig.model_validate(config)
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
            )
        scored = rows.score_rows(
            decoded, places, scores, self.contract, run_id=self.run_id, heatmaps=self.config.heatmaps
        )
        forward = np.zeros(decoded.num_rows)
        forward[places] = (time.perf_counter() - started) / max(1, len(places))
        for name in ("fetch_seconds", "decode_seconds"):
            scored = scored.append_column(name, decoded[name])
        return scored.append_column("ensemble_seconds", pa.array(forward))


STAGES = ("fetch", "decode", "ensemble", "write")


def write_rows(batch: pa.Table, *, output: str, contract: str, run_id: str) -> pa.Table:
    """Write one score file, whole or not at all, and return its summary as one row.

    The name is a digest of the rows' keys, so a task that Ray repeats replaces its own file with the same rows.
    """
    started = time.perf_counter()
    schema = table.schema(Contract.from_json(contract))
    keys = [batch[name].to_pylist() for name in ("uri", "object_version")]
    uri = table.file_uri(output, run_id, digest_of(keys))
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


def run_pipeline(dataset: ray.data.Dataset, each: Callable[[dict[str, Any]], None]) -> None:
    """Execute the pipeline and hand every file's summary to `each` as it appears."""
    for row in dataset.iter_rows():
        each(json.loads(row["summary"]))
