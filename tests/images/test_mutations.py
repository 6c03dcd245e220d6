"""Damaged files of every kind give an image or a fault: no other exception, no dead process, no hanging."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_ray.errors import Fault
from cxr_ray.images.isolation import Died, each_in_a_child
from tests.images.mutations import Edit, edited, mutated, outcome, outcome_of_number, samples

NUMBERS = range(20_000)
KINDS = ("set", "flip", "delete", "repeat", "fill", "splice", "cut")
OUTCOMES = {"image", *(fault.value for fault in Fault)}

EDITS = st.lists(
    st.builds(
        Edit,
        kind=st.sampled_from(KINDS),
        start=st.one_of(st.integers(0, 700), st.integers(0, 2**20)),
        length=st.integers(1, 64),
        value=st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(number=st.integers(0, len(samples()) - 1), edits=EDITS)
def test_decode_any_sample_with_any_edits_image_or_fault(number, edits):
    assert outcome(edited(samples()[number], edits)) in OUTCOMES


@pytest.mark.slow
def test_decode_twenty_thousand_damaged_files_images_or_faults_and_no_process_ends():
    ends = list(each_in_a_child(outcome_of_number, NUMBERS, {}))
    assert [number for number, end in zip(NUMBERS, ends, strict=True) if isinstance(end, Died)] == []
    found = Counter(ends)
    assert set(found) <= OUTCOMES
    # The damage must be of a kind that reaches the decoders: neither all refused at the door nor harmless.
    assert 0.05 < found["image"] / found.total() < 0.6
    assert found["corrupt"] / found.total() > 0.2


def test_samples_undamaged_are_what_they_are():
    """Every sample is read: else its mutations would test nothing but the first check."""
    outcomes = Counter(outcome(data) for data in samples())
    assert outcomes["image"] > 20
    assert outcomes["corrupt"] == outcomes["not_an_image"] == 0


@pytest.mark.slow
def test_fuzz_target_runs_and_finds_nothing_in_seconds(tmp_path):
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    command = [sys.executable, "-m", "tests.images.fuzz_decode", "--corpus", str(tmp_path), "-max_total_time=10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done " in done.stderr
    assert len(list(tmp_path.iterdir())) >= len(samples())


def test_mutated_same_number_same_file():
    assert mutated(11) == mutated(11) != mutated(12)
