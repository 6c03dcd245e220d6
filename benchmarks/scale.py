"""What the engine itself costs: tiny images and a stub of a model, from 100 to 100,000 images, on 1 to 4 raylets.

The images are 64 x 64 PNG films, the ensemble one network of 32 px with a few thousand weights, so that nearly all of
the CPU time is the engine's. The overhead is the CPU of the whole machine per image, less that of a bare loop over such
images in the same round, so nothing else may run on the machine. The bare loop is one thread of one process that opens
the file, decodes it with Pillow, brings it to the model input by `preprocess` and scores batches of 256, as many as the
product's; its start and first batch do not count. It knows no header, gate, deadline, fault, row or file.

Prints, for each number of images, medians over the rounds of: seconds to the first row and to the end, the overhead,
and the peak MiB of the driver (RSS); and min / median / max of the CPU milliseconds per image and the peak MiB of the
whole tree of processes (PSS), which is looked at seldom, so that short runs show less than their peak. The cost of the
start is in the rows; what an image costs beyond it is the difference of two of them, which a line of its own states.

Whether memory follows the archive is asked of one run of `--memory` images: the tree's PSS, looked at twice a second,
when 1,000 images stand in score files, so that workers of every kind have worked, and the largest from then on (not
that of the end, when some have gone); and the peaks of the run until then and in all. A run of 1,000 alone may end
before all of its workers have begun, and tells less.

    python benchmarks/scale.py [--images 100,1000,10000,100000] [--engines ray,local] [--raylets 1,2,4] [--rounds 1]
                               [--heatmaps none,all] [--memory 20000]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from score import Watch, bundle_of, in_turn

SIDE = 64
DISTINCT = 50
BACKBONE = "test_resnet"
BATCH = 256
EARLY = 1000  # images that are written when memory is looked at first
_BARE_IMAGES = 16 * BATCH
_SETTINGS = ("gate.image_check=never", f"batch_size={BATCH}", f"images_per_task={BATCH}")


@dataclass(frozen=True, slots=True)
class Case:
    """What is run in every round. `raylets` above 0: on a cluster of so many; `memory`: for its memory alone."""

    engine: str
    images: int
    heatmaps: str
    raylets: int = 0
    memory: bool = False

    @property
    def name(self) -> str:
        """The case in the first three columns of a table."""
        engine = f"{self.engine}, {self.raylets} raylets" if self.raylets else self.engine
        return f"| {engine} | {self.heatmaps} | {self.images:,} |"


@dataclass(frozen=True, slots=True)
class Memory:
    """PSS of the tree, MiB: when EARLY images were written, the largest from then on, that until then, and of all."""

    early: float
    later: float
    early_peak: float
    peak: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    first: float
    wall: float
    cpu: float  # milliseconds per image
    driver: float  # MiB
    memory: Memory


def write_films(folder: Path, num_images: int) -> Path:
    """Tiny films below `folder`, a thousand in a folder, unless they are there; all but DISTINCT are hard links."""
    if folder.exists():
        return folder
    random = np.random.default_rng(0)
    originals = folder.parent / "originals"
    originals.mkdir(exist_ok=True)
    for number in range(DISTINCT):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE), np.uint8)).save(originals / f"{number}.png")
    for number in range(num_images):
        place = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        os.link(originals / f"{number % DISTINCT}.png", place / f"{number % 1000:03d}.png")
    return folder


def run(case: Case, films: Path, bundle: Path, address: str | None = None) -> Measured:
    """Score all films in a process of its own."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "cxr_ray.cli", "score", str(films), "--ensemble", str(bundle)]
        command += ["--output", output, "--json", "--heatmaps", case.heatmaps]
        command += ["--address", address] if address else ["--engine", case.engine]
        command += [word for setting in _SETTINGS for word in ("--set", setting)]
        started = time.time()
        driver = 0.0
        with Watch(every=0.5, most=1.0) if case.memory else Watch() as watch:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            while process.poll() is None:
                try:
                    driver = max(driver, psutil.Process(process.pid).memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.5)
        wall = time.time() - started
        result = json.loads(process.stdout.read() if process.stdout else "{}")
        if result["scored"] != case.images:
            raise SystemExit(f"{result['scored']} of {case.images} images were scored by: {' '.join(command)}")
        files = list(Path(output).glob("scores/**/*.parquet"))
        first = min(moment.timestamp() for file in files for moment in pq.read_table(file)["scored_at"].to_pylist())
        cpu = 1e3 * watch.cpu_seconds() / case.images
        return Measured(first - started, wall, cpu, driver, memory_of(watch, files))


