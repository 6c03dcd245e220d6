"""Agreement of members, by hand-computed values and invariants."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.models import agreement


def test_votes_probability_at_threshold_counts():
    probabilities = torch.tensor([[[0.5, 0.2]], [[0.4, 0.9]], [[0.6, 0.1]]])
    thresholds = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.6, 0.05]])
    assert agreement.votes(probabilities, thresholds).tolist() == [[2, 2]]


def test_spread_three_members_is_population_deviation():
    probabilities = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(agreement.spread(probabilities), np.std(probabilities.numpy(), axis=0), atol=1e-6)


def test_spread_one_member_is_zero():
    assert agreement.spread(torch.rand(1, 4, 5)).tolist() == torch.zeros(4, 5).tolist()


def test_entropy_known_probabilities_are_in_bits():
    found = agreement.entropy(torch.tensor([0.5, 0.25, 0.0, 1.0]))
    expected = [1.0, -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)), 0.0, 0.0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_map_agreement_three_members_is_mean_over_pairs():
    maps = torch.rand(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).numpy()
    expected = np.mean(
        [
            np.minimum(maps[i], maps[j]).sum((-2, -1)) / np.maximum(maps[i], maps[j]).sum((-2, -1))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ],
        axis=0,
    )
    np.testing.assert_allclose(agreement.map_agreement(torch.from_numpy(maps)), expected, atol=1e-6)


def test_map_agreement_blank_map_takes_part_in_no_pair():
    maps = torch.zeros(3, 1, 2, 2)
    maps[0, 0, 0, 0] = maps[1, 0, 0, 0] = 1.0
    assert agreement.map_agreement(maps).tolist() == [1.0]


def test_map_agreement_fewer_than_two_maps_is_nan():
    maps = torch.zeros(3, 1, 2, 2)
    maps[1] = 1.0
    assert agreement.map_agreement(maps).isnan().all()


@given(seed=st.integers(0, 1000))
def test_map_agreement_any_order_of_members_is_the_same_and_in_range(seed):
    maps = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    found = agreement.map_agreement(maps)
    torch.testing.assert_close(found, agreement.map_agreement(maps.flip(0)))
    assert ((found >= 0) & (found <= 1)).all()
