"""The benchmark of one accelerator runs without one, so that it does where there is one."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_gpu_benchmark_runs_on_a_cpu_with_small_members():
    members = "test_resnet:32,test_efficientnet:48"
    options = ["--members", members, "--batches", "2", "--device", "cpu", "--rounds", "1", "--findings", "3"]
    found = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for precision in ("fp32", "bf16"):
        for maps in ("with", "without"):
            assert f"| {precision} | 2 | {maps} maps | " in found.stdout
    assert "JPEG 2000 lossless: " in found.stdout
