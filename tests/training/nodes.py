"""What test_nodes.py runs in a process of its own: a cluster of several raylets that come and go under a fit."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ray.train
from ray.cluster_utils import Cluster
from safetensors.torch import save_file

from cxr_ray.cluster import connect, disconnect
from cxr_ray.training import fitting
from tests.training.on_ray import STEPS, fit_on_ray, node_killing_loop, waiting_loop

QUICK = {"health_check_initial_delay_ms": 1_000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


def main(shards: str, folder: Path) -> None:
    """The weights of four fits: elastic with a node that joins, undisturbed, elastic and fixed with one that dies.

    Nodes are added here, because only a main thread can start them, and fits wait in another.
    """
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    )
    cluster.add_node(num_cpus=1)
    connect(cluster.address, debug=False)
    # After the death of a node Ray Train asks for as many workers as before, and waits a minute for them.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
    # Ray looks for more room every minute, unless it is told otherwise.
    ray.train.ScalingConfig = partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=1.0)
    fit = partial(fit_on_ray, shards, optimize=STEPS, checkpoint_steps=1, max_failures=1)

    def keep(name: str, **compute: object) -> None:
        started = time.monotonic()
        save_file(fit(folder=folder / name, **compute), folder / f"{name}.safetensors")
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)

    undisturbed, fitting.worker_loop = fitting.worker_loop, waiting_loop
    with ThreadPoolExecutor(1) as pool:
        joined = pool.submit(keep, "joined", workers=(1, 2))
        while not (folder / "joined" / "work" / "befallen").exists() and not joined.done():
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)
        joined.result()
    fitting.worker_loop = undisturbed
    keep("whole", workers=2)
    fitting.worker_loop = node_killing_loop
    keep("lost", workers=(1, 2))
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    keep("killed", workers=2)
    disconnect()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
