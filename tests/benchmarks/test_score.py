"""The rate of the scoring benchmark is the true one, however the images of a run are batched."""

import argparse
import time
from collections.abc import Sequence
from types import ModuleType

import pytest

RATE = 15.0


def done_at(num_images: int, *, first: int, workers: int = 1, start: float = 7.0) -> list[float]:
    """When images are done by workers of RATE together: a batch of `first`, then of 16, each of them done at once."""
    sizes = [first, *[16] * (num_images // 16 + 1)]
    free, times = [start + 16 * worker / RATE for worker in range(workers)], list[float]()
    for size in sizes:
        size = min(size, num_images - len(times))
        worker = free.index(min(free))
        free[worker] += size * workers / RATE
        times += [free[worker]] * size
    return sorted(times)


@pytest.mark.parametrize("first", [16, 4])
@pytest.mark.parametrize(("num_images", "workers"), [(64, 1), (300, 1), (1000, 1), (1000, 2)])
def test_steady_rate_of_an_even_run_is_its_rate_whatever_the_batches(
    score: ModuleType, num_images: int, workers: int, first: int
):
    times = done_at(num_images, first=first, workers=workers)
    assert len(times) == num_images
    assert score.steady_rate(times) == pytest.approx(RATE, rel=0.02)


def test_steady_rate_leaves_out_a_slow_beginning_and_a_slow_end(score: ModuleType):
    middle = done_at(1000, first=16, start=60.0)
    times = [5.0] * 16 + middle + [middle[-1] + 90.0] * 16
    assert score.steady_rate(times) == pytest.approx(RATE, rel=0.02)


def test_steady_rate_of_one_batch_is_refused(score: ModuleType):
    with pytest.raises(ValueError, match="16 images were done at 1 times"):
        score.steady_rate([3.0] * 16)


def test_ratios_of_rounds_that_slow_both_alike_are_those_of_the_rounds(score: ModuleType):
    of_medians, of_rounds = score.ratios([9.0, 4.5, 18.0], [10.0, 5.0, 16.0])
    assert of_medians == pytest.approx(0.9)
    assert of_rounds == pytest.approx(0.9)
    of_medians, of_rounds = score.ratios([9.0, 5.0, 2.0], [12.0, 5.0, 1.0])
    assert (of_medians, of_rounds) == (1.0, 1.0)
    of_medians, of_rounds = score.ratios([8.0, 6.0, 1.0], [10.0, 2.0, 4.0])
    assert of_medians == pytest.approx(1.5)
    assert of_rounds == pytest.approx(0.8)


def test_in_turn_every_way_comes_before_and_after_every_other_one(score: ModuleType):
    ways = ("bare", "local", "ray")
    orders: list[Sequence[str]] = [score.in_turn(ways, number) for number in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(ways)
    for one in ways:
        for other in set(ways) - {one}:
            assert (orders[0].index(one) < orders[0].index(other)) != (orders[1].index(one) < orders[1].index(other))


def test_ways_of_names_that_are_none_are_refused(score: ModuleType):
    known = "bare,bare-maps,ray,ray-maps,local,local-maps,local-onnx,local-maps-onnx,local-bf16,local-maps-bf16"
    assert score.ways_of(known + ",timm,script") == (*known.split(","), "timm", "script")
    for wrong in ("bare-onnx", "local-onnx-maps", "timm-maps", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="a way is one of"):
            score.ways_of(f"bare,{wrong}")


def test_watch_looks_at_memory_no_more_often_than_it_may(score: ModuleType):
    with score.Watch(every=0.01, most=1e-9) as watch:
        while len(watch.samples) < 6:
            time.sleep(0.01)
    seen = [sample.pss is not None for sample in watch.samples]
    assert (seen[0], seen[1], seen[-1]) == (True, True, True)
    assert not any(seen[2:-1])


def test_watch_gives_the_peak_and_the_last_sample_until_a_time(score: ModuleType):
    watch = score.Watch()
    mib = 2**20
    watch.samples = [
        score.Sample(moment, cpu, pss * mib) for moment, cpu, pss in [(0.0, 5.0, 0), (10.0, 25.0, 70), (20.0, 35.0, 30)]
    ]
    assert watch.cpu_seconds() == 30.0
    assert watch.cpu_seconds(5.0, 15.0) == 15.0
    assert (watch.peak(), watch.peak(end=5.0), watch.peak(start=15.0)) == (70.0, 0.0, 30.0)
    assert (watch.held(19.0), watch.held(25.0)) == (70.0, 30.0)