def memory_of(watch: Watch, files: Iterable[Path]) -> Memory:
    """The memory of a run by the times at which its score files were written."""
    written = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in files)
    totals = np.cumsum([rows for _, rows in written])
    moment = written[int(np.searchsorted(totals, min(EARLY, totals[-1])))][0]
    early = watch.held(moment)
    return Memory(early, max(early, watch.peak(start=moment)), watch.peak(end=moment), watch.peak())


def bare(films: Path, bundle: Path, *, maps: bool) -> float:
    """CPU milliseconds per image of the loop one would write by hand, in this process."""
    import torch

    from cxr_ray.images.header import Header
    from cxr_ray.images.preprocess import preprocess
    from cxr_ray.images.radiograph import Radiograph
    from cxr_ray.models.ensemble import load_ensemble

    torch.set_num_threads(1)
    ensemble = load_ensemble(str(bundle))
    config, header = ensemble.spec.preprocess, Header(format="png")
    paths, started = sorted(films.rglob("*.png")), 0.0
    for place in range(0, len(paths), BATCH):
        if place == BATCH:
            started = time.process_time()
        batch = []
        for path in paths[place : place + BATCH]:
            with Image.open(path) as image:
                pixels = np.asarray(image, np.float32) / np.float32(255.0)
            batch.append(preprocess(Radiograph(pixels, header, "full_range"), config)[0])
        ensemble.score(torch.from_numpy(np.stack(batch)[:, None]), with_heatmaps=maps)
    return 1e3 * (time.process_time() - started) / (len(paths) - BATCH)


