"""The paper's five members on one accelerator: forward passes with and without the heat maps of all findings.

Needs torch, timm and this project's modules without Ray, so it runs on any machine with a device. Prints images per
second (median of the rounds), the share of the device's own matrix peak that they are, peak memory, what copying
uint8 instead of float saves, and how many CPU cores of decoding one such device keeps busy, from the milliseconds per
image and transfer syntax of benchmarks/RESULTS.md.

The matrix peak is measured with the very units that the members' convolutions and products may use: `fp32` keeps
TensorFloat-32 from both, `tf32` allows it to both (on a CPU without it the two are alike), and so does `bf16` for what
of it keeps float32. The share counts the operations of the forward passes alone, with heat maps or without. Layouts are
those of the weights; `cxr-ray score` uses `channels_last`.

    python benchmarks/gpu.py [--device cuda] [--batches 16,64,256] [--precisions fp32,tf32,bf16] [--findings 14]
                             [--layouts channels_last,contiguous] [--rounds 5] [--compile]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch.utils.flop_counter import FlopCounterMode

from cxr_ray.config import MemberConfig, PreprocessConfig
from cxr_ray.config.scoring import Precision
from cxr_ray.models.calibration import Calibration
from cxr_ray.models.ensemble import Ensemble, EnsembleSpec
from cxr_ray.models.member import create
from cxr_ray.models.precision import prepared

PAPER = {
    "densenet201": 224,
    "efficientnet_b0": 224,
    "inception_v3": 299,
    "inception_resnet_v2": 299,
    "legacy_xception": 299,
}
# What a row may be called -> the members' precision, and whether float32 may be computed in TensorFloat-32.
PRECISIONS: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "tf32": ("fp32", True),
    "bf16": ("bf16", True),
}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# CPU milliseconds from bytes to a model input of 512 pixels, 2500 x 3000 pixels, from benchmarks/RESULTS.md.
DECODE_MS = {
    "uncompressed": 17.0,
    "RLE": 57.4,
    "JPEG Baseline": 46.7,
    "JPEG Lossless": 238.2,
    "JPEG-LS": 177.8,
    "JPEG 2000 lossy": 43.1,
    "JPEG 2000 lossless": 969.2,
    "HTJ2K": 96.9,
}


def paper_ensemble(
    members: dict[str, int], *, num_findings: int, device: str, precision: Precision, layout: str
) -> Ensemble:
    """An ensemble with random weights."""
    torch.manual_seed(0)
    findings = tuple(f"finding_{number:02d}" for number in range(num_findings))
    size = max(members.values())
    networks = []
    for name, side in members.items():
        config = MemberConfig(name=name, backbone=name, size=side)
        network, _ = create(config, findings=findings, size=size, preprocess_digest="")
        network = prepared(network.eval().requires_grad_(False), device, precision)
        networks.append(network.to(memory_format=LAYOUTS[layout]))  # type: ignore[call-overload]
    spec = EnsembleSpec(
        findings=findings,
        members=tuple(members),
        weights=("",) * len(members),
        combination="mean",
        calibration=Calibration.identity(num_findings),
        thresholds=(0.5,) * num_findings,
        member_thresholds=((0.5,) * num_findings,) * len(members),
        grid=10,
        preprocess=PreprocessConfig(size=size),
    )
    return Ensemble(spec, tuple(networks), torch.device(device), precision=precision)


def seconds_of(way: Callable[[], object], *, rounds: int, device: str) -> float:
    """Median seconds of a call, after two that do not count."""
    seconds = []
    for number in range(rounds + 2):
        synchronise(device)
        started = time.perf_counter()
        way()
        synchronise(device)
        if number > 1:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def allow_tf32(allowed: bool) -> str:
    """Let float32 products and convolutions both use TensorFloat-32, or neither; and what was set, in words.

    By default torch lets cuDNN's convolutions use it and keeps it from products.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    return f"TensorFloat-32 {'allowed to' if allowed else 'kept from'} float32 products and convolutions"


