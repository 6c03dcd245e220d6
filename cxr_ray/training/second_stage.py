"""The second stage of decoupled training: the classifier anew, on features that stay as they are.

Representation and classifier are learnt apart: the first stage fits the whole network to the data as it is, the second
only its outputs, to a balanced view of it. Here are the parts that know the network; the steps are the loop's.

Source: Kang 2020, Decoupling representation and classifier for long-tailed recognition, section 4.1 (cRT).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ray.config import OptimizeConfig, SecondStageConfig
from cxr_ray.models.member import Member


def stage_settings(optimize: OptimizeConfig, stage: SecondStageConfig) -> OptimizeConfig:
    """How the second stage is fitted: as the first, but for what the stage sets itself."""
    own = {name: getattr(stage, name) for name in SecondStageConfig.model_fields}
    return optimize.model_copy(update={**own, "second_stage": None})


def classifier(member: Member) -> nn.Module:
    """The layers of a member between pooled features and logits: timm's classifier, with a hidden layer if it has one.

    Layers of a head that lie before it, such as a norm, belong to the features.
    """
    backbone: Any = member.backbone
    layers: nn.Module = backbone.get_classifier()
    return layers


def trainable_names(member: Member) -> frozenset[str]:
    """Names, as in the member's state, of the parameters that the second stage trains: the classifier's."""
    own = {id(parameter) for parameter in classifier(member).parameters()}
    return frozenset(name for name, parameter in member.named_parameters() if id(parameter) in own)


def fresh_classifier(member: Member, *, seed: int) -> dict[str, Tensor]:
    """New random values of the classifier's parameters, by their names in the member's state; changes nothing.

    Weights and biases are uniform in +-1 / sqrt(fan-in), torch's own start of a linear layer and of a convolution.
    """
    generator = torch.Generator().manual_seed(seed)
    names = {id(parameter): name for name, parameter in member.named_parameters()}
    fresh = {}
    for layer in classifier(member).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1.0 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                values = torch.rand(parameter.shape, generator=generator) * 2.0 * bound - bound
                fresh[names[id(parameter)]] = values.to(parameter)
    return fresh


def freeze_features(member: Member) -> list[nn.Parameter]:
    """Take every parameter but the classifier's out of training; returns those that stay, for the optimizer.

    Before the member is wrapped for data-parallel work, which looks once at what needs a gradient.
    """
    names = trainable_names(member)
    for name, parameter in member.named_parameters():
        parameter.requires_grad_(name in names)
    return [parameter for name, parameter in member.named_parameters() if name in names]


def train_classifier_mode(member: Member) -> None:
    """Put the member into the second stage's mode, in place of `train()` before each step.

    The features are those of evaluation: batch norms use and keep the statistics of the first stage, nothing is
    dropped. Only the classifier's own layers, such as the dropout behind a hidden one, are in training.
    """
    member.eval()
    classifier(member).train()
