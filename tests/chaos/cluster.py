"""A Ray cluster of several nodes on this machine whose parts can be killed, each by `kill -9`."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import psutil
from ray.cluster_utils import Cluster

TITLES = {"worker": "MapBatches(", "actor": "MapWorker"}  # what Ray calls its processes while they work
_STORE = 150 * 2**20  # bytes of a node's object store


class FragileCluster:
    """A head without CPUs, on which only drivers live, and worker nodes that come and go."""

    def __init__(self, nodes: int, cpus: int) -> None:
        """Start the head and the nodes."""
        self.cpus = cpus
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE},
        )
        self.nodes: list[Any] = [self._add() for _ in range(nodes)]
        self.address: str = self.cluster.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.shutdown()

    def _add(self) -> Any:
        """One more node."""
        return self.cluster.add_node(num_cpus=self.cpus, object_store_memory=_STORE, wait=False)

    def kill(self, kind: str, chance: random.Random) -> str | None:
        """Kill one worker, actor or node; says what was killed, or None when there was none of the kind."""
        if kind == "node":
            node = self.nodes.pop(chance.randrange(len(self.nodes)))
            pid = raylet_of(node).pid
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self._add())
            return f"raylet {pid} with all its workers; another node joins"
        found = [process for process in self.working() if TITLES[kind] in title_of(process)]
        if kind == "worker":
            found = [process for process in found if TITLES["actor"] not in title_of(process)]
        if not found:
            return None
        process = chance.choice(found)
        title = title_of(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
        return f"{title} ({process.pid})"

    def working(self) -> Iterator[psutil.Process]:
        """The worker processes of all nodes."""
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield from raylet_of(node).children()

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Wait until no worker works: what a killed driver left behind has ended."""
        until = time.monotonic() + seconds
        while any(any(title in title_of(process) for title in TITLES.values()) for process in self.working()):
            assert time.monotonic() < until, "workers of a dead driver go on"
            time.sleep(0.2)


def raylet_of(node: Any) -> psutil.Process:
    """The raylet of a node."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def title_of(process: psutil.Process) -> str:
    """What a Ray worker says it does; '' when it has just ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
