"""How far a run is: rates over the last minute, time left, and the narrowest stage."""

import pytest

from cxr_ray.scoring.progress import Progress, bottleneck


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def summary(scored: int, **faults: int) -> dict:
    return {
        "scored": scored,
        "faulted": sum(faults.values()),
        "faults": faults,
        "seconds": {"fetch": 1.0, "decode": 2.0, "ensemble": 3.0, "write": 0.5},
        "images_per_pass": 32,
        "was_reduced": False,
        "syntaxes": {"1.2.840.10008.1.2.1": [scored, 0.25]},
    }


def test_progress_rate_is_that_of_the_last_minute():
    clock = Clock()
    progress = Progress(todo=10_000, clock=clock)
    assert progress.rates() == {}
    assert progress.seconds_left() is None
    for second in range(0, 301, 5):  # 2 images/s for four minutes, then 10
        clock.now = 1_000.0 + second
        through = 2 * second if second <= 240 else 480 + 10 * (second - 240)
        progress.told({"fetch": through + 64, "decode": through + 32, "ensemble": through})
    assert progress.rates()["ensemble"] == pytest.approx(10.0)
    progress.written(summary(900, corrupt=80))
    assert (progress.done, progress.left) == (980, 9_020)
    assert progress.seconds_left() == pytest.approx(902.0)
    assert progress.to_dict()["faults"] == {"corrupt": 80}
    assert "980 of 10,000 images written (80 faulted), 1,080 through the ensemble, 10.0 images/s" in progress.line()


def test_progress_nothing_moves_says_no_time():
    clock = Clock()
    progress = Progress(todo=10, clock=clock)
    for _ in range(3):
        clock.now += 5
        progress.told({"ensemble": 4})
    assert progress.rates()["ensemble"] == 0.0
    assert progress.seconds_left() is None


def test_bottleneck_is_the_stage_that_takes_longest_on_its_slots():
    seconds = {"fetch": 100.0, "decode": 900.0, "ensemble": 400.0, "write": 5.0}
    many_cpus = {"fetch": 32.0, "decode": 32.0, "ensemble": 1.0, "write": 32.0}
    few_cpus = {"fetch": 2.0, "decode": 2.0, "ensemble": 1.0, "write": 2.0}
    assert bottleneck(seconds, many_cpus)[0] == "ensemble"
    assert "GPUs" in bottleneck(seconds, many_cpus)[1]
    assert bottleneck(seconds, few_cpus)[0] == "decode"
    assert "CPUs" in bottleneck(seconds, few_cpus)[1]
    assert "network" in bottleneck({**seconds, "fetch": 2_000.0}, few_cpus)[1]
    assert bottleneck({}, few_cpus) == (None, None)
