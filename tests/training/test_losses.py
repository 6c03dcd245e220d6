"""Class weights and losses against timm, torchvision, torch, the papers' formulas in numpy, and values by hand."""

import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.loss import AsymmetricLossMultiLabel, DistributionBalancedLoss
from torchvision.ops import sigmoid_focal_loss

from cxr_ray.config import LossConfig
from cxr_ray.training.losses import (
    asymmetric,
    bce,
    distribution_balanced,
    focal,
    label_counts,
    ldam,
    ldam_margins,
    logit_prior,
    loss_function,
    output_scale,
    positive_weights,
    rebalancing,
    reduced,
    smoothed,
    w_cel,
)

NAN = math.nan
NAMES = ("bce", "w_cel", "focal", "asymmetric", "ldam", "distribution_balanced")
POSITIVES, NEGATIVES = torch.tensor([10, 80, 1, 0, 50]), torch.tensor([90, 20, 99, 100, 30])


def some(*, seed: int = 0, spread: float = 3.0, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels (4, 5), a share of the labels not stated."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(4, 5, generator=generator)
    labels = torch.randint(0, 2, (4, 5), generator=generator).float()
    labels[torch.rand(4, 5, generator=generator) < missing] = NAN
    return logits, labels


def named(name: str, **settings):
    """The loss of a name over 100 images, of which the last finding is not stated in 20."""
    return loss_function(LossConfig(name=name, **settings), positives=POSITIVES, negatives=NEGATIVES, num_images=100)


# Weights


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("none", [1.0, 1.0, 1.0, 1.0]), ("inverse", [9.0, 0.25, 20.0, 1.0]), ("sqrt", [3.0, 0.5, math.sqrt(99), 1.0])],
)
def test_positive_weights_counts_give_the_ratio_its_root_or_one(weighting, expected):
    config = LossConfig(weighting=weighting, max_weight=20.0)
    found = positive_weights(POSITIVES[:4], NEGATIVES[:4], config=config)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_positive_weights_effective_number_equals_the_sum_of_its_series(beta):
    # E(n) is the geometric series 1 + beta + ... + beta^(n - 1).
    series = [[sum(beta**power for power in range(int(n))) for n in counts] for counts in (NEGATIVES, POSITIVES)]
    expected = [absent / present if present else 1.0 for absent, present in zip(*series, strict=True)]
    config = LossConfig(weighting="effective", beta=beta, max_weight=1000.0)
    found = positive_weights(POSITIVES, NEGATIVES, config=config)
    torch.testing.assert_close(found, torch.tensor(expected))


@given(
    counts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=5),
    weighting=st.sampled_from(["none", "inverse", "sqrt", "effective"]),
    beta=st.floats(0.0, 0.9999999),
    bound=st.floats(1.0, 100.0),
)
def test_positive_weights_any_counts_stay_in_bounds(counts, weighting, beta, bound):
    positives, negatives = torch.tensor(counts).T
    config = LossConfig(weighting=weighting, beta=beta, max_weight=bound)
    found = positive_weights(positives, negatives, config=config)
    limit = torch.tensor(bound, dtype=torch.float32)
    assert ((found >= torch.tensor(1.0 / bound, dtype=torch.float32)) & (found <= limit)).all()
    assert (found[positives == 0] == 1).all()


# Each loss against another's implementation or the paper's formula


def test_bce_equals_torch():
    logits, labels = some()
    weights = torch.rand(5, generator=torch.Generator().manual_seed(1)) + 0.5
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    torch.testing.assert_close(reduced(bce(logits, labels, weights), labels), expected, rtol=0, atol=0)


def test_reduced_bce_by_hand_is_mean_over_stated_labels():
    logits = torch.tensor([[0.0, 100.0], [math.log(3), -100.0]])
    labels = torch.tensor([[1.0, NAN], [0.0, NAN]])
    expected = (2.0 * math.log(2) + math.log(4)) / 2
    found = reduced(bce(logits, labels, torch.tensor([2.0, 7.0])), labels)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("seed", range(3))
def test_w_cel_equals_the_papers_formula(seed):
    logits, labels = some(seed=seed, missing=0.3)
    z, truth = logits.double().numpy(), labels.double().numpy()
    probability = 1.0 / (1.0 + np.exp(-z))
    total, present = np.sum(~np.isnan(truth)), np.sum(truth == 1)
    expected = np.zeros_like(z)
    expected[truth == 1] = -total / present * np.log(probability[truth == 1])
    expected[truth == 0] = -total / (total - present) * np.log(1.0 - probability[truth == 0])
    torch.testing.assert_close(w_cel(logits.double(), labels), torch.from_numpy(expected))