def matrix_peak(device: str, precision: Precision, *, rounds: int) -> float:
    """Floating point operations per second of one large matrix product."""
    side = 8192 if device.startswith("cuda") else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, rounds=rounds, device=device)


def operations_of(ensemble: Ensemble, images: torch.Tensor) -> float:
    """Floating point operations of the forward passes of one image."""
    with FlopCounterMode(display=False) as counter:
        ensemble.score(images[:1], with_heatmaps=False)
    return float(counter.get_total_flops())


def peak_memory(device: str, way: Callable[[], object]) -> float:
    """GiB that the call took at most on the device; NaN where the device does not say."""
    if not device.startswith("cuda"):
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    way()
    synchronise(device)
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", default="16,64,256")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--findings", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile the members as well")
    parser.add_argument("--members", default=",".join(f"{name}:{side}" for name, side in PAPER.items()))
    arguments = parser.parse_args()
    members = {name: int(side) for name, side in (pair.split(":") for pair in arguments.members.split(","))}
    device, rounds = arguments.device, arguments.rounds
    where = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    print(f"{where}, torch {torch.__version__}, {', '.join(members)}, {arguments.findings} findings")
    batches, best = [int(batch) for batch in arguments.batches.split(",")], 0.0
    print("| precision | layout | batch | heat maps | images/s | share of the matrix peak | GiB |\n" + "|---" * 7 + "|")
    peaks = []
    for name in arguments.precisions.split(","):
        precision, tf32 = PRECISIONS[name]
        said = allow_tf32(tf32)
        peak = matrix_peak(device, precision, rounds=rounds)
        peaks.append(f"{name}: matrix products at {peak / 1e12:.3g} TFLOP/s, {said}")
        for layout in arguments.layouts.split(","):
            ensemble = paper_ensemble(
                members, num_findings=arguments.findings, device=device, precision=precision, layout=layout
            )
            if arguments.compile:
                for member in ensemble.members:
                    member.backbone.forward_features = torch.compile(member.backbone.forward_features)
            for batch, maps in product(batches, (False, True)):
                rate = print_row(ensemble, f"| {name} | {layout} |", batch, maps=maps, peak=peak, rounds=rounds)
                best = max(best, rate if maps else 0.0)
    print("\n".join(peaks))
    copies(device, batches[-1], max(members.values()), rounds=rounds)
    for syntax, milliseconds in DECODE_MS.items():
        print(f"decoding {syntax}: {best * milliseconds / 1000:.1f} cores keep up with {best:.0f} images/s")


def print_row(ensemble: Ensemble, name: str, batch: int, *, maps: bool, peak: float, rounds: int) -> float:
    """Measure one row of the table, and return its images per second."""
    side, device = ensemble.spec.preprocess.size, str(ensemble.device)
    images = torch.randint(0, 256, (batch, 1, side, side)).to(torch.uint8)

    def score() -> object:
        return ensemble.score(images, with_heatmaps=maps)

    rate = batch / seconds_of(score, rounds=rounds, device=device)
    share = rate * operations_of(ensemble, images) / peak
    memory = peak_memory(device, score)
    print(
        f"{name} {batch} | {'all' if maps else 'none'} | {rate:.1f} | {100 * share:.3g} % | {memory:.2f} |", flush=True
    )
    return rate


def copies(device: str, batch: int, side: int, *, rounds: int) -> None:
    """What copying a batch to the device costs as bytes and as floats."""
    pixels = torch.randint(0, 256, (batch, 1, side, side)).to(torch.uint8)
    for name, images in (("uint8", pixels), ("float32", pixels.float())):
        seconds = seconds_of(lambda images=images: images.to(device, copy=True), rounds=rounds, device=device)
        print(f"copying {batch} images as {name}: {seconds * 1e3:.2f} ms, {images.nbytes / seconds / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
