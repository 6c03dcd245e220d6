"""Calibration and thresholds against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from cxr_ray.models.calibration import Calibration, fit_platt, fit_thresholds


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


def test_fit_thresholds_best_f1_equals_brute_force():
    probabilities, labels = labelled()
    for finding, threshold in enumerate(fit_thresholds(probabilities, labels)):
        rows = ~np.isnan(labels[:, finding])
        truth, values = labels[rows, finding], probabilities[rows, finding]
        best = max(f1_score(truth, values >= candidate) for candidate in np.unique(values))
        assert f1_score(truth, values >= threshold) == pytest.approx(best)


def test_fit_thresholds_lies_between_images():
    found = fit_thresholds(np.array([[0.1], [0.4], [0.8], [0.9]]), np.array([[0.0], [0.0], [1.0], [1.0]]))
    assert found == pytest.approx([0.6])


def test_fit_thresholds_one_class_is_one_half():
    assert fit_thresholds(np.array([[0.1], [0.9]]), np.array([[0.0], [np.nan]])) == (0.5,)
