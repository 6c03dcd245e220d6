"""The data-parallel workers of one member, and what they tell each other. Plain torch.distributed; no Ray.

Every function here is collective: all workers call it, in the same order. With one worker it returns at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Worker:
    """Which share of the work is this process's: rank of world, on a device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def summed(values: Tensor, worker: Worker) -> Tensor:
    """The sum over the workers of `values`, which are not changed."""
    total = values.detach().clone()
    if worker.world > 1:
        dist.all_reduce(total)
    return total


def gathered(mine: Said, worker: Worker) -> list[Said]:
    """What every worker says, by rank."""
    said: list[Any] = [mine] * worker.world
    if worker.world > 1:
        dist.all_gather_object(said, mine)
    return said


def agreed(mine: float, worker: Worker) -> float:
    """The number, or the yes or no, of the first worker on all of them: clocks differ, and so may the last digits."""
    if worker.world == 1:
        return mine
    answer = torch.tensor([mine], dtype=torch.float64, device=worker.device)
    dist.broadcast(answer, src=0)
    return float(answer.item())


def average_buffers(network: nn.Module, worker: Worker) -> None:
    """Set the running statistics of `network` to their mean over the workers, in place.

    After it every worker holds the same network, so that any one's checkpoint is that of all. DDP's own way, the
    first worker's statistics for all, throws those of the others away.
    """
    if worker.world == 1:
        return
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
    dist.all_reduce(flat)
    flat /= worker.world
    _spread(flat, buffers)


def _spread(flat: Tensor, targets: Sequence[Tensor]) -> None:
    """Copy consecutive pieces of `flat` into `targets`."""
    for target, piece in zip(targets, torch.split(flat, [target.numel() for target in targets]), strict=True):
        target.copy_(piece.view_as(target))
