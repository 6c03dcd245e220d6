"""The stages of a fit, one after the other: each has its settings, and says what of the network learns in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from cxr_ray.config import OptimizeConfig
from cxr_ray.models.member import Member
from cxr_ray.training.losses import output_scale
from cxr_ray.training.second_stage import freeze_features, fresh_classifier, stage_settings, train_classifier_mode

_Change = Callable[[Member], object]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its settings, and three changes of a member in place.

    `begin` is made once, on the weights the stage starts from; `choose` sets which parameters learn, before the member
    is wrapped for data-parallel work; `mode` takes the place of `train()` before each update.
    """

    settings: OptimizeConfig
    begin: _Change
    choose: _Change
    mode: _Change


def stages(optimize: OptimizeConfig, *, seed: int) -> tuple[Stage, ...]:
    """The stages a configuration asks for. A later one begins with the best weights of the one before."""
    first = Stage(optimize, _as_it_is, partial(freeze_first, share=optimize.freeze), Member.train)
    if optimize.second_stage is None:
        return (first,)
    begin = partial(_renew_classifier, seed=seed)
    settings = stage_settings(optimize, optimize.second_stage)
    return first, Stage(settings, begin, freeze_features, train_classifier_mode)


def num_epochs(optimize: OptimizeConfig) -> int:
    """Most epochs of all stages together."""
    return sum(stage.settings.epochs for stage in stages(optimize, seed=0))


def final_scale(optimize: OptimizeConfig) -> float:
    """What the outputs of a network are multiplied by when all stages are over: the last one's loss says it."""
    return output_scale(stages(optimize, seed=0)[-1].settings.loss)


def freeze_first(member: nn.Module, *, share: float) -> None:
    """Let all parameters learn, in place, but those of the first `share` of the convolution layers.

    Source: Liz et al. 2023, first 10 % of the convolution layers frozen.
    """
    member.requires_grad_(True)
    convolutions = [module for module in member.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions[: round(share * len(convolutions))]:
        convolution.requires_grad_(False)


def _as_it_is(member: Member) -> None:
    """Leave the weights as they are."""


@torch.no_grad()
def _renew_classifier(member: Member, *, seed: int) -> None:
    """Give the classifier new random weights, in place."""
    fresh = fresh_classifier(member, seed=seed)
    for name, parameter in member.named_parameters():
        if name in fresh:
            parameter.copy_(fresh[name])