def test_w_cel_batch_without_positives_is_plain_cross_entropy():
    logits, _ = some()
    labels = torch.zeros(4, 5)
    torch.testing.assert_close(
        w_cel(logits, labels), F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    )


def test_w_cel_shares_with_the_counts_of_the_batch_equal_the_batch():
    logits, labels = some(missing=0.2)
    counts = label_counts(labels[::2]) + label_counts(labels[1::2])
    shares = [w_cel(logits[rank::2], labels[rank::2], counts=counts) for rank in range(2)]
    torch.testing.assert_close(torch.stack(shares, dim=1).flatten(0, 1), w_cel(logits, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_focal_equals_torchvision(gamma, alpha):
    logits, labels = some()
    # torchvision has alpha for positives and 1 - alpha for negatives; ours divides both by the latter.
    expected = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma) / (1.0 - alpha)
    found = focal(logits, labels, torch.full((5,), alpha / (1.0 - alpha)), gamma=gamma)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gammas", [(0.0, 4.0), (1.0, 4.0), (2.0, 2.0), (0.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
def test_asymmetric_equals_timm(gammas, clip):
    logits, labels = some()
    weights = torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0])
    reference = AsymmetricLossMultiLabel(
        gamma_neg=gammas[1], gamma_pos=gammas[0], clip=clip, pos_weight=weights, reduction="none"
    )
    torch.testing.assert_close(asymmetric(logits, labels, weights, gammas=gammas, clip=clip), reference(logits, labels))


def test_asymmetric_easy_negative_by_hand_costs_nothing():
    logits = torch.logit(torch.tensor([[0.04, 0.5]], dtype=torch.float64))
    found = asymmetric(logits, torch.zeros(1, 2), torch.ones(2), gammas=(0.0, 4.0), clip=0.05)
    expected = torch.tensor([[0.0, -(0.45**4) * math.log(0.55)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_asymmetric_negative_exactly_at_the_clip_has_no_gradient():
    logits = torch.zeros(1, 1, requires_grad=True)
    loss = asymmetric(logits, torch.zeros(1, 1), torch.ones(1), gammas=(0.0, 0.5), clip=0.5)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.item() == 0


def test_ldam_margins_counts_by_hand():
    found = ldam_margins(torch.tensor([16, 1, 0]), torch.tensor([81, 10000, 256]), largest=0.6)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.6, 0.6], [0.2, 0.06, 0.15]]))


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0])
def test_ldam_equals_the_papers_softmax_over_two_classes(scale):
    logits, labels = some(spread=1.0, missing=0.2)
    z, truth = logits.double().numpy(), labels.numpy()
    positives, negatives, weights = np.array([10, 80, 1, 7, 50]), np.array([90, 20, 99, 93, 30]), np.arange(1.0, 6.0)
    quarter = np.stack([negatives, positives]) ** -0.25
    margin = 0.5 * quarter / quarter.max()
    expected = np.zeros((4, 5))
    for image, finding in np.argwhere(~np.isnan(truth)):
        label = int(truth[image, finding])
        pair = np.array([0.0, z[image, finding]])
        pair[label] -= margin[label, finding]
        powers = np.exp(scale * pair)
        expected[image, finding] = -np.log(powers[label] / powers.sum()) * (weights[finding] if label else 1.0)
    margins = ldam_margins(torch.from_numpy(positives), torch.from_numpy(negatives), largest=0.5)
    found = ldam(logits, labels, torch.from_numpy(weights).float(), margins=margins, scale=scale)
    torch.testing.assert_close(found, torch.from_numpy(expected).float())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("settings", [{}, {"map_mu": 0.3, "negative_scale": 5.0, "prior_scale": 0.1, "map_alpha": 0.2}])
