"""Nodes for a job on a cluster that scales from nothing: ask the autoscaler, and wait until they have joined.

Both pipelines size themselves by the cluster they find when they begin, and one that scales from 0 shows its head only.
Ray keeps one request for the whole cluster, and an actor of Ray Data (and of Ray Train) overwrites it every 20 s with
what its own clients want: so this is one of its clients. Its requests expire, so a job that was killed holds no node.
"""

import argparse
import threading
import time
import uuid
from collections.abc import Callable, Sequence

import ray
from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator

from cxr_ray.cluster import session
from cxr_ray.config import ClusterConfig, parse
from cxr_ray.errors import ClusterError

Log = Callable[[str], None]
_EXPIRES = 60.0  # seconds after which a request that is not repeated is forgotten
_POLL = 2.0  # seconds between looks at the cluster
_SPEAK = 30.0  # seconds between lines in the log
_FEWEST_CPUS = 2  # of a pipeline


def wait_for_nodes(config: ClusterConfig, *, stop: threading.Event | None = None, log: Log) -> None:
    """Wait until the cluster has the CPUs and GPUs asked for, at most as long as the settings say, or until `stop`.

    The request ends with the wait: the nodes then stay for the cluster's idle timeout, which must be longer than it
    takes to list the inputs, and as long as there is work for them.

    Raises:
        ClusterError: After the wait there are fewer GPUs than `min_gpus`, or fewer than 2 CPUs.
    """
    if not config.gpus and not config.cpus:
        return
    started = spoke = time.monotonic()
    stop = stop or threading.Event()
    found = _cluster()
    if not _enough(found, config):
        log(f"The cluster has {_said(found)}; asking for {config.gpus} GPUs and {config.cpus} CPUs.")
    # Not more than 1 CPU in a piece: nodes of any size may serve them.
    wanted = [{"GPU": 1.0}] * config.gpus + [{"CPU": 1.0}] * config.cpus
    requests = DefaultAutoscalingCoordinator(f"cxr-ray-{uuid.uuid4().hex}")
    try:
        while not (_enough(found, config) or stop.is_set() or time.monotonic() - started >= 60 * config.wait_minutes):
            requests.request_resources(wanted, expire_after_s=_EXPIRES)
            stop.wait(_POLL)
            found = _cluster()
            if time.monotonic() - spoke >= _SPEAK:
                spoke = time.monotonic()
                log(f"Waiting for nodes: {_said(found)} after {spoke - started:.0f} s.")
    finally:
        requests.cancel_request()
    if stop.is_set():
        return
    if not _enough(found, config):
        check_least(found, config)
    log(f"The cluster has {_said(found)} after {time.monotonic() - started:.0f} s.")


def wait_as_asked(arguments: Sequence[str], *, log: Log) -> list[str]:
    """Wait for the nodes that a job's arguments ask for, and return the others; in a Ray session of its own.

    `--gpus`, `--cpus`, `--min-gpus` and `--wait-minutes` are the settings of ClusterConfig.

    Raises:
        ClusterError, ConfigError: The nodes did not come, or a number is none.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in ClusterConfig.model_fields:
        options.add_argument(f"--{name.replace('_', '-')}")
    asked, others = options.parse_known_args(arguments)
    config = parse(ClusterConfig, vars(asked), source="The job's command line")
    if config.gpus or config.cpus:
        with session(None, debug=False):
            wait_for_nodes(config, log=log)
    return others


def check_least(found: tuple[float, float], config: ClusterConfig) -> None:
    """Raise ClusterError when (GPUs, CPUs) are fewer than a job may begin with."""
    gpus, cpus = found
    fewest = min(config.min_gpus, config.gpus)
    if gpus < fewest or cpus < _FEWEST_CPUS:
        raise ClusterError(
            f"After {config.wait_minutes:g} minutes the cluster has {_said(found)}, and needs at least"
            f" {_said((fewest, _FEWEST_CPUS))}; see `ray status` for why no node came (capacity, quota), raise"
            " wait_minutes, or lower min_gpus."
        )


def _cluster() -> tuple[float, float]:
    """GPUs and CPUs of the nodes that have joined."""
    total = ray.cluster_resources()
    return float(total.get("GPU", 0.0)), float(total.get("CPU", 0.0))


def _enough(found: tuple[float, float], config: ClusterConfig) -> bool:
    """Whether all that was asked for is there."""
    return found[0] >= config.gpus and found[1] >= config.cpus


def _said(found: tuple[float, float]) -> str:
    """GPUs and CPUs in words."""
    return f"{found[0]:g} GPUs and {found[1]:g} CPUs"
