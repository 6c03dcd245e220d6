"""Items that end their process or never return: each costs one `Died`, in bounded time, and nothing else."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cxr_ray.images.isolation import Died, deadline, each_in_a_child


class UnpicklableError(Exception):
    """Holds what no process can hand to another."""

    def __init__(self) -> None:
        super().__init__("of a kind")
        self.lock = threading.Lock()


class OneWayError(Exception):
    """Can be pickled, but not made again of what is pickled."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} {where}")


def misbehave(item: str, *, seconds: float) -> str:
    """What the bytes of a file may make a codec do."""
    with deadline(seconds):
        if item == "abort":
            os.abort()
        elif item == "overrun":
            ctypes.string_at(0)
        elif item == "hang":
            ctypes.CDLL(None).sleep(3600)  # gives the interpreter back to other threads
        elif item == "hang on the interpreter":
            ctypes.PyDLL(None).sleep(3600)  # as a codec that keeps the interpreter to itself
        elif item == "leave":
            os._exit(3)
        elif item == "print":
            print("a codec's remark")
            os.write(1, b"and another\n")
        elif item == "bug":
            raise ZeroDivisionError(item)
        elif item == "unpicklable bug":
            raise UnpicklableError
        elif item == "one-way bug":
            raise OneWayError("of a", "kind")
        elif item == "unpicklable result":
            return lambda: item
        elif item == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif item.startswith("killed once"):
            marker = Path(item.split(":")[1])
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()


def test_each_in_a_child_good_items_results_in_order():
    assert list(each_in_a_child(misbehave, ["a", "print", "c"], {"seconds": 60.0})) == ["A", "PRINT", "C"]


def test_each_in_a_child_no_items_nothing():
    assert list(each_in_a_child(misbehave, [], {"seconds": 60.0})) == []


@pytest.mark.parametrize(
    ("poison", "died"),
    [
        ("abort", Died(timed_out=False, signal_number=signal.SIGABRT)),
        ("overrun", Died(timed_out=False, signal_number=signal.SIGSEGV)),
        ("leave", Died(timed_out=False, signal_number=None)),
        ("hang", Died(timed_out=True, signal_number=signal.SIGALRM)),
        ("hang on the interpreter", Died(timed_out=True, signal_number=signal.SIGALRM)),
    ],
)
def test_each_in_a_child_poison_costs_itself_only_in_bounded_time(poison, died):
    started = time.monotonic()
    found = list(each_in_a_child(misbehave, ["a", poison, "c", poison], {"seconds": 0.3}))
    assert found == ["A", died, "C", died]
    assert time.monotonic() - started < 30.0


def test_each_in_a_child_bug_raised_as_it_is_and_says_where():
    with pytest.raises(ZeroDivisionError, match="bug") as caught:
        list(each_in_a_child(misbehave, ["a", "bug"], {"seconds": 60.0}))
    assert "In a child process" in caught.value.__notes__[0]
    assert "in misbehave" in caught.value.__notes__[0]


@pytest.mark.parametrize(("item", "name"), [("unpicklable bug", "UnpicklableError"), ("one-way bug", "OneWayError")])
def test_each_in_a_child_bug_that_does_not_survive_pickling_raised_in_words(item, name):
    with pytest.raises(RuntimeError, match=rf"(?s)in misbehave.*{name}: of a kind"):
        list(each_in_a_child(misbehave, ["a", item], {"seconds": 60.0}))


def test_each_in_a_child_result_that_cannot_be_pickled_is_a_bug_and_no_death():
    with pytest.raises(Exception, match=r"pickle.*lambda"):
        list(each_in_a_child(misbehave, ["unpicklable result"], {"seconds": 60.0}))


def test_each_in_a_child_killed_from_outside_once_tried_again(tmp_path):
    item = f"killed once:{tmp_path}/marker"
    assert list(each_in_a_child(misbehave, ["a", item, "c"], {"seconds": 60.0})) == ["A", item.upper(), "C"]


def test_each_in_a_child_killed_from_outside_twice_died():
    died = Died(timed_out=False, signal_number=signal.SIGKILL)
    assert list(each_in_a_child(misbehave, ["a", "killed", "c"], {"seconds": 60.0})) == ["A", died, "C"]


# The standard library leaves its end of the pipe open when the child ends before it was written to.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_each_in_a_child_that_cannot_begin_is_no_fault_of_an_item(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="before it began"):
        list(each_in_a_child(misbehave, ["a" * 100] * 3000, {"seconds": 60.0}))


def test_deadline_kept_no_alarm_left():
    with deadline(60.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] != pytest.approx(60.0, abs=5.0)


def test_deadline_missed_ends_the_process_by_the_alarm():
    code = "from cxr_ray.images.isolation import deadline\nwith deadline(0.1):\n while True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGALRM
