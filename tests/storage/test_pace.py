"""The token bucket, by a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.storage.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    rate=st.floats(0.5, 2000),
    steps=st.lists(st.floats(0, 0.5), min_size=1, max_size=60),
)
def test_reserve_whoever_asks_never_more_than_rate_and_burst_in_any_window(rate, steps):
    clock, used = Clock(), []
    pace = Pace(rate, clock)
    for step in steps:
        clock.now += step
        used.append(clock.now + pace.reserve())
    assert used == sorted(used)
    for first in range(len(used)):
        for last in range(first, len(used)):
            assert last - first + 1 <= rate * (used[last] - used[first] + 0.1) + 1 + 1e-6


def test_reserve_steady_demand_is_served_at_the_rate():
    clock = Clock()
    pace = Pace(50, clock)
    for _ in range(200):
        clock.now += pace.reserve()
    assert clock.now - 100.0 == pytest.approx(199 / 50 - 0.1, abs=1 / 50)
