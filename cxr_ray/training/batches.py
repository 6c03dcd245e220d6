"""What goes into one update: this worker's images of a global batch, read ahead, and their random views.

The order, the views and the mixtures depend on seed, epoch and place in the epoch, never on the number of workers.
Shapes: B images of the global batch, n of them this worker's, F findings, S input side.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from cxr_ray.config import AugmentConfig
from cxr_ray.images.augment import Keys, augment, keys_of, uniforms
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.losses import label_counts
from cxr_ray.training.workers import Worker

Indices = npt.NDArray[np.int64]
_VIEW, _MIXTURE, _DROPOUT = 0, 1, 2  # streams of random numbers that must not be alike


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one epoch: global batches of indices, and what its random numbers depend on.

    All batches are of one size, but that the last may be smaller.
    """

    number: int
    seed: int
    batches: tuple[Indices, ...]

    def positions(self, step: int) -> Indices:
        """Places (B,) in the epoch of the images of a step."""
        start = step * len(self.batches[0])
        return np.arange(start, start + len(self.batches[step]))

    def dropout_seed(self, step: int, worker: Worker) -> int:
        """What dropout of one step and worker begins with; it differs between workers, whose images do."""
        place = np.array([step * 4_096 + worker.rank])
        return int(keys_of(place, self.seed, self.number, _DROPOUT)[0] >> np.uint64(2))


@dataclass(frozen=True, slots=True)
class Batch:
    """One worker's share of a global batch: n images, or n and then their n partners when images are mixed."""

    step: int
    indices: Indices  # (n,) or (2n,)
    images: Tensor  # (n or 2n, 1, S, S) uint8
    keys: Keys  # (n or 2n,)
    labels: Tensor  # (n, F), those of the mixtures when images are mixed
    shares: Tensor | None  # (n,) of each image in its mixture
    counts: Tensor  # (2,) positives and negatives of the global batch
    num_stated: int  # stated labels of the global batch

    def uris(self, inputs: ModelInputs) -> list[tuple[str, ...]]:
        """The uri of each of n images, or both uris of each mixture."""
        return [tuple(inputs.uris[index] for index in pair) for pair in self.indices.reshape(-1, len(self.labels)).T]


def read_batch(inputs: ModelInputs, order: Order, step: int, *, mixup: float, worker: Worker) -> Batch:
    """This worker's share of one global batch: every world-th image, so that all of them are somebody's."""
    whole, positions = order.batches[step], order.positions(step)
    mine = np.arange(worker.rank, len(whole), worker.world)
    taken = np.concatenate([mine, len(whole) - 1 - mine]) if mixup else mine
    labels, shares = torch.from_numpy(inputs.labels[whole]), None
    if mixup:
        drawn = uniforms(keys_of(positions, order.seed, order.number, _MIXTURE), 1)[:, 0].numpy()
        shares = torch.from_numpy(betaincinv(mixup, mixup, drawn).astype(np.float32))
        labels = mix(labels, labels.flip(0), shares)
    images = torch.from_numpy(inputs.pixels(whole[taken]))
    return Batch(
        step,
        whole[taken],
        images.pin_memory() if worker.device.startswith("cuda") else images,
        keys_of(positions[taken], order.seed, order.number, _VIEW),
        labels[mine],
        None if shares is None else shares[mine],
        label_counts(labels),
        int((~labels.isnan()).sum()),
    )


def views(batch: Batch, config: AugmentConfig, device: str) -> Tensor:
    """Random views (n, 1, S, S) of a batch, float32 in 0..1, mixed with those of their partners when it says so."""
    seen = augment(batch.images.to(device, non_blocking=True), config, batch.keys)
    if batch.shares is None:
        return seen
    ours, theirs = seen.chunk(2)
    return mix(ours, theirs, batch.shares.to(device))


def mix(ours: Tensor, theirs: Tensor, shares: Tensor) -> Tensor:
    """Ours x shares + theirs x (1 - shares), for shares (n,); NaN where either is, so that such a label stays masked.

    Source: Zhang 2018, mixup: beyond empirical risk minimization, section 2.
    """
    weights = shares.reshape(-1, *[1] * (ours.ndim - 1))
    return weights * ours + (1.0 - weights) * theirs


def read_ahead(read: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[Batch]:
    """The batches of `steps`, each read in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Batch] | None = None
        for step in steps:
            ready, coming = coming, pool.submit(read, step)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
