"""The scoring pipeline on Ray Data: worklist -> fetch, decode, resize -> ensemble actors -> Parquet.

One chained expression. Full-size pixels never leave the task that decoded them; the driver sees one small row per
written file. Only DecodeError and StorageError turn into faults: every other exception is a bug and ends the run.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.models.ensemble import choose_device, load_ensemble
from cxr_ray.models.memory import FittedEnsemble, allocation_environment
from cxr_ray.scoring.batch import score_batch
from cxr_ray.scoring.progress import STAGES
from cxr_ray.scoring.remote_meter import telling
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.tasks import decode_batch, read_parts, write_rows
from cxr_ray.scoring.work import Job

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


def make_plan(config: ScoreConfig, cluster: dict[str, float], *, nodes: int = 1) -> Plan:
    """Fit the pipeline to the resources of a cluster of `nodes`: one ensemble actor per GPU, or per CPU without GPUs.

    Without GPUs the forward passes are most of the work, so every core runs an actor with one thread and the decoding
    fits in between. With them an actor takes a whole core to feed its GPU, and a share of one where cores are few.
    Ray Data's own tasks, which cut the worklist into blocks, ask for one whole CPU of one node, and wait for ever when
    the actors leave less than that on each. So they leave as many CPUs as there are nodes: one node then has its whole
    one, however they are spread. Where no node has more than one CPU, a node stays free of actors.

    Raises:
        ConfigError: The cluster has less than two CPUs, or cannot hold the actors asked for.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if cpus < 2:
        raise ConfigError(f"The pipeline needs a cluster of at least 2 CPUs, this one has {cpus:g}; add a worker.")
    if gpus > 0:
        if cpus <= nodes:
            raise ConfigError(f"{nodes} nodes have {cpus:g} CPUs in all; give one of them more than one CPU.")
        actors = config.actors or max(1, int(gpus))
        share = _share_of(min(cpus / 2, cpus - nodes), actors, cpus)
        gpu_share = min(1.0, int(100 * gpus / actors) / 100)
        if gpu_share < 0.01:
            raise ConfigError(f"{actors} ensemble actors do not fit on {gpus:g} GPUs; lower `actors`.")
        return Plan(actors, share, gpu_share, task_cpus=1.0, tasks=max(1.0, cpus - actors * share))
    actors = config.actors or int(cpus)
    if cpus > nodes:
        return Plan(actors, _share_of(min(0.6 * cpus, cpus - nodes), actors, cpus), 0.0, task_cpus=0.4, tasks=cpus)
    return Plan(min(actors, nodes - 1), 0.6, 0.0, task_cpus=0.4, tasks=cpus)  # two of 0.6 do not fit on one node


def _share_of(cpus: float, actors: int, all_cpus: float) -> float:
    """The CPUs of one actor, at most a whole one, when all actors together get `cpus` of the cluster's."""
    share = int(100 * cpus / actors) / 100
    if share < 0.01:
        raise ConfigError(f"{actors} ensemble actors do not fit on {all_cpus:g} CPUs; lower `actors`.")
    return min(1.0, share)


def score_worklist(job: Job, *, plan: Plan, meter: Any) -> ray.data.Dataset:
    """The pipeline over the parts of a worklist, not yet started: one summary row per score file that it writes.

    The parts are read by tasks of ours: the credentials that read_parquet would take along may be expired when the
    last of them are read, hours later. `meter` is the handle of a Meter.
    """
    config = job.config
    settings = config.model_dump(mode="json")
    shared = {"contract": job.contract.to_json(), "run_id": job.run_id, "meter": meter}
    told = {"config": settings, "meter": meter}
    return (
        ray.data.from_arrow([pa.table({"part": [part]}) for part in job.parts])
        .map_batches(
            read_parts,
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
            fn_kwargs={**told, "preprocess_config": job.preprocess.model_dump(), "tasks": plan.tasks},
            num_cpus=plan.task_cpus,
        )
        .map_batches(
            EnsembleActor,
            batch_size=config.batch_on(plan.device),
            batch_format="pyarrow",
            fn_constructor_kwargs={**shared, "bundle": job.bundle, "config": settings, "plan": asdict(plan)},
            **actor_options(plan),
        )
        .map_batches(
            write_rows,
            batch_size=job.rows_per_file,
            batch_format="pyarrow",
            fn_kwargs={**shared, "config": settings, "output": job.output},
            num_cpus=_WRITE_CPUS,
        )
    )


def actor_options(plan: Plan) -> dict[str, Any]:
    """Where the ensemble actors run: what `map_batches` is told of them.

    Ray Data calls an actor in a thread that is older than the actor, so how it gets memory is settled by its process.
    """
    return {
        "compute": ray.data.ActorPoolStrategy(size=plan.actors),
        "num_cpus": plan.actor_cpus,
        "num_gpus": plan.actor_gpus,
        "runtime_env": {"env_vars": allocation_environment()},
    }


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
        with telling(meter):
            device = choose_device(self.plan.device)
            self.ensemble = FittedEnsemble(load_ensemble(bundle, device=device, **self.config.numerics()))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Score rows of a batch."""
        with telling(self.meter):
            scored, seconds = score_batch(self.ensemble, decoded, self.contract, run_id=self.run_id, config=self.config)
        self.meter.add.remote({"ensemble": decoded.num_rows}, {"ensemble": seconds}, {})
        return scored


def summaries(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Execute the pipeline: every file's summary as it appears."""
    for row in dataset.iter_rows():
        yield json.loads(row["summary"])
