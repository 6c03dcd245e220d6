"""A moving average of a network's weights, which often scores better than the weights of the last step."""

import copy
from itertools import chain

import torch
from torch import nn


def averaged_copy(network: nn.Module) -> nn.Module:
    """A copy of `network` to average into: without gradients, in evaluation mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def decay_at(num_updates: int, decay: float) -> float:
    """The decay of an update, so that the first steps do not hold on to the weights a run began with.

    min(decay, (1 + n) / (10 + n)) after n updates. Source: TensorFlow's ExponentialMovingAverage, `num_updates`.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move `average` in place: average = decay x average + (1 - decay) x network; counters are copied.

    Running statistics are averaged like weights, as timm does: they belong to the weights they were measured with.
    """
    ours = list(chain(average.parameters(), average.buffers()))
    theirs = list(chain(network.parameters(), network.buffers()))
    floating = [place for place, tensor in enumerate(ours) if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[place] for place in floating], [theirs[place] for place in floating], 1.0 - decay)
    for mine, other in zip(ours, theirs, strict=True):
        if not mine.is_floating_point():
            mine.copy_(other)
