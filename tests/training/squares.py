"""A tiny part of squares, and a fit of a tiny member to it in this process, for the tests of the loop."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cxr_ray.config import AugmentConfig, ComputeConfig, MemberConfig, OptimizeConfig
from cxr_ray.models.member import Member, create
from cxr_ray.training.cache import ModelInputs, open_part, shard_schema, write_shard
from cxr_ray.training.epoch import Epoch, Plan
from cxr_ray.training.loop import fit
from cxr_ray.training.state import State
from cxr_ray.training.workers import Worker

FINDINGS = ("A", "B", "C")


class StoppedError(Exception):
    """What a test raises out of a report, in place of a killed process."""


def write_squares(folder: str) -> str:
    """Four shards of 40 bright and dark squares at 32 px: finding A is the brightness, B noise, C hardly stated."""
    random, rows = np.random.default_rng(0), []
    for number in range(40):
        bright = number % 2
        pixels = np.clip(random.normal(90 + 70 * bright, 20, (32, 32)), 0, 255).astype(np.uint8)
        rare = float(number % 4 == 0) if number % 3 == 0 else math.nan
        labels = [float(bright), float(random.random() < 0.5), rare]
        part = "validation" if number % 5 == 0 else "train"
        rows.append({"uri": f"/{number:03d}", "part": part, "labels": labels, "pixels": pixels.tobytes()})
    schema = shard_schema(size=32, num_findings=3)
    for start, end in ((0, 13), (13, 26), (26, 39), (39, 40)):
        write_shard(f"{folder}/{start}.arrow", pa.Table.from_pylist(rows[start:end], schema=schema))
    return folder


def tiny_member(backbone: str = "test_resnet", **config: Any) -> Member:
    """A member with random weights that are the same in every process."""
    torch.manual_seed(7)
    settings = MemberConfig(name="m", backbone=backbone, **config)
    return create(settings, findings=FINDINGS, size=32, preprocess_digest="d")[0]


def a_plan(*, compute: dict[str, Any] | None = None, views: dict[str, Any] | None = None, **optimize: Any) -> Plan:
    """Four steps of eight squares an epoch, unless it says else."""
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, **optimize}
    return Plan(
        OptimizeConfig.model_validate(settings),
        AugmentConfig.model_validate(views or {}),
        ComputeConfig.model_validate(compute or {}),
        seed=5,
        digest="digest",
    )


def fit_squares(
    shards: str,
    plan: Plan,
    *,
    member: Member | None = None,
    stop_after: int | None = None,
    resume: State | None = None,
    data: dict[str, ModelInputs] | None = None,
    **options: Any,
) -> tuple[list[Epoch], list[State]]:
    """Fit a tiny member; returns the reported epochs, and the state of every report, the `stop_after`-th the last."""
    epochs: list[Epoch] = []
    states: list[State] = []

    def report(epoch: Epoch | None, state: State) -> None:
        states.append(state)
        epochs.extend([] if epoch is None else [epoch])
        if len(states) == stop_after:
            raise StoppedError

    with suppress(StoppedError):
        fit(
            member or tiny_member(),
            **(data or parts(shards)),
            plan=plan,
            worker=options.pop("worker", Worker()),
            resume=resume,
            report=report,
            **options,
        )
    return epochs, states


def parts(shards: str) -> dict[str, ModelInputs]:
    """Both parts of the squares."""
    return {part: open_part(shards, part) for part in ("train", "validation")}


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state by their place in it."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place: tensor for key, item in items for place, tensor in tensors(item, f"{name}/{key}").items()}


def assert_same(found: State, expected: State, *, check: Callable[[torch.Tensor, torch.Tensor], bool]) -> None:
    """All tensors of two states are alike, and so are the epochs that led there."""
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not check(ours[name], theirs[name])]
    assert not different
    times = ("seconds", "images_per_second", "waiting")
    for mine, other in zip(found["history"], expected["history"], strict=True):
        assert {key: mine[key] for key in mine if key not in times} == {k: other[k] for k in other if k not in times}
