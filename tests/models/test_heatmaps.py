"""Heat maps against pytorch-grad-cam, the reference implementation, on the same layer and normalisation."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr_ray.config import MemberConfig
from cxr_ray.models import heatmaps
from cxr_ray.models.heatmaps import Tapped
from cxr_ray.models.member import Member, create

FINDINGS = ("A", "B", "C", "D", "E")
BACKBONES = (
    ("test_resnet", None, None, 64),
    ("test_resnet", 8, None, 64),
    ("test_efficientnet", None, 12, 64),
    ("convnext_atto", None, None, 64),  # a norm between pooling and the outputs
    ("mobilenetv3_small_050", None, None, 64),  # a convolution between pooling and the outputs
)


def make_member(backbone: str, stride: int | None = None, hidden: int | None = None, size: int = 64) -> Member:
    torch.manual_seed(3)
    config = MemberConfig.model_validate(
        {"name": "m", "backbone": backbone, "output_stride": stride, "head_hidden": hidden}
    )
    member, _ = create(config, findings=FINDINGS, size=size, preprocess_digest="x")
    for module in member.modules():  # random statistics, so that no layer is close to the identity
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.running_mean) * 0.1
            module.running_var = torch.rand_like(module.running_var) + 0.5
    for parameter in member.backbone.get_classifier().parameters():
        nn.init.normal_(parameter, std=0.5)
    return member.eval()


def images(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def reference_maps(member: Member, pixels: Tensor) -> np.ndarray:
    """Raw Grad-CAM of every finding (B, F, h, w) by pytorch-grad-cam: one backward pass each."""
    network = Tapped(member)
    found = []
    for finding in range(len(FINDINGS)):
        with GradCAM(model=network, target_layers=[network.tap]) as cam:
            cam(
                input_tensor=(pixels.float() / 255.0).requires_grad_(),
                targets=[ClassifierOutputTarget(finding)] * len(pixels),
            )
            activations = cam.activations_and_grads.activations[0].numpy()
            gradients = cam.activations_and_grads.gradients[0].numpy()
            found.append(np.maximum(cam.get_cam_image(pixels, network.tap, [], activations, gradients), 0))
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("backbone", "stride", "hidden", "size"), BACKBONES)
def test_member_maps_any_backbone_equal_pytorch_grad_cam(backbone, stride, hidden, size):
    member, pixels = make_member(backbone, stride, hidden, size), images(4, size)
    raw = reference_maps(member, pixels)
    expected, peaks = heatmaps.normalise(torch.from_numpy(raw), grid=7)
    logits, maps, found_peaks = heatmaps.member_maps(member, pixels, grid=7)
    assert maps.amax() > 0.5, "the maps must show something"
    torch.testing.assert_close(maps, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found_peaks, peaks, atol=1e-6, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(logits, member(pixels), atol=1e-5, rtol=1e-5)


def test_head_gradients_head_that_does_not_pool_by_mean_equal_autograd():
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    features = torch.randn(4, 6, 7, 3)

    def head(maps: Tensor) -> Tensor:
        return linear(maps.amax(dim=(2, 3)) + maps.mean(dim=(2, 3)))

    source = features.clone().requires_grad_()
    expected = torch.stack(
        [torch.autograd.grad(head(source)[:, f].sum(), source)[0].mean(dim=(2, 3)) for f in range(5)], dim=1
    )
    logits, gradients = heatmaps.head_gradients(head, features)
    torch.testing.assert_close(gradients, expected)
    torch.testing.assert_close(logits, head(features).detach())


def test_normalise_map_without_positive_cell_stays_zero():
    maps = torch.zeros(2, 3, 4, 4)
    maps[1, 2, 1, 3] = 5.0
    scaled, peaks = heatmaps.normalise(maps, grid=4)
    assert scaled[0].abs().sum() == 0
    assert scaled[1, 2, 1, 3] == 1
    assert peaks[1, 2] == 5
    assert not scaled.isnan().any()


def test_normalise_arguments_are_not_changed():
    maps = torch.rand(2, 3, 4, 5)
    before = maps.clone()
    heatmaps.normalise(maps, grid=9)
    assert torch.equal(maps, before)


class Strided(nn.Module):
    """Averages over 3 x 3 pixels at every second one: cell i sees pixels 2 i - 1 to 2 i + 1, centre 2 i + 0.5."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward_features(self, images: Tensor) -> Tensor:
        padded = nn.functional.pad(images, (self.padding, 2 - self.padding) * 2)
        return nn.functional.avg_pool2d(padded, 3, stride=2)


@pytest.mark.parametrize(("padding", "pixels"), [(1, -0.5), (0, 0.5), (2, -1.5)])
def test_measure_offset_known_geometry_is_found(padding, pixels):
    # The nominal centre of cell i is 2 i + 1; with p pixels of padding before the film it sees 2 i + 1.5 - p.
    member = Member(Strided(padding), size=32, mean=0.0, std=1.0)
    assert heatmaps.measure_offset(member) == pytest.approx((pixels / 32, pixels / 32), abs=1e-6)


def test_normalise_offset_moves_the_peak_to_what_the_cell_sees():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 5] = 1.0
    moved, _ = heatmaps.normalise(maps, grid=8, offset=(1 / 8, -2 / 8))
    assert np.unravel_index(int(moved[0, 0].argmax()), (8, 8)) == (4, 3)
    torch.testing.assert_close(heatmaps.normalise(maps, grid=8)[0], maps)


def test_combine_maps_three_members_are_mean_and_population_deviation():
    maps = torch.rand(3, 4, 5, 6, 6)
    mean, deviation = heatmaps.combine_maps(maps)
    np.testing.assert_allclose(mean, np.mean(maps.numpy(), axis=0), atol=1e-6)
    np.testing.assert_allclose(deviation, np.std(maps.numpy(), axis=0), atol=1e-6)


@pytest.mark.parametrize("method", ["gradcam++", "layercam", "eigencam"])
def test_library_maps_other_methods_have_maps_in_range_and_same_logits(method):
    member, pixels = make_member("test_resnet"), images(3, 64)
    logits, maps, peaks = heatmaps.library_maps(member, pixels, grid=6, method=method)
    assert maps.shape == (3, 5, 6, 6)
    assert peaks.shape == (3, 5)
    assert maps.min() >= 0
    assert 0 < maps.max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(logits, member(pixels))


def test_library_maps_layercam_equals_its_equation():
    # Jiang et al. 2021, LayerCAM, equations 3 to 5: each cell weighed by its own positive gradient.
    member, pixels = make_member("test_resnet"), images(2, 64)
    with torch.no_grad():
        features = member.features(pixels)
    source = features.clone().requires_grad_()
    logits = member.head(source)
    gradients = [torch.autograd.grad(logits[:, f].sum(), source, retain_graph=True)[0] for f in range(5)]
    raw = torch.stack([(gradient.relu() * features).sum(dim=1).relu() for gradient in gradients], dim=1)
    expected, _ = heatmaps.normalise(raw, grid=7)
    _, maps, _ = heatmaps.library_maps(member, pixels, grid=7, method="layercam")
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=0)
