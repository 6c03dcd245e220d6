"""Drift: the index, its level of chance and the distance against independent references, and what is not computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, ks_2samp

from cxr_ray.config import DriftConfig
from cxr_ray.evaluation.drift.distributions import (
    Sample,
    chance_level,
    compare,
    equal_bins,
    histogram,
    ks_distance,
    psi,
)

FINDINGS = ("Mass", "Nodule", "Hernia")


def sample(rows: int, *, seed: int, power: float = 1.0, faulted: int = 0) -> Sample:
    """Invented rows of 4 members; a power other than 1 moves the first finding."""
    random = np.random.default_rng(seed)
    probabilities = random.random((rows, len(FINDINGS))).astype(np.float32)
    probabilities[:, 0] **= power
    votes = np.floor(probabilities * 4.999).astype(np.int8)
    return Sample(FINDINGS, 4, probabilities, votes, faulted)


def test_psi_is_the_sum_of_both_relative_entropies():
    reference, current = np.array([40, 30, 20, 10]), np.array([5, 25, 35, 60])
    assert psi(reference, current) == pytest.approx(entropy(reference, current) + entropy(current, reference))


def test_psi_of_equal_shares_is_zero_whatever_the_numbers():
    assert psi([1, 2, 3], [10, 20, 30]) == pytest.approx(0.0)


def test_psi_of_an_empty_bin_is_that_of_half_a_count():
    expected = (0.5 / 100 - 0.5) * np.log((0.5 / 100) / 0.5) + (1.0 - 0.5) * np.log(1.0 / 0.5)
    assert psi([50, 50], [0, 100]) == pytest.approx(expected)
    assert psi([50, 50, 0], [0, 100, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(("reference", "current"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 2]), ([1, 2], [0, 0])])
def test_psi_of_histograms_that_do_not_compare_is_refused(reference, current):
    with pytest.raises(ValueError, match="histograms of shapes"):
        psi(reference, current)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_psi_is_symmetric_finite_and_never_negative(bins):
    reference, current = (np.array(side) for side in zip(*bins, strict=True))
    if reference.sum() and current.sum():
        found = psi(reference, current)
        assert np.isfinite(found)
        assert found >= -1e-12
        assert found == pytest.approx(psi(current, reference))


def test_chance_level_is_passed_by_one_in_a_thousand_without_drift():
    random = np.random.default_rng(5)
    shares = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    draws = 4000
    reference, current = random.multinomial(3000, shares, draws), random.multinomial(500, shares, draws)
    level = chance_level(3000, 500, 5)
    above = sum(psi(r, c) > level for r, c in zip(reference, current, strict=True))
    assert 0 < above < 15  # 4 expected
    assert chance_level(3000, 500, 1) == 0.0


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=40),
    st.lists(st.integers(0, 9), min_size=4, max_size=40),
)
def test_ks_distance_is_scipy_s(reference, current):
    assert ks_distance(reference, current) == pytest.approx(ks_2samp(reference, current, method="asymp").statistic)


def test_equal_bins_are_filled_equally_and_fewer_where_values_repeat():
    values = np.random.default_rng(0).permutation(1000) / 1000
    assert histogram(values, equal_bins(values, 8)).tolist() == [125] * 8
    repeated = np.array([0.0] * 90 + [0.5] * 10)
    assert histogram(repeated, equal_bins(repeated, 10)).sum() == 100
    assert len(equal_bins(repeated, 10)) <= 2


def test_compare_same_distribution_is_no_drift():
    found = compare(sample(2000, seed=1, faulted=40), sample(800, seed=2, faulted=14), nights=7, config=DriftConfig())
    assert found.missing is None
    assert len(found.shifts) == 1 + 2 * len(FINDINGS)
    assert found.drifted == ()
    assert (found.reference_rows, found.current_rows) == (2040, 814)
    assert found.words().startswith("no drift against 7 nights (PSI at most 0.0")


def test_compare_finding_that_moves_is_named_with_its_means():
    reference, current = sample(2000, seed=1), sample(800, seed=2, power=4.0)
    found = compare(reference, current, nights=3, config=DriftConfig())
    assert {(shift.measure, shift.finding) for shift in found.drifted} == {("probability", "Mass"), ("votes", "Mass")}
    moved = next(shift for shift in found.drifted if shift.measure == "probability")
    assert moved.reference == pytest.approx(reference.probabilities[:, 0].mean(), abs=1e-6)
    assert moved.current == pytest.approx(current.probabilities[:, 0].mean(), abs=1e-6)
    assert moved.ks == pytest.approx(ks_2samp(reference.probabilities[:, 0], current.probabilities[:, 0]).statistic)
    assert "DRIFT in 2 of 7 comparisons against 3 nights" in found.words()


def test_compare_many_faults_are_drift():
    found = compare(sample(1000, seed=1, faulted=10), sample(1000, seed=2, faulted=600), nights=2, config=DriftConfig())
    assert [shift.name for shift in found.drifted] == ["faults"]
    assert found.drifted[0].current == pytest.approx(600 / 1600)


def test_compare_small_night_is_not_called_drift_by_chance():
    config = DriftConfig(min_rows=10, max_psi=0.01)
    found = compare(sample(500, seed=1), sample(12, seed=2), nights=1, config=config)
    assert found.worst is not None
    assert found.worst.psi > 0.01
    assert found.drifted == ()


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (0, 500, "no earlier night has rows of this ensemble"),
        (500, 60, "tonight has 60 scored rows, it takes 200"),
        (30, 60, "the nights before have 30 and tonight has 60 scored rows"),
    ],
)
def test_compare_too_few_rows_is_said_and_not_computed(before, now, words):
    found = compare(sample(before, seed=1), sample(now, seed=2), nights=1, config=DriftConfig())
    assert found.shifts == found.drifted == ()
    assert words in found.words()
