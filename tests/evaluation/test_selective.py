"""Error AUROC, risk-coverage area and partial relation against scikit-learn, literal loops and simulations."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_ray.evaluation.agreement.selective import Partial, Ranking, pooled, quantile_bins, risk_coverage


def _decisions(seed, *, number=61, patients=17, ties=True):
    random = np.random.default_rng(seed)
    sureness = random.integers(0, 6, number) / 5 if ties else random.normal(size=number)
    wrong = random.random(number) < 0.3
    owner = random.integers(0, patients, number)
    return sureness, wrong, owner, random.integers(0, 4, (patients, 7)).astype(float)


@pytest.mark.parametrize("ties", [False, True])
def test_error_auroc_with_weights_equals_scikit_learn(ties):
    sureness, wrong, owner, weights = _decisions(0, ties=ties)
    aurocs = Ranking.of(sureness, wrong, owner, num_patients=17).error_auroc(weights)
    assert aurocs.shape == (1, 7)
    for auroc, drawn in zip(aurocs[0], weights.T, strict=True):
        assert auroc == pytest.approx(roc_auc_score(wrong, -sureness, sample_weight=drawn[owner]))


def test_error_auroc_of_strata_equals_scikit_learn_in_each_and_pools_by_pairs():
    sureness, wrong, owner, weights = _decisions(1, number=90)
    strata = np.random.default_rng(5).integers(0, 3, 90)
    strata[strata == 2] += 1  # stratum 2 is empty
    ranking = Ranking.of(sureness, wrong, owner, num_patients=17, strata=strata, num_strata=4)
    auroc, weight = ranking.measure(weights)
    for draw, drawn in enumerate(weights.T):
        expected = {
            k: roc_auc_score(wrong[strata == k], -sureness[strata == k], sample_weight=drawn[owner][strata == k])
            for k in (0, 1, 3)
        }
        shares = {}
        for k in expected:
            counted = drawn[owner][strata == k]
            errors = counted[wrong[strata == k]].sum()
            shares[k] = errors * (counted.sum() - errors) / counted.sum()
            assert auroc[k, draw] == pytest.approx(expected[k])
        assert np.isnan(auroc[2, draw])
        mean = sum(expected[k] * shares[k] for k in expected) / sum(shares.values())
        assert pooled(auroc, weight)[draw] == pytest.approx(mean)


def _mean_over_orders(sureness, wrong):
    """Risk-coverage area as the mean over every order that the ties allow, by a literal loop."""
    areas = []
    for order in permutations(range(len(wrong))):
        if all(sureness[a] >= sureness[b] for a, b in pairwise(order)):
            risks = [np.mean([wrong[i] for i in order[: k + 1]]) for k in range(len(order))]
            areas.append(np.mean(risks))
    return np.mean(areas)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_risk_area_equals_the_mean_over_all_orders_of_ties(pairs):
    sureness, wrong = np.array([s for s, _ in pairs], float), np.array([w for _, w in pairs])
    ranking = Ranking.of(sureness, wrong, np.arange(len(wrong)), num_patients=len(wrong))
    area, excess = ranking.risk_areas(np.ones((len(wrong), 1)))[:, 0]
    assert area == pytest.approx(_mean_over_orders(sureness, wrong))
    assert area - excess == pytest.approx(_mean_over_orders(-wrong.astype(float), wrong))


def test_risk_area_of_a_drawn_patient_equals_that_of_the_repeated_decisions():
    sureness, wrong, owner, weights = _decisions(2)
    areas = Ranking.of(sureness, wrong, owner, num_patients=17).risk_areas(weights)
    for draw, drawn in enumerate(weights.T.astype(int)):
        times = drawn[owner]
        values, errors = np.repeat(sureness, times), np.repeat(wrong, times)
        again = Ranking.of(values, errors, np.zeros(len(errors), int), num_patients=1).risk_areas(np.ones((1, 1)))
        np.testing.assert_allclose(areas[:, draw], again[:, 0])


def test_risk_coverage_curve_ends_at_the_error_rate_and_its_mean_is_the_area():
    sureness, wrong, owner, _ = _decisions(3)
    curve = np.array(risk_coverage(sureness, wrong))
    area = Ranking.of(sureness, wrong, owner, num_patients=17).risk_areas(np.ones((17, 1)))[0, 0]
    assert curve[-1] == pytest.approx([1.0, wrong.mean()])
    assert curve[:, 1].mean() == pytest.approx(area)  # 61 decisions: each coverage is a point
    many = risk_coverage(np.random.default_rng(0).normal(size=5000), np.arange(5000) % 7 == 0)
    assert len(many) == 100


def _simulated(seed, *, number=4000, extra=0.0, copied=True):
    """Calibrated probabilities of images whose noise, known to the signal in part, moves the label."""
    random = np.random.default_rng(seed)
    finding = random.integers(0, 2, number)
    known, hidden = random.normal(-1.0, 1.5, number), random.normal(size=number)
    probability = 1 / (1 + np.exp(-known))
    present = probability >= np.array([0.3, 0.6])[finding]
    right = np.where(present, probability, 1 - probability)
    # `hidden` makes a decision more often right, and on the mean over it the probability is as said.
    chance = np.clip(right + 0.2 * np.sign(hidden) * np.minimum(right, 1 - right), 0, 1)
    wrong = random.random(number) >= chance
    noisy = np.log(right / (1 - right)) + random.normal(0, 0.7, number)
    return (noisy if copied else 0.0) + extra * hidden, wrong, finding, present, probability


def _partial(values, owner=None, num_patients=None):
    sureness, wrong, finding, present, probability = values
    owner = np.arange(len(wrong)) if owner is None else owner
    return Partial(
        sureness,
        wrong,
        owner,
        num_patients=num_patients or len(wrong),
        finding=finding,
        present=present,
        probability=probability,
    )


def test_partial_of_a_noisy_copy_of_confidence_is_zero_and_its_interval_holds_zero():
    random, held, values = np.random.default_rng(9), 0, []
    for seed in range(60):
        simulated = _simulated(seed)
        assert (
            Ranking.of(simulated[0], simulated[1], np.arange(4000), num_patients=4000).error_auroc(np.ones((4000, 1)))[
                0, 0
            ]
            > 0.65
        )
        weights = np.column_stack([np.ones(4000), random.multinomial(4000, np.full(4000, 1 / 4000), 100).T])
        value, *drawn = _partial(simulated).measure(weights)
        low, high = np.percentile(drawn, [2.5, 97.5])
        held += low <= 0 <= high
        values.append(value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    assert held >= 52  # of 60 at 95 %: fewer come in 1 of 200


def test_partial_of_a_signal_with_more_than_confidence_is_positive():
    for copied in (False, True):
        value = _partial(_simulated(1, extra=0.7, copied=copied)).measure(np.ones((4000, 1)))[0]
        assert value > 0.05
    sureness, *rest = _simulated(1, extra=0.7)
    assert _partial((-sureness, *rest)).measure(np.ones((4000, 1)))[0] < -0.05


def test_partial_equals_regression_by_least_squares_on_repeated_decisions():
    number = 700
    sureness, wrong, finding, present, probability = (values[:number] for values in _simulated(4, number=number))
    random = np.random.default_rng(0)
    owner = random.integers(0, 90, number)
    weights = random.integers(0, 3, (90, 2)).astype(float)
    measured = _partial((sureness, wrong, finding, present, probability), owner, 90).measure(weights)
    bins = quantile_bins(probability, 2 * finding + present, most=10, least=25)
    ranks = np.array([np.mean(sureness[finding == f] < s) + 0.5 * np.mean(sureness[finding == f] == s)
                      for s, f in zip(sureness, finding, strict=True)])  # fmt: skip
    design = np.concatenate([np.eye(bins.max() + 1)[bins], np.eye(bins.max() + 1)[bins] * probability[:, None]], axis=1)
    for draw in range(2):
        times = weights[:, draw].astype(int)[owner]
        rows, outcomes = np.repeat(design, times, axis=0), np.repeat(np.column_stack([~wrong, ranks]), times, axis=0)
        left = outcomes - rows @ np.linalg.lstsq(rows, outcomes, rcond=None)[0]
        assert measured[draw] == pytest.approx(np.corrcoef(left.T)[0, 1])


def test_partial_of_a_constant_and_of_no_errors_is_nan():
    sureness, wrong, *rest = _simulated(0, number=300)
    assert np.isnan(_partial((np.ones(300), wrong, *rest)).measure(np.ones((300, 1)))[0])
    assert np.isnan(_partial((sureness, np.zeros(300, bool), *rest)).measure(np.ones((300, 1)))[0])


def test_quantile_bins_keep_ties_together_and_groups_apart():
    values = np.array([0.0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 9])
    within = np.array([0] * 9 + [3] * 2)
    np.testing.assert_array_equal(quantile_bins(values, within, most=3, least=3), [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
