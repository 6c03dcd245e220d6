"""Images per second of training: ours through Ray Train against a bare torch loop on the same shards and cores.

The bare loop is what one would write by hand: memory-mapped pixels, random views, BCE, AdamW, clipping; nothing is
masked, watched, checkpointed or logged. Both run in a fresh process each round, alternating; the first epoch of each
does not count. Prints images per second (min, median, max), the ratio of the medians, and that of each round.

    python benchmarks/train.py [--backbone resnet18] [--size 128] [--images 480] [--rounds 5] [--cores 1]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
import torch.nn.functional as F
from torch import nn

from cxr_ray.cluster import session
from cxr_ray.config import AugmentConfig, TrainConfig
from cxr_ray.images.augment import augment, keys_of
from cxr_ray.models import member
from cxr_ray.training import fitting
from cxr_ray.training.assembly import Job
from cxr_ray.training.cache import open_part, shard_schema, write_shard

FINDINGS = tuple(f"finding_{number}" for number in range(14))
BATCH = 16


def write_noise(folder: str, *, num_images: int, size: int) -> None:
    """One shard of noise with random labels; a tenth of it is the validation part."""
    random, schema = np.random.default_rng(0), shard_schema(size=size, num_findings=len(FINDINGS))
    rows = [
        {
            "uri": f"/{number:06d}",
            "part": "validation" if number % 10 == 9 else "train",
            "labels": random.integers(0, 2, len(FINDINGS)).astype(float).tolist(),
            "pixels": random.integers(0, 256, size * size, dtype=np.uint8).tobytes(),
        }
        for number in range(num_images)
    ]
    write_shard(f"{folder}/0.arrow", pa.Table.from_pylist(rows, schema=schema))


def bare_rate(backbone: str, size: int, shards: str, *, epochs: int, cores: int) -> list[float]:
    """Images per second of each epoch of the loop one would write by hand."""
    torch.set_num_threads(cores)
    config = member.MemberConfig(name="m", backbone=backbone)
    network, _ = member.create(config, findings=FINDINGS, size=size, preprocess_digest="d")
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    train, rates = open_part(shards, "train"), []
    for epoch in range(epochs):
        started, seen = time.monotonic(), 0
        order = np.random.default_rng(epoch).permutation(len(train))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            images, labels = torch.from_numpy(train.pixels(batch)), torch.from_numpy(train.labels[batch])
            loss = F.binary_cross_entropy_with_logits(
                network(augment(images, AugmentConfig(), keys_of(batch, epoch))), labels
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            seen += len(batch)
        rates.append(seen / (time.monotonic() - started))
    return rates


def our_rate(backbone: str, size: int, shards: str, folder: Path, *, epochs: int, cores: int) -> list[float]:
    """Images per second of each epoch of one member through Ray Train."""
    config = TrainConfig.model_validate(
        {
            "manifest": {"path": "-", "findings": FINDINGS},
            "members": [{"name": "m", "backbone": backbone}],
            "optimize": {"epochs": epochs, "batch_size": BATCH},
            "compute": {"cpus_per_worker": cores},
        }
    )
    network, spec = member.create(config.members[0], findings=FINDINGS, size=size, preprocess_digest="d")
    job = Job(spec, 0, "digest", str(folder / "work"))
    Path(job.folder).mkdir(parents=True)
    Path(job.folder, "start.safetensors").write_bytes(member.encode_weights(network.state_dict()))
    board = ray.remote(num_cpus=0)(fitting.Board).remote()
    resources = {"CPU": float(cores)}
    fitting.fit_member(config.model_dump(mode="json"), asdict(job), shards, resources, str(folder / "runs"), board)
    return [epoch["images_per_second"] for epoch in json.loads(Path(job.done).read_text())["epochs"]]


def described(rates: Sequence[float]) -> str:
    """The smallest, the median and the largest rate."""
    return f"{min(rates):.1f} {statistics.median(rates):.1f} {max(rates):.1f} images/s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    options = parser.parse_args()
    same = {"epochs": options.epochs, "cores": options.cores}
    bare: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder, session(None, debug=False):
        write_noise(f"{folder}", num_images=options.images, size=options.size)
        run_bare = ray.remote(num_cpus=options.cores, max_calls=1)(bare_rate)
        for number in range(options.rounds):
            rates = ray.get(run_bare.remote(options.backbone, options.size, f"{folder}/0.arrow", **same))
            bare.append(statistics.median(rates[1:]))
            place = Path(folder, f"round-{number}")
            rates = our_rate(options.backbone, options.size, f"{folder}/0.arrow", place, **same)
            ours.append(statistics.median(rates[1:]))
            print(f"round {number + 1}: bare {bare[-1]:.1f}, ours {ours[-1]:.1f} images/s", flush=True)
    print(f"{options.backbone}, {options.size} px, batch {BATCH}, {options.cores} core(s), {platform.machine()}, torch")
    print(f"{version('torch')}, ray {version('ray')}; min, median, max of {options.rounds} rounds")
    print(f"bare torch loop: {described(bare)}")
    print(f"cxr-ray:         {described(ours)}")
    each = [mine / other for mine, other in zip(ours, bare, strict=True)]
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"ratio: {ratio:.3f} (of the medians), {statistics.median(each):.3f} (median of the rounds)")


if __name__ == "__main__":
    main()
