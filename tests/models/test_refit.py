"""Refitting to labelled images: what is chosen, what stays, and what is held out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_ray.config import ThresholdRule
from cxr_ray.models.calibration import Calibration, Scaling, calibration_errors
from cxr_ray.models.ensemble import EnsembleSpec, combine
from cxr_ray.models.refit import (
    NUM_FOLDS,
    choose,
    combined,
    crossfit,
    labelled_enough,
    patient_folds,
    present,
    refit,
)
from tests.conftest import PREPROCESS

SPEC = EnsembleSpec(
    ("Mass", "Hernia"),
    ("a", "b", "c"),
    ("", "", ""),
    "mean",
    calibration=Calibration((0.5, 0.7), (0.1, -0.2)),
    thresholds=(0.3, 0.4),
    member_thresholds=((0.11, 0.21), (0.12, 0.22), (0.13, 0.23)),
    grid=4,
    preprocess=PREPROCESS,
    training={"threshold_rules": {"Mass": "f1", "Hernia": "0.4"}},
)
F1 = ThresholdRule()


def site(num_images: int = 3000, *, seed: int = 0, slope: float = 3.0, shift: float = 2.0):
    """Members (M, N, 2), overconfident by a slope and a shift of the logit, and labels; Hernia has 3 positives."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1.0, 1.5, num_images)
    truth = (random.random(num_images) < 1 / (1 + np.exp(-logits))).astype(float)
    noise = random.normal(0.0, 0.2, (3, num_images, 2))
    members = torch.sigmoid(torch.from_numpy(slope * logits[:, None] + shift + noise)).float()
    labels = np.stack([truth, np.where(np.arange(num_images) < 3, 1.0, 0.0)], axis=1)
    return members, labels, np.arange(num_images) // 2


def fitted(spec: EnsembleSpec = SPEC, *, method="auto", rule: ThresholdRule = F1, num_images: int = 3000):
    members, labels, patients = site(num_images)
    settings = {"method": method, "rules": [rule] * 2, "enough": labelled_enough(labels, 20)}
    return refit(spec, members, labels, patients=patients, **settings)


@pytest.mark.parametrize("method", ["auto", "platt", "isotonic"])
def test_refit_miscalibrated_scores_are_calibrated_on_other_images(method):
    members, labels, _ = site(seed=1)
    before = calibration_errors(combined(SPEC, members).double().numpy(), labels)[0]
    after = calibration_errors(combined(fitted(method=method).spec, members).double().numpy(), labels)[0]
    assert after < 0.03 < 0.1 < before


def test_refit_finding_with_few_labels_keeps_calibration_thresholds_and_rule():
    spec = fitted(rule=ThresholdRule.parse("youden")).spec
    assert spec.calibration.scalings[1] == SPEC.calibration.scalings[1]
    assert spec.thresholds[1] == SPEC.thresholds[1]
    assert [row[1] for row in spec.member_thresholds] == [0.21, 0.22, 0.23]
    assert spec.threshold_rules == {"Mass": "youden", "Hernia": "0.4"}


def test_refit_rule_without_labels_sets_the_threshold_of_a_finding_with_few():
    members, _, _ = site()
    found = fitted(rule=ThresholdRule.parse("alerts<=10"))
    called = present(found.spec, combined(found.spec, members)).float().mean(dim=0)
    assert called.numpy() == pytest.approx(0.1, abs=1e-3)
    assert found.ruled == (True, True)
    votes = combine(torch.logit(members.double()), found.spec).votes.float().mean(dim=0) / 3
    assert votes.numpy() == pytest.approx(0.1, abs=1e-3)


def test_refit_members_vote_by_the_rule_on_their_own_probabilities():
    members, labels, _ = site()
    spec = fitted(rule=ThresholdRule.parse("sensitivity>=0.9")).spec
    positive = torch.from_numpy(labels[:, 0] == 1)
    for row, thresholds in zip(members, spec.member_thresholds, strict=True):
        assert (row[positive, 0] >= np.float32(thresholds[0])).float().mean() == pytest.approx(0.9, abs=2e-3)


def test_refit_fixed_probability_leaves_the_members_thresholds():
    spec = fitted(rule=ThresholdRule.parse("0.25")).spec
    assert spec.thresholds == (0.25, 0.25)
    assert spec.member_thresholds == SPEC.member_thresholds


