"""What the engine itself costs: tiny images and a stub of a model, from 100 to 100,000 images, on 1 to 4 raylets.

The images are 64 x 64 PNG films, the ensemble one network of 32 px with a few thousand weights, so that nearly all of
the CPU time is the engine's. The overhead is the CPU of the whole machine per image, less that of a bare loop over the
same images and the same network, so nothing else may run on the machine. Prints, for each number of images: seconds to
the first row and to the end, CPU milliseconds per image in all and beyond the bare loop's, and the peak MiB of the
driver (RSS) and of the whole tree of processes (PSS). The cost of the start is in the rows; what an image costs beyond
it is the difference of two of them, which the last line of an engine states.

    python benchmarks/scale.py [--images 100,1000,10000,100000] [--engines ray,local] [--raylets 1,2,4] [--rounds 1]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from score import Watch, bundle_of, command_times

SIDE = 64
DISTINCT = 50
BACKBONE = "test_resnet"
_SETTINGS = ("gate.image_check=never", "batch_size=256", "images_per_task=256")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    images: int
    first: float
    wall: float
    cpu: float  # seconds per image
    driver: float  # MiB
    tree: float  # MiB


def write_films(folder: Path, num_images: int) -> None:
    """Tiny films below `folder`, a thousand in a folder; all but DISTINCT are hard links."""
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


def run(films: Path, bundle: Path, engine: str, address: str | None = None) -> Measured:
    """Score all films in a process of its own."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "cxr_ray.cli", "score", str(films), "--ensemble", str(bundle)]
        command += ["--output", output, "--json", "--heatmaps", "none"]
        command += ["--address", address] if address else ["--engine", engine]
        command += [word for setting in _SETTINGS for word in ("--set", setting)]
        started = time.time()
        driver = 0.0
        with Watch() as watch:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            while process.poll() is None:
                try:
                    driver = max(driver, psutil.Process(process.pid).memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.5)
        wall = time.time() - started
        result = json.loads(process.stdout.read() if process.stdout else "{}")
        files = list(Path(output).glob("scores/**/*.parquet"))
        first = min(moment.timestamp() for file in files for moment in pq.read_table(file)["scored_at"].to_pylist())
        images = int(result["scored"])
        return Measured(images, first - started, wall, watch.cpu_seconds / images, driver, watch.peak_bytes / 2**20)


def bare_cpu(films: Path, fewer: Path, bundle: Path) -> float:
    """CPU seconds per image of the bare loop: the difference of two folders, so that its start does not count."""
    spent, images = [], []
    for folder in (films, fewer):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(Path(__file__).with_name("score.py")), "--child", "bare", "--films", str(folder)]
        images.append(len(command_times([[*command, "--bundle", str(bundle), "--share", "0", "--shares", "1"]])))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return (spent[0] - spent[1]) / (images[0] - images[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="100,1000,10000,100000")
    parser.add_argument("--engines", default="ray,local")
    parser.add_argument("--raylets", default="1,2,4")
    parser.add_argument("--raylet-images", type=int, default=5000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        bundle_of(bundle, [BACKBONE], size=32)
        archives = {number: Path(folder, str(number)) for number in map(int, arguments.images.split(","))}
        for number, films in archives.items():
            write_films(films, number)
        sample = [Path(folder, name) for name in ("sample", "fewer")]
        for films, number in zip(sample, (4000, 1000), strict=True):
            write_films(films, number)
        base = bare_cpu(*sample, bundle)
        print(f"bare loop: {base * 1e3:.2f} ms of CPU per image")
        for engine in filter(None, arguments.engines.split(",")):
            found = [run(films, bundle, engine) for films in archives.values()]
            for measured in found:
                print_line(engine, measured, base)
            if len(found) > 1:
                least, most = found[0], found[-1]
                spent = most.cpu * most.images - least.cpu * least.images
                further = spent / (most.images - least.images) - base
                print(f"{engine}: {further * 1e3:.2f} ms of CPU per further image beyond the bare loop", flush=True)
        films = Path(folder, "raylets")
        write_films(films, arguments.raylet_images)
        for nodes in map(int, filter(None, arguments.raylets.split(","))):
            print_line(f"{nodes} raylets", on_raylets(nodes, films, bundle), base)


def on_raylets(nodes: int, films: Path, bundle: Path) -> Measured:
    """Score on a cluster of `nodes` raylets of two CPUs each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=2, wait=True)
        return run(films, bundle, "ray", cluster.address)
    finally:
        for node in [*cluster.worker_nodes, cluster.head_node]:  # the head last: the others are signed off there
            cluster.remove_node(node, allow_graceful=False)


def print_line(name: str, measured: Measured, base: float) -> None:
    """One line of the table."""
    print(
        f"| {name} | {measured.images:,} | {measured.first:.1f} | {measured.wall:.1f} |"
        f" {measured.cpu * 1e3:.2f} | {(measured.cpu - base) * 1e3:.2f} | {measured.driver:.0f} |"
        f" {measured.tree:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
