"""Calibration against scikit-learn and known truths."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from cxr_ray.models.calibration import (
    Calibration,
    Scaling,
    calibration_errors,
    equal_count_bins,
    fit_platt,
    fit_scaling,
    log_losses,
)


def labelled(num_images: int = 400, num_findings: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident probabilities (N, F) and labels of a known truth, some not stated."""
    random = np.random.default_rng(0)
    logits = random.normal(-1.0, 1.5, (num_images, num_findings))
    labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    labels[random.random(logits.shape) < 0.1] = np.nan
    return 1 / (1 + np.exp(-(3 * logits + 2))), labels


def test_fit_platt_overconfident_probabilities_become_true_ones():
    probabilities, labels = labelled(4000)
    calibrated = fit_platt(probabilities, labels).apply(torch.from_numpy(probabilities)).numpy()
    stated = ~np.isnan(labels)
    for finding in range(3):
        rows = stated[:, finding]
        before = abs(probabilities[rows, finding].mean() - labels[rows, finding].mean())
        after = abs(calibrated[rows, finding].mean() - labels[rows, finding].mean())
        assert after < 0.005 < before
    assert fit_platt(probabilities, labels).slopes == pytest.approx([1 / 3] * 3, abs=0.05)


def test_fit_platt_ranking_stays():
    probabilities, labels = labelled()
    calibrated = fit_platt(probabilities, labels).apply(torch.from_numpy(probabilities)).numpy()
    rows = ~np.isnan(labels[:, 0])
    before, after = (roc_auc_score(labels[rows, 0], values[rows, 0]) for values in (probabilities, calibrated))
    assert after == pytest.approx(before)


@pytest.mark.parametrize("positives", [0, 1])
def test_fit_platt_too_few_positives_changes_nothing(positives):
    labels = np.zeros((50, 1))
    labels[:positives] = 1
    found = fit_platt(np.linspace(0.01, 0.9, 50)[:, None], labels)
    assert found == Calibration.identity(1)


def test_fit_platt_reversed_ranking_changes_nothing():
    probabilities = np.linspace(0.1, 0.9, 40)[:, None]
    labels = (probabilities < 0.5).astype(float)
    assert fit_platt(probabilities, labels) == Calibration.identity(1)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 4.0])
def test_fit_platt_logits_of_any_size_are_calibrated_alike(factor):
    logits = np.random.default_rng(0).normal(-1.0, 1.5, (400, 1))
    labels = (np.random.default_rng(1).random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    found = fit_platt(1 / (1 + np.exp(-factor * logits)), labels)
    plain = fit_platt(1 / (1 + np.exp(-logits)), labels)
    assert found.slopes[0] * factor == pytest.approx(plain.slopes[0], rel=1e-4)
    assert found.intercepts[0] == pytest.approx(plain.intercepts[0], abs=1e-4)


def test_fit_platt_one_probability_for_all_images_changes_nothing():
    assert fit_platt(np.full((9, 1), 0.3), np.array([[0.0], [1.0], [1.0]] * 3)) == Calibration.identity(1)


def test_calibration_confident_probabilities_keep_their_ranking():
    probabilities = torch.sigmoid(torch.tensor([-25.0, -20.0, -15.0, 10.0, 12.0, 14.0]))[:, None]
    calibrated = Calibration((0.5,), (0.0,)).apply(probabilities)
    assert calibrated.dtype == torch.float32
    assert (calibrated.diff(dim=0) > 0).all()
    torch.testing.assert_close(calibrated[:2, 0], torch.sigmoid(torch.tensor([-12.5, -10.0])), rtol=1e-4, atol=0)


def test_calibration_identity_keeps_probabilities():
    probabilities = torch.rand(4, 5)
    torch.testing.assert_close(Calibration.identity(5).apply(probabilities), probabilities, atol=1e-5, rtol=0)


def applied(scaling: Scaling, values: np.ndarray) -> np.ndarray:
    return Calibration.of([scaling]).apply(torch.from_numpy(values)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("factor", [1e-3, 1.0, 4.0])
def test_fit_scaling_temperature_is_scikit_learns_regression_without_intercept(factor):
    logits = np.random.default_rng(0).normal(-1.0, 1.5, 400)
    labels = (np.random.default_rng(1).random(400) < 1 / (1 + np.exp(-2 * logits))).astype(float)
    found = fit_scaling("temperature", 1 / (1 + np.exp(-factor * logits)), labels)
    reference = LogisticRegression(C=10.0 / np.mean(logits**2), fit_intercept=False, tol=1e-8).fit(
        logits[:, None], labels
    )
    assert found.slope * factor == pytest.approx(float(reference.coef_[0, 0]), rel=1e-4)
    assert (found.method, found.intercept) == ("temperature", 0.0)


def test_fit_scaling_temperature_of_separable_classes_stays_finite():
    labels = np.repeat([0.0, 1.0], 20)
    found = fit_scaling("temperature", np.where(labels == 1, 0.6, 0.4), labels)
    logits = np.where(labels == 1, 1.0, -1.0)[:, None]
    reference = LogisticRegression(C=10.0, fit_intercept=False, tol=1e-8).fit(logits, labels).coef_[0, 0]
    assert found.slope * np.log(1.5) == pytest.approx(reference, rel=1e-4)


def test_fit_scaling_isotonic_is_scikit_learns_between_platts_targets():
    probabilities, labels = labelled(700, 1)
    rows = ~np.isnan(labels[:, 0])
    reference = IsotonicRegression(out_of_bounds="clip").fit(probabilities[rows, 0], labels[rows, 0])
    positives = labels[rows, 0].sum()
    low, high = 1 / (rows.sum() - positives + 2), (positives + 1) / (positives + 2)
    new = np.linspace(0, 1, 501)
    found = applied(fit_scaling("isotonic", probabilities[:, 0], labels[:, 0]), new)
    plain = reference.predict(new)
    middle = (plain > 0.05) & (plain < 0.95)
    assert middle.sum() > 20
    np.testing.assert_allclose(found[middle], plain[middle], atol=1e-12)
    assert (found.min(), found.max()) == pytest.approx((low, high))


def test_fit_scaling_isotonic_makes_ties():
    probabilities, labels = labelled(700, 1)
    found = applied(fit_scaling("isotonic", probabilities[:, 0], labels[:, 0]), probabilities[:, 0])
    assert len(np.unique(found)) < len(np.unique(probabilities)) / 3


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0], [np.nan] * 6, [1, 1, 1, 0, 0, 0], [0, 1, np.nan, np.nan, np.nan, 1]],
    ids=["one positive", "one negative", "not stated", "reversed", "one of a class stated"],
)
def test_fit_scaling_what_teaches_nothing_is_none(method, labels):
    assert fit_scaling(method, np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), np.array(labels, float)) is None


