"""A cluster of nodes so small that the ensemble actors leave no whole CPU free on any of them."""

import json
import subprocess
import sys

import pytest

from cxr_ray.images.phantom import write_archive
from tests.conftest import make_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def address():
    """The address of a cluster of two nodes with two CPUs each, and a head that only heads."""
    command = [sys.executable, "-m", "tests.scoring.small_nodes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        try:
            yield next(line.split()[1] for line in cluster.stdout if line.startswith("address "))
        finally:
            cluster.stdin.close()
            cluster.wait(timeout=60)


def test_score_nodes_of_two_cpus_each_come_to_an_end(address, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    images = write_archive(tmp_path / "archive", num_images=96, side=96, processes=1).parent / "images"
    command = [sys.executable, "-m", "cxr_ray.cli", "score", str(images), "--ensemble", str(bundle)]
    command += ["--output", str(tmp_path / "out"), "--address", address, "--json", "--set", "images_per_task=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["scored"] + result["faulted"] == 96
    assert result["scored"] > 0
    assert "4 ensemble actors" in done.stderr
