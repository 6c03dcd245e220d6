"""One member through Ray Train: two workers as one, a worker that dies, a loss that is not finite, elastic workers."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from safetensors.torch import load_file

from cxr_ray.config import TrainConfig
from cxr_ray.errors import ConfigError
from cxr_ray.models import member
from cxr_ray.models.member import create
from cxr_ray.training import fitting
from cxr_ray.training.assembly import Job
from tests.training.squares import FINDINGS, a_plan, fit_squares, tiny_member

STEPS = {"epochs": 2, "batch_size": 9, "learning_rate": 1e-3, "warmup": 0.0, "ema": 0.9}
worker_loop = fitting.worker_loop

pytestmark = pytest.mark.slow


def dying_loop(arguments: dict[str, Any]) -> None:
    """The loop of a worker, but that the second one dies once, after the second checkpoint of the first epoch."""
    marker, rank = Path(arguments["job"]["folder"], "died"), ray.train.get_context().get_world_rank()
    report = fitting.report_to_ray

    def dying_report(epoch: Any, state: dict[str, Any], **names: Any) -> None:
        report(epoch, state, **names)
        if rank == 1 and state["step"] == 2 and not marker.exists():
            marker.touch()
            os._exit(1)

    with Path(arguments["job"]["folder"], f"begins-{rank}").open("a") as trace:
        state = fitting.last_state()
        print(0 if state is None else state["step"], file=trace)
    fitting.report_to_ray = dying_report
    worker_loop(arguments)


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
    board = ray.remote(num_cpus=0)(fitting.Board).remote()
    settings = config.model_dump(mode="json")
    fitting.fit_member(settings, asdict(job), shards, {"CPU": 1.0}, str(folder / "runs"), board)
    return load_file(Path(job.folder, "best.safetensors"))


@pytest.fixture(scope="module")
def alone(shards) -> dict[str, torch.Tensor]:
    """The best weights of one worker in this process."""
    _, states = fit_squares(shards, a_plan(**STEPS), member=tiny_member("test_convnext"))
    return states[-1]["best_weights"]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in found if not torch.allclose(found[name], expected[name], rtol=0.0, atol=1e-4)]


def test_fit_member_worker_that_dies_in_mid_epoch_leaves_no_trace_in_the_weights(
    ray_local, shards, tmp_path, monkeypatch, alone
):
    whole = fit_on_ray(shards, tmp_path / "whole", optimize=STEPS, workers=2, checkpoint_steps=1)
    assert_close(whole, alone)
    monkeypatch.setattr(fitting, "worker_loop", dying_loop)
    broken = fit_on_ray(shards, tmp_path / "broken", optimize=STEPS, workers=2, checkpoint_steps=1, max_failures=1)
    assert (tmp_path / "broken" / "work" / "died").exists()
    begins = (tmp_path / "broken" / "work" / "begins-0").read_text().split()
    assert begins[0] == "0"
    assert begins[1] in {"1", "2"}, "it went on within the epoch"
    torch.testing.assert_close(broken, whole, rtol=0.0, atol=1e-6)


def test_fit_member_elastic_workers_give_the_weights_of_one(ray_local, shards, tmp_path, alone):
    assert_close(fit_on_ray(shards, tmp_path, optimize=STEPS, workers=(1, 2)), alone)


def test_fit_member_loss_that_is_not_finite_is_told_and_not_tried_again(ray_local, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"is not finite in epoch \d, step \d, with .*/\d{3}.*; look at these images"):
        fit_on_ray(shards, tmp_path, optimize={**STEPS, "learning_rate": 1e30}, workers=2, max_failures=5)
