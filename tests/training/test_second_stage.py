"""The second stage: a new classifier on features that do not move."""

import math

import pytest
import torch
from torch import nn

from cxr_ray.config import LossConfig, MemberConfig, OptimizeConfig, SecondStageConfig
from cxr_ray.models.member import Member, create
from cxr_ray.training.second_stage import (
    classifier,
    freeze_features,
    fresh_classifier,
    stage_settings,
    train_classifier_mode,
    trainable_names,
)

FINDINGS = ("A", "B", "C")
MEMBERS = {
    "linear": (MemberConfig(name="m", backbone="test_resnet"), {"backbone.fc.weight", "backbone.fc.bias"}),
    "named otherwise": (
        MemberConfig(name="m", backbone="test_efficientnet"),
        {"backbone.classifier.weight", "backbone.classifier.bias"},
    ),
    "in a head with a norm": (
        MemberConfig(name="m", backbone="test_convnext"),
        {"backbone.head.fc.weight", "backbone.head.fc.bias"},
    ),
    "hidden layer": (
        MemberConfig(name="m", backbone="test_resnet", head_hidden=7, drop_rate=0.5),
        {"backbone.fc.0.weight", "backbone.fc.0.bias", "backbone.fc.3.weight", "backbone.fc.3.bias"},
    ),
    "cut": (
        MemberConfig(name="m", backbone="test_resnet", last_stage=2),
        {"backbone.fc.weight", "backbone.fc.bias"},
    ),
}


def a_member(config: MemberConfig) -> Member:
    torch.manual_seed(0)
    member, _ = create(config, findings=FINDINGS, size=32, preprocess_digest="d")
    return member


@pytest.mark.parametrize(("config", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_trainable_names_are_the_classifiers(config, expected):
    assert trainable_names(a_member(config)) == expected


@pytest.mark.parametrize(("config", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_fresh_classifier_repeats_by_seed_and_leaves_the_member(config, expected):
    member = a_member(config)
    before = {name: tensor.clone() for name, tensor in member.state_dict().items()}
    fresh = fresh_classifier(member, seed=3)
    assert fresh.keys() == expected
    for name, values in fresh.items():
        assert values.shape == before[name].shape
        assert torch.equal(values, fresh_classifier(member, seed=3)[name])
        assert not torch.equal(values, fresh_classifier(member, seed=4)[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in member.state_dict().items())


def test_fresh_classifier_values_are_uniform_in_torchs_bounds():
    member = a_member(MemberConfig(name="m", backbone="test_resnet", head_hidden=400))
    fresh, wide = fresh_classifier(member, seed=0), classifier(member)[0].in_features
    values, bound = fresh["backbone.fc.0.weight"], 1.0 / math.sqrt(wide)
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
    assert fresh["backbone.fc.3.bias"].abs().max() <= 1.0 / math.sqrt(400)


@pytest.mark.parametrize(("config", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_second_stage_steps_move_the_classifier_and_nothing_else(config, expected):
    member = a_member(config)
    member.load_state_dict(fresh_classifier(member, seed=1), strict=False)
    parameters = freeze_features(member)
    before = {name: tensor.clone() for name, tensor in member.state_dict().items()}
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)
    for step in range(2):
        train_classifier_mode(member)
        images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        member(images).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in member.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == expected


def test_train_classifier_mode_features_are_those_of_evaluation():
    member = a_member(MemberConfig(name="m", backbone="test_resnet", head_hidden=64, drop_rate=0.5))
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = member.eval().features(images)
        train_classifier_mode(member)
        assert torch.equal(member.features(images), expected)
        # The dropout behind the hidden layer is at work.
        assert not torch.equal(member(images), member(images))
    assert not any(module.training for module in member.modules() if isinstance(module, nn.BatchNorm2d))


def test_stage_settings_take_what_the_stage_sets_and_keep_the_rest():
    stage = SecondStageConfig(epochs=3, learning_rate=0.02, loss=LossConfig(name="focal"), sampler="shuffle")
    optimize = OptimizeConfig(epochs=40, batch_size=24, clip_norm=2.0, sampler="class_aware", second_stage=stage)
    expected = OptimizeConfig(
        epochs=3, learning_rate=0.02, loss=LossConfig(name="focal"), sampler="shuffle", batch_size=24, clip_norm=2.0
    )
    assert stage_settings(optimize, stage) == expected


def test_second_stage_config_defaults_are_the_papers_and_survive_a_dump():
    optimize = OptimizeConfig(second_stage=SecondStageConfig())
    assert optimize.second_stage.sampler == "class_aware"
    assert optimize.second_stage.loss.weighting == "none"
    assert OptimizeConfig.model_validate(optimize.model_dump()) == optimize
    assert OptimizeConfig().second_stage is None
