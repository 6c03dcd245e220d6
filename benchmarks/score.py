"""Scoring an archive: our pipeline against a bare loop, a script as one would write it, and timm's way of inference.

All ways read the same files and run the same members. Each runs in fresh processes, in rounds whose order alternates,
and its rate is that of its steady part: the images done after the first tenth and before the last one.

- `ray`, `local`: `cxr-ray score` on its two engines; `-maps` with the heat maps of all findings of all members, `-onnx`
  and `-bf16` behind either: with that runtime or precision, as in `local-maps-onnx`. The first round of an `-onnx` way
  exports the graphs.
- `bare`: one process per core with one thread, each decoding and scoring its share with this project's own functions.
  It pays for fetching, the header gate and the deadline of `decode_images`, and for votes, spread and map agreement of
  `Ensemble.score`; nothing is listed, accounted, written or protected from a decoder that dies. Always torch and fp32.
- `timm`: pydicom or Pillow, `apply_voi_lut`, torch's resize in a DataLoader, the members one after the other; no maps.
- `script`: the same with pytorch-grad-cam for every finding of every member and one CSV at the end.

    python benchmarks/score.py [--images 1000] [--script-images 64] [--format dicom|png] [--rounds 3] [--ways ray,bare]

The ratios are those to `bare`, or `bare-maps` where heat maps are made: of the medians, and the median of those of the
rounds. CPU seconds are those of the whole machine, which should be idle, without this process's own: of all of a run,
and of its steady part. Memory is that of the process tree (PSS), looked at while that takes at most a hundredth of a
core.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
_WAY = re.compile(r"bare(-maps)?|(ray|local)(-maps)?(-onnx|-bf16)?|timm|script")
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


@dataclass(frozen=True, slots=True)
class Sample:
    """What the machine had done and this process's descendants held at one moment."""

    time: float
    cpu: float  # seconds of all cores, less those of this process, which go into looking
    pss: int | None  # bytes; None where memory was not looked at


class Watch:
    """Samples of the machine and of a process tree, taken every so many seconds while it is entered.

    Adding up a tree's PSS walks its page tables: on Ray, every second, that took an eighth of a core from what is
    measured. So memory is looked at no more often than takes `most` of a core's time.
    """

    def __init__(self, *, every: float = 1.0, most: float = 0.01) -> None:
        """Nothing was seen yet."""
        self.samples: list[Sample] = []
        self._every, self._most, self._ended = every, most, threading.Event()

    def __enter__(self) -> "Watch":
        self.samples.append(_sample(memory=True))
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.samples.append(_sample(memory=True))

    def _look(self) -> None:
        due = 0.0
        while not self._ended.wait(self._every):
            spent = time.thread_time()
            self.samples.append(_sample(memory=time.time() >= due))
            if self.samples[-1].pss is not None:
                due = time.time() + (time.thread_time() - spent) / self._most

    def cpu_seconds(self, start: float = 0.0, end: float = float("inf")) -> float:
        """CPU seconds between two times, interpolated between samples."""
        spent = np.interp([start, end], [s.time for s in self.samples], [s.cpu for s in self.samples])
        return float(spent[1] - spent[0])

    def peak(self, start: float = 0.0, end: float = float("inf")) -> float:
        """The largest PSS between two times, MiB."""
        return max((s.pss for s in self.samples if s.pss is not None and start <= s.time <= end), default=0) / 2**20

    def held(self, end: float) -> float:
        """The PSS of the last sample until a time, MiB."""
        return [s.pss for s in self.samples if s.pss is not None and s.time <= end][-1] / 2**20


def _sample(*, memory: bool) -> Sample:
    moment, times = time.time(), psutil.cpu_times()
    cpu = float(times.user + times.nice + times.system) - time.process_time()  # Ray's workers are nice
    if not memory:
        return Sample(moment, cpu, None)
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return Sample(moment, cpu, total)


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
        command += ["--set", f"onnx_cache={Path(bundle).with_name('onnx')}"]
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


