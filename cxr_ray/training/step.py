"""One update of a network: precision, accumulation, scaling, clipping. Knows no epoch and no data set.

Shapes: B images of the global batch over all workers, n of them this worker's, F findings, S input side.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from cxr_ray.config import OptimizeConfig
from cxr_ray.errors import ConfigError
from cxr_ray.models.member import Member
from cxr_ray.training.losses import Loss
from cxr_ray.training.workers import Worker, average_buffers, gathered

_MOST_NAMED = 16  # images in the sentence about a loss that is not finite
# Thirty halvings of torch's first scale. Source: fairseq's --min-loss-scale.
_LEAST_SCALE = 1e-4
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Tools:
    """What stays the same from update to update: the network, wrapped for data-parallel work, and what moves it."""

    network: nn.Module
    mode: Callable[[Member], object]  # in place of `train()`
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    loss: Loss
    worker: Worker
    settings: OptimizeConfig
    accumulate: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an update found: tensors on the device, so that nothing waits for them before they are read."""

    loss_sum: Tensor  # scalar: losses of this worker's stated labels
    norm: Tensor  # scalar: gradient norm before clipping, the same on all workers
    finite: Tensor  # (n,) whether the losses of each image are finite


def make_tools(
    network: nn.Module,
    *,
    mode: Callable[[Member], object],
    loss: Loss,
    worker: Worker,
    settings: OptimizeConfig,
    accumulate: int,
) -> Tools:
    """Optimizer and scaler for the parameters of `network` that learn."""
    device = torch.device(worker.device)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    optimizer = kind(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda",
    )
    scaler = GradScaler(device.type, enabled=settings.precision == "fp16")
    return Tools(network, mode, optimizer, scaler, loss, worker, settings, accumulate)


def update(
    tools: Tools,
    images: Tensor,
    labels: Tensor,
    *,
    num_images: int,
    num_stated: int,
    counts: Tensor | None = None,
    progress: float,
    rate: float,
    seed: int,
) -> Outcome:
    """One update from this worker's images (n, 1, S, S) in 0..1 and labels (n, F) of a global batch.

    The loss is the sum over the stated labels of all workers by their number `num_stated`, so that it does not depend
    on how the batch is dealt out or accumulated. `num_images` (B) and `counts` (2,) are images, positives and negatives
    of the global batch, `rate` the learning rate, `seed` that of dropout, `progress` the share of the training done.
    """
    tools.mode(bare(tools.network))
    tools.optimizer.zero_grad(set_to_none=True)
    for group in tools.optimizer.param_groups:
        group["lr"] = rate
    # The same on all workers, who may talk in every part (SyncBatchNorm), and for none more than it has images.
    num_parts = min(tools.accumulate, num_images // tools.worker.world)
    factor = tools.worker.world / max(num_stated, 1)  # DDP divides the gradients by the number of workers
    losses = []
    for part, (pixels, truth) in enumerate(
        zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
    ):
        torch.manual_seed(seed + part)
        with _communicating(tools.network, last=part == num_parts - 1):
            with autocast(tools.worker.device, tools.settings.precision):
                logits = tools.network(pixels)
            found = tools.loss(logits, truth, progress=progress, counts=counts)
            tools.scaler.scale(found.sum() * factor).backward()  # type: ignore[no-untyped-call]
        losses.append(found.detach())
    norm = _move(tools)
    average_buffers(bare(tools.network), tools.worker)
    whole = torch.cat(losses)
    return Outcome(whole.sum(), norm, whole.isfinite().all(dim=1))


def _move(tools: Tools) -> Tensor:
    """Clip the gradients and step; returns their norm before. A step whose scaled gradients overflow is left out."""
    tools.scaler.unscale_(tools.optimizer)
    parameters = [parameter for group in tools.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, tools.settings.clip_norm)
    tools.scaler.step(tools.optimizer)
    tools.scaler.update()
    return norm.detach()


def autocast(device: str, precision: str) -> torch.autocast:
    """The forward pass in bf16 or fp16, or as it is for fp32."""
    kind = _PRECISIONS.get(precision)
    return torch.autocast(torch.device(device).type, dtype=kind or torch.bfloat16, enabled=kind is not None)


def _communicating(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Gradients go between the workers with the last part of a batch only."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()


def bare(network: nn.Module) -> Member:
    """The member inside a data-parallel wrapper."""
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    return cast(Member, inner)


def check_finite(outcome: Outcome, uris: Sequence[Sequence[str]], *, tools: Tools, place: str) -> None:
    """Stop on all workers when an update was not finite; `uris` (n,) are those of each image, or of its mixture.

    All workers see the same gradient norm, so that they agree without a word; only then do they ask each other for
    names. A step that the fp16 scaler left out while all losses are finite is its way of finding the scale, unless
    there is none.

    Raises:
        ConfigError: Names the images whose loss is not finite, or the whole batch where only the gradient is not; or
            the scaler has found no scale.
    """
    if bool(outcome.norm.isfinite()):
        return
    mine = [name for names, fine in zip(uris, outcome.finite.tolist(), strict=True) if not fine for name in names]
    named = list(chain.from_iterable(gathered(mine, tools.worker)))
    if not named and tools.scaler.is_enabled():
        _check_scale(tools.scaler.get_scale(), place)
        return
    what = "loss" if named else "gradient"
    named = named or list(chain.from_iterable(gathered(list(chain.from_iterable(uris)), tools.worker)))
    raise ConfigError(
        f"The {what} is not finite in {place}, with {first_named(named)}; look at these images and their labels, lower"
        " optimize.learning_rate or optimize.clip_norm, or take bf16 or fp32 for optimize.precision."
    )


def _check_scale(scale: float, place: str) -> None:
    """Give up when the fp16 scaler has gone below any useful scale: from then on it leaves out every step."""
    if scale < _LEAST_SCALE:
        raise ConfigError(
            f"The gradient overflows fp16 at every scale, down to {scale:.0e} in {place}; take bf16 or fp32 for"
            " optimize.precision, or lower optimize.learning_rate."
        )


def first_named(uris: Sequence[str]) -> str:
    """The first of `uris`, and how many more there are."""
    more = len(uris) - _MOST_NAMED
    return ", ".join(uris[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
