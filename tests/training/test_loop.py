"""The plain torch loop: schedule, selection, early stopping, stages, and what stops it."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_ray.config.fitting import LARGEST_SEED
from cxr_ray.errors import ConfigError
from cxr_ray.training.cache import open_part
from cxr_ray.training.epoch import Epoch, schedule, selection_value
from cxr_ray.training.loop import compile_member
from cxr_ray.training.validation import macro_auroc
from cxr_ray.training.workers import Worker
from tests.training.squares import a_plan, fit_squares, parts, tensors, tiny_member


def test_schedule_rises_then_falls_to_zero():
    factors = [schedule(step, num_steps=100, warmup=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)


def test_selection_value_undefined_metric_falls_back_to_the_loss():
    epoch = Epoch(0, 1.0, 0.4, 0.7, 0.3, 1e-3, 1.0, 1.0, 0.0, False)
    assert [selection_value(epoch, name) for name in ("macro_auroc", "map", "loss")] == [0.7, 0.3, -0.4]
    undefined = Epoch(0, 1.0, 0.4, math.nan, math.nan, 1e-3, 1.0, 1.0, 0.0, False)
    assert [selection_value(undefined, name) for name in ("macro_auroc", "map", "loss")] == [-0.4] * 3


def test_fit_learns_what_can_be_learnt(shards):
    epochs, states = fit_squares(shards, a_plan(epochs=6))
    assert [epoch.number for epoch in epochs] == list(range(6))
    assert epochs[-1].train_loss < epochs[0].train_loss
    finding_a = states[-1]["best_logits"].numpy()[:, :1]
    assert macro_auroc(open_part(shards, "validation").labels[:, :1], finding_a) == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"optimizer": "adam", "weight_decay": 0.0},
        {"mixup": 0.2},
        {"ema": 0.9},
        {"compute": {"channels_last": False, "accumulate": 3}},
        {"loss": {"name": "w_cel"}, "sampler": "class_aware"},
    ],
    ids=str,
)
def test_fit_learns_with_every_option(shards, settings):
    _, states = fit_squares(shards, a_plan(epochs=8, **settings))
    finding_a = states[-1]["best_logits"].numpy()[:, :1]
    assert macro_auroc(open_part(shards, "validation").labels[:, :1], finding_a) >= 0.9


def test_fit_best_is_the_epoch_of_the_selected_metric(shards):
    for selection, column, sign in (
        ("macro_auroc", "macro_auroc", 1),
        ("map", "map", 1),
        ("loss", "validation_loss", -1),
    ):
        epochs, states = fit_squares(shards, a_plan(epochs=4, selection=selection))
        values = [sign * getattr(epoch, column) for epoch in epochs]
        assert states[-1]["best_epoch"] == int(np.argmax(values))
        assert states[-1]["best_value"] == max(values)


def test_fit_average_is_what_is_validated_and_kept(shards):
    _, states = fit_squares(shards, a_plan(epochs=1, ema=0.9))
    state = states[-1]
    assert all(torch.equal(state["best_weights"][name], tensor) for name, tensor in state["average"].items())
    assert not all(torch.equal(state["weights"][name], tensor) for name, tensor in state["average"].items())
    judged = tiny_member()
    judged.load_state_dict(state["average"])
    validation = open_part(shards, "validation")
    with torch.no_grad():
        logits = judged.eval()(torch.from_numpy(validation.pixels(range(len(validation)))))
    torch.testing.assert_close(state["best_logits"], logits)


def test_fit_patience_stops_early(shards):
    epochs, states = fit_squares(shards, a_plan(epochs=50, learning_rate=1e-7, patience=2))
    assert len(epochs) < 50
    assert epochs[-1].number - states[-1]["best_epoch"] == 2


def test_fit_patience_small_gains_do_not_count(shards):
    epochs, states = fit_squares(shards, a_plan(epochs=9, patience=2, min_delta=10.0, selection="loss"))
    assert [epoch.number for epoch in epochs] == [0, 1, 2]
    assert states[-1]["best_epoch"] > 0, "the best is kept all the same"


def test_fit_second_stage_moves_the_classifier_alone(shards):
    epochs, states = fit_squares(shards, a_plan(epochs=2, second_stage={"epochs": 3}))
    assert [epoch.number for epoch in epochs] == list(range(5))
    first, last = states[1], states[-1]
    moved = {name for name, tensor in last["weights"].items() if not torch.equal(tensor, first["best_weights"][name])}
    assert moved == {"backbone.fc.weight", "backbone.fc.bias"}
    assert last["best_epoch"] >= 2


def test_fit_frozen_convolutions_stay(shards):
    started = {name: tensor.clone() for name, tensor in tiny_member().state_dict().items()}
    _, states = fit_squares(shards, a_plan(epochs=1, freeze=0.3))
    moved = {name for name, tensor in states[-1]["weights"].items() if not torch.equal(tensor, started[name])}
    assert "backbone.conv1.weight" not in moved
    assert {"backbone.bn1.weight", "backbone.fc.weight", "backbone.layer4.0.conv2.weight"} <= moved


def test_fit_label_that_breaks_the_gradient_names_the_batch(shards):
    data = parts(shards)
    data["train"].labels[3, 0] = math.inf
    with pytest.raises(ConfigError, match=r"gradient is not finite in epoch 1, step \d, with .*/004[,;]"):
        fit_squares(shards, a_plan(), data=data)


def test_fit_nan_weights_name_the_whole_batch_before_the_next_checkpoint(shards):
    member = tiny_member()
    member.backbone.get_parameter("fc.weight").data.fill_(math.nan)
    with pytest.raises(ConfigError, match=r"epoch 1, step 1, with (/\d+, ){7}/\d+; look at these images"):
        fit_squares(shards, a_plan(compute={"checkpoint_steps": 1}), member=member)


def test_fit_fp16_steps_that_the_scaler_leaves_out_are_no_failure(shards):
    """A scale at which any gradient overflows: the scaler halves it, and the weights wait."""
    plan = a_plan(epochs=1, precision="fp16", compute={"checkpoint_steps": 1})
    _, states = fit_squares(shards, plan, stop_after=1)
    scaled = {**states[0], "step": 0, "scaler": {**states[0]["scaler"], "scale": 2.0**120}}
    _, resumed = fit_squares(shards, plan, resume=scaled)
    assert resumed[0]["scaler"]["scale"] == 2.0**119
    assert torch.equal(resumed[0]["weights"]["backbone.fc.weight"], states[0]["weights"]["backbone.fc.weight"])


def test_fit_fp16_scaler_that_finds_no_scale_ends_in_a_sentence(shards):
    """The gradient of one weight is infinite at any scale: all steps would be left out, to the end of the run."""
    member = tiny_member()
    member.backbone.get_parameter("fc.weight").register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ConfigError, match=r"overflows fp16 at every scale, down to \de-05 in epoch \d, step \d; take"):
        fit_squares(shards, a_plan(epochs=50, precision="fp16"), member=member)


def test_fit_logits_that_are_not_finite_name_epoch_and_images(shards):
    """Training goes on in batch statistics, and validation meets running ones that are broken."""
    member = tiny_member()
    member.backbone.get_buffer("bn1.running_var").fill_(-1.0)
    member.backbone.get_submodule("bn1").momentum = 0.0
    words = r"The logits are not finite in the validation part after epoch 1, with /000, /005, .*/035; lower optimize"
    with pytest.raises(ConfigError, match=words):
        fit_squares(shards, a_plan(), member=member)


def test_fit_validation_of_one_class_chooses_by_the_loss_and_says_so(shards):
    data, said = parts(shards), []
    data["validation"].labels[:] = np.where(np.isnan(data["validation"].labels), np.nan, 0.0)
    epochs, states = fit_squares(shards, a_plan(epochs=4), data=data, say=said.append)
    assert all(math.isnan(epoch.macro_auroc) for epoch in epochs)
    assert states[-1]["best_epoch"] == int(np.argmin([epoch.validation_loss for epoch in epochs]))
    assert states[-1]["best_weights"] is not None
    assert said == [
        "No finding of the validation part is stated both present and absent: macro_auroc is undefined, and the loss"
        " chooses the best epoch."
    ]
    fit_squares(shards, a_plan(epochs=1, selection="loss"), data=data, say=said.append)
    fit_squares(shards, a_plan(epochs=1), say=said.append)
    assert len(said) == 1


def test_fit_largest_seed_is_small_enough_for_all_that_is_made_of_it(shards):
    largest = replace(a_plan(sampler="class_aware", mixup=0.4, second_stage={"epochs": 1}), seed=LARGEST_SEED * 1_000)
    epochs, _ = fit_squares(shards, largest, member=tiny_member(drop_rate=0.5))
    assert len(epochs) == 3


def test_fit_more_workers_than_images_in_a_batch_is_refused(shards):
    with pytest.raises(ConfigError, match="9 workers share batches of 8 images; lower"):
        fit_squares(shards, a_plan(), worker=Worker(0, 9))


@pytest.mark.slow
def test_compile_member_that_fails_goes_on_with_one_sentence():
    said: list[str] = []
    member = tiny_member()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        compile_member(member, "cpu", say=said.append)
    torch._dynamo.reset()
    assert len(said) == 1
    assert "No working C++ compiler found" in said[0]
    assert said[0].endswith("going on without it.")
    assert member(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler for the CPU")
def test_fit_compiled_member_takes_the_steps_of_an_eager_one(shards):
    said: list[str] = []
    member, steps = tiny_member(), {"epochs": 1, "batch_size": 16, "views": {"rotation": 0.0}}
    eager, before = fit_squares(shards, a_plan(**steps))
    compiled, after = fit_squares(shards, a_plan(**steps, compute={"compile": True}), member=member, say=said.append)
    assert said == []
    assert member._compiled_call_impl is not None
    assert compiled[0].train_loss == pytest.approx(eager[0].train_loss, abs=1e-5)
    assert compiled[0].validation_loss == pytest.approx(eager[0].validation_loss, abs=1e-4)
    torch.testing.assert_close(after[-1]["best_logits"], before[-1]["best_logits"], rtol=0.0, atol=1e-3)


def test_fit_state_holds_nothing_but_numbers_and_cpu_tensors(shards):
    _, states = fit_squares(shards, a_plan(epochs=1))
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors(states[0]).values())
