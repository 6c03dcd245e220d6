"""What the tasks of a run tell while they work, and whether they shall go on: an actor that all of them ask.

Its numbers are for people who watch: they are lost with the node it runs on. What counts are the written rows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxr_ray.errors import CxrRayError

STAGES = ("fetch", "decode", "ensemble", "write")


class Meter:
    """Images, seconds and faults by stage since the run began."""

    def __init__(self) -> None:
        """Nothing was done yet."""
        self.images: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.draining = False
        self.end: CxrRayError | None = None

    def give_up(self, error: CxrRayError) -> None:
        """Keep why the run cannot go on."""
        self.end = self.end or error

    def why(self) -> CxrRayError | None:
        """Why the run cannot go on, or None."""
        return self.end

    def add(self, images: dict[str, int], seconds: dict[str, float], faults: dict[str, int]) -> bool:
        """Count what a task did; returns whether the run drains, so that what is not begun is left."""
        self.images.update(images)
        self.seconds.update(seconds)
        self.faults.update(faults)
        return self.draining

    def is_draining(self) -> bool:
        """Whether what is not begun is to be left."""
        return self.draining

    def drain(self) -> None:
        """From now on nothing new is begun."""
        self.draining = True

    def read(self) -> dict[str, dict[str, Any]]:
        """All counts."""
        return {"images": dict(self.images), "seconds": dict(self.seconds), "faults": dict(self.faults)}


@contextmanager
def telling(meter: Any) -> Iterator[None]:
    """Tell the meter what of ours ends a task: Ray Data hands on no more than its text (2.60)."""
    try:
        yield
    except CxrRayError as error:
        ray.get(meter.give_up.remote(error))
        raise


def start_meter() -> Any:
    """The handle of a new meter, on the driver's own node, which lives as long as the driver does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(Meter).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()
    )
