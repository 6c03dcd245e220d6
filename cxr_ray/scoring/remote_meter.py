"""The meter of a run on Ray: an actor that all tasks ask and tell, and its counts as Prometheus metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxr_ray.errors import CxrRayError
from cxr_ray.scoring.meter import Meter, Told
from cxr_ray.scoring.progress import Progress

_ANSWER = 10.0  # seconds to wait for the meter


class RemoteMeter:
    """A new meter on the driver's own node, which lives as long as the driver does."""

    def __init__(self) -> None:
        """Start it; tasks take its `handle`."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(Meter).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        self.handle: Any = actor.remote()
        self._gauges = Gauges()

    def drain(self) -> bool:
        """From now on nothing new is begun; False when it did not answer."""
        return self._ask(self.handle.drain) is not None

    def read(self) -> Told | None:
        """All counts, or None: its node died and it begins anew, or the cluster ends."""
        told: Told | None = self._ask(self.handle.read)
        return told

    def why(self) -> CxrRayError | None:
        """Why the run cannot go on, or None."""
        error: CxrRayError | None = ray.get(self.handle.why.remote())
        return error

    def show(self, progress: Progress, told: Told) -> None:
        """Hand the counts to Ray's metrics agent."""
        self._gauges.show(progress, told)

    def _ask(self, method: Any) -> Any:
        """The answer of the actor, or None."""
        try:
            return ray.get(method.remote(), timeout=_ANSWER)
        except RayError:
            return None


@contextmanager
def telling(meter: Any) -> Iterator[None]:
    """Tell the meter what of ours ends a task: Ray Data hands on no more than its text (2.60)."""
    try:
        yield
    except CxrRayError as error:
        ray.get(meter.give_up.remote(error))
        raise


@dataclass(slots=True)
class Gauges:
    """The Prometheus metrics of a run, made when they are first shown; Ray puts `ray_` before their names."""

    made: dict[str, metrics.Gauge] = field(default_factory=dict)

    def show(self, progress: Progress, told: dict[str, dict[str, Any]]) -> None:
        """Hand the present counts to Ray's metrics agent; without one they go nowhere."""
        if not self.made:
            self.made = {
                "left": metrics.Gauge("cxr_ray_images_left", "Images of the run without a row."),
                "images": metrics.Gauge("cxr_ray_images", "Images that a stage has done.", tag_keys=("stage",)),
                "seconds": metrics.Gauge(
                    "cxr_ray_stage_seconds", "Seconds that all tasks of a stage spent.", tag_keys=("stage",)
                ),
                "faults": metrics.Gauge("cxr_ray_faults", "Images with a fault.", tag_keys=("fault",)),
            }
        self.made["left"].set(progress.left)
        for stage, images in progress.stages.items():
            self.made["images"].set(images, tags={"stage": stage})
        for stage, seconds in told["seconds"].items():
            self.made["seconds"].set(seconds, tags={"stage": stage})
        for fault, images in told["faults"].items():
            self.made["faults"].set(images, tags={"fault": fault})
