"""The moving average of the weights, by hand and against timm's."""

import pytest
import torch
from timm.utils import ModelEmaV3

from cxr_ray.training.ema import averaged_copy, decay_at, update_average
from tests.training.squares import tiny_member


def test_decay_at_rises_to_the_decay():
    assert [decay_at(n, 0.9) for n in (0, 8, 1_000)] == [0.1, 0.5, 0.9]


def test_update_average_equals_timms():
    member = tiny_member()
    ours, theirs = averaged_copy(member), ModelEmaV3(member, decay=0.75)
    for seed in range(3):
        torch.manual_seed(seed)
        member.train()(torch.rand(4, 1, 32, 32))
        for parameter in member.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        update_average(ours, member, decay=0.75)
        theirs.update(member)
    expected = theirs.module.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_averaged_copy_has_no_gradients_and_leaves_the_member():
    member = tiny_member().train()
    average = averaged_copy(member)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in member.parameters())
    assert member.training
    assert not average.training
    before = member.backbone.get_parameter("fc.bias").clone()
    update_average(average, tiny_member(), decay=0.5)
    assert torch.equal(member.backbone.get_parameter("fc.bias"), before)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_update_average_by_hand(decay):
    old, new = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    expected = decay * old.weight.detach() + (1 - decay) * new.weight.detach()
    average = averaged_copy(old)
    update_average(average, new, decay=decay)
    torch.testing.assert_close(average.weight, expected)
