"""Many objects at a time: in order, within the budgets, with each fault in its place, and no thread left behind."""

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from cxr_ray import storage
from cxr_ray.config import StorageConfig, StoreConfig
from cxr_ray.errors import Fault, StorageError
from tests.storage.faulty import FaultyProxy


def stored(folder: str, sizes: list[int], *, seed: int = 0) -> dict[str, bytes]:
    """Objects of these sizes by their uris, put there."""
    draw = random.Random(seed)
    objects = {f"{folder}/film {number:03}.png": draw.randbytes(size) for number, size in enumerate(sizes)}
    for uri, data in objects.items():
        storage.put(uri, data)
    return objects


def listed(folder: str) -> list[storage.Item]:
    """The objects there, in order of uri."""
    found = sorted(storage.list_objects(folder), key=lambda item: item.uri)
    return [(item.uri, item.version, item.size) for item in found]


def fetching_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cxr-ray-fetch")]


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_endpoint, latency=0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.configure(StorageConfig(pause_seconds=0.01))
        storage.forget_clients()
        yield proxy


def test_fetch_in_order_with_each_fault_in_its_place(folder):
    objects = stored(folder, [40_000, 0, 1, 200_000, 7, 30_000])
    items = listed(folder)
    storage.delete(items[2][0])
    storage.put(items[4][0], b"replaced since")
    found = list(storage.fetch(items, max_bytes=150_000))
    whole = list(objects.values())
    assert [found[place] for place in (0, 1, 5)] == [whole[place] for place in (0, 1, 5)]
    faults = {place: answer.fault for place, answer in enumerate(found) if isinstance(answer, StorageError)}
    assert faults == {2: Fault.NOT_FOUND, 3: Fault.TOO_LARGE, 4: Fault.CHANGED}
    assert items[2][0] in found[2].detail


def test_fetch_local_file_written_to_without_growing_changed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    items = listed(str(tmp_path))
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    (found,) = storage.fetch(items)
    assert isinstance(found, StorageError)
    assert found.fault is Fault.CHANGED


def test_fetch_size_unknown_and_any_version(folder):
    (data,) = stored(folder, [5_000]).values()
    ((uri, _, _),) = listed(folder)
    assert list(storage.fetch([(uri, "", None)] * 3)) == [data] * 3
    (found,) = storage.fetch([(uri, "", None)], max_bytes=4_999)
    assert isinstance(found, StorageError)
    assert found.fault is Fault.TOO_LARGE


def test_fetch_nothing_gives_nothing():
    assert list(storage.fetch([])) == []


def test_fetch_as_many_requests_in_flight_as_configured(proxy, s3):
    objects = stored(s3, [1_000] * 30)
    storage.configure(StorageConfig(requests_in_flight=7))
    proxy.most_in_flight = 0
    assert list(storage.fetch(listed(s3))) == list(objects.values())
    assert proxy.most_in_flight == 7


@pytest.mark.parametrize(("budget", "at_a_time"), [(1_000, 1), (3_500, 3), (10_000, 8)])
def test_fetch_bytes_in_flight_bounded_and_a_larger_object_alone(proxy, s3, budget, at_a_time):
    sizes = [1_000] * 8 + [9_999] + [1_000] * 8
    objects = stored(s3, sizes)
    storage.configure(StorageConfig(bytes_in_flight=budget, requests_in_flight=8))
    proxy.most_in_flight = 0
    assert list(storage.fetch(listed(s3))) == list(objects.values())
    assert proxy.most_in_flight == at_a_time


def test_fetch_what_the_consumer_has_not_taken_counts(proxy, s3):
    stored(s3, [1_000] * 12)
    items = listed(s3)
    storage.configure(StorageConfig(bytes_in_flight=4_000))
    fetched = storage.fetch(items)
    next(fetched)
    time.sleep(0.5)  # long enough for all of them, if nothing held them back
    assert sum(proxy.attempts(f"bucket/archive/film {number:03}.png") for number in range(12)) == 4
    fetched.close()


def test_fetch_goes_on_while_the_consumer_works(proxy, s3):
    stored(s3, [1_000] * 12)
    fetched = storage.fetch(listed(s3))
    next(fetched)
    deadline = time.monotonic() + 10
    while sum(proxy.attempts(f"bucket/archive/film {number:03}.png") for number in range(12)) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fetched.close()


def test_fetch_stopped_early_asks_no_more_and_leaves_no_thread(proxy, s3):
    stored(s3, [1_000] * 40)
    items = listed(s3)
    proxy.plan.update(
        dict.fromkeys((f"bucket/archive/film {number:03}.png" for number in range(1, 40)), ["slow_down"] * 99)
    )
    storage.configure(StorageConfig(requests_in_flight=4, pause_seconds=60.0))
    fetched = storage.fetch(items)
    next(fetched)
    started = time.monotonic()
    fetched.close()
    assert time.monotonic() - started < 5  # and not a minute's pause
    assert fetching_threads() == []
    asked = len(proxy.requests)
    time.sleep(0.2)
    assert len(proxy.requests) == asked


def test_fetch_through_faults_every_byte_right(proxy, s3):
    objects = stored(s3, [20_000] * 40)
    items = listed(s3)
    proxy.share_of_faults = 0.3
    assert list(storage.fetch(items)) == list(objects.values())
    assert proxy.faults.total() >= 8


def test_faulty_proxy_same_requests_meet_the_same_faults(s3, s3_endpoint, monkeypatch):
    stored(s3, [100] * 20)
    items = listed(s3)
    met = []
    for in_flight in (1, 8):
        with FaultyProxy(s3_endpoint, share_of_faults=0.4, seed=3, delay=0.0) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            storage.configure(StorageConfig(requests_in_flight=in_flight, pause_seconds=0.01))
            storage.forget_clients()
            list(storage.fetch(items))
            met.append(sorted((request.key, request.fault) for request in proxy.requests if request.fault))
    assert met[0] == met[1]
    assert len({fault for _, fault in met[0]}) > 2


def test_fetch_rate_of_an_endpoint_capped_and_shared_with_other_processes(proxy, s3):
    stored(s3, [10] * 20)
    items = listed(s3)
    store = StoreConfig(endpoint=proxy.url, requests_per_second=16)
    storage.configure(StorageConfig(stores=(store,)), share=0.5)
    started = time.monotonic()
    list(storage.fetch(items))
    assert time.monotonic() - started > (20 - 1 - 1) / 8  # a tenth of a second's worth may come at once
