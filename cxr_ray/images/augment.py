"""Random views of a training batch, vectorised on the batch's device, from an explicit generator.

Shapes: B batch, S input side. Knows no labels: every view keeps what the film shows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_ray.config import AugmentConfig


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """One random view of each model input (B, 1, S, S), uint8 or 0..1; float32 in 0..1. The input is not changed.

    The numbers are drawn on the generator's device, so a CPU generator gives the same views on every device.
    """
    pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images
    transforms = random_affine(len(pixels), config, generator).to(pixels.device)
    grid = F.affine_grid(transforms, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    low, high = config.brightness
    factor = _uniform(len(pixels), generator, low=low, high=high).to(pixels.device)
    offset = _uniform(len(pixels), generator, low=-config.offset, high=config.offset).to(pixels.device)
    return (moved * factor[:, None, None, None] + offset[:, None, None, None]).clamp(0.0, 1.0)


def random_affine(num_images: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Affine matrices (B, 2, 3) from view to image, in the coordinates -1..1 of torch's affine_grid."""

    def draw(bound: float) -> Tensor:
        return _uniform(num_images, generator, low=-bound, high=bound)

    angle = draw(math.radians(config.rotation))
    scale = 1.0 + draw(config.zoom)
    mirror = torch.where(_uniform(num_images, generator, low=0.0, high=1.0) < config.flip, -1.0, 1.0)
    cosine, sine, shear = torch.cos(angle) * scale, torch.sin(angle) * scale, draw(config.shear)
    shift_x, shift_y = draw(2.0 * config.shift), draw(2.0 * config.shift)
    top = torch.stack([cosine * mirror, -sine + shear, shift_x], dim=1)
    bottom = torch.stack([sine * mirror, cosine, shift_y], dim=1)
    return torch.stack([top, bottom], dim=1)


def _uniform(count: int, generator: torch.Generator, *, low: float, high: float) -> Tensor:
    """`count` numbers drawn evenly from low..high."""
    return low + (high - low) * torch.rand(count, generator=generator)
