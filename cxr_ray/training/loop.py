"""Fitting one member: the steps and the per-worker loop, in plain torch. Knows no Ray.

Every worker of a data-parallel member runs `fit`; they meet in the gradients (DDP) and in the validation, whose
predictions are gathered so that each metric is over the whole part. Shapes: B batch, N images, F findings, S side.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cxr_ray.config import AugmentConfig, OptimizeConfig
from cxr_ray.images.augment import augment
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.losses import masked_bce, positive_weights

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training part gave. Losses are means over stated labels; AUROC over defined findings."""

    number: int
    train_loss: float
    validation_loss: float
    macro_auroc: float
    learning_rate: float
    seconds: float
    images_per_second: float
    best: bool

    def to_dict(self) -> dict[str, float]:
        """The epoch as plain numbers, for a metrics log."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Worker:
    """Which share of the work is this process's: rank of world, on a device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def train_step(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    weights: Tensor,
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> float:
    """One update from images (B, 1, S, S) in 0..1 and labels (B, F); returns the loss before it."""
    network.train()
    optimizer.zero_grad(set_to_none=True)
    loss = masked_bce(network(images), labels, weights)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def predict(network: nn.Module, inputs: ModelInputs, *, indices: npt.NDArray[np.int64], worker: Worker) -> Tensor:
    """Logits (n, F) of the images at `indices`, on the CPU."""
    network.eval()
    batches = [indices[start : start + 64] for start in range(0, len(indices), 64)]
    logits = [network(torch.from_numpy(inputs.pixels(batch)).to(worker.device)).float().cpu() for batch in batches]
    return torch.cat(logits) if logits else torch.empty(0, inputs.labels.shape[1])


def predict_part(network: nn.Module, inputs: ModelInputs, *, worker: Worker) -> Tensor:
    """Logits (N, F) of a whole part on every worker: each computes its share, all gather the rest."""
    mine = np.arange(worker.rank, len(inputs), worker.world)
    logits = predict(network, inputs, indices=mine, worker=worker)
    if worker.world == 1:
        return logits
    shares: list[tuple[npt.NDArray[np.int64], Tensor]] = [(mine, logits)] * worker.world
    dist.all_gather_object(shares, (mine, logits))
    whole = torch.empty(len(inputs), logits.shape[1])
    for indices, share in shares:
        whole[torch.from_numpy(indices)] = share
    return whole


def macro_auroc(labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """Mean AUROC over the findings of labels and scores (N, F) with both classes; NaN when there is none."""
    values = []
    for truth, score in zip(labels.T, scores.T, strict=True):
        stated = ~np.isnan(truth)
        if len(np.unique(truth[stated])) == 2:
            values.append(roc_auc_score(truth[stated], score[stated]))
    return float(np.mean(values)) if values else math.nan


def epoch_order(num_images: int, *, seed: int, epoch: int, batch_size: int, worker: Worker) -> Iterator[Tensor]:
    """Batches of indices of one worker: one permutation of all images per seed and epoch, dealt to the workers.

    The images that do not fill a last global batch wait for another epoch, so that all workers step equally often.
    """
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    share = max(1, batch_size // worker.world)
    for start in range(0, max(num_images - share * worker.world, 0) + 1, share * worker.world):
        batch = order[start : start + share * worker.world][worker.rank :: worker.world]
        if len(batch):
            yield batch


def schedule(step: int, *, num_steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up over the first share of the steps, then half a cosine to zero.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5 without restarts.
    """
    rising = max(1, round(num_steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))


def label_weights(inputs: ModelInputs, config: OptimizeConfig) -> Tensor:
    """Positive weights (F,) from the labels of the training part."""
    positives = torch.from_numpy((inputs.labels == 1).sum(axis=0))
    negatives = torch.from_numpy((inputs.labels == 0).sum(axis=0))
    return positive_weights(positives, negatives, weighting=config.weighting, max_weight=config.max_weight)


def fit(
    network: nn.Module,
    *,
    train: ModelInputs,
    validation: ModelInputs,
    optimize: OptimizeConfig,
    views: AugmentConfig,
    seed: int,
    worker: Worker,
    resume: State | None,
    report: Callable[[Epoch, State], None],
) -> None:
    """Train `network` (a member, or one wrapped for data-parallel work) and report every epoch with its whole state.

    The state resumes the run where it was: weights, optimizer, best weights so far and the epoch; order and
    augmentation depend on seed and epoch alone. All workers call `report` equally often.
    """
    weights = label_weights(train, optimize).to(worker.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=optimize.learning_rate, weight_decay=optimize.weight_decay)
    state: State = resume or {"epoch": -1, "best_value": -math.inf, "best_epoch": -1, "history": []}
    if resume:
        _bare(network).load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    for number in range(state["epoch"] + 1, optimize.epochs):
        if optimize.patience and number - 1 - state["best_epoch"] >= optimize.patience:
            break
        started = time.monotonic()
        train_loss, seen = _one_epoch(
            network, train, optimizer, weights, optimize=optimize, views=views, seed=seed, epoch=number, worker=worker
        )
        seconds = time.monotonic() - started
        logits = predict_part(network, validation, worker=worker)
        loss = float(masked_bce(logits, torch.from_numpy(validation.labels), weights.cpu()))
        auroc = macro_auroc(validation.labels, logits.numpy())
        value = -loss if math.isnan(auroc) else auroc
        best = value > state["best_value"]
        rate = optimizer.param_groups[0]["lr"]
        epoch = Epoch(number, train_loss, loss, auroc, rate, seconds, seen / max(seconds, 1e-9), best)
        current = {name: tensor.detach().cpu().clone() for name, tensor in _bare(network).state_dict().items()}
        state = {
            "epoch": number,
            "weights": current,
            "optimizer": optimizer.state_dict(),
            "best_value": value if best else state["best_value"],
            "best_epoch": number if best else state["best_epoch"],
            "best_weights": current if best else state["best_weights"],
            "best_logits": logits if best else state["best_logits"],
            "history": [*state["history"], epoch.to_dict()],
        }
        report(epoch, state)


def _one_epoch(
    network: nn.Module,
    train: ModelInputs,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    *,
    optimize: OptimizeConfig,
    views: AugmentConfig,
    seed: int,
    epoch: int,
    worker: Worker,
) -> tuple[float, int]:
    """One pass of one worker; returns its mean loss and the images all workers saw."""
    generator = torch.Generator().manual_seed((seed * 100_003 + epoch) * 1_009 + worker.rank)
    steps_per_epoch = max(1, len(train) // optimize.batch_size)
    losses, seen = [], 0
    for step, batch in enumerate(
        epoch_order(len(train), seed=seed, epoch=epoch, batch_size=optimize.batch_size, worker=worker)
    ):
        factor = schedule(
            epoch * steps_per_epoch + step, num_steps=optimize.epochs * steps_per_epoch, warmup=optimize.warmup
        )
        for group in optimizer.param_groups:
            group["lr"] = optimize.learning_rate * factor
        images = torch.from_numpy(train.pixels(batch.numpy())).to(worker.device)
        labels = torch.from_numpy(train.labels[batch.numpy()]).to(worker.device)
        view = augment(images, views, generator)
        losses.append(
            train_step(network, view, labels, weights=weights, optimizer=optimizer, clip_norm=optimize.clip_norm)
        )
        seen += len(batch) * worker.world
    return float(np.mean(losses)), seen


def _bare(network: nn.Module) -> nn.Module:
    """The member inside a data-parallel wrapper."""
    inner = getattr(network, "module", network)
    return inner if isinstance(inner, nn.Module) else network
