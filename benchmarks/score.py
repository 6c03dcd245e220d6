"""Scoring an archive: our pipeline against a bare loop, a script as one would write it, and timm's way of inference.

All ways read the same files and run the same members. Each runs in fresh processes, in alternating rounds, and its
rate is taken in its steady state: the images between the first and the last tenth, by the time at which each was done.

- `ray`, `local`: `cxr-ray score` on its two engines, with and without heat maps; `-onnx` and `-bf16` behind either:
  with that runtime or precision, as in `local-maps-onnx`.
- `bare`: one process per core with one thread, each decoding and scoring its share with this project's own functions;
  nothing is listed, written, accounted or protected.
- `timm`: pydicom or Pillow, `apply_voi_lut`, torch's resize in a DataLoader, the members one after the other; no maps.
- `script`: the same with pytorch-grad-cam for every finding of every member and one CSV at the end.

    python benchmarks/score.py [--images 1000] [--script-images 24] [--format dicom|png] [--rounds 3] [--ways ray,bare]

CPU seconds are those of the whole machine, which should be idle; memory is that of the process tree (PSS).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

FINDINGS = tuple(f"finding_{number:02d}" for number in range(14))
SIZE = 224
BATCH = 16
WAYS = ("bare", "bare-maps", "ray", "ray-maps", "local", "local-maps", "timm", "script")
NUMERICS = {"onnx": ("--runtime", "onnx"), "bf16": ("--precision", "bf16")}
DISTINCT = 40  # films that are drawn; the others are further names of theirs


def write_films(folder: Path, *, num_images: int, kind: str, side: int) -> None:
    """`num_images` noisy films with 12 bits below `folder`; all but DISTINCT are hard links."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    random = np.random.default_rng(0)
    rows, columns = side, side * 5 // 6
    shape = np.hypot(*np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)))
    for number in range(min(DISTINCT, num_images)):
        film = 900 * (2 - shape) + random.normal(0, 60, (rows, columns)) + random.integers(0, 300)
        pixels = np.clip(film, 0, 4095).astype(np.uint16)
        target = folder / f"{number:06d}.{'dcm' if kind == 'dicom' else 'png'}"
        if kind == "png":
            from PIL import Image

            Image.fromarray((pixels >> 4).astype(np.uint8)).save(target, compress_level=1)
            continue
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
        dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = "CR", "PA", "CHEST"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.WindowCenter, dataset.WindowWidth = 2000, 3600
        dataset.PixelData = pixels.tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(target, enforce_file_format=True)
    drawn = sorted(folder.iterdir())
    for number in range(len(drawn), num_images):
        source = drawn[number % len(drawn)]
        os.link(source, folder / f"{number:06d}{source.suffix}")


def bundle_of(folder: Path, backbones: Sequence[str], *, size: int = SIZE) -> None:
    """Write an ensemble of these backbones with random weights below `folder`."""
    import torch

    from cxr_ray.config import MemberConfig, PreprocessConfig
    from cxr_ray.images.preprocess import preprocess_digest
    from cxr_ray.models import member
    from cxr_ray.models.calibration import Calibration
    from cxr_ray.models.ensemble import EnsembleSpec, save_bundle

    torch.manual_seed(0)
    preprocess = PreprocessConfig(size=size)
    digest, weights, grids = preprocess_digest(preprocess), [], []
    for name in backbones:
        network, spec = member.create(
            MemberConfig(name=name, backbone=name), findings=FINDINGS, size=size, preprocess_digest=digest
        )
        weights.append(member.save(str(folder / "members" / name), network.eval(), spec).weights_sha256)
        grids.append(member.grid_of(network))
    spec_of_all = EnsembleSpec(
        findings=FINDINGS,
        members=tuple(backbones),
        weights=tuple(weights),
        combination="mean",
        calibration=Calibration.identity(len(FINDINGS)),
        thresholds=(0.5,) * len(FINDINGS),
        member_thresholds=((0.5,) * len(FINDINGS),) * len(backbones),
        grid=max(grids),
        preprocess=preprocess,
    )
    save_bundle(str(folder), spec_of_all, card="# Noise\n", golden=np.zeros((size, size), np.uint8))


