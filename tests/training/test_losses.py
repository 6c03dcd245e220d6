"""Class weights and losses by hand-computed values and against torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from cxr_ray.training.losses import masked_bce, positive_weights

NAN = math.nan


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("none", [1.0, 1.0, 1.0, 1.0]), ("inverse", [9.0, 0.25, 20.0, 1.0]), ("sqrt", [3.0, 0.5, math.sqrt(99), 1.0])],
)
def test_positive_weights_counts_give_the_ratio_its_root_or_one(weighting, expected):
    positives, negatives = torch.tensor([10, 80, 1, 0]), torch.tensor([90, 20, 99, 100])
    found = positive_weights(positives, negatives, weighting=weighting, max_weight=20.0)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_masked_bce_all_stated_equals_torch():
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(4, 5, generator=generator), torch.rand(5, generator=generator) + 0.5
    labels = torch.randint(0, 2, (4, 5), generator=generator).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    torch.testing.assert_close(masked_bce(logits, labels, weights), expected)


def test_masked_bce_by_hand_is_mean_over_stated_labels():
    logits = torch.tensor([[0.0, 100.0], [math.log(3), -100.0]])
    labels = torch.tensor([[1.0, NAN], [0.0, NAN]])
    expected = (2.0 * math.log(2) + math.log(4)) / 2
    torch.testing.assert_close(masked_bce(logits, labels, torch.tensor([2.0, 7.0])), torch.tensor(expected))


def test_masked_bce_label_not_stated_has_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, 1.0]])
    masked_bce(logits, labels, torch.ones(3)).backward()
    assert torch.equal(logits.grad == 0, labels.isnan())


def test_masked_bce_nothing_stated_is_zero():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = masked_bce(logits, torch.full((2, 3), NAN), torch.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
