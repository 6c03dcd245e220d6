import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.evaluation.localisation.sanity import STEPS, cascade, randomised, similarity, summarise, verdict
from cxr_ray.evaluation.localisation.subjects import Subject
from cxr_ray.images.preprocess import Placement
from tests.models.test_heatmaps import make_member


def subject(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    return Subject(str(seed), str(seed), pixels, Placement(1.0, 0.0, 1.0, 0.0), 64, 64, np.ones(5))


def test_randomised_changes_the_outputs_first_and_leaves_the_member_as_it_is():
    member = make_member("test_resnet", 8)
    before = {name: tensor.clone() for name, tensor in member.state_dict().items()}
    share_changed = []
    for _, share in STEPS:
        other = randomised(member, share, seed=0).state_dict()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, other[name])]
        share_changed.append(set(changed))
        for name, tensor in before.items():
            assert torch.equal(tensor.flatten().sort().values, other[name].flatten().sort().values)
    assert all(name.startswith("backbone.fc") for name in share_changed[0])
    assert share_changed[0] < share_changed[1] < share_changed[2] < share_changed[3] < share_changed[4]
    weights = {name for name in before if name.endswith("conv.weight") or "conv" in name}
    assert {name for name in weights if before[name].unique().numel() > 1} <= share_changed[-1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in member.state_dict().items())


def test_similarity_equals_scipy_and_is_told_for_flat_maps():
    random = np.random.default_rng(1)
    maps, others = random.integers(0, 5, (6, 4, 4)), random.integers(0, 5, (6, 4, 4))
    expected = [spearmanr(first.ravel(), second.ravel()).statistic for first, second in zip(maps, others, strict=True)]
    np.testing.assert_allclose(similarity(maps, others), expected)
    flat = np.zeros((1, 4, 4))
    assert similarity(maps[:1], flat).tolist() == [0.0]
    assert np.isnan(similarity(flat, maps[:1])).all()


def test_cascade_same_weights_give_the_same_maps_and_random_ones_others():
    members = [make_member("test_resnet", 8), make_member("test_efficientnet")]
    subjects = [subject(seed) for seed in range(3)]
    pairs = np.array([[number, finding] for number in range(3) for finding in range(5)])
    found = cascade(members, subjects, pairs, grid=8, seed=0)
    assert found.shape == (5, 15)
    assert np.nanmean(np.abs(found[-1])) < 0.5
    assert np.nanmean(found[-1]) < 0.5
    same = summarise(np.ones((5, 15)), np.ones((20, 15)))
    assert "they show the image or the architecture" in same["verdict"]
    assert [step["randomised"] for step in same["steps"]] == [label for label, _ in STEPS]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.1, 0.0, 0.3), "they depend on what was learned"),
        (Interval(0.5, 0.4, 0.6), "cannot be told"),
        (Interval(float("nan"), float("nan"), float("nan")), "No map could be compared"),
    ],
)
def test_verdict_says_what_is_left_of_the_maps(interval, words):
    assert words in verdict(interval)