def bare(films: str, bundle: str, share: int, shares: int, *, maps: bool) -> None:
    """One of `shares` processes: decode and score, one image's time of completion per line."""
    import torch

    from cxr_ray import storage
    from cxr_ray.config import GateConfig, LimitsConfig
    from cxr_ray.images.intake import Intake, decode_images
    from cxr_ray.models.ensemble import load_ensemble

    torch.set_num_threads(1)
    ensemble = load_ensemble(bundle)
    listed = sorted(storage.list_objects(films), key=lambda item: item.uri)[share::shares]
    items = [(item.uri, item.version, item.size) for item in listed]
    intake = Intake(ensemble.spec.preprocess, LimitsConfig(), GateConfig(image_check="never"))
    batch: list[Any] = []
    for number, image in enumerate(decode_images(items, intake, alone=False), 1):
        batch.append(image.pixels)
        if len(batch) == BATCH or number == len(items):
            ensemble.score(torch.from_numpy(np.stack(batch)[:, None]), with_heatmaps=maps)
            print(*[f"{time.time():.3f}"] * len(batch), sep="\n", flush=True)
            batch = []


def script(films: str, bundle: str, *, maps: bool) -> None:
    """What one would write without this project, on all cores."""
    import pandas as pd
    import pydicom
    import timm
    import torch
    from PIL import Image
    from pydicom.pixels import apply_voi_lut
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torch.utils.data import DataLoader, Dataset

    class Films(Dataset[tuple[torch.Tensor, str]]):
        def __init__(self) -> None:
            self.paths = sorted(map(str, Path(films).iterdir()))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
            path = self.paths[index]
            if path.endswith(".dcm"):
                dataset = pydicom.dcmread(path)
                pixels = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float32)
            else:
                pixels = np.asarray(Image.open(path).convert("L"), np.float32)
            pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-6)
            image = torch.from_numpy(pixels)[None, None]
            image = torch.nn.functional.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True)
            return (image[0] - 0.449) / 0.226, path

    names = json.loads(Path(bundle, "ensemble.json").read_text())["members"]
    networks = [timm.create_model(name, in_chans=1, num_classes=len(FINDINGS)).eval() for name in names]
    rows = []
    for images, paths in DataLoader(Films(), batch_size=BATCH, num_workers=os.cpu_count() or 1):
        with torch.inference_mode():
            found = torch.stack([network(images).sigmoid() for network in networks]).mean(0)
        if maps:
            for network in networks:
                layer = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1]
                with GradCAM(model=network, target_layers=[layer]) as cam:
                    for finding in range(len(FINDINGS)):
                        cam(input_tensor=images, targets=[ClassifierOutputTarget(finding)] * len(images))
        rows += [[path, *row] for path, row in zip(paths, found.tolist(), strict=True)]
        print(*[f"{time.time():.3f}"] * len(paths), sep="\n", flush=True)
    pd.DataFrame(rows, columns=["path", *FINDINGS]).to_csv(os.devnull, index=False)


