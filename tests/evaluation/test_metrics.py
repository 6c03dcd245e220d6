import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, hamming_loss, matthews_corrcoef, recall_score

from cxr_ray.evaluation.metrics import at_or_above, finding_metrics, macro, macro_of

NAN = float("nan")


def one(labels: list[float], probabilities: list[float], threshold: float = 0.5) -> pd.Series:
    """The metrics of a single finding."""
    columns = np.array(labels)[:, None], np.array(probabilities, np.float32)[:, None]
    return finding_metrics(*columns, [threshold], ["Mass"]).loc["Mass"]


def test_finding_metrics_hand_made_case_gives_hand_computed_values() -> None:
    found = one([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])
    assert found["auroc"] == pytest.approx(3 / 4)
    assert found["average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert (found["sensitivity"], found["specificity"]) == (1.0, 0.5)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert (found["num_positives"], found["num_negatives"], found["prevalence"]) == (2, 2, 0.5)
    assert found["threshold"] == 0.5


@settings(deadline=None)  # the first call of scikit-learn loads what it needs
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=30), st.integers(0, 20))
def test_finding_metrics_any_case_equals_definitions(cases: list[tuple[bool, int]], level: int) -> None:
    truth = [float(label) for label, _ in cases]
    probabilities, threshold = [score / 20 for _, score in cases], level / 20
    found = one(truth, probabilities, threshold)
    positives = [p for p, label in zip(probabilities, truth, strict=True) if label]
    negatives = [p for p, label in zip(probabilities, truth, strict=True) if not label]
    pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(positives, negatives)]
    decided = [score >= level for _, score in cases]
    expected = {
        "auroc": sum(pairs) / len(pairs) if pairs else NAN,
        "f1": f1_score(truth, decided) if pairs and any(decided) else 0.0 if pairs else NAN,
        "sensitivity": recall_score(truth, decided) if positives else NAN,
        "specificity": recall_score(truth, decided, pos_label=0) if negatives else NAN,
    }
    assert found[list(expected)].to_dict() == pytest.approx(expected, nan_ok=True)


def test_finding_metrics_unstated_labels_take_no_part() -> None:
    with_gaps = one([1, NAN, 0, 1, NAN, 0], [0.9, 0.99, 0.8, 0.7, 0.0, 0.1])
    without = one([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])
    pd.testing.assert_series_equal(with_gaps, without)


def test_finding_metrics_only_negatives_leaves_specificity_alone() -> None:
    found = one([0, 0, NAN], [0.9, 0.1, 0.9])
    assert found["specificity"] == 0.5
    assert found["prevalence"] == 0.0
    assert found[["auroc", "average_precision", "f1", "sensitivity"]].isna().all()


def test_finding_metrics_only_positives_leaves_sensitivity_alone() -> None:
    found = one([1, 1], [0.9, 0.1])
    assert found["sensitivity"] == 0.5
    assert found[["auroc", "average_precision", "f1", "specificity"]].isna().all()


def test_finding_metrics_nothing_stated_gives_nan_everywhere() -> None:
    found = one([NAN, NAN], [0.9, 0.1])
    assert (found["num_positives"], found["num_negatives"]) == (0, 0)
    assert found[["prevalence", "auroc", "average_precision", "f1", "sensitivity", "specificity"]].isna().all()


def test_finding_metrics_stored_threshold_counts_as_present() -> None:
    # As float64, the stored 0.7 is 0.699999988 and would miss its own threshold.
    assert one([1, 0], [0.7, 0.1], 0.7)["sensitivity"] == 1.0
    assert at_or_above(np.float32(0.7), 0.7)
    assert not at_or_above(np.nan, 0.0)