def test_refit_keep_changes_thresholds_only():
    found = fitted(method="keep")
    assert found.spec.calibration == SPEC.calibration
    assert found.spec.thresholds[0] != SPEC.thresholds[0]
    assert found.spec.digest != SPEC.digest


@pytest.mark.parametrize("rule", ["sensitivity>=0.9", "0.25"])
def test_refit_voting_rule_fits_the_members_and_nothing_else(rule):
    spec = fitted(replace(SPEC, combination="vote"), rule=ThresholdRule.parse(rule)).spec
    assert (spec.calibration, spec.thresholds) == (SPEC.calibration, SPEC.thresholds)
    assert all(row[0] != old[0] for row, old in zip(spec.member_thresholds, SPEC.member_thresholds, strict=True))


def truths(slope: float, intercept: float, *, num_images: int = 2000, seed: int = 0, step: bool = False):
    """Probabilities (N,) and labels whose truth is a logistic curve of them, or a step at 0.5."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 1.5, num_images)
    truth = np.where(logits > 0, 0.9, 0.1) if step else 1 / (1 + np.exp(-(slope * logits + intercept)))
    return 1 / (1 + np.exp(-logits)), (random.random(num_images) < truth).astype(float)


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (truths(1.0, 0.0), "identity"),
        (truths(0.4, 0.0), "temperature"),
        (truths(0.6, -2.0), "platt"),
        (truths(0.0, 0.0, step=True), "isotonic"),
    ],
    ids=["as it is", "overconfident", "another prevalence", "no logistic curve"],
)
def test_choose_takes_the_method_that_made_the_data(data, method):
    choice = choose(*data, np.arange(len(data[0])), Scaling())
    assert choice.scaling.method == method
    assert set(choice.losses) == {"keep", "temperature", "platt", "isotonic"}


def test_choose_few_positives_keeps_what_there_is():
    probabilities, labels = truths(0.6, -2.0, num_images=200)
    labels[np.flatnonzero(labels == 1)[9:]] = 0
    current = Scaling(0.5, 0.25)
    assert choose(probabilities, labels, np.arange(200), current).scaling == current


def test_choose_repeated_images_of_a_patient_do_not_count_as_evidence():
    """The same 60 images 40 times over: by image the gain of Platt is certain, by patient it is not."""
    probabilities, labels = (np.tile(values, 40) for values in truths(0.8, -0.35, num_images=60, seed=3))
    by_image = choose(probabilities, labels, np.arange(2400), Scaling())
    by_patient = choose(probabilities, labels, np.tile(np.arange(60), 40), Scaling())
    assert by_image.scaling.method != "identity"
    assert by_patient.scaling.method == "identity"


def test_patient_folds_hold_patients_together_and_share_the_positives():
    patients = np.random.default_rng(0).integers(0, 100, 700) * 7
    truth = np.isin(patients, np.unique(patients)[:13]).astype(float)
    folds = patient_folds(patients, truth)
    assert all(len(np.unique(folds[patients == patient])) == 1 for patient in np.unique(patients))
    positive = [len(np.unique(patients[(folds == fold) & (truth == 1)])) for fold in range(NUM_FOLDS)]
    assert sorted(positive) == [2, 2, 3, 3, 3]


def test_crossfit_image_is_measured_by_a_fit_without_its_patient():
    """Turning one patient's labels round must leave the probabilities of that patient as they were."""
    members, labels, patients = site(400)
    settings = {"method": "platt", "rules": [F1] * 2, "enough": np.array([True, False])}
    before, _ = crossfit(SPEC, members, labels, patients=patients, **settings)
    turned = labels.copy()
    turned[patients == 7, 0] = 1 - turned[patients == 7, 0]
    after, _ = crossfit(SPEC, members, turned, patients=patients, **settings)
    fold = patient_folds(patients, np.zeros(400))
    same = fold == fold[patients == 7][0]
    np.testing.assert_array_equal(after[same, 0], before[same, 0])
    assert (after[~same, 0] != before[~same, 0]).all()
    np.testing.assert_array_equal(after[:, 1], combined(SPEC, members)[:, 1])
