"""One epoch: its updates with checkpoints in between, its validation, and what it is judged by.

Order, views, mixtures and dropout depend on seed, epoch and step alone, so that an epoch can be left and taken up at
any step. Knows no Ray and no stage but the one under way.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ray.config import AugmentConfig, ComputeConfig, OptimizeConfig
from cxr_ray.training import batches, ema
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.losses import Loss, reduced
from cxr_ray.training.sampling import dealt, ordered
from cxr_ray.training.state import State, kept, no_steps, snapshot
from cxr_ray.training.step import Outcome, Tools, bare, check_finite, update
from cxr_ray.training.validation import check_logits, macro_auroc, mean_average_precision, predict_part
from cxr_ray.training.workers import Worker, agreed, summed

_STEPS_PER_LOOK = 8  # how often the workers ask the first one's clock, which costs a broadcast


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training part gave. Losses are means over stated labels; metrics over defined findings.

    `waiting` is the share of the time in which the network waited for images; `map` the mean average precision.
    """

    number: int
    train_loss: float
    validation_loss: float
    macro_auroc: float
    map: float
    learning_rate: float
    seconds: float
    images_per_second: float
    waiting: float
    best: bool

    def to_dict(self) -> dict[str, float]:
        """The epoch as plain numbers, for a metrics log."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fit follows: the settings, the seed, and the digest under which its checkpoints are known."""

    optimize: OptimizeConfig
    views: AugmentConfig
    compute: ComputeConfig
    seed: int
    digest: str


