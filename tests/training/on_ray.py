"""A fit of a tiny member through Ray Train, for the tests that need one, with what may befall its workers."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from safetensors.torch import load_file

from cxr_ray.config import TrainConfig
from cxr_ray.models import member
from cxr_ray.models.member import create
from cxr_ray.training import fitting
from cxr_ray.training.assembly import Job
from cxr_ray.training.board import Board
from cxr_ray.training.trainer import worker_settings
from tests.training.squares import FINDINGS, tiny_member

STEPS = {"epochs": 2, "batch_size": 9, "learning_rate": 1e-3, "warmup": 0.0, "ema": 0.9}

_worker_loop = fitting.worker_loop


def fit_on_ray(shards: str, folder: Path, *, optimize: dict[str, Any], **compute: Any) -> dict[str, torch.Tensor]:
    """The best weights of a tiny member that was fitted through Ray Train."""
    network = tiny_member("test_convnext")
    config = TrainConfig.model_validate(
        {
            "manifest": {"path": "-", "findings": list(FINDINGS)},
            "members": [{"name": "m", "backbone": "test_convnext"}],
            "optimize": optimize,
            "compute": compute,
        }
    )
    spec = create(config.members[0], findings=FINDINGS, size=32, preprocess_digest="d")[1]
    job = Job(spec, 5, "digest", str(folder / "work"))
    Path(job.folder).mkdir(parents=True)
    Path(job.folder, "start.safetensors").write_bytes(member.encode_weights(network.state_dict()))
    board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
    fitting.fit_member(worker_settings(config), asdict(job), shards, {"CPU": 1.0}, str(folder / "runs"), board)
    return load_file(Path(job.folder, "best.safetensors"))


def dying_loop(arguments: dict[str, Any]) -> None:
    """The loop of a worker, but that the second of two dies once, after the second checkpoint of the first epoch."""
    _befallen(arguments, rank=1, world=2, what=lambda: os._exit(1))


def node_killing_loop(arguments: dict[str, Any]) -> None:
    """The same, but that the node of the first of two dies: its raylet, which is the parent of its workers."""
    _befallen(arguments, rank=0, world=2, what=_kill_node)


def waiting_loop(arguments: dict[str, Any]) -> None:
    """The same, but that a worker alone does nothing more until it is ended from outside."""
    _befallen(arguments, rank=0, world=1, what=signal.pause)


def buggy_loop(arguments: dict[str, Any]) -> None:
    """The loop of a worker with a bug."""
    len(arguments["job"]["seed"])


def fit_member_with_a_bug(*arguments: Any) -> None:
    """The task of a member, in whose workers there is a bug."""
    fitting.worker_loop = buggy_loop
    fitting.fit_member(*arguments)


def _kill_node() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # the worker goes with its node


def _befallen(arguments: dict[str, Any], *, rank: int, world: int, what: Callable[[], object]) -> None:
    """Run the loop; after the second checkpoint of the first epoch, once, `what` befalls one worker."""
    folder, context = Path(arguments["job"]["folder"]), ray.train.get_context()
    marker, report = folder / "befallen", fitting.report_to_ray
    ours = (context.get_world_rank(), context.get_world_size()) == (rank, world)

    def report_and_wait(epoch: Any, state: dict[str, Any], **names: Any) -> None:
        report(epoch, state, **names)
        if ours and state["step"] == 2 and not marker.exists():
            marker.touch()
            ray.train.get_all_reported_checkpoints()  # or a slow controller knows of none, and all begins anew
            what()

    with (folder / f"begins-{context.get_world_rank()}").open("a") as trace:
        state = fitting.last_state()
        print(context.get_world_size(), 0 if state is None else state["step"], file=trace)
    fitting.report_to_ray = report_and_wait
    _worker_loop(arguments)


def begins(folder: Path) -> list[tuple[int, int]]:
    """Number of workers, and step, with which the first worker began each time."""
    lines = (folder / "work" / "begins-0").read_text().splitlines()
    return [(int(world), int(step)) for world, step in map(str.split, lines)]
