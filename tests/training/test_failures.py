"""Which of several workers' errors is the cause, and the sentence that is made of it."""

import errno

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from cxr_ray.errors import Fault, StorageError, TrainingError
from cxr_ray.training.failures import explained, first_cause

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
BUG = TypeError("unsupported operand")
FULL = OSError(errno.ENOSPC, "No space left on device")


def group(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("", dict(enumerate(errors)))


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ((LOST, BUG), 1),
        ((BUG, LOST), 0),
        ((ActorDiedError(), BUG), 1),
        ((LOST, ActorDiedError()), 1),
        ((LOST, OutOfMemoryError("low")), 1),
        ((BUG, torch.OutOfMemoryError("CUDA out of memory.")), 1),
        ((LOST, RuntimeError("expected a tensor")), 1),
        ((LOST, LOST), 0),
    ],
)
def test_first_cause_is_no_consequence_of_another(errors, cause):
    assert first_cause(group(*errors)) is errors[cause]


def test_first_cause_is_found_inside_the_errors_that_ray_wraps_around_it():
    assert first_cause(ControllerError(group(LOST, BUG))) is BUG
    assert first_cause(ControllerError(RayTaskError("task", "traceback", BUG))) is BUG


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            r"ran out of memory \(OutOfMemoryError: CUDA out of memory\.\)",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), "ran out of memory"),
        (MemoryError(), r"ran out of memory \(MemoryError\); lower optimize.batch_size"),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "ran out of memory .*lower opt"),
        (FULL, r"could not read or write \(OSError: \[Errno 28\] No space left on device\); check the space and"),
        (ActorDiedError(), "process or node died without a word, most often killed for lack of memory; lower"),
        (BUG, "the first error was TypeError: unsupported operand; --debug shows where"),
        (ValueError("a\nb " + "x" * 1_000), r"ValueError: a b x{200,300} \.\.\.; --debug shows where"),
    ],
)
def test_explained_is_one_sentence_with_cause_and_remedy(error, words):
    found = explained(group(error), "a")
    assert isinstance(found, TrainingError)
    assert str(found).startswith("Member a could not be trained: ")
    assert "\n" not in str(found)
    with pytest.raises(TrainingError, match=words):
        raise found


def test_explained_our_own_error_is_itself():
    ours = StorageError(Fault.STORAGE_UNAVAILABLE, "The checkpoint cannot be written.")
    assert explained(group(LOST, ours), "a") is ours