def steady_part(times: Sequence[float]) -> tuple[float, float, int]:
    """Two times, a tenth of the images from either end, and how many images were done after the one until the other.

    The images of a batch are done at one time. So the part begins and ends with a batch, the last one counts and the
    first does not, whatever the sizes of batches: a difference of positions in the list would count parts of them.
    Where two processes keep step, their last batch may count without its twin: 16 images, 2 % of the 800 of 1,000.
    Raises ValueError where it holds no time.
    """
    first, last = times[len(times) // 10], times[len(times) - 1 - len(times) // 10]
    if first == last:
        raise ValueError(f"{len(times)} images were done at {len(set(times))} times, too few for a rate; take more.")
    return first, last, sum(first < moment <= last for moment in times)


def steady_rate(times: Sequence[float]) -> float:
    """Images per second of the steady part of a run, of the ascending times at which each image was done."""
    first, last, images = steady_part(times)
    return images / (last - first)


def measure(way: str, films: str, bundle: str) -> dict[str, float]:
    """One run of one way."""
    started = time.time()
    with Watch() as watch:
        times = times_of(way, films, bundle)
    first, last, images = steady_part(times)
    return {
        "rate": steady_rate(times),
        "first": times[0] - started,
        "wall": time.time() - started,
        "cpu": watch.cpu_seconds() / len(times),
        "steady": watch.cpu_seconds(first, last) / images,
        "peak": watch.peak(),
    }


def in_turn(ways: Sequence[Any], number: int) -> Sequence[Any]:
    """The ways in the order of this round: every other round backwards, so that none always follows the same one."""
    return ways[::-1] if number % 2 else ways


def base_of(way: str) -> str:
    """The bare loop that a way is measured against."""
    return "bare-maps" if "-maps" in way or way == "script" else "bare"


def ratios(rates: Sequence[float], bases: Sequence[float]) -> tuple[float, float]:
    """Of the rates of some rounds and the base's in the same rounds: the medians' ratio and the ratios' median."""
    each = [rate / base for rate, base in zip(rates, bases, strict=True)]
    return statistics.median(rates) / statistics.median(bases), statistics.median(each)


def ways_of(text: str) -> tuple[str, ...]:
    """The ways that a comma-separated list names."""
    ways = tuple(text.split(","))
    wrong = [way for way in ways if not _WAY.fullmatch(way)]
    if wrong:
        raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: a way is one of {_WAY.pattern}")
    return ways


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
    parser.add_argument("--script-images", type=int, default=4 * BATCH)
    parser.add_argument("--format", choices=["dicom", "png"], default="dicom")
    parser.add_argument("--side", type=int, default=1200, help="height of the films in pixels")
    parser.add_argument("--backbones", default="densenet121,efficientnet_b0,resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", type=ways_of, default=WAYS, help=f"of {_WAY.pattern}")
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
    found: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
    for number in range(arguments.rounds):
        for way in in_turn(arguments.ways, number):
            found[way].append(measure(way, str(few if way == "script" else many), str(bundle)))
            print(f"round {number + 1}: {way} {found[way][-1]['rate']:.2f} images/s", flush=True)
    print(
        f"{arguments.images} {arguments.format} films of {arguments.side} rows, {arguments.backbones},"
        f" {len(FINDINGS)} findings, batch {BATCH}, {os.cpu_count()} cores, {platform.machine()},"
        f" torch {version('torch')}, ray {version('ray')}; {arguments.rounds} rounds\n\n"
        "| way | images/s (min / median / max) | ratio of medians, median of rounds | first image, s | wall, s |"
        " CPU s per image | in the steady part | MiB |\n|---|---|---|---|---|---|---|---|"
    )
    for way, runs in found.items():
        print(line(way, runs, found.get(base_of(way), [])))


def line(way: str, runs: Sequence[dict[str, float]], bases: Sequence[dict[str, float]]) -> str:
    """One row of the table; `bases` are the base's runs, none where it was not measured."""
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    rates = [run["rate"] for run in runs]
    ratio = ""
    if bases:
        of_medians, of_rounds = ratios(rates, [base["rate"] for base in bases])
        ratio = f"{of_medians:.3f}, {of_rounds:.3f} of {base_of(way)}"
    return (
        f"| {way} | {min(rates):.2f} / {middle['rate']:.2f} / {max(rates):.2f} | {ratio} | {middle['first']:.1f} |"
        f" {middle['wall']:.1f} | {middle['cpu']:.3f} | {middle['steady']:.3f} | {middle['peak']:.0f} |"
    )


if __name__ == "__main__":
    main()
