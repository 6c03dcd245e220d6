"""Heat maps of all findings of an ensemble: ours against the plain forward pass and against pytorch-grad-cam.

Prints seconds per batch (min, median, max of rounds whose order alternates), the ratios, and how far the maps differ.
The library takes so long that it may take part in the first rounds only.

    python benchmarks/heatmaps.py [--members 3,5] [--findings 14] [--rounds 7] [--library-rounds 3]
    python benchmarks/heatmaps.py --backbones densenet121,resnet18
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr_ray.config import MemberConfig
from cxr_ray.models import heatmaps
from cxr_ray.models.heatmaps import Tapped
from cxr_ray.models.member import Member, create
from cxr_ray.models.precision import prepared

# Small enough for a CPU.
BACKBONES = ("densenet121", "efficientnet_b0", "resnet18", "mobilenetv3_small_100", "regnety_002")


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


def alternate(ways: dict[str, Callable[[], object]], rounds: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of each way in its number of rounds, every other one backwards, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(max(rounds.values()) + 1):
        for name in [*ways][:: -1 if number % 2 else 1]:
            if number > rounds[name]:
                continue
            started = time.perf_counter()
            ways[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def members_of(backbones: Sequence[str], *, num_findings: int, size: int) -> list[Member]:
    """Members with random weights, as they score."""
    torch.manual_seed(0)
    members, names = [], tuple(f"f{number}" for number in range(num_findings))
    for backbone in backbones:
        member, _ = create(MemberConfig(name="m", backbone=backbone), findings=names, size=size, preprocess_digest="-")
        # Outputs of some size: freshly made ones are so near to zero that their maps are mostly rounding.
        nn.init.normal_(member.backbone.get_classifier().weight, std=0.1)  # type: ignore[operator]
        members.append(prepared(member.eval().requires_grad_(False), "cpu", "fp32"))
    return members


def report(backbones: Sequence[str], arguments: argparse.Namespace) -> None:
    """Measure an ensemble and print its table."""
    members = members_of(backbones, num_findings=arguments.findings, size=arguments.size)
    images = torch.rand(arguments.batch, 1, arguments.size, arguments.size)
    tapped = [Tapped(member) for member in members]

    def plain() -> list[Tensor]:
        with torch.inference_mode():
            return [member(images) for member in members]

    def ours() -> list[tuple[Tensor, Tensor, Tensor]]:
        return [heatmaps.member_maps(member, images, grid=7) for member in members]

    def library() -> list[Tensor]:
        return [library_maps(network, images.clone().requires_grad_(), arguments.findings) for network in tapped]

    worst = 0.0
    for (_, maps, _), raw in zip(ours(), library(), strict=True):
        expected, _ = heatmaps.normalise(raw, grid=7)
        worst = max(worst, float((maps - expected).abs().max()))
    ways: dict[str, Callable[[], object]] = {"forward": plain, "all heat maps": ours, "pytorch-grad-cam": library}
    rounds = dict.fromkeys(ways, arguments.rounds) | {"pytorch-grad-cam": arguments.library_rounds}
    seconds = alternate(ways, rounds)
    print(f"\n{' + '.join(backbones)}, {arguments.findings} findings, batch {arguments.batch}, {arguments.size} px\n")
    print(
        "| way | rounds | min s | median s | max s | times the forward pass | median of the rounds |\n"
        + "|---" * 7
        + "|"
    )
    for name, values in seconds.items():
        middle = statistics.median(values)
        each = [
            value / base for value, base in zip(values, seconds["forward"], strict=False)
        ]  # the rounds it took part
        print(
            f"| {name} | {len(values)} | {min(values):.3f} | {middle:.3f} | {max(values):.3f} |"
            f" {middle / statistics.median(seconds['forward']):.2f} | {statistics.median(each):.2f} |"
        )
    print(f"\nLargest difference of a normalised map from pytorch-grad-cam: {worst:.1e}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", default="3,5", help=f"how many of {', '.join(BACKBONES)}; a table for each number")
    parser.add_argument("--backbones", help="these instead")
    parser.add_argument("--findings", type=int, default=14)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--library-rounds", type=int, default=3, help="rounds of pytorch-grad-cam, at most --rounds")
    arguments = parser.parse_args()
    arguments.library_rounds = min(arguments.library_rounds, arguments.rounds)
    print(f"float32, {torch.get_num_threads()} threads, {platform.machine()}, torch {version('torch')},", end=" ")
    print(f"timm {version('timm')}, grad-cam {version('grad-cam')}")
    if arguments.backbones:
        report(arguments.backbones.split(","), arguments)
        return
    for number in arguments.members.split(","):
        report(BACKBONES[: int(number)], arguments)


if __name__ == "__main__":
    main()
