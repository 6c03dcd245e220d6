"""The order in which an epoch shows its images, and each worker's share of it. Knows no model and no pixels.

An order is one tensor (N,) of indices per seed and epoch, the same on every worker; `dealt` cuts it into batches. So a
run that is resumed, or has another number of workers, sees the same images in the same global batches. Shapes: N
images, F findings, K classes (findings with a positive, and the images without any).
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr_ray.training.workers import Worker

Sampler = Literal["shuffle", "class_aware"]


def ordered(labels: npt.NDArray[np.float32], *, sampler: Sampler, seed: int, epoch: int) -> Tensor:
    """The order (N,) of an epoch over the images of labels (N, F), by the sampler a configuration names."""
    match sampler:
        case "shuffle":
            return shuffled(len(labels), seed=seed, epoch=epoch)
        case "class_aware":
            return class_aware(labels, seed=seed, epoch=epoch)


def dealt(order: Tensor, *, batch_size: int, worker: Worker) -> Iterator[Tensor]:
    """Batches of one worker from an order (N,): every world-th index of each global batch, from its rank on.

    Each place of the order goes to one worker. What does not fill a last global batch is left out, so that all workers
    step equally often, unless there is less than one: then it is the only batch. Needs as many images as workers.
    """
    step = max(1, batch_size // worker.world) * worker.world
    for start in range(0, max(len(order) - step, 0) + 1, step):
        batch = order[start : start + step][worker.rank :: worker.world]
        if len(batch):
            yield batch


def shuffled(num_images: int, *, seed: int, epoch: int) -> Tensor:
    """A permutation (N,) of all images."""
    return torch.randperm(num_images, generator=_generator(seed, epoch))


def class_aware(labels: npt.NDArray[np.float32], *, seed: int, epoch: int) -> Tensor:
    """An order (N,) that takes the findings of labels (N, F) in turn, in a new random sequence each time round.

    Each finding gives its images at random, none again before all have been shown; so an image of a rare finding is
    seen often, also twice in a batch, and others not in this epoch. Images without a positive are one more class; a
    NaN label is no positive, and a finding without a positive no class.

    Source: Shen 2016, Relay backpropagation for effective learning of deep convolutional neural networks, section 3.3
    (class-aware sampling), here for several labels an image.
    """
    generator, classes = _generator(seed, epoch), _classes(labels)
    if not classes:
        return torch.empty(0, dtype=torch.int64)
    num_rounds = -(-len(labels) // len(classes))
    queues = torch.stack([_queue(images, length=num_rounds, generator=generator) for images in classes], dim=1)
    turns = _permutations(num_rounds, len(classes), generator=generator)
    return queues.gather(1, turns).flatten()[: len(labels)]


def _classes(labels: npt.NDArray[np.float32]) -> list[Tensor]:
    """The images of each class that has any, in the order of the findings, those without a positive last."""
    present = torch.from_numpy(labels == 1)
    columns = torch.cat([present, ~present.any(dim=1, keepdim=True)], dim=1)
    return [column.nonzero().flatten() for column in columns.T if column.any()]


def _queue(images: Tensor, *, length: int, generator: torch.Generator) -> Tensor:
    """`length` of some images (n,): permutations of them, one behind the other."""
    order = _permutations(-(-length // len(images)), len(images), generator=generator)
    return images[order.flatten()[:length]]


def _permutations(count: int, size: int, *, generator: torch.Generator) -> Tensor:
    """Random permutations (count, size) of 0 .. size - 1, one in each row."""
    # In float64, so that equal draws, which would favour the lower index, do not occur.
    return torch.rand(count, size, generator=generator, dtype=torch.float64).argsort(dim=1)


def _generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers of one epoch of one seed."""
    return torch.Generator().manual_seed(seed * 100_003 + epoch)
