"""Nodes that die or join in mid-epoch: the fit ends with the weights of one that nothing befell."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.on_ray import STEPS, begins
from tests.training.squares import a_plan, fit_squares, tiny_member

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fits(shards, tmp_path_factory) -> Path:
    """The folder of all fits, which need a cluster of their own and so a process of their own: about three minutes."""
    folder = tmp_path_factory.mktemp("nodes")
    command = [sys.executable, "-m", "tests.training.nodes", shards, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
    return folder


def test_fit_member_node_that_dies_in_mid_epoch_leaves_no_trace_in_the_weights(fits):
    assert [world for world, _ in begins(fits / "killed")] == [2, 2]
    assert begins(fits / "killed")[1][1] in {1, 2}, "it went on within the epoch"
    found, expected = (load_file(fits / f"{name}.safetensors") for name in ("killed", "whole"))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(("name", "worlds"), [("joined", [1, 2]), ("lost", [2, 1])])
def test_fit_member_elastic_workers_come_and_go_and_the_weights_are_those_of_one(fits, shards, name, worlds):
    assert [world for world, _ in begins(fits / name)] == worlds
    assert begins(fits / name)[1][1] in {1, 2}, "it went on within the epoch"
    _, states = fit_squares(shards, a_plan(**STEPS), member=tiny_member("test_convnext"))
    found = load_file(fits / f"{name}.safetensors")
    torch.testing.assert_close(found, states[-1]["best_weights"], rtol=0.0, atol=1e-4)
