"""Files that end or stall their decoder's process, through the whole of a run as a user starts it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from cxr_ray.errors import Fault
from cxr_ray.scoring.table import read_scores
from tests.conftest import write_image

POISON = Path(__file__).with_name("poison")
EXPECTED = {"abort": Fault.DECODER_CRASHED, "overrun": Fault.DECODER_CRASHED, "hang": Fault.DECODER_TIMEOUT}


def write_poison(path: Path, kind: str) -> None:
    """A PNG that is poison to the decoder of tests/scoring/poison."""
    text = PngImagePlugin.PngInfo()
    text.add_text("poison", kind)
    Image.open(write_image(path, seed=1)).save(path, pnginfo=text)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_score_poisonous_files_cost_one_fault_row_each_and_a_bounded_time(engine, bundle, tmp_path):
    archive, output = tmp_path / "archive", tmp_path / "out"
    for number in range(24):
        write_image(archive / f"film_{number:02d}.png", seed=number)
    for number, kind in enumerate((*EXPECTED, "abort")):
        write_poison(archive / f"film_{5 * number:02d}_{kind}.png", kind)
    command = [sys.executable, "-m", "cxr_ray.cli", "score", str(archive), "--json", "--ensemble", bundle]
    settings = ["--engine", engine, "--set", "limits.decode_seconds=2", "--set", "images_per_task=8"]
    path = os.pathsep.join(filter(None, (str(POISON), os.environ.get("PYTHONPATH"))))
    started = time.monotonic()
    done = subprocess.run(
        [*command, *settings, "--output", str(output)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["faults"] == {"decoder_crashed": 3, "decoder_timeout": 1}
    rows = read_scores(str(output), wanted=["uri", "status", "fault"])[0].to_pylist()
    assert Counter(row["status"] for row in rows) == {"scored": 24, "faulted": 4}
    for row in rows:
        assert row["fault"] == EXPECTED.get(Path(row["uri"]).stem.split("_")[-1]), row["uri"]
    assert time.monotonic() - started < 200.0
