"""What scoring an archive will cost, from what its headers announce: an estimate, with everything it rests on.

Knows no files and no headers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr_ray.config import ScanConfig

DECODE_MS_PER_MEGAPIXEL: dict[str, float] = {
    "1.2.840.10008.1.2": 2.0,  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": 2.0,  # Explicit VR Little Endian
    "1.2.840.10008.1.2.2": 2.2,  # Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99": 11.0,  # Deflated
    "1.2.840.10008.1.2.5": 7.4,  # RLE
    "1.2.840.10008.1.2.4.50": 6.0,  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": 31.0,  # JPEG Extended, taken to cost what JPEG Lossless does: the same decoder
    "1.2.840.10008.1.2.4.57": 31.0,  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": 31.0,  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.80": 23.0,  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": 24.0,  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": 129.0,  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": 5.5,  # JPEG 2000, decoded at a part of its size
    "1.2.840.10008.1.2.4.201": 13.0,  # HTJ2K
    "1.2.840.10008.1.2.4.202": 13.0,
    "1.2.840.10008.1.2.4.203": 13.0,
    "png": 12.0,  # 8 bits 8.4, 16 bits 14.8
    "jpeg": 2.8,
    "tiff": 1.8,
}
"""CPU milliseconds from bytes to a model input, per megapixel, by transfer syntax or format.

Measured on 2026-11-23 on one core of an AMD EPYC with a noisy film of 2500 x 3000 pixels and 12 bits (rasters:
2500 x 2048). To refresh them: `python benchmarks/decode.py`, less what a header costs, over 7.5; or
`decode_by_transfer_syntax` in the manifest of any run, divided by the megapixels of its images.
"""

OTHER_MS_PER_MEGAPIXEL = 30.0
DECODE_MS_PER_IMAGE = 2.0
"""What a header costs, whatever the size of the image."""
FETCH_MS_PER_MIB = {"s3": 3.3, "local": 0.5}
"""CPU milliseconds of a core; waiting for the storage costs none. 3.3: boto3, one GET of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours of scoring; core-hours and GPU-hours are work, wall hours that work on the cluster of the settings."""

    images: int
    megapixels: float
    fetch_core_hours: float
    decode_core_hours: float
    ensemble_gpu_hours: float
    ensemble_core_hours: float
    wall_hours_with_gpus: float | None
    wall_hours_without_gpus: float
    assumptions: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain values."""
        return asdict(self)


def estimate(
    *, images: int, megapixels: Mapping[str, float], fetched_bytes: Mapping[str, int], config: ScanConfig
) -> Estimate:
    """The cost of scoring.

    Args:
        images: Expected to be scored.
        megapixels: Of these, by transfer syntax or format.
        fetched_bytes: Of all objects, by place (`s3`, `local`): what faults is fetched, too.
        config: The cluster and its speed.
    """
    fetch = sum(size / 2**20 * FETCH_MS_PER_MIB[place] for place, size in fetched_bytes.items())
    decode = images * DECODE_MS_PER_IMAGE + sum(
        amount * DECODE_MS_PER_MEGAPIXEL.get(kind, OTHER_MS_PER_MEGAPIXEL) for kind, amount in megapixels.items()
    )
    preparation = (fetch + decode) / 3.6e6
    gpu = images / config.gpu_images_per_second / 3600
    core = images / config.core_images_per_second / 3600
    return Estimate(
        images=images,
        megapixels=round(sum(megapixels.values()), 1),
        fetch_core_hours=fetch / 3.6e6,
        decode_core_hours=decode / 3.6e6,
        ensemble_gpu_hours=gpu,
        ensemble_core_hours=core,
        # Decoding and the ensemble run side by side; with GPUs the slower of the two sets the pace.
        wall_hours_with_gpus=max(preparation / config.cpus, gpu / config.gpus) if config.gpus else None,
        wall_hours_without_gpus=(preparation + core) / config.cpus,
        assumptions={
            "cpus": config.cpus,
            "gpus": config.gpus,
            "gpu_images_per_second": config.gpu_images_per_second,
            "core_images_per_second": config.core_images_per_second,
        },
    )


def lines(found: Estimate) -> list[str]:
    """The estimate for a person."""
    given = found.assumptions
    gpu_rate, core_rate = (f"{given[f'{kind}_images_per_second']:g} images/s" for kind in ("gpu", "core"))
    wall = f"{_hours(found.wall_hours_without_gpus)} on {given['cpus']:g} cores without a GPU"
    if found.wall_hours_with_gpus is not None:
        cluster = f"{given['cpus']:g} cores and {given['gpus']:g} GPU{'s' if given['gpus'] != 1 else ''}"
        wall = f"{_hours(found.wall_hours_with_gpus)} on {cluster}, {wall}"
    return [
        f"estimate of scoring {found.images:,} images, {found.megapixels:,.1f} megapixels",
        f"{_hours(found.fetch_core_hours):>12}  of one core to fetch all objects",
        f"{_hours(found.decode_core_hours):>12}  of one core to decode",
        f"{_hours(found.ensemble_gpu_hours):>12}  of one GPU for the ensemble, at {gpu_rate}",
        f"{_hours(found.ensemble_core_hours):>12}  of one core for it instead, at {core_rate}",
        f"              wall time: {wall}",
        "              An estimate, no measurement: decoding as measured on another machine, and an assumed speed",
        "              of the paper's five members; say yours with --gpu-images-per-second, --cpus and --gpus.",
    ]


def _hours(hours: float) -> str:
    """Hours, or minutes and seconds where they are few."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"
