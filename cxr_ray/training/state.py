"""What a checkpoint holds: everything by which a fit goes on as if it had never stopped.

A state is a dictionary of plain numbers and CPU tensors, so that it loads with `weights_only`. Random numbers are not
in it: they depend on seed, epoch and step.

    digest                        of the settings it belongs to
    stage, stage_start            number of the stage, and of its first epoch
    epoch, step                   where the fit goes on: epochs done, and steps done in the next one
    loss_sum, num_stated, num_images, seconds: of that epoch so far, over all workers
    weights, average              of the network, and their moving average or None
    optimizer, scaler             their own states
    best_value, best_epoch, best_weights, best_logits
    anchor_value, anchor_epoch    the last gain that counted for early stopping
    history                       one mapping per epoch
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.training.step import Tools, bare

State = dict[str, Any]
_FILE = "state.pt"


def first_state(digest: str) -> State:
    """The state of a fit that has not begun, without weights."""
    return {
        "digest": digest,
        "stage": 0,
        "history": [],
        "weights": None,
        "average": None,
        "epoch": 0,
        **_nothing_done(0),
    }


def next_stage(state: State) -> State:
    """The state in which the next stage begins: with the best weights of `state`, and with no best of its own."""
    return {
        **state,
        **_nothing_done(state["epoch"]),
        "stage": state["stage"] + 1,
        "weights": state["best_weights"],
        "average": None,
    }


def _nothing_done(epoch: int) -> State:
    """The part of a state that begins anew with each stage."""
    return {
        "stage_start": epoch,
        **no_steps(),
        "optimizer": None,
        "scaler": None,
        "best_value": -math.inf,
        "best_epoch": epoch - 1,
        "best_weights": None,
        "best_logits": None,
        "anchor_value": -math.inf,
        "anchor_epoch": epoch - 1,
    }


def no_steps() -> State:
    """The part of a state that begins anew with each epoch."""
    return {"step": 0, "loss_sum": 0.0, "num_stated": 0, "num_images": 0, "seconds": 0.0}


def snapshot(state: State, tools: Tools, average: nn.Module | None, **changes: Any) -> State:
    """`state` with what the network, its average, the optimizer and the scaler hold now, copied, and with `changes`."""
    return {
        **state,
        "weights": kept(bare(tools.network).state_dict()),
        "average": None if average is None else kept(average.state_dict()),
        "optimizer": kept(tools.optimizer.state_dict()),
        "scaler": tools.scaler.state_dict(),
        **changes,
    }


def restore(state: State, tools: Tools, average: nn.Module | None) -> None:
    """Put what `state` holds back into the network, its average, the optimizer and the scaler, in place.

    A state in which a stage has not begun holds nothing but the weights, which are not touched.
    """
    if state["optimizer"] is None:
        return
    bare(tools.network).load_state_dict(state["weights"])
    tools.optimizer.load_state_dict(state["optimizer"])
    tools.scaler.load_state_dict(state["scaler"])
    if average is not None:
        average.load_state_dict(state["average"])


def kept(value: Any) -> Any:
    """A copy of nested dictionaries and lists with their tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: kept(item) for key, item in value.items()}
    return [kept(item) for item in value] if isinstance(value, list | tuple) else value


def write_state(folder: str, state: State) -> None:
    """Write the one file of a checkpoint into a local folder. Raises StorageError when it cannot be written."""
    try:
        torch.save(state, Path(folder, _FILE))
    except (OSError, RuntimeError) as error:  # torch's own writer knows RuntimeError only, also for a full disk
        raise StorageError(
            Fault.STORAGE_UNAVAILABLE,
            f"A checkpoint cannot be written to the temporary folder {folder} ({type(error).__name__}); free some space"
            " there, or name another folder with TMPDIR.",
        ) from error


def read_state(folder: str) -> State:
    """Read a checkpoint from a local folder."""
    state: State = torch.load(Path(folder, _FILE), weights_only=True, map_location="cpu")
    return state


def check_state(state: State, digest: str) -> State:
    """The state itself. Raises ConfigError when it belongs to other settings."""
    if state["digest"] != digest:
        raise ConfigError(
            f"The checkpoint was made with other settings ({state['digest']}, now {digest}); give another --output, or"
            " remove the folder `runs` below it."
        )
    return state