def test_distribution_balanced_equals_timm(gamma, smoothing, settings):
    logits, labels = some()
    labels[1] = 0.0
    config = LossConfig(name="distribution_balanced", gamma=gamma, smoothing=smoothing, **settings)
    reference = DistributionBalancedLoss(
        POSITIVES,
        100,
        map_alpha=config.map_alpha,
        map_beta=config.map_beta,
        map_mu=config.map_mu,
        neg_scale=config.negative_scale,
        init_bias=config.prior_scale,
        focal_gamma=gamma,
        # timm scales by focal_balance only where gamma is positive.
        focal_balance=2.0,
        smoothing=2.0 * smoothing,
        reduction="none",
    )
    loss = loss_function(config, positives=POSITIVES, negatives=100 - POSITIVES, num_images=100)
    expected = reference(logits, labels) * (1.0 if gamma else 2.0)
    torch.testing.assert_close(loss(logits, labels, progress=0.0), expected)


def test_rebalancing_by_hand_ignores_labels_not_stated():
    labels = torch.tensor([[1.0, 1.0, NAN], [0.0, NAN, 1.0]])
    found = rebalancing(labels, torch.tensor([10, 40, 2]), config=LossConfig())
    ratio = torch.tensor([[0.1 / 0.125, 0.025 / 0.125, 0.5 / 0.125], [0.1 / 0.5, 0.025 / 0.5, 1.0]])
    torch.testing.assert_close(found, 0.1 + 1.0 / (1.0 + torch.exp(-10.0 * (ratio - 0.2))))


# Each loss, through its configuration, against values worked out on paper

LN3 = math.log(3.0)  # the logit of 3/4


