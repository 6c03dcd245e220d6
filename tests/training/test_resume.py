"""A fit that is stopped anywhere and resumed ends with the weights of one that was not, bit by bit."""

from dataclasses import replace

import pytest
import torch

from cxr_ray.errors import ConfigError
from cxr_ray.training.state import read_state, write_state
from tests.training.squares import a_plan, assert_same, fit_squares, tiny_member

EVERYTHING = {
    "epochs": 3,
    "ema": 0.9,
    "mixup": 0.4,
    "freeze": 0.3,
    "compute": {"checkpoint_steps": 3, "accumulate": 2},
    "loss": {"name": "focal", "deferred": 0.4, "smoothing": 0.05},
    "sampler": "class_aware",
}
PLANS = {
    "plain": {"compute": {"checkpoint_steps": 1}},
    "everything at once": EVERYTHING,
    "two stages": {"compute": {"checkpoint_steps": 3}, "second_stage": {"epochs": 2}, "ema": 0.9},
    "fp16 with a scaler": {"precision": "fp16", "compute": {"checkpoint_steps": 3}},
    "early stopping": {"epochs": 9, "patience": 2, "min_delta": 0.5, "compute": {"checkpoint_steps": 3}},
}


def dropping_member():
    return tiny_member(head_hidden=16, drop_rate=0.5)


@pytest.mark.parametrize("settings", PLANS.values(), ids=PLANS)
def test_fit_stopped_anywhere_ends_with_the_same_weights(shards, tmp_path, settings):
    plan = a_plan(**settings)
    _, whole = fit_squares(shards, plan, member=dropping_member())
    for stop_after in (1, 2, len(whole) - 1):
        _, states = fit_squares(shards, plan, member=dropping_member(), stop_after=stop_after)
        assert len(states) == stop_after
        write_state(str(tmp_path), states[-1])
        torch.manual_seed(stop_after)  # nothing may depend on where the process's own numbers stand
        _, resumed = fit_squares(shards, plan, member=dropping_member(), resume=read_state(str(tmp_path)))
        assert len(resumed) == len(whole) - stop_after
        assert_same(resumed[-1], whole[-1], check=torch.equal)


def test_fit_state_of_a_report_does_not_change_afterwards(shards):
    _, states = fit_squares(shards, a_plan(ema=0.9, compute={"checkpoint_steps": 1}))
    _, first = fit_squares(shards, a_plan(ema=0.9, compute={"checkpoint_steps": 1}), stop_after=1)
    assert_same(states[0], first[0], check=torch.equal)


def test_fit_checkpoints_do_not_change_the_result(shards):
    _, without = fit_squares(shards, a_plan(ema=0.9))
    _, often = fit_squares(shards, a_plan(ema=0.9, compute={"checkpoint_steps": 1}))
    assert [state["step"] for state in without] == [0, 0]
    assert [state["step"] for state in often] == [1, 2, 3, 0] * 2
    assert_same(often[-1], without[-1], check=torch.equal)


def test_fit_checkpoints_by_the_clock(shards):
    _, often = fit_squares(shards, a_plan(epochs=1, batch_size=2, compute={"checkpoint_minutes": 1e-9}))
    assert [state["step"] for state in often] == [8, 0]
    _, never = fit_squares(shards, a_plan(epochs=1, batch_size=2, compute={"checkpoint_minutes": 10}))
    assert [state["step"] for state in never] == [0]


def test_fit_finished_state_does_nothing_more(shards):
    _, whole = fit_squares(shards, a_plan())
    assert fit_squares(shards, a_plan(), resume=whole[-1]) == ([], [])


def test_fit_state_of_other_settings_is_refused(shards):
    _, states = fit_squares(shards, a_plan(), stop_after=1)
    with pytest.raises(ConfigError, match=r"made with other settings \(digest, now another\)"):
        fit_squares(shards, replace(a_plan(), digest="another"), resume=states[0])
