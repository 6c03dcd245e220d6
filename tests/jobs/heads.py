"""A Ray head of its own for a test, as `ray start --head` makes it: own folder, own ports, own processes to end."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

SCRIPTS = Path(sys.executable).parent
# Loopback only; a token would be made and kept in the home folder of whoever runs the tests.
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PATH": f"{SCRIPTS}:{os.environ.get('PATH', '')}",  # what `python` is to a job, its node decides
}
_FAKE_HEAD = "f" * 51 + "00000"


@dataclass(frozen=True)
class Head:
    """A running head: where Ray listens, where jobs are submitted, and its folder."""

    address: str
    dashboard: str
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process that works on this cluster."""
        return {**ENVIRONMENT, "RAY_ADDRESS": self.address, **more}


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with_ports = [socket.socket() for _ in range(number)]
    for each in with_ports:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in with_ports]
    for each in with_ports:
        each.close()
    return ports


@contextmanager
def head(*options: str, environment: dict[str, str] | None = None) -> Iterator[Head]:
    """A head while the block runs; `options` go to `ray start`."""
    folder = Path(tempfile.mkdtemp(prefix="ray_"))  # short: the names of sockets have at most 107 bytes
    port, dashboard, agent = free_ports(3)
    command = [
        *(str(SCRIPTS / "ray"), "start", "--head", "--block", f"--temp-dir={folder}"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *("--dashboard-host=127.0.0.1", "--object-store-memory=200000000", *options),
    ]
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(command, env={**ENVIRONMENT, **(environment or {})}, stdout=log, stderr=log)
    try:
        yield Head(_address(folder, process), f"http://127.0.0.1:{dashboard}", folder)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def head_that_scales(kinds: dict[str, Any], folder: Path) -> Iterator[Head]:
    """A head without CPUs, whose autoscaler starts nodes of these kinds as raylets on this machine."""
    (port,) = free_ports(1)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    nothing: dict[str, Any] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "test",
        "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": _FAKE_HEAD,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "available_node_types": {"ray.head.default": nothing, **kinds},
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "idle_timeout_minutes": 5,
        **{f"{name}_commands": [] for name in lists},
    }
    path = folder / "autoscaling.json"  # JSON is YAML
    path.write_text(json.dumps(config))
    settings = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _FAKE_HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _FAKE_HEAD,
    }
    options = (f"--port={port}", "--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={path}")
    with head(*options, environment=settings) as running:
        yield running


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the head listens, once it does."""
    written = folder / "ray_current_cluster"
    for _ in range(600):
        if written.exists() and "This command will now block" in (folder / "start.log").read_text(errors="replace"):
            return written.read_text().strip()
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError((folder / "start.log").read_text(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and all that it started, and nothing else."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=10)
