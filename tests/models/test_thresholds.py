"""Thresholds by rule against brute force and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from cxr_ray.config import ThresholdRule, TrainConfig, parse
from cxr_ray.errors import ConfigError
from cxr_ray.models.thresholds import fit_threshold, fit_thresholds
from tests.models.test_calibration import labelled


def fit(values: list[float], truth: list[float], rule: str) -> float | None:
    return fit_threshold(np.array(values, float), np.array(truth, float), rule=ThresholdRule.parse(rule))


@pytest.mark.parametrize(
    ("rule", "measure"),
    [("f1", f1_score), ("youden", balanced_accuracy_score)],
)
def test_fit_threshold_best_value_equals_brute_force(rule, measure):
    probabilities, labels = labelled()
    for finding in range(3):
        rows = ~np.isnan(labels[:, finding])
        truth, values = labels[rows, finding], probabilities[rows, finding]
        best = max(measure(truth, values >= candidate) for candidate in np.unique(values))
        threshold = fit_threshold(probabilities[:, finding], labels[:, finding], rule=ThresholdRule.parse(rule))
        assert measure(truth, values >= threshold) == pytest.approx(best)


@pytest.mark.parametrize("bound", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize(("name", "positive"), [("sensitivity", 1), ("specificity", 0)])
def test_fit_threshold_bound_is_met_and_no_further_than_needed(name, positive, bound):
    probabilities, labels = labelled()
    rows = ~np.isnan(labels[:, 0])
    truth, values = labels[rows, 0], np.float32(probabilities[rows, 0])
    threshold = np.float32(fit([*values], [*truth], f"{name}>={bound}"))
    reached = recall_score(truth, values >= threshold, pos_label=positive)
    # The next threshold that would be kinder to the other class.
    further = values[values > threshold].min() if positive else values[values < threshold].max()
    next_one = np.nextafter(further, np.float32(2)) if positive else further
    assert reached >= bound > recall_score(truth, values >= next_one, pos_label=positive)


def test_fit_threshold_alerts_are_counted_over_all_images_without_labels():
    values, unknown = np.linspace(0.0, 0.99, 200), [np.nan] * 200
    for share in (0.5, 2, 5, 33.5):
        threshold = fit([*values], unknown, f"alerts<={share}")
        assert (values >= threshold).sum() == 2 * share


def test_fit_threshold_alerts_with_ties_at_the_top_calls_none_rather_than_too_many():
    threshold = fit([0.1] * 5 + [0.8] * 5, [0] * 10, "alerts<=40")
    assert threshold == pytest.approx(0.9)


@pytest.mark.parametrize("rule", ["f1", "youden", "sensitivity>=0.9", "specificity>=0.9"])
@pytest.mark.parametrize("truth", [[0, 0, np.nan], [1, 1, np.nan], [np.nan] * 3])
def test_fit_threshold_one_class_cannot_be_met(rule, truth):
    assert fit([0.1, 0.5, 0.9], truth, rule) is None


def test_fit_threshold_above_a_probability_of_one_cannot_be_met():
    assert fit([0.2, 1.0, 1.0], [0, 0, 1], "specificity>=1") is None
    assert fit([0.2, 1.0, 1.0], [0, 0, 1], "alerts<=5") is None


def test_fit_threshold_fixed_value_needs_nothing():
    assert fit([], [], "0.25") == 0.25


@pytest.mark.parametrize("rule", ["f1", "youden", "sensitivity>=1", "specificity>=1", "alerts<=50"])
@pytest.mark.parametrize("low", [np.float32(0.7), np.nextafter(np.float32(0.7), np.float32(1))], ids=["odd", "even"])
def test_fit_threshold_neighbours_in_float32_stay_apart(rule, low):
    """Half-way between two neighbours rounds to the one whose last bit is 0: the lower or the higher one."""
    high = np.nextafter(low, np.float32(1))
    threshold = np.float32(fit([low, high], [0, 1], rule))
    assert low < threshold <= high


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2), st.sampled_from(["0.3", "0.9", "1"]))
def test_fit_threshold_bounds_hold_for_any_images(pairs, bound):
    values, truth = np.array([pair[0] for pair in pairs], np.float32), np.array([pair[1] for pair in pairs])
    sensitive, specific = (fit([*values], [*truth], f"{name}>={bound}") for name in ("sensitivity", "specificity"))
    if truth.all() or not truth.any():
        assert sensitive is specific is None
        return
    assert (values[truth] >= np.float32(sensitive)).mean() >= float(bound)
    if specific is not None:
        assert (values[~truth] < np.float32(specific)).mean() >= float(bound)


def test_fit_thresholds_lies_between_images():
    found = fit_thresholds(np.array([[0.1], [0.4], [0.8], [0.9]]), np.array([[0.0], [0.0], [1.0], [1.0]]))
    assert found == pytest.approx([0.6])


def test_fit_thresholds_one_class_is_one_half():
    assert fit_thresholds(np.array([[0.1], [0.9]]), np.array([[0.0], [np.nan]])) == (0.5,)


@pytest.mark.parametrize(
    "text", ["f1", "youden", "sensitivity>=0.95", "specificity>=0.9", "alerts<=5", "alerts<=0.5", "0.5"]
)
def test_threshold_rule_is_written_as_it_is_read(text):
    assert str(ThresholdRule.parse(text)) == text
    assert ThresholdRule.parse(text.replace("=", "= ")) == ThresholdRule.parse(text)


@pytest.mark.parametrize("text", ["", "f2", "f1>=0.5", "alerts>=5", "alerts<=101", "0", "1", "1.5", "-0.5", "nan"])
def test_threshold_rule_unknown_is_refused_with_the_known_ones(text):
    with pytest.raises(ConfigError, match=r"is no threshold rule; use f1, youden, sensitivity>=0\.95"):
        ThresholdRule.parse(text)


@pytest.mark.parametrize("name", ["sensitivity", "specificity"])
@pytest.mark.parametrize("rest", ["", ">=", ">=0", ">=1.1", "<=0.9", ">0.9"])
def test_threshold_rule_bound_out_of_range_is_refused(name, rest):
    with pytest.raises(ConfigError, match="is no threshold rule"):
        ThresholdRule.parse(name + rest)


def test_train_config_rule_may_be_a_number_as_yaml_reads_it_and_must_be_known():
    values = {"manifest": {"path": "labels.csv", "findings": ["Mass"]}, "members": [{"name": "a", "backbone": "b"}]}
    config = parse(TrainConfig, values, source="-")
    assert (config.calibration, config.threshold_rule) == ("platt", "f1")
    assert parse(TrainConfig, {**values, "threshold_rule": 0.5}, source="-").threshold_rule == "0.5"
    with pytest.raises(ConfigError, match="'best' is no threshold rule"):
        parse(TrainConfig, {**values, "threshold_rule": "best"}, source="-")
