"""Metrics over the findings that have any, against scikit-learn, and logits of a whole part."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.errors import ConfigError
from cxr_ray.training.cache import open_part
from cxr_ray.training.validation import (
    check_logits,
    has_both_classes,
    macro_auroc,
    mean_average_precision,
    predict_part,
)
from cxr_ray.training.workers import Worker
from tests.training.squares import tiny_member


@pytest.mark.parametrize(
    ("ours", "reference"), [(macro_auroc, roc_auc_score), (mean_average_precision, average_precision_score)]
)
def test_macro_metrics_only_defined_findings_count(ours, reference):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (50, 3)).astype(np.float32)
    labels[:, 1] = 0
    labels[::7, 2] = np.nan
    scores = random.random((50, 3)).astype(np.float32)
    stated = ~np.isnan(labels[:, 2])
    expected = [reference(labels[:, 0], scores[:, 0]), reference(labels[stated, 2], scores[stated, 2])]
    assert ours(labels, scores) == pytest.approx(np.mean(expected))
    assert math.isnan(ours(labels[:, 1:2], scores[:, 1:2]))


def test_has_both_classes_blanks_are_neither():
    labels = np.array([[1, 0, np.nan], [1, 0, 1], [np.nan, 0, 1]], np.float32)
    assert not has_both_classes(labels)
    labels[0, 2] = 0
    assert has_both_classes(labels)
    assert [has_both_classes(column) for column in labels.T] == [False, False, True]


def test_check_logits_names_the_images(shards):
    validation = open_part(shards, "validation")
    logits = torch.zeros(8, 3)
    check_logits(logits, validation, place="epoch 1")
    logits[2, 1], logits[5, 0] = math.nan, math.inf
    with pytest.raises(ConfigError, match=r"^The logits are not finite in epoch 1, with /010, /025; lower optimize"):
        check_logits(logits, validation, place="epoch 1")


def test_predict_part_is_the_network_in_evaluation_mode(shards):
    member, validation = tiny_member(drop_rate=0.5), open_part(shards, "validation")
    found = predict_part(member.train(), validation, worker=Worker())
    with torch.no_grad():
        expected = member.eval()(torch.from_numpy(validation.pixels(range(len(validation)))))
    torch.testing.assert_close(found, expected)
    halved = predict_part(member, validation, worker=Worker(), precision="bf16")
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, expected, rtol=0.05, atol=0.05)