Report = Callable[[Epoch | None, State], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One stage under way on one worker."""

    plan: Plan  # with the settings of the stage
    tools: Tools
    average: nn.Module | None
    train: ModelInputs
    validation: ModelInputs
    worker: Worker
    report: Report
    steps_per_epoch: int

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept."""
        return bare(self.tools.network) if self.average is None else self.average


def next_epoch(run: Run, state: State) -> State:
    """Train the rest of one epoch, validate, report; returns the state after it.

    Raises:
        ConfigError: A loss, a gradient, or a logit of the validation part is not finite.
    """
    state, waiting = _train_epoch(run, state)
    logits = predict_part(run.judged, run.validation, worker=run.worker, precision=run.plan.optimize.precision)
    check_logits(logits, run.validation, place=f"the validation part after epoch {state['epoch'] + 1}")
    labels = torch.from_numpy(run.validation.labels)
    epoch = Epoch(
        number=state["epoch"],
        train_loss=state["loss_sum"] / max(state["num_stated"], 1),
        validation_loss=_validation_loss(run.tools.loss, logits, labels),
        macro_auroc=macro_auroc(run.validation.labels, logits.numpy()),
        map=mean_average_precision(run.validation.labels, logits.numpy()),
        learning_rate=run.tools.optimizer.param_groups[0]["lr"],
        seconds=state["seconds"],
        images_per_second=state["num_images"] / max(state["seconds"], 1e-9),
        waiting=waiting,
        best=False,
    )
    # The best epoch, and the end that patience sets, follow from this number alone.
    value = agreed(selection_value(epoch, run.plan.optimize.selection), run.worker)
    epoch = replace(epoch, best=value > state["best_value"])
    changes: dict[str, Any] = {"epoch": epoch.number + 1, **no_steps()}
    changes["history"] = [*state["history"], epoch.to_dict()]
    if epoch.best:
        changes |= {"best_value": value, "best_epoch": epoch.number, "best_logits": logits}
        changes["best_weights"] = kept(run.judged.state_dict())
    if value > state["anchor_value"] + run.plan.optimize.min_delta:
        changes |= {"anchor_value": value, "anchor_epoch": epoch.number}
    state = snapshot(state, run.tools, run.average, **changes)
    run.report(epoch, state)
    return state


def _train_epoch(run: Run, state: State) -> tuple[State, float]:
    """Train the rest of one epoch; returns `state` with its sums, and the share of the time spent waiting for images.

    An update is looked at only while the next one is under way, so that the device is never idle for it.
    """
    optimize, worker, number = run.plan.optimize, run.worker, state["epoch"]
    order = _order(run, number)
    read = partial(batches.read_batch, run.train, order, mixup=optimize.mixup, worker=worker)
    sums = torch.tensor(state["loss_sum"] if worker.rank == 0 else 0.0, dtype=torch.float64, device=worker.device)
    num_stated, num_images = state["num_stated"], state["num_images"]
    earlier = state["seconds"]
    started = asked = saved = time.monotonic()
    waited, latest = 0.0, None
    for batch in batches.read_ahead(read, range(state["step"], len(order.batches))):
        waited += time.monotonic() - asked
        outcome = _update(run, batch, order, state)
        sums += outcome.loss_sum
        num_stated, num_images = num_stated + batch.num_stated, num_images + len(order.batches[batch.step])
        if latest is not None:
            _check(run, *latest, number)
        latest = (outcome, batch)
        done = batch.step + 1
        if done < len(order.batches) and _due(run, done, saved):
            _check(run, outcome, batch, number)
            latest, saved = None, time.monotonic()
            passed = {"step": done, "num_stated": num_stated, "num_images": num_images}
            passed |= {"loss_sum": float(summed(sums, worker)), "seconds": earlier + saved - started}
            run.report(None, snapshot(state, run.tools, run.average, **passed))
        asked = time.monotonic()
    if latest is not None:
        _check(run, *latest, number)
    loss_sum = float(summed(sums, worker))
    seconds = time.monotonic() - started
    passed = {"loss_sum": loss_sum, "num_stated": num_stated, "num_images": num_images, "seconds": earlier + seconds}
    return {**state, **passed}, waited / max(seconds, 1e-9)


def _order(run: Run, epoch: int) -> batches.Order:
    """The global batches of one epoch, the same on every worker and for any number of them."""
    optimize, seed = run.plan.optimize, run.plan.seed
    order = ordered(run.train.labels, sampler=optimize.sampler, seed=seed, epoch=epoch)
    whole = dealt(order, batch_size=optimize.batch_size, worker=Worker())
    return batches.Order(epoch, seed, tuple(batch.numpy() for batch in whole))


def _update(run: Run, batch: batches.Batch, order: batches.Order, state: State) -> Outcome:
    """One update from one batch, and one of the average of the weights."""
    optimize, device = run.plan.optimize, run.worker.device
    num_steps = optimize.epochs * run.steps_per_epoch
    step = (order.number - state["stage_start"]) * run.steps_per_epoch + batch.step
    outcome = update(
        run.tools,
        batches.views(batch, run.plan.views, device),
        batch.labels.to(device, non_blocking=True),
        num_images=len(order.batches[batch.step]),
        num_stated=batch.num_stated,
        counts=batch.counts.to(device, non_blocking=True),
        progress=step / num_steps,
        rate=optimize.learning_rate * schedule(step, num_steps=num_steps, warmup=optimize.warmup),
        seed=order.dropout_seed(batch.step, run.worker),
    )
    if run.average is not None and optimize.ema is not None:
        ema.update_average(run.average, bare(run.tools.network), decay=ema.decay_at(step, optimize.ema))
    return outcome


def _check(run: Run, outcome: Outcome, batch: batches.Batch, epoch: int) -> None:
    """Stop where an update was not finite."""
    place = f"epoch {epoch + 1}, step {batch.step + 1}"
    check_finite(outcome, batch.uris(run.train), tools=run.tools, place=place)


def _due(run: Run, done: int, saved: float) -> bool:
    """Whether a checkpoint is due after `done` steps of an epoch, the last one at the time `saved`."""
    compute = run.plan.compute
    if compute.checkpoint_steps is not None and done % compute.checkpoint_steps == 0:
        return True
    if compute.checkpoint_minutes is None or done % _STEPS_PER_LOOK:
        return False
    return bool(agreed(time.monotonic() - saved > 60.0 * compute.checkpoint_minutes, run.worker))


# --- what an epoch is judged by ----------------------------------------------------------------------------------


def schedule(step: int, *, num_steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up over the first share of the steps, then half a cosine to zero.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5 without restarts.
    """
    rising = max(1, round(num_steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))


def selection_value(epoch: Epoch, selection: str) -> float:
    """What is to be as large as possible; the negative loss where the selected metric is undefined."""
    value = {"macro_auroc": epoch.macro_auroc, "map": epoch.map, "loss": math.nan}[selection]
    return -epoch.validation_loss if math.isnan(value) else value


def _validation_loss(loss: Loss, logits: Tensor, labels: Tensor) -> float:
    """Mean loss over the stated labels, with the weighting of the end of training."""
    return float(reduced(loss(logits, labels, progress=1.0), labels))
