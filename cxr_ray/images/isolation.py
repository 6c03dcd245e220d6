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
import traceback
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
    child = None
    try:
        for item in items:
            child = child or Child(function, arguments)
            found = child.ask(item)
            if found == _KILLED:  # by the kernel for want of memory, most likely, and not for what this item is
                child.close()
                child = Child(function, arguments)
                found = child.ask(item)
            yield found
            if isinstance(found, Died):
                child.close()
                child = None
    finally:
        if child is not None:
            child.close()


_KILLED = Died(timed_out=False, signal_number=signal.SIGKILL)


class Child:
    """A fresh interpreter that applies one function to what it is given, one thing after the other.

    It ends when its parent does. Deaf to Ctrl-C and SIGTERM, which reach whole groups of processes: they are for the
    parent to answer.
    """

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        """Start it; `function` and `arguments` as for `each_in_a_child`."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with _blocked(signal.SIGINT, signal.SIGTERM):  # what is blocked stays so in the child
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        self._tell((function.__module__, function.__qualname__, dict(arguments)))
        self._began = False

    def ask(self, item: Any) -> Any | Died:
        """What the function makes of `item`, or how the child died of it. Raises what it raises, ChildProcessError."""
        self._began = self._began or self._answer() == _READY
        if not self._began:
            code = self._process.wait()
            self.close()
            raise ChildProcessError(f"A child of {sys.executable} ended with {code} before it began.")
        self._tell(item)
        answer = self._answer()
        if answer is None:
            code = self._process.wait()
            return Died(timed_out=code == -signal.SIGALRM, signal_number=-code if code < 0 else None)
        failed, result = answer
        if failed:
            raise result
        return result

    def kill(self) -> None:
        """End it, whatever it does; a thread that waits for its answer learns that it died."""
        self._process.kill()

    def close(self) -> None:
        """End it, and forget what it was told and has said."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it was not told any more
                    pipe.close()

    def _tell(self, what: Any) -> None:
        """Send it something; that it is dead shows when it does not answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()

    def _answer(self) -> tuple[bool, Any] | None:
        """The next thing it says: whether the function raised, and the result; None when it died."""
        assert self._process.stdout is not None
        try:
            answer: tuple[bool, Any] = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):  # the latter: it died while it was writing
            return None
        return answer


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Signals that come while the block runs are dealt with after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(given: BinaryIO, answers: BinaryIO) -> None:
    """The child: apply the function to each item as it comes, until there are no more."""
    module, name, arguments = pickle.load(given)
    function = getattr(importlib.import_module(module), name)
    pickle.dump(_READY, answers)
    answers.flush()
    while True:
        try:
            item = pickle.load(given)
        except (EOFError, pickle.UnpicklingError):  # the latter: the parent died while it was writing
            return
        try:
            answer = pickle.dumps((False, function(item, **arguments)))
        except Exception as error:  # handed to the parent, which raises it
            answer = pickle.dumps((True, _portable(error)))
        try:
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone, and a flush at the end would fail once more


def _portable(error: Exception) -> Exception:
    """An error as the parent can raise it, with where it comes from.

    One that does not survive pickling would end the child, and pass for a codec's crash: it goes in words.
    """
    text = traceback.format_exc()
    error.add_note(f"In a child process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an unknown class makes of it
        return RuntimeError(f"In a child process:\n{text}")
    return error


if __name__ == "__main__":
    # Codecs print on standard output; the answers keep the pipe, and everything else goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _serve(sys.stdin.buffer, answers)
