"""Random views of a training batch, vectorised on the batch's device, each from the key of its image.

A view depends on its key alone, not on the batch it is in nor on the process that makes it, so that one worker and
many see the same views, and a resumed run those of an uninterrupted one. Shapes: B batch, S input side. Knows no
labels: every view keeps what the film shows.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_ray.config import AugmentConfig

Keys = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: the increment of SplitMix64
_NUM_DRAWS = 8
_PADDING = {"nearest": "border", "zero": "zeros", "reflect": "reflection"}


def augment(images: Tensor, config: AugmentConfig, keys: Keys) -> Tensor:
    """One random view of each model input (B, 1, S, S), uint8 or 0..1; float32 in 0..1. The input is not changed.

    `keys` (B,) are from `keys_of`. The numbers are drawn on the CPU, so that views are the same on every device.
    """
    pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images
    draws = uniforms(keys, _NUM_DRAWS).to(pixels.device)
    grid = F.affine_grid(random_affine(draws[:, :6], config), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=_PADDING[config.fill], align_corners=False)
    low, high = config.brightness
    factor = low + (high - low) * draws[:, 6]
    offset = config.offset * (2.0 * draws[:, 7] - 1.0)
    return (moved * factor[:, None, None, None] + offset[:, None, None, None]).clamp(0.0, 1.0)


def random_affine(draws: Tensor, config: AugmentConfig) -> Tensor:
    """Affine matrices (B, 2, 3) from view to image, in the coordinates -1..1 of torch's affine_grid.

    `draws` (B, 6) are numbers in 0..1. Both sides are zoomed alike: the width of a heart is judged against that of
    the thorax.
    """
    turn, zoom, side, lean, right, down = draws.unbind(1)
    angle = math.radians(config.rotation) * (2.0 * turn - 1.0)
    scale = 1.0 + config.zoom * (2.0 * zoom - 1.0)
    mirror = torch.where(side < config.flip, -1.0, 1.0)
    cosine, sine, shear = torch.cos(angle) * scale, torch.sin(angle) * scale, config.shear * (2.0 * lean - 1.0)
    reach = 2.0 * config.shift
    top = torch.stack([cosine * mirror, -sine + shear, reach * (2.0 * right - 1.0)], dim=1)
    bottom = torch.stack([sine * mirror, cosine, reach * (2.0 * down - 1.0)], dim=1)
    return torch.stack([top, bottom], dim=1)


# --- random numbers by counting ----------------------------------------------------------------------------------


def keys_of(positions: npt.NDArray[np.int64], *numbers: int) -> Keys:
    """One key (B,) for each of `positions` (B,), under `numbers` such as seed and epoch."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = _scrambled(key + _GOLDEN * np.array([number + 1], np.uint64))
    return _scrambled(key + _GOLDEN * (positions.astype(np.uint64) + np.uint64(1)))


def uniforms(keys: Keys, num: int) -> Tensor:
    """`num` numbers in 0 <= x < 1 of each key: (B, num) float32, the same wherever and whenever they are drawn."""
    counters = keys[:, None] + _GOLDEN * np.arange(1, num + 1, dtype=np.uint64)
    return torch.from_numpy((_scrambled(counters) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))


def _scrambled(values: Keys) -> Keys:
    """The output function of SplitMix64. Source: Steele, Lea and Flood 2014, OOPSLA, figure 17 (variant 13)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = values ^ (values >> np.uint64(31))
    return mixed
