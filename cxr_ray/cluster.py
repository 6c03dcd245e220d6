"""What the project asks of Ray itself: a cluster to work on, and what it knows of a task. No images, no models."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import ray
import ray.data
from ray._private.worker import global_worker
from ray.data.exceptions import SystemException, UserCodeException
from ray.exceptions import RayError

from cxr_ray import storage
from cxr_ray.config import StorageConfig
from cxr_ray.errors import CxrRayError, StoppedError

Answer = TypeVar("Answer")
_REPEATS = 10  # of a task whose process or node died; Ray's 3 are few on spot nodes
_FEWEST_ABREAST = 4


@contextmanager
def session(address: str | None, *, debug: bool) -> Iterator[None]:
    """A Ray to work on while the block runs. What it carries out of a worker comes out as what it was there."""
    connect(address, debug=debug)
    try:
        yield
    except (RayError, SystemException, UserCodeException) as error:
        cause = _cause(error)
        if cause is not None and not debug:
            raise cause from error
        raise
    finally:
        disconnect()


def connect(address: str | None, *, debug: bool) -> None:
    """Join the Ray cluster at `address`, or that of the job that runs us, or start a local one that ends with us."""
    # Several members start at once, each with a worker or two that do nothing but wait. Ray warns of them otherwise.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    level = logging.INFO if debug else logging.ERROR
    if address or "RAY_ADDRESS" in os.environ:
        ray.init(address=address, logging_level=level, log_to_driver=debug)
    else:
        cpus = max(2, os.cpu_count() or 2)  # the pipeline wants two even where there is one
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=level, log_to_driver=debug)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def over_cluster(
    function: Callable[..., Answer],
    arguments: Iterable[tuple[Any, ...]],
    each: Callable[[Answer], None],
    *,
    stores: StorageConfig,
    stop: threading.Event,
) -> None:
    """Call `function` with each of the tuples in tasks of the cluster, and hand each result over as it comes.

    The arguments are drawn while it goes, a few tasks ahead. What dies is repeated, so `function` must bear that. On a
    cluster that has no CPUs yet the tasks share the driver's node.

    Raises:
        StoppedError: `stop` was set.
        CxrRayError: What `function` raises.
    """
    cpus = ray.cluster_resources().get("CPU", 0.0)
    call = ray.remote(num_cpus=1 if cpus >= 1 else 0, max_retries=_REPEATS)(_call)
    abreast = max(_FEWEST_ABREAST, 2 * int(cpus))
    running: list[Any] = []
    for given in chain(arguments, [None]):
        if given is not None:
            running.append(call.remote(function, given, stores.model_dump(mode="json")))
        while running and (given is None or len(running) >= abreast):
            finished, running = ray.wait(running, timeout=1.0)
            for result in finished:
                each(ray.get(result))
            if stop.is_set():
                raise StoppedError


def _call(function: Callable[..., Answer], given: tuple[Any, ...], stores: dict[str, Any]) -> Answer:
    """One call, in a process that knows how to reach its stores."""
    storage.configure(StorageConfig.model_validate(stores))
    return function(*given)


def attempt() -> int:
    """How often the running task has been tried before: 0 at first; Ray repeats a task whose process or node died.

    Ray counts the attempts but offers the number in no public interface (2.60).
    """
    return int(global_worker.core_worker.get_current_task_attempt_number())


def _cause(error: BaseException | None) -> CxrRayError | None:
    """The error of ours that Ray wrapped, if there is one."""
    seen = 0
    while error is not None and seen < 10:
        # What a task raised arrives as an error of its own class and of Ray's, whose text is the traceback.
        if isinstance(error, CxrRayError) and not isinstance(error, RayError):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
        seen += 1
    return None
