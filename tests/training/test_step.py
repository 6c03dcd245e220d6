"""One update: what accumulation, masks, precision and clipping do to it."""

import math

import pytest
import torch
from torch import nn

from cxr_ray.config import LossConfig, OptimizeConfig
from cxr_ray.errors import ConfigError
from cxr_ray.training.losses import Loss, loss_function
from cxr_ray.training.step import Outcome, Tools, check_finite, make_tools, update
from cxr_ray.training.workers import Worker

NAN = math.nan


def a_loss() -> Loss:
    counts = torch.tensor([3, 2, 4])
    return loss_function(LossConfig(weighting="none"), positives=counts, negatives=counts, num_images=8)


class Flat(nn.Module):
    """Sixteen pixels to three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def tools_of(network: nn.Module, *, accumulate: int = 1, **settings: object) -> Tools:
    optimize = OptimizeConfig.model_validate({"learning_rate": 0.1, "weight_decay": 0.0, "clip_norm": 1e6, **settings})
    return make_tools(
        network, mode=nn.Module.train, loss=a_loss(), worker=Worker(), settings=optimize, accumulate=accumulate
    )


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 2, (5, 3), generator=generator).float()
    labels[1, 2] = labels[4, 0] = NAN
    return images, labels


def weights_after(accumulate: int, **settings: object) -> torch.Tensor:
    torch.manual_seed(0)
    network = Flat()
    images, labels = a_batch()
    tools = tools_of(network, accumulate=accumulate, **settings)
    for step in range(3):
        update(tools, images, labels, num_images=5, num_stated=13, progress=0.0, rate=0.1, seed=step)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("accumulate", [2, 5, 9])
def test_update_accumulated_parts_of_unequal_size_are_one_batch(accumulate):
    torch.testing.assert_close(weights_after(accumulate), weights_after(1), rtol=1e-5, atol=1e-6)


def test_update_is_the_step_torch_makes_of_the_mean_over_stated_labels():
    torch.manual_seed(0)
    expected = Flat()
    images, labels = a_batch()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(3):
        stated = ~labels.isnan()
        loss = nn.functional.binary_cross_entropy_with_logits(expected(images)[stated], labels[stated])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = torch.cat([parameter.detach().flatten() for parameter in expected.parameters()])
    torch.testing.assert_close(weights_after(1), found)


def test_update_norm_is_that_before_clipping():
    network = Flat()
    images, labels = a_batch()
    before = network.layers[1].weight.detach().clone()
    outcome = update(
        tools_of(network, clip_norm=1e-9, optimizer="adam"),
        images, labels, num_images=5, num_stated=13, progress=0.0, rate=0.0, seed=0,
    )  # fmt: skip
    assert outcome.norm > 1e-3
    clipped = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert float(clipped.norm()) == pytest.approx(1e-9, rel=1e-2)
    assert torch.equal(network.layers[1].weight, before), "a rate of 0 moves nothing"


def test_update_dropout_follows_the_seed_alone():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))
    images, labels = a_batch()

    def loss_of(seed: int) -> float:
        torch.rand(7)
        return float(
            update(
                tools_of(network), images, labels, num_images=5, num_stated=13, progress=0.0, rate=0.0, seed=seed
            ).loss_sum
        )

    assert loss_of(1) == loss_of(1)
    assert loss_of(1) != loss_of(2)


def test_update_image_with_an_infinite_loss_is_marked():
    images, labels = a_batch()
    images[2] = math.inf
    outcome = update(tools_of(Flat()), images, labels, num_images=5, num_stated=13, progress=0.0, rate=0.1, seed=0)
    assert outcome.finite.tolist() == [True, True, False, True, True]
    assert not outcome.norm.isfinite()


def test_update_nothing_stated_changes_nothing():
    network = Flat()
    before = network.layers[1].weight.detach().clone()
    update(
        tools_of(network),
        a_batch()[0],
        torch.full((5, 3), NAN),
        num_images=5,
        num_stated=0,
        progress=0.0,
        rate=0.1,
        seed=0,
    )
    assert torch.equal(network.layers[1].weight, before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_update_half_precision_keeps_full_weights_and_comes_close(precision):
    found = weights_after(1, precision=precision)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weights_after(1), rtol=0.05, atol=0.05)
    assert not torch.equal(found, weights_after(1))


def test_check_finite_names_the_images_and_at_most_sixteen():
    uris = [(f"/{number}", f"/{number}-mixed") for number in range(9)]
    broken, tools = torch.tensor(NAN), tools_of(Flat())
    one = Outcome(broken, broken, torch.arange(9) != 4)
    with pytest.raises(ConfigError, match="The loss is not finite in epoch 2, with /4, /4-mixed; look at these"):
        check_finite(one, uris, tools=tools, place="epoch 2")
    every = Outcome(broken, broken, torch.zeros(9, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"with /0, /0-mixed, .*, /7-mixed and 2 more; look"):
        check_finite(every, uris, tools=tools, place="epoch 2")


def test_check_finite_scaler_hides_gradients_but_no_losses():
    tools = tools_of(Flat(), precision="fp16")
    check_finite(
        Outcome(torch.tensor(1.0), torch.tensor(math.inf), torch.tensor([True])), [("/0",)], tools=tools, place=""
    )
    with pytest.raises(ConfigError, match="with /0;"):
        check_finite(
            Outcome(torch.tensor(NAN), torch.tensor(NAN), torch.tensor([False])), [("/0",)], tools=tools, place=""
        )