def bare_cpu(films: Path, bundle: Path, heatmaps: str) -> float:
    """CPU milliseconds per image of the bare loop, in a process of its own."""
    command = [sys.executable, __file__, "--child", str(films), "--bundle", str(bundle), "--heatmaps", heatmaps]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def on_raylets(case: Case, films: Path, bundle: Path) -> Measured:
    """Score on a cluster of raylets of two CPUs each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(case.raylets):
            cluster.add_node(num_cpus=2, wait=True)
        return run(case, films, bundle, cluster.address)
    finally:
        for node in [*cluster.worker_nodes, cluster.head_node]:  # the head last: the others are signed off there
            cluster.remove_node(node, allow_graceful=False)


def numbers(text: str) -> list[int]:
    """The numbers of a comma-separated list, none of an empty one."""
    return [int(word) for word in text.split(",") if word]


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """What the arguments ask for."""
    found = []
    for heatmaps in arguments.heatmaps.split(","):
        for engine in filter(None, arguments.engines.split(",")):
            found += [Case(engine, images, heatmaps) for images in numbers(arguments.images)]
            found += [Case(engine, images, heatmaps, memory=True) for images in numbers(arguments.memory)]
        images = arguments.raylet_images
        found += [Case("ray", images, heatmaps, raylets=nodes) for nodes in numbers(arguments.raylets)]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="100,1000,10000,100000")
    parser.add_argument("--engines", default="ray,local")
    parser.add_argument("--raylets", default="1,2,4")
    parser.add_argument("--raylet-images", type=int, default=5000)
    parser.add_argument("--heatmaps", default="none", help="none, all, or both in a list")
    parser.add_argument("--memory", default="20000", help="images of the runs for memory; empty: none of them")
    parser.add_argument("--rounds", type=int, default=1)
    for name in ("--child", "--bundle"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(bare(arguments.child, arguments.bundle, maps=arguments.heatmaps == "all"))
        return
    cases = cases_of(arguments)
    bases: dict[str, list[float]] = {heatmaps: [] for heatmaps in arguments.heatmaps.split(",")}
    found: dict[Case, list[Measured]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        bundle_of(bundle, [BACKBONE], size=32)
        for number in range(arguments.rounds):
            for heatmaps, measured in bases.items():
                measured.append(bare_cpu(write_films(Path(folder, "bare"), _BARE_IMAGES), bundle, heatmaps))
                print(f"round {number + 1}: bare loop, heat maps {heatmaps}: {measured[-1]:.2f} ms", flush=True)
            for case in in_turn(cases, number):
                films = write_films(Path(folder, str(case.images)), case.images)
                found[case].append(on_raylets(case, films, bundle) if case.raylets else run(case, films, bundle))
                print(f"round {number + 1}: {case.name} {found[case][-1]}", flush=True)
    print("\n".join(tables(found, bases)))


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Min / median / max."""
    return " / ".join(f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def tables(found: dict[Case, list[Measured]], bases: dict[str, list[float]]) -> list[str]:
    """The tables of what was found, in Markdown."""
    lines = [f"Bare loop, heat maps {name}: {spread(values, 2)} ms of CPU per image." for name, values in bases.items()]
    lines += [
        "\n| engine | heat maps | images | first row, s | wall, s | CPU ms per image (min / median / max) |"
        " beyond the bare loop, ms | driver, MiB | tree, MiB (min / median / max) |\n" + "|---" * 9 + "|"
    ]
    lines += [cost_line(case, runs, bases[case.heatmaps]) for case, runs in found.items() if not case.memory]
    lines += ["", *further(found, bases)]
    lines += [
        f"\n| engine | heat maps | images | tree at {EARLY:,} written, MiB (min / median / max) | most later, MiB |"
        f" growth, % | peak until {EARLY:,}, MiB | peak, MiB | growth, % |\n" + "|---" * 9 + "|"
    ]
    return lines + [memory_line(case, [run.memory for run in runs]) for case, runs in found.items() if case.memory]


def cost_line(case: Case, runs: Sequence[Measured], bases: Sequence[float]) -> str:
    """One row of the table of costs."""
    beyond = statistics.median(run.cpu - base for run, base in zip(runs, bases, strict=True))
    first, wall, driver = (
        statistics.median(getattr(run, name) for run in runs) for name in ("first", "wall", "driver")
    )
    return (
        f"{case.name} {first:.1f} | {wall:.1f} | {spread([run.cpu for run in runs], 2)} | {beyond:.2f} | {driver:.0f} |"
        f" {spread([run.memory.peak for run in runs])} |"
    )


def further(found: dict[Case, list[Measured]], bases: dict[str, list[float]]) -> list[str]:
    """What an image costs beyond the start, from the fewest to the most images of an engine, a sentence for each."""
    lines = []
    for kind in dict.fromkeys((case.engine, case.heatmaps) for case in found):
        same = [case for case in found if (case.engine, case.heatmaps, case.raylets, case.memory) == (*kind, 0, False)]
        if len(same) > 1:
            least, most = same[0], same[-1]
            costs = [
                (more.cpu * most.images - less.cpu * least.images) / (most.images - least.images) - base
                for more, less, base in zip(found[most], found[least], bases[kind[1]], strict=True)
            ]
            lines.append(f"{kind[0]}, heat maps {kind[1]}: {spread(costs, 2)} ms of CPU per further image beyond it.")
    return lines


def memory_line(case: Case, runs: Sequence[Memory]) -> str:
    """One row of the table of memory."""
    held = [100 * (run.later / run.early - 1) for run in runs]
    peaks = [100 * (run.peak / run.early_peak - 1) for run in runs]
    return (
        f"{case.name} {spread([run.early for run in runs])} | {spread([run.later for run in runs])} |"
        f" {spread(held, 1)} | {spread([run.early_peak for run in runs])} |"
        f" {spread([run.peak for run in runs])} | {spread(peaks, 1)} |"
    )


if __name__ == "__main__":
    main()