_UNIT = st.floats(0, 1, width=32)
_SCALINGS = st.one_of(
    st.builds(Scaling, slope=st.floats(0.01, 100), intercept=st.floats(-5, 5)),
    st.lists(st.tuples(_UNIT, _UNIT), min_size=2, unique_by=lambda knot: knot[0]).map(
        lambda knots: Scaling(knots=tuple(zip(*map(sorted, zip(*knots, strict=True)), strict=True)))
    ),
)


@given(_SCALINGS, st.lists(_UNIT, min_size=2))
def test_calibration_any_scaling_is_monotone_and_inside_0_and_1(scaling, values):
    found = applied(scaling, np.sort(np.array(values, np.float32)))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(_SCALINGS.filter(lambda scaling: bool(scaling.knots)), st.lists(_UNIT, min_size=1))
def test_calibration_curve_is_numpys_interpolation(scaling, values):
    x, y = zip(*scaling.knots, strict=True)
    found = applied(scaling, np.array(values, np.float64))
    np.testing.assert_allclose(found, np.interp(values, x, y), atol=1e-9)


def test_calibration_methods_side_by_side_each_keep_to_their_finding():
    curve = Scaling(knots=((0.2, 0.1), (0.6, 0.9)))
    scalings = (Scaling(), Scaling(2.0), Scaling(1.5, -0.5), curve)
    calibration = Calibration.of(scalings)
    found = calibration.apply(torch.full((3, 2, 4), 0.4, dtype=torch.float64))
    expected = [0.4, 0.16 / 0.52, 1 / (1 + np.exp(-(1.5 * np.log(0.4 / 0.6) - 0.5))), 0.5]
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 2, 4)))
    assert [item.method for item in calibration.scalings] == ["identity", "temperature", "platt", "isotonic"]
    assert calibration.scalings == scalings
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_calibration_errors_tied_probabilities_do_not_depend_on_the_order_of_the_images():
    random = np.random.default_rng(0)
    probabilities = random.choice([0.1, 0.2, 0.4], 1000, p=[0.5, 0.3, 0.2])
    labels = (random.random(1000) < probabilities).astype(float)
    by_level = [abs((probabilities - labels)[probabilities == level].sum()) for level in (0.1, 0.2, 0.4)]
    for order in (np.argsort(labels), random.permutation(1000)):
        (found,) = calibration_errors(probabilities[order, None], labels[order, None])
        assert found == pytest.approx(sum(by_level) / 1000)


def test_equal_count_bins_without_ties_hold_equally_many_from_low_to_high():
    values = np.random.default_rng(1).permutation(np.linspace(0, 1, 60))
    found = equal_count_bins(values, 10)
    assert np.bincount(found).tolist() == [6] * 10
    assert (np.diff(found[np.argsort(values)]) >= 0).all()
    assert len(equal_count_bins(np.array([]), 10)) == 0


def test_log_losses_mean_is_scikit_learns():
    probabilities, labels = labelled(300, 1)
    rows = ~np.isnan(labels[:, 0])
    found = log_losses(probabilities[:, 0], labels[:, 0])
    assert np.isnan(found[~rows]).all()
    assert found[rows].mean() == pytest.approx(log_loss(labels[rows, 0], probabilities[rows, 0]))
