"""Work on untrusted bytes that may end the process or never return: the culprit is named, the rest is done.

Codecs are C and Rust: a damaged file can make one abort, overrun the stack or loop for ever, and no `except` helps.
Doing every image in a process of its own would cost each of them a tenth of its time. So the first attempt runs where
it is, under an alarm that ends the process when one image takes too long; whoever runs the tasks (Ray) repeats the
task of a process that died, and only that second attempt comes here, where a child does one item after the other and
is replaced when it dies. Good files pay for two system calls. Knows nothing of Ray, images or faults.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

_READY = (False, "ready")


@dataclass(frozen=True, slots=True)
class Died:
    """What came of an item that ended its process; `signal_number` is None where the process left by itself."""

    timed_out: bool
    signal_number: int | None


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process when the block takes longer than `seconds`.

    By SIGALRM and its default action, in the kernel: a Python handler, or a thread, would wait for the interpreter
    that the codec holds. An alarm that was set before is put back as it was.
    """
    before, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, before, interval)


def each_in_a_child(
    function: Callable[..., Any], items: Sequence[Any], arguments: Mapping[str, Any]
) -> Iterator[Any | Died]:
    """`function(item, **arguments)` of every item, in order, or `Died`; a new child after each death.

    `function` is one of a module's own, items, arguments and results can be pickled, and time limits are its own
    affair (`deadline`). An exception that it raises is raised here. An item whose child is killed from outside
    (SIGKILL, the kernel's way of getting memory back) is tried once more. Raises ChildProcessError where a child does
    not come so far as to begin, which no item is to blame for.
    """
    rest, killed = list(items), 0
    while rest:
        answered = 0
        with _child(function, arguments, rest) as process:
            answers = _answers(process)
            if next(answers, None) != _READY:
                raise ChildProcessError(f"A child of {sys.executable} ended with {process.wait()} before it began.")
            for failed, result in answers:
                answered += 1
                if failed:
                    raise result
                yield result
            code = process.wait()
        killed = killed + 1 if code == -signal.SIGKILL and answered == 0 else int(code == -signal.SIGKILL)
        if killed == 1:  # by the kernel for want of memory, most likely, and not for what this item is
            rest = rest[answered:]
            continue
        if answered < len(rest):
            yield Died(timed_out=code == -signal.SIGALRM, signal_number=-code if code < 0 else None)
        rest = rest[answered + 1 :]


@contextmanager
def _child(
    function: Callable[..., Any], arguments: Mapping[str, Any], items: list[Any]
) -> "Iterator[subprocess.Popen[bytes]]":
    """A fresh interpreter that has its work and answers on its standard output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdin is not None
        work = (function.__module__, function.__qualname__, dict(arguments), items)
        with suppress(BrokenPipeError):  # it died before: what it answers, nothing, says so
            pickle.dump(work, process.stdin)
            process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _answers(process: "subprocess.Popen[bytes]") -> Iterator[tuple[bool, Any]]:
    """What the child says of one item after the other, until it ends: whether it raised, and the result."""
    assert process.stdout is not None
    while True:
        try:
            yield pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError):  # the latter: it died while it was writing
            return


def _serve(given: BinaryIO, answers: BinaryIO) -> None:
    """The child: apply the function to each item and answer at once."""
    module, name, arguments, items = pickle.load(given)
    function = getattr(importlib.import_module(module), name)
    pickle.dump(_READY, answers)
    answers.flush()
    for item in items:
        try:
            answer = (False, function(item, **arguments))
        except Exception as error:  # handed to the parent, which raises it
            answer = (True, error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    # Codecs print on standard output; the answers keep the pipe, and everything else goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _serve(sys.stdin.buffer, answers)
