"""Fitting one member through its stages, in plain torch. Knows no Ray.

Every worker of a data-parallel member runs `fit`; they meet in the gradients (DDP) and in the validation, whose
predictions are gathered so that each metric is over the whole part.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from cxr_ray.config import OptimizeConfig
from cxr_ray.errors import ConfigError
from cxr_ray.models.member import Member
from cxr_ray.training import ema
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.epoch import Plan, Report, Run, next_epoch
from cxr_ray.training.losses import Loss, loss_function
from cxr_ray.training.stages import Stage, stages
from cxr_ray.training.state import State, check_state, first_state, next_stage, restore
from cxr_ray.training.step import Tools, make_tools
from cxr_ray.training.validation import has_both_classes
from cxr_ray.training.workers import Worker

Wrap = Callable[[nn.Module], nn.Module]


def fit(
    member: Member,
    *,
    train: ModelInputs,
    validation: ModelInputs,
    plan: Plan,
    worker: Worker,
    resume: State | None,
    report: Report,
    wrap: Wrap = lambda member: member,
    say: Callable[[str], None] = lambda sentence: None,
) -> State:
    """Train `member` in place through all stages and return the last state; `wrap` makes it data-parallel.

    `report` gets every epoch with the whole state, and None with the state of each checkpoint within an epoch; all
    workers call it equally often. The state resumes the run where it was, also with another number of workers.

    Raises:
        ConfigError: A loss or a logit is not finite, there are fewer images than workers, or `resume` has other
            settings.
    """
    if worker.world > min(len(train), plan.optimize.batch_size):
        raise ConfigError(
            f"{worker.world} workers share batches of {min(len(train), plan.optimize.batch_size)} images; lower"
            " compute.workers or raise optimize.batch_size."
        )
    if plan.optimize.selection != "loss" and not has_both_classes(validation.labels):
        say(
            f"No finding of the validation part is stated both present and absent: {plan.optimize.selection} is"
            " undefined, and the loss chooses the best epoch."
        )
    state = first_state(plan.digest) if resume is None else check_state(resume, plan.digest)
    layout = torch.channels_last if plan.compute.channels_last else torch.contiguous_format
    member.to(worker.device, memory_format=layout)  # type: ignore[call-overload]
    loss = partial(_loss_of, train, device=worker.device)
    for number, stage in enumerate(stages(plan.optimize, seed=plan.seed)):
        if number < state["stage"]:
            continue
        if number > state["stage"]:
            state = next_stage(state)
        tools, average = _begin(member, stage, state, plan=plan, worker=worker, wrap=wrap, loss=loss(stage), say=say)
        run = Run(
            replace(plan, optimize=stage.settings),
            *(tools, average, train, validation, worker, report),
            steps_per_epoch=max(1, len(train) // plan.optimize.batch_size),
        )
        last = state["stage_start"] + stage.settings.epochs
        while state["epoch"] < last and not _exhausted(state, stage.settings):
            state = next_epoch(run, state)
    return state


def _loss_of(train: ModelInputs, stage: Stage, *, device: str) -> Loss:
    """The loss of a stage, from the label counts of the training part."""
    labels = torch.from_numpy(train.labels)
    positives, negatives = ((labels == value).sum(dim=0).to(device) for value in (1, 0))
    return loss_function(stage.settings.loss, positives=positives, negatives=negatives, num_images=len(train))


def _begin(
    member: Member,
    stage: Stage,
    state: State,
    *,
    plan: Plan,
    worker: Worker,
    wrap: Wrap,
    loss: Loss,
    say: Callable[[str], None],
) -> tuple[Tools, nn.Module | None]:
    """The member as the stage starts or goes on, with its optimizer, and the average of its weights or None."""
    if state["weights"] is not None:
        member.load_state_dict(state["weights"])
    if state["optimizer"] is None:
        stage.begin(member)
    stage.choose(member)
    average = ema.averaged_copy(member) if stage.settings.ema else None
    if plan.compute.compile:
        compile_member(member, worker.device, say=say)
    accumulate = plan.compute.accumulate
    tools = make_tools(
        wrap(member), mode=stage.mode, loss=loss, worker=worker, settings=stage.settings, accumulate=accumulate
    )
    restore(state, tools, average)
    return tools, average


def compile_member(member: Member, device: str, *, say: Callable[[str], None]) -> None:
    """Compile the member in place; where that fails it goes on as it is, and `say` is told why."""
    member.compile()
    try:
        with torch.no_grad():
            member.eval()(torch.zeros(2, 1, member.size, member.size, device=device))
    except RuntimeError as error:  # all of torch.compile's own errors are
        member._compiled_call_impl = None
        reason = " ".join(str(error).split())[:200]
        say(f"torch.compile does not work here ({type(error).__name__}: {reason}); going on without it.")


def _exhausted(state: State, settings: OptimizeConfig) -> bool:
    """Whether patience is at its end."""
    return settings.patience is not None and state["epoch"] - 1 - state["anchor_epoch"] >= settings.patience
