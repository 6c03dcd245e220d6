"""Heat maps of all findings of an ensemble: ours against the plain forward pass and against pytorch-grad-cam.

Prints seconds per batch (min, median, max of alternating rounds), the ratios, and how far the maps differ.

    python benchmarks/heatmaps.py [--backbones densenet121,efficientnet_b0,resnet18] [--findings 14] [--rounds 7]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr_ray.config import MemberConfig
from cxr_ray.models import heatmaps
from cxr_ray.models.heatmaps import Tapped
from cxr_ray.models.member import create


def library_maps(network: Tapped, images: Tensor, num_findings: int) -> Tensor:
    """Raw maps (B, F, h, w) by pytorch-grad-cam, one forward and one backward pass for every finding."""
    found = []
    with GradCAM(model=network, target_layers=[network.tap]) as cam:
        for finding in range(num_findings):
            cam(input_tensor=images, targets=[ClassifierOutputTarget(finding)] * len(images))
            kept = cam.activations_and_grads
            raw = cam.get_cam_image(
                images, network.tap, [], kept.activations[0].numpy(), kept.gradients[0].numpy(), eigen_smooth=False
            )
            found.append(torch.from_numpy(np.maximum(raw, 0)))
    return torch.stack(found, dim=1)


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in alternating rounds, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", default="densenet121,efficientnet_b0,resnet18")
    parser.add_argument("--findings", type=int, default=14)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    names = tuple(f"f{number}" for number in range(arguments.findings))
    torch.manual_seed(0)
    members = []
    for backbone in arguments.backbones.split(","):
        config = MemberConfig(name="m", backbone=backbone)
        member, _ = create(config, findings=names, size=arguments.size, preprocess_digest="-")
        # Outputs of some size: freshly made ones are so near to zero that their maps are mostly rounding.
        nn.init.normal_(member.backbone.get_classifier().weight, std=0.1)
        members.append(member.eval().requires_grad_(False).to(memory_format=torch.channels_last))
    images = torch.rand(arguments.batch, 1, arguments.size, arguments.size)
    tapped = [Tapped(member) for member in members]

    def plain() -> list[Tensor]:
        with torch.inference_mode():
            return [member(images) for member in members]

    def ours() -> list[tuple[Tensor, Tensor, Tensor]]:
        return [heatmaps.member_maps(member, images, grid=7) for member in members]

    def library() -> list[Tensor]:
        return [library_maps(network, images.clone().requires_grad_(), len(names)) for network in tapped]

    worst = 0.0
    for (_, maps, _), raw in zip(ours(), library(), strict=True):
        expected, _ = heatmaps.normalise(raw, grid=7)
        worst = max(worst, float((maps - expected).abs().max()))
    seconds = alternate({"forward": plain, "all heat maps": ours}, arguments.rounds)
    seconds |= alternate({"pytorch-grad-cam": library}, 1)
    base = statistics.median(seconds["forward"])
    print(f"{arguments.backbones}, {len(names)} findings, batch {arguments.batch}, {arguments.size} px, float32,")
    print(f"{torch.get_num_threads()} threads, {platform.machine()}, torch {version('torch')}, timm {version('timm')}")
    print("| way | min s | median s | max s | times the forward pass |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {min(values):.3f} | {middle:.3f} | {max(values):.3f} | {middle / base:.2f} |")
    print(f"Largest difference of a normalised map from pytorch-grad-cam: {worst:.1e}")


if __name__ == "__main__":
    main()
