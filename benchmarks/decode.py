"""From the bytes of a large film to a model input: ours against pydicom as a script would use it, on one core.

The script's way is `dcmread`, `pixel_array`, `apply_voi_lut` and the same antialiased resize; its result is compared
with ours. One film, 2500 x 3000 pixels of 12 bits with detector noise, in every transfer syntax. Prints milliseconds
of CPU time (min, median, max of alternating rounds), the ratio of the medians, and how far the results are apart, in
grey levels of 255.

    python benchmarks/decode.py [--size 512] [--rounds 7]
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels import apply_voi_lut
from torch.nn import functional

from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError
from cxr_ray.images.gate import check_gate
from cxr_ray.images.isolation import deadline
from cxr_ray.images.phantom import make_phantom
from cxr_ray.images.preprocess import preprocess
from cxr_ray.images.radiograph import decode, read_header

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' encoders lie beside, in no package
from tests.images.dicom_files import build_dicom

ROWS, COLUMNS = 3000, 2500
SYNTAXES = {
    "Implicit VR Little Endian": uid.ImplicitVRLittleEndian,
    "Explicit VR Little Endian": uid.ExplicitVRLittleEndian,
    "Explicit VR Big Endian": uid.ExplicitVRBigEndian,
    "Deflated Explicit VR Little Endian": uid.DeflatedExplicitVRLittleEndian,
    "RLE Lossless": uid.RLELossless,
    "JPEG Baseline (8 bits)": uid.JPEGBaseline8Bit,
    "JPEG Lossless SV1": uid.JPEGLosslessSV1,
    "JPEG-LS Lossless": uid.JPEGLSLossless,
    "JPEG-LS Near-Lossless": uid.JPEGLSNearLossless,
    "JPEG 2000": uid.JPEG2000,
    "JPEG 2000 Lossless": uid.JPEG2000Lossless,
    "HTJ2K Lossless": uid.HTJ2KLossless,
}
REDUCED = {"JPEG 2000 Lossless, reduced_decode: always": uid.JPEG2000Lossless}


def film() -> NDArray[np.uint16]:
    """A phantom with the noise of a detector, so that it compresses as a real film does: about 2 : 1."""
    grey = make_phantom(5, side=ROWS, present=("Mass",)).pixels
    grey = np.pad(grey, ((0, 0), (0, max(0, COLUMNS - grey.shape[1]))), mode="edge")[:ROWS, :COLUMNS]
    noise = np.random.default_rng(0).normal(0.0, 12.0, grey.shape)
    return np.clip(grey * 3600.0 + 200.0 + noise, 0.0, 4095.0).astype(np.uint16)


def encode(pixels: NDArray[np.uint16], syntax: str) -> bytes:
    """The film as a DICOM file with a window."""
    if syntax == uid.JPEGBaseline8Bit:
        eight = (pixels >> 4).astype(np.uint8)
        return build_dicom(eight, syntax=syntax, WindowCenter=125, WindowWidth=225)
    return build_dicom(pixels, syntax=syntax, bits_stored=12, WindowCenter=2000, WindowWidth=3600)


def script(data: bytes, size: int) -> NDArray[np.uint8]:
    """What a script does, with the same resize."""
    dataset = pydicom.dcmread(BytesIO(data))
    shown = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float32)
    grey = torch.from_numpy(shown / float(2**dataset.BitsStored - 1))[None, None]
    height, width = round(ROWS * size / ROWS), round(COLUMNS * size / ROWS)
    resized = functional.interpolate(grey, size=(height, width), mode="bilinear", antialias=True)[0, 0].numpy()
    return np.rint(resized * 255.0).astype(np.uint8)


def ours(data: bytes, config: PreprocessConfig, limits: LimitsConfig, gate: GateConfig) -> NDArray[np.uint8]:
    """What a decode task does, gate and alarm included, without the margin that pads the film to a square."""
    with deadline(limits.decode_seconds):
        encoded = read_header(data, limits=limits)
        check_gate(encoded.header, gate)
        square, _ = preprocess(decode(encoded, preprocess=config), config)
    width = round(COLUMNS * config.size / ROWS)
    left = (config.size - width) // 2
    return square[:, left : left + width]


def refused(data: bytes, limits: LimitsConfig, gate: GateConfig) -> None:
    """What a file costs that the gate turns away."""
    try:
        check_gate(read_header(data, limits=limits).header, gate)
    except DecodeError:
        return
    raise AssertionError("the gate let a hand pass")


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each way, in alternating rounds, after one that does not count.

    Of the process and not of the clock: GDCM decodes JPEG 2000 with two threads, and a cluster's cores are all busy.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if number:
                found[name].append(1000.0 * (time.process_time() - started))
    return found


def spread(values: list[float]) -> str:
    """Min / median / max."""
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limits, gate, pixels = LimitsConfig(), GateConfig(), film()
    versions = ", ".join(f"{name} {version(name)}" for name in ("pydicom", "pylibjpeg-openjpeg", "pillow", "torch"))
    print(f"{platform.machine()}, one core, {COLUMNS} x {ROWS} to {arguments.size}, {versions}\n")
    print("| transfer syntax | MB | script ms (min / median / max) | ours ms | times as fast | apart, max / mean |")
    print("|---|---|---|---|---|---|")
    for name, syntax in (SYNTAXES | REDUCED).items():
        data = encode(pixels, syntax)
        config = PreprocessConfig(size=arguments.size, reduced_decode="always" if name in REDUCED else "lossy")
        difference = np.abs(script(data, config.size).astype(float) - ours(data, config, limits, gate))
        found = alternate(
            {
                "script": lambda data=data, config=config: script(data, config.size),
                "ours": lambda data=data, config=config: ours(data, config, limits, gate),
            },
            arguments.rounds,
        )
        ratio = statistics.median(found["script"]) / statistics.median(found["ours"])
        print(
            f"| {name} | {len(data) / 1e6:.1f} | {spread(found['script'])} | {spread(found['ours'])} | {ratio:.1f} |"
            f" {difference.max():.0f} / {difference.mean():.2f} |",
            flush=True,
        )
    hand = build_dicom(pixels, bits_stored=12, BodyPartExamined="HAND")
    found = alternate({"refused": lambda: refused(hand, limits, gate), "alarm": _alarm}, 5 * arguments.rounds)
    print(f"\nA film that the gate turns away, its pixels untouched: {spread(found['refused'])} ms.")
    print(f"The alarm around each image: {spread(found['alarm'])} ms.")


def _alarm() -> None:
    """The isolation's price for a good file."""
    with deadline(60.0):
        pass


if __name__ == "__main__":
    main()
