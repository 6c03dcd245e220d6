"""The engine that works on a Ray cluster, which this process has joined: see `pipeline`."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from threading import Event
from typing import Any

import ray
from ray.exceptions import RayError

from cxr_ray.cluster import over_cluster
from cxr_ray.config import ScoreConfig, StorageConfig
from cxr_ray.config.scoring import EngineName
from cxr_ray.models.ensemble import EnsembleSpec, load_ensemble
from cxr_ray.scoring import pipeline
from cxr_ray.scoring.remote_meter import RemoteMeter
from cxr_ray.scoring.work import Job


class RayEngine:
    """Tasks and actors of the cluster do the work."""

    name: EngineName = "ray"

    def load(self, bundle: str, config: ScoreConfig) -> EnsembleSpec:
        """Load a bundle whole, so that a spoilt one is one sentence here and not a dead actor. Raises BundleError."""
        return load_ensemble(bundle, **config.numerics()).spec

    def over(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        each: Callable[[Any], None],
        *,
        stores: StorageConfig,
        stop: Event,
    ) -> None:
        """Calls are tasks of the cluster."""
        over_cluster(function, arguments, each, stores=stores, stop=stop)

    def begin(self, job: Job) -> "RayWork":
        """Fit the pipeline to the cluster. Raises ConfigError."""
        cluster = {name: float(amount) for name, amount in ray.cluster_resources().items()}
        nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
        plan = pipeline.make_plan(job.config, cluster, nodes=max(1, nodes))
        blocks = -(-job.todo // job.config.images_per_task)  # an actor more would load the ensemble for nothing
        plan = replace(plan, actors=min(plan.actors, blocks))
        return RayWork(job, plan, cluster.get("CPU", 0.0))


class RayWork:
    """A job on the cluster."""

    def __init__(self, job: Job, plan: pipeline.Plan, cpus: float) -> None:
        """Start its meter."""
        self.job, self.plan = job, plan
        self.meter = RemoteMeter()
        self.words = f"{plan.actors} ensemble actors on {plan.device}, {cpus:g} CPUs."
        self.slots = plan.slots()

    def summaries(self) -> Generator[dict[str, Any]]:
        """Execute the pipeline; what of ours ended a task is raised as it was there."""
        try:
            yield from pipeline.summaries(pipeline.score_worklist(self.job, plan=self.plan, meter=self.meter.handle))
        except RayError as error:
            why = self.meter.why()
            if why is None:
                raise
            raise why from error