@pytest.mark.parametrize(
    ("settings", "counts", "logits", "labels", "expected"),
    [
        # (1/4)^2 ln(4/3) and (3/4)^2 ln 4
        ({"name": "focal", "weighting": "none"}, [(1, 1), (1, 1)], [[LN3, LN3]], [[1, 0]], [[0.0179801, 0.7797906]]),
        # 3 ln(4/3), by 9 negatives to a positive, and (0.75 - 0.05)^4 * -ln(1 - 0.70)
        ({"name": "asymmetric"}, [(1, 9), (1, 1)], [[LN3, LN3]], [[1, 0]], [[0.8630462, 0.2890738]]),
        # One positive and two negatives are stated: weights 3 and 3/2 on ln 2
        (
            {"name": "w_cel"},
            [(1, 1), (0, 1)],
            [[0, 0], [0, 0]],
            [[1, 0], [0, NAN]],
            [[2.0794415, 1.0397208], [1.0397208, 0]],
        ),
        # Margins 0.5 and 0.5 / 16^(1/4): ln 2 and ln(1 + e^(2 (0.5 + 0.25)))
        (
            {"name": "ldam", "scale": 2.0, "weighting": "none"},
            [(1, 16)],
            [[0.5], [0.5]],
            [[1], [0]],
            [[0.6931472], [1.7014133]],
        ),
        # r = 1 and 1/4, weights 1.0996646 and 0.7224593, logits shifted by -0.025 ln 9 and -0.025 ln 1.5
        (
            {"name": "distribution_balanced"},
            [(10, 90), (40, 60)],
            [[0, LN3]],
            [[1, 0]],
            [[0.4184926, 1.3313293]],
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_loss_by_hand(settings, counts, logits, labels, expected):
    positives, negatives = torch.tensor(counts).T
    loss = loss_function(LossConfig(**settings), positives=positives, negatives=negatives, num_images=100)
    found = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32), progress=1.0)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_loss_ldam_drw_by_hand_weighs_by_effective_numbers_after_its_share_of_the_steps():
    # E(16) / E(1) = (1 - 0.9^16) / (1 - 0.9) on ln 2; the margins stand from the beginning.
    config = LossConfig(name="ldam", scale=2.0, weighting="effective", beta=0.9, deferred=0.8)
    loss = loss_function(config, positives=torch.tensor([1]), negatives=torch.tensor([16]), num_images=17)
    logits, labels = torch.tensor([[0.5]]), torch.ones(1, 1)
    assert loss(logits, labels, progress=0.79).item() == pytest.approx(0.6931472)
    assert loss(logits, labels, progress=0.8).item() == pytest.approx(8.146980 * 0.6931472, rel=1e-6)


def test_reduced_by_hand_not_stated_labels_count_in_no_mean():
    labels = torch.tensor([[1.0, NAN], [NAN, 0.0], [NAN, NAN]])
    losses = focal(torch.full((3, 2), LN3), labels, torch.ones(2), gamma=2.0)
    assert reduced(losses, labels).item() == pytest.approx((0.0179801 + 0.7797906) / 2, rel=1e-5)


def test_output_scale_is_that_of_ldam_alone():
    assert {name: output_scale(LossConfig(name=name, scale=9.0)) for name in NAMES} == {
        **dict.fromkeys(NAMES, 1.0),
        "ldam": 9.0,
    }


# The loss a configuration names


@pytest.mark.parametrize("name", NAMES)
def test_loss_names_take_their_settings(name):
    logits, labels = some(missing=0.2)
    settings = {
        "gamma": 1.5,
        "gamma_positive": 0.5,
        "gamma_negative": 3.0,
        "clip": 0.1,
        "max_margin": 0.3,
        "scale": 9.0,
    }
    loss = named(name, weighting="inverse", **settings)
    config, weights = loss.config, torch.tensor([9.0, 0.25, 20.0, 1.0, 0.6])
    expected = {
        "bce": lambda: bce(logits, labels, weights),
        "w_cel": lambda: w_cel(logits, labels),
        "focal": lambda: focal(logits, labels, weights, gamma=1.5),
        "asymmetric": lambda: asymmetric(logits, labels, weights, gammas=(0.5, 3.0), clip=0.1),
        "ldam": lambda: ldam(
            logits, labels, weights, margins=ldam_margins(POSITIVES, NEGATIVES, largest=0.3), scale=9.0
        ),
        "distribution_balanced": lambda: distribution_balanced(
            logits,
            labels,
            rebalancing(labels, POSITIVES, config=config),
            prior=logit_prior(POSITIVES, NEGATIVES, config=config),
            config=config,
        ),
    }[name]()
    torch.testing.assert_close(loss(logits, labels, progress=0.0), expected)


@pytest.mark.parametrize("name", NAMES)
def test_loss_deferred_reweights_from_its_share_of_the_steps_on(name):
    logits, labels = some(missing=0.2)
    loss, at_once = named(name, weighting="inverse", deferred=0.6), named(name, weighting="inverse")
    plain = {
        "w_cel": lambda: bce(logits, labels, torch.ones(5)),
        "distribution_balanced": lambda: distribution_balanced(
            logits,
            labels,
            torch.ones(4, 5),
            prior=logit_prior(POSITIVES, NEGATIVES, config=loss.config),
            config=loss.config,
        ),
    }.get(name, lambda: named(name, weighting="none")(logits, labels, progress=0.0))()
    torch.testing.assert_close(loss(logits, labels, progress=0.59), plain, rtol=0, atol=0)
    reweighted = at_once(logits, labels, progress=0.0)
    torch.testing.assert_close(loss(logits, labels, progress=0.6), reweighted, rtol=0, atol=0)
    assert not torch.equal(plain, reweighted)


@pytest.mark.parametrize("name", NAMES)
def test_loss_smoothed_labels_mix_what_both_labels_cost(name):
    logits, labels = some(missing=0.2)
    present, absent = torch.where(labels.isnan(), NAN, 1.0), torch.where(labels.isnan(), NAN, 0.0)
    # With the same weights of the batch: counts for w_cel; distribution_balanced is held against timm's smoothing.
    counts = label_counts(labels)
    hard = named(name, deferred=0.5)
    both = [hard(logits, side, progress=0.0, counts=counts) for side in (present, absent)]
    found = named(name, deferred=0.5, smoothing=0.1)(logits, labels, progress=0.0, counts=counts)
    truth = torch.where(labels == 1, 0.9, 0.1)
    torch.testing.assert_close(found, truth * both[0] + (1.0 - truth) * both[1])


def test_smoothed_labels_move_and_not_stated_ones_stay():
    found = smoothed(torch.tensor([1.0, 0.0, NAN]), smoothing=0.1)
    torch.testing.assert_close(found, torch.tensor([0.9, 0.1, NAN]), equal_nan=True)


def test_label_counts_stated_labels_hard_or_smoothed():
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, 0.0, 0.0]])
    assert label_counts(labels).tolist() == [1, 3]
    assert label_counts(smoothed(labels, smoothing=0.4)).tolist() == [1, 3]


def test_loss_weights_are_what_the_class_table_shows():
    assert named("ldam", weighting="inverse").weights.tolist() == pytest.approx([9.0, 0.25, 20.0, 1.0, 0.6])
    assert named("w_cel").weights.tolist() == pytest.approx([339 / 141] * 5)
    assert named("distribution_balanced").weights.tolist() == [1.0] * 5


