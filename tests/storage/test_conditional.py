"""Conditional writes: of many writers one wins, on every storage, and a store that ignores conditions is refused."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_ray import storage
from cxr_ray.config import StorageConfig
from cxr_ray.errors import ConfigError
from tests.storage.faulty import FaultyProxy

WRITERS = 12
ATOMIC = pytest.mark.parametrize("folder", ["local", "ceph"], indirect=True)  # moto looks first and writes later


def at_once(write: Callable[[int], str | None]) -> list[str | None]:
    """What each of the writers gets who all begin together."""
    start = threading.Barrier(WRITERS)

    def one(number: int) -> str | None:
        start.wait()
        return write(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(one, range(WRITERS)))


def test_create_and_replace_only_what_is_known(folder):
    uri = f"{folder}/deep/lease.json"
    first = storage.create(uri, b"one")
    assert first == storage.stat(uri).version
    assert storage.create(uri, b"two") is None
    assert storage.get(uri) == b"one"
    second = storage.replace(uri, b"three", first)
    assert second == storage.stat(uri).version
    assert second != first
    assert storage.replace(uri, b"four", first) is None
    assert storage.get(uri) == b"three"
    storage.delete(uri)
    assert storage.replace(uri, b"five", second) is None
    assert not storage.exists(uri)
    assert list(storage.list_objects(folder, missing_ok=True)) == []


@ATOMIC
def test_create_many_at_once_one_wins_and_its_bytes_are_there(folder):
    for turn in range(4):
        uri = f"{folder}/lease-{turn}"
        versions = at_once(lambda number, uri=uri: storage.create(uri, b"%d" % number))
        (winner,) = [number for number, version in enumerate(versions) if version]
        assert storage.get(uri) == b"%d" % winner
        assert storage.stat(uri).version == versions[winner]


@ATOMIC
def test_replace_many_at_once_one_wins_and_its_bytes_are_there(folder):
    uri = f"{folder}/lease"
    version = storage.create(uri, b"first")
    for turn in range(4):  # in each its own bytes: an ETag is their digest, and would be that of a turn before
        versions = at_once(
            lambda number, turn=turn, version=version: storage.replace(uri, b"%d-%02d" % (turn, number), version)
        )
        (winner,) = [number for number, got in enumerate(versions) if got]
        assert storage.get(uri) == b"%d-%02d" % (turn, winner)
        version = versions[winner]
        assert storage.stat(uri).version == version


def test_replace_local_versions_only_go_forward_whatever_the_clock_says(tmp_path):
    """Two writes of one size within a tick of the clock, or after it was set back, must not look the same."""
    uri = tmp_path / "lease"
    storage.create(str(uri), b"0")
    ahead = uri.stat().st_mtime_ns + 10**10
    os.utime(uri, ns=(ahead, ahead))
    version, times = storage.stat(str(uri)).version, [ahead]
    for number in range(20):
        version = storage.replace(str(uri), b"%d" % (number % 10), version)
        times.append(uri.stat().st_mtime_ns)
        assert version == f"1-{times[-1]}"
    assert sorted(set(times)) == times


def test_create_local_folder_full_of_hidden_files_lists_the_lease_only(tmp_path):
    uri = str(tmp_path / "lease")
    version = storage.create(uri, b"a")
    storage.create(uri, b"b")
    storage.replace(uri, b"c", version)
    assert [item.uri for item in storage.list_objects(str(tmp_path))] == [uri]
    assert {name for name in os.listdir(tmp_path) if name.endswith(".partial")} == set()


def test_create_local_without_hard_links_still_one_wins(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "lease")
    versions = at_once(lambda number: storage.create(uri, b"%d" % number))
    (winner,) = [number for number, version in enumerate(versions) if version]
    assert Path(uri).read_bytes() == b"%d" % winner


@pytest.mark.parametrize("fault", ["lost_answer", "internal_error", "conflict", "slow_down"])
def test_create_and_replace_answer_lost_or_refused_at_first_known_as_done(s3, s3_endpoint, monkeypatch, fault):
    storage.configure(StorageConfig(pause_seconds=0.01))
    plan = {"PUT bucket/archive/lease": [fault, None, fault]}
    with FaultyProxy(s3_endpoint, plan=plan) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        version = storage.create(f"{s3}/lease", b"mine")
        assert version == storage.stat(f"{s3}/lease").version
        second = storage.replace(f"{s3}/lease", b"mine, renewed", version)
        assert second == storage.stat(f"{s3}/lease").version
        assert storage.get(f"{s3}/lease") == b"mine, renewed"
        assert proxy.faults[fault] == 2


def test_create_answer_lost_and_another_was_first_refused(s3, s3_endpoint, monkeypatch):
    storage.configure(StorageConfig(pause_seconds=0.01))
    storage.put(f"{s3}/lease", b"another's")
    with FaultyProxy(s3_endpoint, plan={"bucket/archive/lease": ["lost_answer"]}) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        assert storage.create(f"{s3}/lease", b"mine") is None
    assert proxy.attempts("bucket/archive/lease", "PUT") == 2


@pytest.mark.parametrize(("header", "named"), [("if-none-match", "If-None-Match"), ("if-match", "If-Match")])
def test_create_store_that_ignores_conditions_refused_before_the_lease_is_touched(
    s3, s3_endpoint, monkeypatch, header, named
):
    storage.put(f"{s3}/lease", b"another's")
    with FaultyProxy(s3_endpoint, ignored_headers=[header]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        for write in (
            lambda: storage.create(f"{s3}/lease", b"mine"),
            lambda: storage.replace(f"{s3}/lease", b"mine", storage.stat(f"{s3}/lease").version),
        ):
            with pytest.raises(ConfigError, match=f"does not heed {named} on PUT"):
                write()
        assert storage.get(f"{s3}/lease") == b"another's"
    assert proxy.attempts("bucket/archive/lease", "PUT") == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    storage.forget_clients()
    assert [item.uri for item in storage.list_objects(s3)] == [f"{s3}/lease"]