def test_finding_metrics_columns_and_order_belong_to_their_finding() -> None:
    labels = np.array([[1, 0, 1], [0, 1, NAN], [1, 1, 0], [0, 0, 1]], float)
    probabilities = np.array([[0.9, 0.2, 0.3], [0.1, 0.9, 0.9], [0.8, 0.1, 0.4], [0.7, 0.3, 0.6]])
    found = finding_metrics(labels, probabilities, [0.5, 0.25, 0.35], ["Mass", "Nodule", "Edema"])
    assert found.index.tolist() == ["Mass", "Nodule", "Edema"]
    assert found["auroc"].tolist() == pytest.approx([1.0, 0.5, 0.5])
    assert found["sensitivity"].tolist() == pytest.approx([1.0, 0.5, 0.5])
    assert found["specificity"].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_finding_metrics_arguments_stay_as_they_were() -> None:
    labels, probabilities = np.array([[1.0], [NAN]]), np.array([[0.5], [0.25]])
    finding_metrics(labels, probabilities, [0.5], ["Mass"])
    np.testing.assert_array_equal(labels, [[1.0], [NAN]])
    np.testing.assert_array_equal(probabilities, [[0.5], [0.25]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "thresholds", "message"),
    [
        ([[1.0, 0.0]], [[0.5]], [0.5], "labels"),
        ([[1.0]], [[0.5]], [0.5, 0.5], "thresholds"),
        ([[2.0]], [[0.5]], [0.5], "1, 0 or NaN"),
        ([[1.0]], [[NAN]], [0.5], "0..1"),
        ([[1.0]], [[1.5]], [0.5], "0..1"),
    ],
)
def test_finding_metrics_arrays_that_do_not_fit_are_refused(
    labels: list[list[float]], probabilities: list[list[float]], thresholds: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        finding_metrics(np.array(labels), np.array(probabilities), thresholds, ["Mass"])


def test_macro_averages_defined_findings_and_counts_them() -> None:
    labels = np.array([[1, 0, NAN], [0, 0, NAN], [1, 0, NAN]], float)
    probabilities = np.array([[0.9, 0.9, 0.5], [0.95, 0.1, 0.5], [0.2, 0.1, 0.5]])
    means = macro(finding_metrics(labels, probabilities, [0.5] * 3, ["Mass", "Nodule", "Edema"]))
    assert means["num_findings"] == 3
    assert (means["auroc"], means["num_defined_auroc"]) == (0.0, 1)
    assert (means["specificity"], means["num_defined_specificity"]) == (pytest.approx((0 + 2 / 3) / 2), 2)


def test_macro_nothing_defined_is_nan() -> None:
    means = macro(finding_metrics(np.array([[NAN]]), np.array([[0.5]]), [0.5], ["Mass"]))
    assert math.isnan(means["auroc"])
    assert means["num_defined_auroc"] == 0


@settings(deadline=None)  # the first call of scikit-learn loads what it needs
@given(st.lists(st.tuples(st.sampled_from([1.0, 0.0, NAN]), st.integers(0, 10)), min_size=1, max_size=40))
def test_finding_metrics_decisions_and_errors_equal_scikit_learn(cases: list[tuple[float, int]]) -> None:
    labels, scores = [label for label, _ in cases], [score / 10 for _, score in cases]
    found = one(labels, scores, 0.5)
    stated = [(label, score) for label, score in zip(labels, scores, strict=True) if not math.isnan(label)]
    truth, called = [label for label, _ in stated], [float(score >= 0.5) for _, score in stated]
    both = len(set(truth)) == 2
    expected = {
        "f1_paper": f1_score(truth, called, average="macro", labels=[0, 1], zero_division=0) if both else NAN,
        "mcc": matthews_corrcoef(truth, called) if both else NAN,
        "hamming": hamming_loss(truth, called) if stated else NAN,
        "brier": sum((np.float32(score) - label) ** 2 for label, score in stated) / len(stated) if stated else NAN,
    }
    assert found[list(expected)].to_dict() == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_finding_metrics_mean_of_hamming_is_the_loss_of_the_label_matrix() -> None:
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 2, (40, 3)), random.random((40, 3))
    frame = finding_metrics(labels.astype(float), probabilities, [0.5] * 3, ["Mass", "Nodule", "Edema"])
    assert macro(frame)["hamming"] == pytest.approx(hamming_loss(labels, probabilities >= 0.5))


def test_finding_metrics_without_a_threshold_nothing_is_decided() -> None:
    found = one([1, 0, 1], [0.9, 0.2, 0.3], NAN)
    assert found[["f1", "f1_paper", "sensitivity", "specificity", "mcc", "hamming"]].isna().all()
    assert (found["auroc"], found["brier"]) == (1.0, pytest.approx((0.01 + 0.04 + 0.49) / 3))


def test_macro_of_weights_count_by_prevalence_over_what_is_defined() -> None:
    values = np.array([[0.2, 0.8, NAN], [NAN, NAN, NAN]])
    assert macro_of(values, np.array([[0.1, 0.3, 0.6]] * 2)) == pytest.approx([(0.02 + 0.24) / 0.4, NAN], nan_ok=True)
    assert macro_of(values) == pytest.approx([0.5, NAN], nan_ok=True)
