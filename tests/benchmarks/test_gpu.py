"""The benchmark of one accelerator runs without one, so that it does where there is one."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
PRECISIONS = ("fp32", "tf32", "bf16")


@pytest.fixture(scope="module")
def printed() -> str:
    members = "test_resnet:32,test_efficientnet:48"
    options = ["--members", members, "--batches", "2,3", "--device", "cpu", "--rounds", "1", "--findings", "3"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads of tiny operations only wait for each other
    found = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False, env=alone)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_gpu_benchmark_has_one_row_of_sound_numbers_for_everything_asked(printed: str):
    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    rows = {tuple(cells[:4]): cells[4:] for cells in table}
    assert len(rows) == len(table)
    assert set(rows) == set(product(PRECISIONS, ("channels_last", "contiguous"), ("2", "3"), ("none", "all")))
    for rate, share, memory in rows.values():
        assert float(rate) > 0
        assert 0 < float(share.removesuffix(" %")) / 100 < 1.5
        assert memory == "nan"  # a CPU does not say


def test_gpu_benchmark_says_which_units_its_peaks_were_measured_with(printed: str):
    peaks = dict(re.findall(r"^(\w+): matrix products at (\S+) TFLOP/s", printed, re.MULTILINE))
    assert set(peaks) == set(PRECISIONS)
    assert all(float(peak) > 0 for peak in peaks.values())
    assert re.search("^fp32: .*, TensorFloat-32 kept from float32 products and convolutions$", printed, re.MULTILINE)
    assert re.search("^tf32: .*, TensorFloat-32 allowed to float32 products", printed, re.MULTILINE)


def test_gpu_benchmark_needs_as_many_cores_as_decoding_takes_at_its_best_rate(printed: str):
    rates = [float(rate) for rate in re.findall(r"\| all \| (\S+) \|", printed)]
    cores, best = re.findall(r"decoding JPEG 2000 lossless: (\S+) cores keep up with (\d+) images/s", printed)[0]
    assert float(best) == pytest.approx(max(rates), abs=0.6)
    assert float(cores) == pytest.approx(max(rates) * 0.9692, abs=0.15)


def test_gpu_benchmark_copies_the_largest_batch_as_bytes_and_as_floats(printed: str):
    assert re.findall(r"copying (\d+) images as (\w+): ", printed) == [("3", "uint8"), ("3", "float32")]
