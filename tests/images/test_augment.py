"""Views of training images: each from its own key, and what every setting does to a film."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest

from cxr_ray.config import AugmentConfig
from cxr_ray.images.augment import augment, keys_of, uniforms

STILL = {"rotation": 0, "shift": 0, "zoom": 0, "shear": 0, "brightness": (1, 1), "offset": 0, "flip": 0}
PAPER = {"rotation": 45, "shift": 0.1, "zoom": 0.1, "shear": 0.1, "brightness": (0.7, 1.1), "offset": 0.05, "flip": 0.5}


def still(**changes: object) -> AugmentConfig:
    """Nothing moves but what `changes` name."""
    return AugmentConfig.model_validate({**STILL, **changes})


def films(count: int = 4, side: int = 24) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def keys(count: int, epoch: int = 0) -> np.ndarray:
    return keys_of(np.arange(count), 3, epoch)


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig.model_validate(PAPER)], ids=["default", "paper"])
def test_augment_view_depends_on_its_key_alone(config):
    images, own = films(5), keys(5)
    whole = augment(images, config, own)
    assert whole.shape == images.shape
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() < whole.max() <= 1
    for index in range(5):
        alone = augment(images[index : index + 1], config, own[index : index + 1])
        torch.testing.assert_close(alone[0], whole[index], rtol=0.0, atol=1e-6)
    assert not torch.equal(augment(images, config, keys(5, epoch=1)), whole)
    assert torch.equal(augment(images, config, own), whole)


def test_augment_leaves_its_input_and_takes_bytes():
    images = (films() * 255).to(torch.uint8)
    before = images.clone()
    seen = augment(images, AugmentConfig(), keys(4))
    assert torch.equal(images, before)
    torch.testing.assert_close(augment(images.float() / 255, AugmentConfig(), keys(4)), seen)


def test_augment_nothing_set_gives_the_film_back():
    torch.testing.assert_close(augment(films(), still(), keys(4)), films(), rtol=0.0, atol=1e-5)


def test_augment_flip_mirrors_left_and_right_alone():
    torch.testing.assert_close(augment(films(), still(flip=1), keys(4)), films().flip(3), rtol=0.0, atol=1e-5)
    assert AugmentConfig().flip == 0, "the heart stays where it is unless asked"


def test_augment_flip_half_of_the_films():
    images = films(1).expand(400, -1, -1, -1)
    mirrored = (augment(images, still(flip=0.5), keys(400)) - images).abs().amax((1, 2, 3)) > 1e-3
    assert 160 < mirrored.sum() < 240


def test_augment_grey_values_stay_in_their_ranges():
    grey = torch.full((300, 1, 8, 8), 0.5)
    factors = augment(grey, still(brightness=(0.7, 1.1)), keys(300))[:, 0, 0, 0] / 0.5
    assert factors.min() >= 0.7 - 1e-6
    assert factors.max() <= 1.1 + 1e-6
    assert factors.max() - factors.min() > 0.38
    offsets = augment(grey, still(offset=0.05), keys(300))[:, 0, 0, 0] - 0.5
    assert 0.045 < offsets.abs().max() <= 0.05 + 1e-6
    assert offsets.min() < 0 < offsets.max()


@pytest.mark.parametrize(("setting", "bound"), [("shift", 0.1), ("zoom", 0.1), ("rotation", 45), ("shear", 0.1)])
def test_augment_point_moves_no_farther_than_its_bound(setting, bound):
    """A bright spot a quarter of the side to the right of the middle, or below it for a shear along the rows."""
    side, count = 65, 120
    image = torch.zeros(1, 1, side, side)
    place = (48, 32) if setting == "shear" else (32, 48)
    image[0, 0, place[0], place[1]] = 1.0
    image = F.avg_pool2d(image, 5, stride=1, padding=2)
    seen = augment(image.expand(count, -1, -1, -1), still(**{setting: bound}), keys(count))[:, 0].double()
    mass = seen.sum((1, 2))
    rows = (seen.sum(2) * torch.arange(side)).sum(1) / mass - 32
    columns = (seen.sum(1) * torch.arange(side)).sum(1) / mass - 32
    radius, angle = torch.hypot(rows, columns), torch.rad2deg(torch.atan2(rows, columns))
    if setting == "shift":
        assert 0.9 * bound * side < (columns - 16).abs().max() <= bound * side + 0.1
        assert 0.9 * bound * side < rows.abs().max() <= bound * side + 0.1
    elif setting == "zoom":
        assert 16 / 1.1 - 0.1 <= radius.min() < radius.max() <= 16 / 0.9 + 0.1
        assert angle.abs().max() < 0.5
    elif setting == "rotation":
        assert 40 < angle.abs().max() <= 45.5
        assert (radius - 16).abs().max() < 0.2
    else:
        assert (rows - 16).abs().max() < 0.1
        assert 0.9 * bound * 16 < columns.abs().max() <= bound * 16 + 0.1


@pytest.mark.parametrize(("fill", "expected"), [("nearest", 1.0), ("zero", 0.0), ("reflect", None)])
def test_augment_fill_is_what_lies_beyond_the_edge(fill, expected):
    """A dark film with a bright rim of two pixels, turned by up to half a circle."""
    image = torch.full((1, 1, 32, 32), 0.5)
    image[..., :2, :] = image[..., -2:, :] = image[..., :, :2] = image[..., :, -2:] = 1.0
    seen = augment(image.expand(40, -1, -1, -1), still(rotation=45, fill=fill), keys(40))
    angle = uniforms(keys(40), 1)[:, 0]
    turned = seen[(angle * 2 - 1).abs() > 0.9]
    corner = turned[:, 0, 0, 0]
    assert len(corner)
    if expected is None:
        assert (corner < 1.0).all()
        assert (corner >= 0.5).all()
    else:
        torch.testing.assert_close(corner, torch.full_like(corner, expected))


def test_uniforms_are_uniform_and_independent():
    draws = uniforms(keys(20_000), 3).double().numpy()
    for column in draws.T:
        assert kstest(column, "uniform").pvalue > 1e-3
        assert 0 <= column.min() < column.max() < 1
    correlations = np.corrcoef(draws.T) - np.eye(3)
    assert np.abs(correlations).max() < 4 / math.sqrt(20_000)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(20_000)


def test_keys_of_differ_by_every_number():
    drawn = {
        int(keys_of(np.array([place]), *numbers)[0]) for place in range(50) for numbers in ((0, 0), (0, 1), (1, 0))
    }
    assert len(drawn) == 150


def test_uniforms_are_those_of_splitmix64():
    """Java's reference stream for seed 1234567, from the author's own test vector, top 24 bits."""
    stream = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniforms(np.array([1234567], np.uint64), 3)[0]
    torch.testing.assert_close(found, torch.tensor([(value >> 40) * 2.0**-24 for value in stream]))