def test_loss_function_more_labels_than_images_is_refused():
    with pytest.raises(ValueError, match="the 99 images"):
        loss_function(LossConfig(), positives=POSITIVES, negatives=NEGATIVES, num_images=99)


@pytest.mark.parametrize("name", NAMES)
def test_loss_pickled_is_the_same(name):
    logits, labels = some(missing=0.2)
    loss = named(name)
    again = pickle.loads(pickle.dumps(loss))
    assert torch.equal(loss(logits, labels, progress=0.5), again(logits, labels, progress=0.5))


# What holds for every loss


def test_reduced_nothing_stated_is_zero_with_zero_gradient():
    logits, labels = torch.randn(2, 3, requires_grad=True), torch.full((2, 3), NAN)
    loss = reduced(bce(logits, labels, torch.ones(3)), labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_loss_shares_of_workers_add_up_to_the_batch(name):
    logits, labels = some(missing=0.3)
    loss, counts = named(name), label_counts(labels)
    shares = [loss(logits[rank::2], labels[rank::2], progress=1.0, counts=counts).sum() for rank in range(2)]
    whole = reduced(loss(logits, labels, progress=1.0), labels)
    torch.testing.assert_close(sum(shares) / counts.sum(), whole)


@pytest.mark.parametrize("name", NAMES)
@given(
    logits=st.lists(st.floats(-50.0, 50.0, width=32), min_size=10, max_size=10),
    labels=st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=10, max_size=10),
    settings=st.fixed_dictionaries(
        {
            "gamma": st.sampled_from([0.0, 0.1, 2.0]),
            "gamma_positive": st.sampled_from([0.0, 0.1, 2.0]),
            "gamma_negative": st.sampled_from([0.0, 0.1, 4.0]),
            "clip": st.sampled_from([0.0, 1e-6, 0.05, 0.9]),
            "smoothing": st.sampled_from([0.0, 0.1]),
            "deferred": st.sampled_from([0.0, 0.9]),
        }
    ),
)
def test_loss_any_batch_is_finite_not_negative_and_masked(name, logits, labels, settings):
    z, truth = torch.tensor(logits).reshape(2, 5).requires_grad_(), torch.tensor(labels).reshape(2, 5)
    before = z.detach().clone(), truth.clone()
    losses = named(name, **settings)(z, truth, progress=0.5)
    losses.sum().backward()
    missing = truth.isnan()
    assert losses.shape == (2, 5)
    assert (losses.isfinite() & (losses >= 0)).all()
    assert z.grad.isfinite().all()
    assert (losses[missing] == 0).all()
    assert (z.grad[missing] == 0).all()
    assert torch.equal(z, before[0])
    assert torch.equal(truth.nan_to_num(-1.0), before[1].nan_to_num(-1.0))


@pytest.mark.parametrize("name", NAMES)
def test_loss_label_not_stated_changes_no_other(name):
    logits, labels = some(missing=0.3)
    other = torch.where(labels.isnan(), 7.0, logits)
    loss = named(name)
    assert torch.equal(loss(logits, labels, progress=1.0), loss(other, labels, progress=1.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_loss_gradient_is_that_of_differences(name, smoothing, clip):
    logits, labels = some(spread=0.3, missing=0.2)
    loss = named(name, smoothing=smoothing, clip=clip)
    z = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: loss(value, labels, progress=1.0), (z,))


@pytest.mark.parametrize("name", NAMES)
def test_loss_confident_mistake_has_a_gradient_and_a_confident_hit_has_none(name):
    logits = torch.tensor([[50.0, -50.0, 50.0, -50.0, 0.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 1.0, 1.0, 0.0, NAN]])
    losses = named(name, clip=0.0)(logits, labels, progress=1.0)
    losses.sum().backward()
    # distribution_balanced may weigh the negative of a common finding as little as 0.1, over all others 0.2.
    assert (losses[0, :2] > 5).all()
    assert (logits.grad[0, :2].sign() == torch.tensor([1.0, -1.0])).all()
    assert losses[0, 2:].detach().numpy() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_loss_autocast_and_half_precision_compute_in_float32(name):
    logits, labels = some(missing=0.2)
    loss, half = named(name), logits.bfloat16()
    expected = loss(half.float(), labels, progress=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(half, labels, progress=1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