class Watch:
    """CPU seconds of the machine and the largest PSS of a process tree, while it is entered."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.peak_bytes, self.cpu_seconds, self._ended = 0, 0.0, threading.Event()

    def __enter__(self) -> "Watch":
        self._cpu, self._thread = self._busy(), threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu_seconds = self._busy() - self._cpu

    def _busy(self) -> float:
        times = psutil.cpu_times()
        return float(times.user + times.nice + times.system)  # Ray's workers are nice

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def command_times(commands: Sequence[Sequence[str]]) -> list[float]:
    """Run the commands side by side; the times of completion that they print."""
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{commands[0]} failed")
    return sorted(float(line) for text in printed for line in text.split())


def product_times(films: str, bundle: str, words: Sequence[str]) -> list[float]:
    """Run `cxr-ray score` in a way, split into its words; the times at which its rows were made."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "cxr_ray.cli", "score", films, "--ensemble", bundle, "--output", output]
        command += ["--json", "--engine", words[0], "--set", f"batch_size={BATCH}"]
        command += ["--heatmaps", "all" if "maps" in words else "none"]
        command += [text for word in words if word in NUMERICS for text in NUMERICS[word]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        files = sorted(Path(output).glob("scores/**/*.parquet"))
        return sorted(moment.timestamp() for file in files for moment in pq.read_table(file)["scored_at"].to_pylist())


def times_of(way: str, films: str, bundle: str) -> list[float]:
    """When each image was done."""
    words = way.split("-")
    if words[0] in ("ray", "local"):
        return product_times(films, bundle, words)
    shares = os.cpu_count() if words[0] == "bare" else 1
    child = [sys.executable, __file__, "--child", way, "--films", films, "--bundle", bundle, "--shares", str(shares)]
    return command_times([[*child, "--share", str(share)] for share in range(shares or 1)])


def steady_rate(times: Sequence[float]) -> float:
    """Images per second between the first and the last tenth of the images."""
    first, last = len(times) // 10, len(times) - 1 - len(times) // 10
    return (last - first) / max(times[last] - times[first], 1e-9)


def measure(way: str, films: str, bundle: str) -> dict[str, float]:
    """One run of one way."""
    started = time.time()
    with Watch() as watch:
        times = times_of(way, films, bundle)
    return {
        "rate": steady_rate(times),
        "first": times[0] - started,
        "wall": time.time() - started,
        "cpu": watch.cpu_seconds / len(times),
        "peak": watch.peak_bytes / 2**20,
    }


def child(arguments: argparse.Namespace) -> None:
    """One of the processes of a way that is not the product's."""
    if arguments.child.startswith("bare"):
        maps = arguments.child == "bare-maps"
        bare(arguments.films, arguments.bundle, arguments.share, arguments.shares, maps=maps)
    else:
        script(arguments.films, arguments.bundle, maps=arguments.child == "script")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--script-images", type=int, default=24)
    parser.add_argument("--format", choices=["dicom", "png"], default="dicom")
    parser.add_argument("--side", type=int, default=1200, help="height of the films in pixels")
    parser.add_argument("--backbones", default="densenet121,efficientnet_b0,resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    for name in ("--child", "--films", "--bundle"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--share", "--shares"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(arguments, Path(folder))


def report(arguments: argparse.Namespace, folder: Path) -> None:
    """All rounds of all ways on films below `folder`."""
    many, few, bundle = folder / "many", folder / "few", folder / "bundle"
    for films, number in ((many, arguments.images), (few, min(arguments.images, arguments.script_images))):
        films.mkdir()
        write_films(films, num_images=number, kind=arguments.format, side=arguments.side)
    bundle_of(bundle, arguments.backbones.split(","))
    found: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways.split(",")}
    for number in range(arguments.rounds):
        for way, runs in found.items():
            runs.append(measure(way, str(few if way == "script" else many), str(bundle)))
            print(f"round {number + 1}: {way} {runs[-1]['rate']:.2f} images/s", flush=True)
    print(
        f"{arguments.images} {arguments.format} films of {arguments.side} rows, {arguments.backbones},"
        f" {len(FINDINGS)} findings, batch {BATCH}, {os.cpu_count()} cores, {platform.machine()},"
        f" torch {version('torch')}, ray {version('ray')}; min / median / max of {arguments.rounds} rounds"
    )

    def middle(way: str, key: str) -> float:
        return statistics.median(run[key] for run in found[way])

    for way, runs in found.items():
        rates = [run["rate"] for run in runs]
        base = "bare-maps" if "-maps" in way or way == "script" else "bare"
        ratio = f"{middle(way, 'rate') / middle(base, 'rate'):.3f} of {base}" if base in found else ""
        print(
            f"| {way} | {min(rates):.2f} / {middle(way, 'rate'):.2f} / {max(rates):.2f} | {ratio} |"
            f" {middle(way, 'first'):.1f} | {middle(way, 'wall'):.1f} | {middle(way, 'cpu'):.3f} |"
            f" {middle(way, 'peak'):.0f} |"
        )


if __name__ == "__main__":
    main()
