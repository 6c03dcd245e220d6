"""Grad-CAM for every finding of every member from one forward pass; mean and spread over members.

Shapes: B batch, M members, F findings, C channels, h w last feature map, G heat-map grid.
Grad-CAM weighs each channel by the spatial mean of the logit's gradient. Behind the last feature map stands the
head alone, so the gradients of all findings need one pass through the backbone and F small ones through the head,
instead of F passes through everything. pytorch-grad-cam is the reference in the tests and the path for other methods.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr_ray.models.member import Member

Offset = tuple[float, float]
LibraryMethod = Literal["gradcam++", "layercam", "eigencam"]


def head_gradients(head: Callable[[Tensor], Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, F) and the spatial mean of their gradients with respect to `features` (B, C, h, w), as (B, F, C).

    The mean over space of d logit / d features equals the gradient with respect to one offset per channel, divided
    by h * w. That holds for any head, and an offset is so small that all findings together cost next to nothing.
    A head that pools by the mean sees the feature map through its mean only, which makes it cheaper still.

    Source: Selvaraju et al. 2017, Grad-CAM, equation 1.
    """
    area = features.shape[-2] * features.shape[-1]
    with torch.enable_grad():
        mean = features.detach().mean(dim=(2, 3), keepdim=True).requires_grad_()
        logits = head(mean)
        source = mean
        plain = head(features.detach()).detach()
        if not torch.allclose(logits.detach(), plain, rtol=1e-3, atol=1e-3):
            source = torch.zeros_like(mean, requires_grad=True)
            logits = head(features.detach() + source)
        gradients = [
            torch.autograd.grad(logits[:, index].sum(), source, retain_graph=True)[0].flatten(1)
            for index in range(logits.shape[1])
        ]
    return plain, torch.stack(gradients, dim=1) / area


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Raw Grad-CAM maps (B, F, h, w): ReLU of the channels of `features` weighed by `gradients` (B, F, C).

    Source: Selvaraju et al. 2017, Grad-CAM, equation 2.
    """
    return torch.einsum("bfc,bchw->bfhw", gradients, features).relu()


def normalise(maps: Tensor, *, grid: int, offset: Offset = (0.0, 0.0)) -> tuple[Tensor, Tensor]:
    """Maps (..., h, w) divided by their own maximum and resampled to (..., G, G), and the raw maxima (...).

    A map without any positive cell stays zero. The raw maximum tells a strong map from a faint one, which the
    division hides. `offset` is where the cells look, see `measure_offset`; zero places cell i of h at (i + 0.5) / h.
    """
    peaks = maps.amax(dim=(-2, -1))
    scaled = maps / torch.where(peaks > 0, peaks, torch.ones_like(peaks))[..., None, None]
    flat = scaled.reshape(1, -1, *scaled.shape[-2:])
    move = torch.tensor([[[1.0, 0.0, -2.0 * offset[1]], [0.0, 1.0, -2.0 * offset[0]]]]).to(flat)
    places = F.affine_grid(move, [1, 1, grid, grid], align_corners=False)
    moved = F.grid_sample(flat, places, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.reshape(*maps.shape[:-2], grid, grid), peaks


def measure_offset(member: Member, *, num_probes: int = 8) -> Offset:
    """How far the cells of the last feature map look beside their nominal place: (rows, columns) as shares of the side.

    Strides and one-sided paddings move what a cell sees by up to a whole cell, 16 pixels of 224 for a plain ResNet,
    and a map laid over the film without regard to that points beside the lesion. Measured as the centroid of the
    squared gradient of the middle cells with respect to noise.

    Source: Luo et al. 2016, effective receptive fields; Araujo et al. 2019, receptive field arithmetic.
    """
    generator = torch.Generator().manual_seed(0)
    side = member.size
    noise = torch.rand(num_probes, 1, side, side, generator=generator, requires_grad=True)
    with torch.enable_grad():
        features = member.features(noise)
        height, width = features.shape[-2:]
        rows, columns = slice((height - 1) // 2, height // 2 + 1), slice((width - 1) // 2, width // 2 + 1)
        signs = torch.randn(features.shape[:2], generator=generator)[..., None, None]
        (gradient,) = torch.autograd.grad((features * signs)[:, :, rows, columns].sum(), noise)
    weight = gradient.square().sum(dim=(0, 1))
    places = (torch.arange(side) + 0.5) / side - 0.5
    total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
    return float((weight.sum(dim=1) * places).sum() / total), float((weight.sum(dim=0) * places).sum() / total)


def member_maps(member: Member, images: Tensor, *, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, F), heat maps (B, F, G, G) in 0..1 and raw peaks (B, F) of one member, from one forward pass."""
    with torch.no_grad():
        features = member.features(images)
        logits, gradients = head_gradients(member.head, features)
        maps, peaks = normalise(grad_cam(features, gradients), grid=grid, offset=member.offset)
    return logits, maps, peaks


def combine_maps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (the paper's ensemble map) and standard deviation (its future work) over members, (M, ...) -> (...).

    Source: Liz et al. 2023, section on explanation.
    """
    return maps.mean(dim=0), maps.std(dim=0, correction=0)


class Tapped(nn.Module):
    """A member whose last feature map passes through a module that pytorch-grad-cam can hook."""

    def __init__(self, member: Member) -> None:
        """Wrap `member`; `tap` is the layer to hook."""
        super().__init__()
        self.member, self.tap = member, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, F) of model inputs (B, 1, S, S)."""
        # A clone, because some heads work in place and would change what the hook keeps.
        logits: Tensor = self.member.head(self.tap(self.member.features(images)).clone())
        return logits


def library_maps(member: Member, images: Tensor, *, grid: int, method: LibraryMethod) -> tuple[Tensor, Tensor, Tensor]:
    """Like `member_maps` by a method of pytorch-grad-cam; the gradients of all findings pass through the head alone.

    EigenCAM, the first principal component of the features, is the same for every finding.
    """
    from pytorch_grad_cam import EigenCAM, GradCAMPlusPlus, LayerCAM

    methods = {"gradcam++": GradCAMPlusPlus, "layercam": LayerCAM, "eigencam": EigenCAM}
    network = Tapped(member).eval()
    with torch.no_grad():
        features = member.features(images)
    activations, found = features.cpu().numpy(), []
    with methods[method](model=network, target_layers=[network.tap]) as cam, torch.enable_grad():
        source = features.detach().clone().requires_grad_()
        logits = member.head(source.clone())  # some heads work in place
        for index in range(1 if method == "eigencam" else logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), source, retain_graph=True)
            gradients = gradient.cpu().numpy()
            image = cam.get_cam_image(images, network.tap, [], activations, gradients, eigen_smooth=False)
            found.append(torch.from_numpy(image))
    raw = torch.stack(found, dim=1).relu().to(features).expand(-1, logits.shape[1], -1, -1)
    maps, peaks = normalise(raw, grid=grid, offset=member.offset)
    return logits.detach(), maps, peaks
