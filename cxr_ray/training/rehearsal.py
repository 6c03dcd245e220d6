"""Before the long work: what can be found wrong with a training run, and what it will take. Starts nothing, no Ray.

The estimate is one timed step of each member on this machine, scaled to the run; it says so itself.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_ray import storage
from cxr_ray.config import MemberConfig, TrainConfig
from cxr_ray.errors import ConfigError
from cxr_ray.images.intake import Intake, decode_images
from cxr_ray.images.preprocess import preprocess_digest
from cxr_ray.labels.classes import class_table
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models import member
from cxr_ray.models.member import Member
from cxr_ray.training.losses import bce, reduced
from cxr_ray.training.results import loss_weights
from cxr_ray.training.stages import num_epochs
from cxr_ray.training.tracking import check_tracking

Log = Callable[[str], None]
_BATCH = 2  # the fewest images that a batch norm can be trained with
_SAMPLE = 8  # images that are decoded
_BYTES = 4  # of a float32
# Weights, gradients, two moments of Adam, and the copy of the best weights.
_COPIES = 5


@dataclass(frozen=True, slots=True)
class MemberEstimate:
    """What one member will take: bytes of one worker, and seconds of this machine for all its epochs."""

    name: str
    backbone: str
    parameters: int
    input_side: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a dry run found: the class table, the estimates, and notes about what is allowed but worth knowing."""

    table: list[str]
    images: dict[str, int]
    members: tuple[MemberEstimate, ...]
    decode_seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {**asdict(self), "members": [asdict(item) for item in self.members]}

    def lines(self) -> list[str]:
        """The result for a person."""
        members = [
            f"{item.name}: {item.backbone}, {item.parameters / 1e6:.1f} million parameters, {item.input_side} px;"
            f" {item.memory_bytes / 2**30:.2f} GiB a worker, {_duration(item.seconds)}"
            for item in self.members
        ]
        total = self.decode_seconds + sum(item.seconds for item in self.members)
        return [
            *self.table,
            "",
            *members,
            f"decoding: {_duration(self.decode_seconds)} on one core",
            f"all in turn: {_duration(total)}",
            "Estimates from one step on this machine's CPU, scaled to the whole run: GPUs and more workers are faster."
            " Memory is that of weights, optimizer and activations, without torch itself.",
            *self.notes,
            "Nothing was started and nothing was written.",
        ]


def rehearse(config: TrainConfig, *, log: Log) -> Rehearsal:
    """Check all that `train` checks before its long work, and estimate that work.

    Raises:
        ManifestError: The table is wrong.
        ConfigError: A member cannot be built, its weights cannot be had, or there are fewer images than workers.
    """
    storage.configure(config.storage)
    manifest = read_manifest(config.manifest, seed=config.seed)
    images = {str(part): int(count) for part, count in manifest.counts()["images"].items()}
    log(f"Training table {manifest.digest}: {len(manifest.frame):,} images.")
    check_workers(config, manifest)
    check_tracking(config.tracking)
    seconds, faults = _time_decoding(config, manifest)
    estimates = []
    for item in config.members:
        log(f"Timing a step of {item.name}.")
        estimates.append(_estimate(config, item, manifest))
    return Rehearsal(
        class_table(manifest, loss_weights(config, manifest)),
        images,
        tuple(estimates),
        seconds,
        (*manifest.notes, *faults, *_notes(manifest)),
    )


def check_workers(config: TrainConfig, manifest: Manifest) -> None:
    """Refuse more workers than images in the training part, or than images in a batch."""
    images = int(manifest.counts()["images"]["train"])
    shared, workers = min(images, config.optimize.batch_size), config.compute.most_workers
    if workers > shared:
        raise ConfigError(
            f"{workers} workers share {images} training images in batches of {config.optimize.batch_size}: one would"
            " have none; lower compute.workers or raise optimize.batch_size."
        )


def _notes(manifest: Manifest) -> list[str]:
    """What is allowed and worth knowing: a finding that a part does not let be measured."""
    notes = []
    for part, labels in manifest.frame.groupby("part")[list(manifest.findings)]:
        for what, value in (("present", 1.0), ("absent", 0.0)):
            names = [finding for finding in manifest.findings if not (labels[finding] == value).any()]
            if names:
                notes.append(f"Never {what} in the part {part}: {', '.join(names)}; their AUROC there is undefined.")
    return notes


def _time_decoding(config: TrainConfig, manifest: Manifest) -> tuple[float, list[str]]:
    """Seconds of one core for all images, from a sample over the whole table, and what of it cannot be read."""
    uris = manifest.frame["uri"]
    chosen = np.unique(np.linspace(0, len(uris) - 1, min(_SAMPLE, len(uris))).astype(int))
    started = time.monotonic()
    intake = Intake(config.decode.preprocess, config.decode.limits)
    decoded = list(decode_images([(str(uris.iloc[index]), "", None) for index in chosen], intake, alone=False))
    seconds = (time.monotonic() - started) / len(chosen) * len(uris)
    faults = [f"Cannot be read: {item.uri}: {item.fault_detail}" for item in decoded if item.pixels is None]
    return seconds, faults


def _estimate(config: TrainConfig, item: MemberConfig, manifest: Manifest) -> MemberEstimate:
    """Build one member, take a step, and scale what it took."""
    side = config.decode.preprocess.size
    network, spec = member.create(
        item, findings=manifest.findings, size=side, preprocess_digest=preprocess_digest(config.decode.preprocess)
    )
    per_image, activations = _timed_step(network, side=side, num_findings=len(manifest.findings))
    counts = manifest.counts()["images"]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # A forward pass is about a third of a step.
    passes = float(counts["train"]) + float(counts["validation"]) / 3
    batch = -(-config.optimize.batch_size // (config.compute.fewest_workers * config.compute.accumulate))
    copies = _COPIES + (config.optimize.ema is not None)
    halved = 1 if config.optimize.precision == "fp32" else 2
    return MemberEstimate(
        item.name,
        item.backbone,
        parameters,
        spec.size,
        int(parameters * _BYTES * copies + activations * batch / halved),
        per_image * passes * num_epochs(config.optimize),
    )


def _timed_step(network: Member, *, side: int, num_findings: int) -> tuple[float, float]:
    """Seconds and bytes of activations per image of one step; the step before it, which allocates, does not count."""
    images = torch.rand(_BATCH, 1, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(_BATCH, num_findings)
    network.train().to(memory_format=torch.channels_last)
    _step(network, images, labels)
    started = time.monotonic()
    _step(network, images, labels)
    seconds = time.monotonic() - started
    return seconds / _BATCH, _activation_bytes(network, images) / _BATCH


def _step(network: Member, images: Tensor, labels: Tensor) -> None:
    """Forward and backward; the update is small beside them."""
    network.zero_grad(set_to_none=True)
    reduced(bce(network(images), labels, torch.ones(labels.shape[1])), labels).backward()  # type: ignore[no-untyped-call]


def _activation_bytes(network: Member, images: Tensor) -> int:
    """Bytes of what the layers without children give out in one forward pass: about what the backward pass keeps."""
    sizes: list[int] = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in leaves]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def _duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} s"
