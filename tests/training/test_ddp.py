"""Two workers end with the weights of one: same batches, views and loss. torch.distributed alone, no Ray."""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from cxr_ray.errors import ConfigError
from cxr_ray.training.state import State
from cxr_ray.training.workers import Worker
from tests.training.squares import a_plan, assert_same, fit_squares, parts, tensors, tiny_member

# Three steps. Nine images two workers cannot share evenly. No batch norm: its statistics are those of each worker.
STEPS = {"epochs": 1, "batch_size": 10, "learning_rate": 1e-3, "warmup": 0.0}
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": STEPS,
    "everything": {
        **STEPS,
        "batch_size": 9,
        "ema": 0.9,
        "mixup": 0.4,
        "freeze": 0.2,
        "loss": {"name": "w_cel"},
        "sampler": "class_aware",
        "compute": {"accumulate": 2, "checkpoint_steps": 2},
    },
}
UNEVEN = {**STEPS, "batch_size": 9, "compute": {"accumulate": 5}}
PATIENT = {"epochs": 8, "batch_size": 10, "learning_rate": 0.05, "patience": 1, "selection": "loss"}
NORMED = {**STEPS, "epochs": 2, "second_stage": {"epochs": 1}}


def count_parts(shards: str, **options: Any) -> list[int]:
    """Images of each part that goes through the network in training, where SyncBatchNorm would talk to the others."""
    member, sizes = tiny_member("test_convnext"), []

    def note(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if network.training:
            sizes.append(len(inputs[0]))

    member.register_forward_pre_hook(note)
    fit_squares(shards, a_plan(**UNEVEN), member=member, **options)
    return sizes


def run_worker(rank: int, world: int, port: int, shards: str, folder: str) -> None:
    """What each process does: all scenarios, its last states into `folder`."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    options: dict[str, Any] = {
        "worker": Worker(rank, world),
        "wrap": lambda member: DistributedDataParallel(member, broadcast_buffers=False),
    }
    found: dict[str, Any] = {}
    for name, settings in SCENARIOS.items():
        _, states = fit_squares(shards, a_plan(**settings), member=tiny_member("test_convnext"), **options)
        found[name] = states
    found["normed"] = fit_squares(shards, a_plan(**NORMED), member=tiny_member(), **options)[1]
    data = parts(shards)
    data["train"].labels[data["train"].uris.index("/004"), 0] = float("inf")
    try:
        fit_squares(shards, a_plan(), data=data, **options)
    except ConfigError as error:
        found["sentence"] = str(error)
    found["parts"] = count_parts(shards, **options)
    # As if the ranks had come to other numbers: then the first one's are those of all.
    data = parts(shards)
    if rank == 1:
        data["validation"].labels[:] = 1.0 - data["validation"].labels
    found["disagreed"] = fit_squares(shards, a_plan(**PATIENT), member=tiny_member(), data=data, **options)[1]
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(shards, tmp_path_factory) -> list[dict[str, Any]]:
    """What two workers found, by rank."""
    folder = str(tmp_path_factory.mktemp("pair"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run_worker, (2, port, shards, folder), nprocs=2)
    return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours.double(), theirs.double(), rtol=0.0, atol=1e-4)


def weights_of(state: State) -> dict[str, torch.Tensor]:
    return tensors({name: state[name] for name in ("weights", "average", "best_weights", "best_logits")})


@pytest.mark.parametrize("name", SCENARIOS)
def test_fit_two_workers_end_with_the_weights_of_one(shards, pair, name):
    _, alone = fit_squares(shards, a_plan(**SCENARIOS[name]), member=tiny_member("test_convnext"))
    together = pair[0][name]
    assert [state["step"] for state in together] == [state["step"] for state in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours["num_stated"] == theirs["num_stated"]
        assert ours["loss_sum"] == pytest.approx(theirs["loss_sum"], abs=1e-4)
        expected = weights_of(theirs)
        different = {key: tensor for key, tensor in weights_of(ours).items() if not close(tensor, expected[key])}
        assert not different
    for key in ("train_loss", "validation_loss", "macro_auroc", "map"):
        assert together[-1]["history"][0][key] == pytest.approx(alone[-1]["history"][0][key], abs=1e-4)


@pytest.mark.parametrize("name", [*SCENARIOS, "normed"])
def test_fit_both_workers_hold_the_same_state(pair, name):
    for ours, theirs in zip(pair[0][name], pair[1][name], strict=True):
        assert_same(ours, theirs, check=torch.equal)


def test_fit_state_of_two_workers_goes_on_with_one(shards, pair):
    plan = a_plan(**SCENARIOS["everything"])
    states = pair[0]["everything"]
    _, resumed = fit_squares(shards, plan, member=tiny_member("test_convnext"), resume=states[0])
    expected = weights_of(states[-1])
    assert all(close(tensor, expected[key]) for key, tensor in weights_of(resumed[-1]).items())


def test_fit_shares_of_unequal_size_have_as_many_parts_and_none_is_empty(pair):
    """Batches of nine in up to five parts: four is the most that both can have."""
    assert pair[0]["parts"] == [2, 1, 1, 1] * 3
    assert pair[1]["parts"] == [1, 1, 1, 1] * 3


def test_fit_workers_that_come_to_other_numbers_stop_after_the_same_epoch(pair):
    ours, theirs = (pair[rank]["disagreed"][-1] for rank in range(2))
    assert ours["history"][0]["validation_loss"] != theirs["history"][0]["validation_loss"]
    keys = ("epoch", "best_epoch", "best_value", "anchor_epoch")
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
    assert all(torch.equal(ours["best_weights"][name], tensor) for name, tensor in theirs["best_weights"].items())


def test_fit_all_workers_stop_with_the_same_sentence(pair):
    assert pair[0]["sentence"] == pair[1]["sentence"]
    assert "/004" in pair[0]["sentence"]
