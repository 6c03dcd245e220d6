"""What test_small_nodes.py runs in a process of its own: a cluster of two nodes with two CPUs each, until stdin ends.

Ray keeps one client of a GCS in a process: a cluster that comes and goes in the process of the tests takes away the
one of theirs, and a minute after its next call Ray ends the process without a word.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Print the address once all nodes are there; the head only heads."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, wait=True)
        print(f"address {cluster.address}", flush=True)
        sys.stdin.read()
    finally:
        for node in [*cluster.worker_nodes, cluster.head_node]:  # the head last: the others are signed off there
            cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main()
