"""Intervals by drawing patients: every draw against scikit-learn on the repeated images, and coverage of clusters."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cxr_ray.evaluation import bootstrap


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_metrics_equal_scikit_learn_on_repeated_images(ties):
    random = np.random.default_rng(3)
    truth, scores = random.random(37) < 0.4, random.random(37)
    scores = np.round(scores, 1) if ties else scores
    weights = random.integers(0, 4, (6, 37)).astype(float)
    aurocs = bootstrap.weighted_auroc(truth, scores, weights)
    precisions = bootstrap.weighted_average_precision(truth, scores, weights)
    f1 = bootstrap.weighted_f1(truth, scores >= 0.5, weights)
    for number, row in enumerate(weights.astype(int)):
        labels, values = np.repeat(truth, row), np.repeat(scores, row)
        assert aurocs[number] == pytest.approx(roc_auc_score(labels, values))
        assert precisions[number] == pytest.approx(average_precision_score(labels, values))
        assert f1[number] == pytest.approx(f1_score(labels, values >= 0.5))


def test_draw_patients_stay_whole_and_a_seed_repeats():
    patients = ["a"] * 3 + ["b"] * 2 + ["c"]
    (weights,) = bootstrap.drawn_weights(patients, num_draws=50, seed=1)
    assert (weights[:, :3] == weights[:, :1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 3] + weights[:, 5] == 3).all()
    (again,) = bootstrap.drawn_weights(patients, num_draws=50, seed=1)
    np.testing.assert_array_equal(weights, again)


def test_intervals_many_alike_images_of_a_patient_do_not_narrow_them():
    random = np.random.default_rng(0)
    truth = (random.random((60, 1)) < 0.5).astype(float)
    scores = np.clip(0.25 * truth + 0.7 * random.random((60, 1)), 0, 1)
    owner = np.arange(60)
    once, tenfold, naive = (
        bootstrap.intervals(
            np.repeat(truth, times, axis=0),
            np.repeat(scores, times, axis=0),
            thresholds=(0.5,),
            patients=[str(name) for name in names],
            findings=("A",),
        ).loc["A", ["auroc_low", "auroc_high"]]
        for times, names in ((1, owner), (10, np.repeat(owner, 10)), (10, np.arange(600)))
    )
    widths = [float(bounds["auroc_high"] - bounds["auroc_low"]) for bounds in (once, tenfold, naive)]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] < 0.5 * widths[0]


def test_intervals_undefined_finding_is_nan_and_macro_is_over_the_others():
    random = np.random.default_rng(1)
    labels = np.column_stack([random.integers(0, 2, 40), np.zeros(40), np.full(40, np.nan)]).astype(float)
    frame = bootstrap.intervals(
        labels,
        random.random((40, 3)),
        thresholds=(0.5, 0.5, 0.5),
        patients=[str(number // 2) for number in range(40)],
        findings=("A", "B", "C"),
        num_draws=200,
    )
    assert frame.loc[["B", "C"]].isna().all(axis=None)
    np.testing.assert_allclose(frame.loc["macro"], frame.loc["A"])


def test_percentiles_mostly_undefined_draws_give_no_interval():
    values = np.column_stack([np.linspace(0, 1, 100), np.linspace(0, 1, 100)])
    values[:40, 0] = values[:60, 1] = np.nan
    low, high = bootstrap.percentiles(values)
    assert not np.isnan([low[0], high[0]]).any()
    assert np.isnan([low[1], high[1]]).all()


def test_draw_in_blocks_equals_one_block_of_the_same_patients(monkeypatch):
    random = np.random.default_rng(2)
    labels, scores = random.integers(0, 2, (20, 2)).astype(float), random.random((20, 2))
    arguments = {"thresholds": (0.5, 0.5), "patients": [str(n) for n in range(20)], "num_draws": 9}
    whole = bootstrap.draw(labels, scores, **arguments)
    monkeypatch.setattr(bootstrap, "_VALUES_AT_ONCE", 80)
    for metric, values in bootstrap.draw(labels, scores, **arguments).items():
        np.testing.assert_allclose(values, whole[metric])
