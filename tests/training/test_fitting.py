"""One member through Ray Train: two workers as one, one that dies, what is not finite, and how a failed run ends."""

import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.train import TrainingFailedError

from cxr_ray.errors import ConfigError, StorageError, TrainingError
from cxr_ray.training import fitting
from cxr_ray.training.cache import open_part, shard_schema, write_shard
from tests.training.on_ray import STEPS, begins, buggy_loop, dying_loop, fit_on_ray
from tests.training.squares import a_plan, fit_squares, tiny_member

worker_loop = fitting.worker_loop

pytestmark = pytest.mark.slow


def full_disk_loop(arguments: dict[str, Any]) -> None:
    """The loop of a worker that cannot write a file of more than a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
    worker_loop(arguments)


@pytest.fixture(scope="module")
def alone(shards) -> dict[str, torch.Tensor]:
    """The best weights of one worker in this process."""
    _, states = fit_squares(shards, a_plan(**STEPS), member=tiny_member("test_convnext"))
    return states[-1]["best_weights"]


@pytest.fixture(scope="module")
def tested_shards(shards, tmp_path_factory) -> str:
    """The squares, and a test part of seven, which two workers cannot share evenly."""
    folder, random = tmp_path_factory.mktemp("tested"), np.random.default_rng(1)
    shutil.copytree(shards, folder, dirs_exist_ok=True)
    rows = [
        {
            "uri": f"/{number}",
            "part": "test",
            "labels": [0.0, 1.0, 0.0],
            "pixels": random.integers(0, 256, 32 * 32, dtype=np.uint8).tobytes(),
        }
        for number in range(40, 47)
    ]
    table = pa.Table.from_pylist(rows, schema=shard_schema(size=32, num_findings=3))
    write_shard(str(folder / "test.arrow"), table)
    return str(folder)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in found if not torch.allclose(found[name], expected[name], rtol=0.0, atol=1e-4)]


def test_fit_member_worker_that_dies_in_mid_epoch_leaves_no_trace_in_the_weights(
    ray_local, tested_shards, tmp_path, monkeypatch, alone
):
    whole = fit_on_ray(tested_shards, tmp_path / "whole", optimize=STEPS, workers=2, checkpoint_steps=1)
    assert_close(whole, alone)
    monkeypatch.setattr(fitting, "worker_loop", dying_loop)
    settings = {"optimize": STEPS, "workers": 2, "checkpoint_steps": 1, "max_failures": 1}
    broken = fit_on_ray(tested_shards, tmp_path / "broken", **settings)
    assert (tmp_path / "broken" / "work" / "befallen").exists()
    (_, first), (_, second) = begins(tmp_path / "broken")
    assert first == 0
    assert second in {1, 2}, "it went on within the epoch"
    torch.testing.assert_close(broken, whole, rtol=0.0, atol=1e-6)
    for name, weights in (("whole", whole), ("broken", broken)):
        assert_test_logits(tmp_path / name / "work" / "test.npy", weights, tested_shards)


def assert_test_logits(path: Path, weights: dict[str, torch.Tensor], shards: str) -> None:
    """What two workers filed is what one network says, image by image."""
    network, test = tiny_member("test_convnext"), open_part(shards, "test")
    network.load_state_dict(weights)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(test.pixels(range(len(test)))))
    assert expected.shape == (7, 3)
    torch.testing.assert_close(torch.from_numpy(np.load(path)), expected, rtol=0.0, atol=1e-5)


def test_fit_member_elastic_workers_give_the_weights_of_one(ray_local, shards, tmp_path, alone):
    assert_close(fit_on_ray(shards, tmp_path, optimize=STEPS, workers=(1, 2)), alone)


def test_fit_member_loss_that_is_not_finite_is_told_and_not_tried_again(ray_local, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"is not finite in epoch \d, step \d, with .*/\d{3}.*; look at these images"):
        fit_on_ray(shards, tmp_path, optimize={**STEPS, "learning_rate": 1e30}, workers=2, max_failures=5)


def test_fit_member_logits_that_are_not_finite_are_told_and_not_tried_again(ray_local, shards, tmp_path):
    """One step with a rate at which the weights stay finite, and their products do not."""
    steps = {"epochs": 1, "batch_size": 32, "learning_rate": 1e20, "weight_decay": 0.0, "warmup": 0.0}
    words = r"The logits are not finite in the validation part after epoch 1, with /000, .*; lower optimize"
    with pytest.raises(ConfigError, match=words):
        fit_on_ray(shards, tmp_path, optimize=steps, workers=2, max_failures=5)


def test_fit_member_checkpoint_that_cannot_be_written_is_one_sentence(ray_local, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "worker_loop", full_disk_loop)
    with pytest.raises(StorageError, match=r"checkpoint .*cannot be written .*; (free some|check the) space"):
        fit_on_ray(shards, tmp_path, optimize=STEPS, workers=1, max_failures=1)


def test_fit_member_worker_that_always_dies_is_one_sentence(ray_local, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "worker_loop", dying_loop)
    with pytest.raises(
        TrainingError, match="process or node died without a word, most often killed for lack of memory"
    ):
        fit_on_ray(shards, tmp_path, optimize=STEPS, workers=2, checkpoint_steps=1, max_failures=0)


def test_fit_member_bug_is_named_and_keeps_its_traceback(ray_local, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "worker_loop", buggy_loop)
    with pytest.raises(TrainingError, match="the first error was TypeError: object of type 'int' has no len") as caught:
        fit_on_ray(shards, tmp_path, optimize=STEPS, workers=1, max_failures=0)
    assert isinstance(caught.value.__cause__, TrainingFailedError)
    assert "in buggy_loop" in str(caught.value.__cause__)
