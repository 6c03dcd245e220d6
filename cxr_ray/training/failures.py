"""The end of a member that Ray Train gave up: the first cause among its workers' errors, as one sentence of ours.

When one worker fails the others fail with it, in the collective they were waiting in; what they say is no cause. Starts
nothing and asks nothing of a cluster.
"""

import errno

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.exceptions import PreemptionError

from cxr_ray.errors import CxrRayError, TrainingError
from cxr_ray.models import device

_MOST_QUOTED = 300  # characters of another program's message
_COLLECTIVE = ("gloo", "nccl", "processgroup", "process group")
"""What a worker whose partner is gone speaks of."""
_LESS_MEMORY = (
    "lower optimize.batch_size, raise compute.accumulate, or take fewer compute.workers or compute.parallel_members on"
    " a node"
)


def explained(error: TrainingFailedError | RayError, name: str) -> CxrRayError:
    """Why the member `name` was given up: the workers' own error where it is one of ours, else one sentence."""
    cause = first_cause(error)
    if isinstance(cause, CxrRayError):
        return cause
    quoted = quotation(cause)
    if is_out_of_memory(cause):
        what, remedy = f"a worker ran out of memory ({quoted})", _LESS_MEMORY
    elif isinstance(cause, OSError):
        what = f"a worker could not read or write ({quoted})"
        remedy = "check the space and the permissions of --output and of the temporary folder on every node"
    elif isinstance(cause, PreemptionError):
        what, remedy = f"its nodes were taken away ({quoted})", "give the same command again to continue"
    elif _died(cause):
        what = "a worker's process or node died without a word, most often killed for lack of memory"
        remedy = f"{_LESS_MEMORY}, or raise compute.max_failures where nodes come and go"
    else:
        what = f"the first error was {quoted}"
        remedy = "--debug shows where; the same command continues from the last checkpoint"
    return TrainingError(f"Member {name} could not be trained: {what}; {remedy}.")


def first_cause(error: BaseException) -> BaseException:
    """What is most likely the cause among the errors that Ray wrapped in one another, and those of several workers."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        causes = [first_cause(error.worker_failures[rank]) for rank in sorted(error.worker_failures)]
        return min(causes, key=_distance)
    if isinstance(error, ControllerError):
        return first_cause(error.controller_failure)
    # What Ray Train calls the death of a worker that it noticed, by an attribute because the class is its own affair.
    beneath = getattr(error, "health_check_failure", None)
    if isinstance(beneath, BaseException):
        return first_cause(beneath)
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return first_cause(error.cause)
    return error


def _distance(error: BaseException) -> int:
    """How far an error is from being the cause of the others, 0 for the nearest."""
    kinds = (
        isinstance(error, CxrRayError),
        is_out_of_memory(error),
        not isinstance(error, RayError) and not _is_collective(error),
        isinstance(error, RayError),
    )
    return kinds.index(True) if any(kinds) else len(kinds)


def _died(error: BaseException) -> bool:
    """Whether a process ended under Ray, other than by an error of its own that Ray passed on."""
    crashed = isinstance(error, RayActorError) and not error.actor_init_failed
    return crashed or isinstance(error, WorkerCrashedError | NodeDiedError)


def _is_collective(error: BaseException) -> bool:
    """Whether a worker only says that it lost another one."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _COLLECTIVE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch, the operating system or Ray's memory monitor is about memory."""
    return (
        device.is_out_of_memory(error)
        or isinstance(error, OutOfMemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def quotation(error: BaseException) -> str:
    """The type of an error and its message in one line, shortened."""
    # Ray appends what matters to a traceback.
    text = str(error).strip().rpartition("\n")[2] if isinstance(error, RayError) else str(error)
    said = " ".join(text.split())
    shortened = said if len(said) <= _MOST_QUOTED else f"{said[:_MOST_QUOTED]} ..."
    return f"{type(error).__name__}: {shortened}" if said else type(error).__name__
