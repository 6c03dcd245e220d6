"""Metrics over the findings that have any, against scikit-learn, and logits of a whole part."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.training.cache import open_part
from cxr_ray.training.validation import macro_auroc, mean_average_precision, predict_part
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


def test_predict_part_is_the_network_in_evaluation_mode(shards):
    member, validation = tiny_member(drop_rate=0.5), open_part(shards, "validation")
    found = predict_part(member.train(), validation, worker=Worker())
    with torch.no_grad():
        expected = member.eval()(torch.from_numpy(validation.pixels(range(len(validation)))))
    torch.testing.assert_close(found, expected)
    halved = predict_part(member, validation, worker=Worker(), precision="bf16")
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, expected, rtol=0.05, atol=0.05)
