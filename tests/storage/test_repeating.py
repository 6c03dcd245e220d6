"""What passes is asked for again, what lasts is said at once, and how often is part of the sentence."""

import random
import socket
import time
from collections.abc import Iterator
from itertools import product

import boto3
import pytest

from cxr_ray import storage
from cxr_ray.config import StorageConfig, StoreConfig
from cxr_ray.errors import Fault, StorageError
from tests.storage.faulty import PASSING, FaultyProxy

PATIENT = StorageConfig(pause_seconds=0.01, read_seconds=1.0, connect_seconds=1.0)
KEY = "bucket/archive/film"
DATA = random.Random(0).randbytes(300_000)


@pytest.fixture
def through(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the bucket, whose plan the test fills in; the object is there already."""
    storage.put(f"{s3}/film", DATA)
    with FaultyProxy(s3_endpoint, delay=0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.configure(PATIENT)
        storage.forget_clients()
        yield proxy


@pytest.mark.parametrize("fault", [*PASSING, "too_many", "bad_gateway", "limit_exceeded", "lost_answer", "silence"])
def test_get_what_passes_asked_again_and_whole(through, s3, fault):
    through.plan[KEY] = [fault]
    assert storage.get(f"{s3}/film") == DATA
    assert through.attempts(KEY) == (1 if fault == "delay" else 2)


@pytest.mark.parametrize("fault", ["slow_down", "reset", "truncated", "corrupted"])
def test_get_what_does_not_pass_said_with_code_and_attempts(through, s3, fault):
    through.plan[KEY] = [fault] * 9
    with pytest.raises(StorageError, match=r"cannot be read \(\w.*, after 5 attempts\); .*\.$") as caught:
        storage.get(f"{s3}/film")
    assert caught.value.fault is Fault.STORAGE_UNAVAILABLE
    assert through.attempts(KEY) == 5
    if fault == "slow_down":
        assert caught.value.detail == (
            f"{s3}/film cannot be read (SlowDown, after 5 attempts); set requests_per_second for {through.url} in"
            " storage.stores, or fewer requests_in_flight."
        )


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        ("forbidden", Fault.ACCESS_DENIED, "AccessDenied, after 1 attempt"),
        ("archived", Fault.ARCHIVED, "InvalidObjectState, DEEP_ARCHIVE, after 1 attempt.*restore it"),
        ("bad_request", Fault.STORAGE_UNAVAILABLE, "InvalidArgument, after 1 attempt"),
    ],
)
def test_get_what_lasts_said_at_once(through, s3, fault, expected, words):
    through.plan[KEY] = [fault] * 3
    with pytest.raises(StorageError, match=words) as caught:
        storage.get(f"{s3}/film")
    assert caught.value.fault is expected
    assert through.attempts(KEY) == 1


@pytest.mark.parametrize("fault", ["wrong_region", "moved"])
def test_get_bucket_in_another_region_names_the_region_to_set(through, s3, fault):
    through.plan[KEY] = [fault] * 9
    with pytest.raises(StorageError, match=r"set region: eu-central-1 in storage\.stores") as caught:
        storage.get(f"{s3}/film")
    assert caught.value.fault is Fault.ACCESS_DENIED


def test_get_object_in_glacier_archived_with_its_class(s3):
    client = boto3.client("s3")
    client.put_object(Bucket="bucket", Key="archive/old", Body=b"x", StorageClass="GLACIER")
    client.close()
    (listed,) = storage.list_objects(s3)
    assert listed.storage_class == "GLACIER"
    with pytest.raises(StorageError, match=r"InvalidObjectState, GLACIER, after 1 attempt") as caught:
        storage.get(listed.uri, version=listed.version)
    assert caught.value.fault is Fault.ARCHIVED


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        *product(("list", "stat", "range", "put", "delete"), ("slow_down", "reset", "lost_answer")),
        *product(("list", "range"), ("truncated",)),
    ],
)
def test_every_verb_passing_fault_asked_again(through, s3, verb, fault):
    through.plan.update({key: [fault, fault] for key in (KEY, "bucket")})
    does = {
        "list": lambda: [item.uri for item in storage.list_objects(s3)] == [f"{s3}/film"],
        "stat": lambda: storage.stat(f"{s3}/film").size == len(DATA),
        "range": lambda: storage.get_range(f"{s3}/film", 7, 1000) == DATA[7:1007],
        "put": lambda: storage.put(f"{s3}/film", b"new") is None,
        "delete": lambda: storage.delete(f"{s3}/film") is None,
    }
    assert does[verb]()
    assert through.faults[fault] == 2


def test_get_endpoint_that_refuses_connections_named_in_one_sentence(s3):
    with socket.socket() as taken:  # bound but not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        storage.configure(StorageConfig(stores=(StoreConfig(endpoint=endpoint),), pause_seconds=0.01))
        with pytest.raises(StorageError, match="EndpointConnectionError, after 5 attempts") as caught:
            storage.get("s3://bucket/a")
    assert caught.value.fault is Fault.STORAGE_UNAVAILABLE
    assert endpoint in caught.value.detail
    assert caught.value.detail.count(". ") == 0


def test_get_endpoint_that_takes_connections_and_says_nothing_bounded(s3):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"stores": (StoreConfig(endpoint=endpoint),), "read_seconds": 0.2, "retries": 2}
        storage.configure(StorageConfig(**settings, pause_seconds=0.01))
        started = time.monotonic()
        with pytest.raises(StorageError, match=f"ReadTimeoutError, after 3 attempts.*{endpoint}"):
            next(storage.list_objects("s3://bucket/a"))
        assert time.monotonic() - started < 5


def test_get_no_credentials_says_where_to_put_them(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage.forget_clients()
    with pytest.raises(StorageError, match=r"NoCredentialsError, after 1 attempt\); set AWS_ACCESS_KEY_ID") as caught:
        storage.get(f"{s3}/a")
    assert caught.value.fault is Fault.ACCESS_DENIED


def test_get_wrong_secret_denied_by_ceph(ceph_bucket, monkeypatch):
    storage.put(f"{ceph_bucket}/a", b"x")
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        storage.forget_clients()
        with pytest.raises(StorageError, match="SignatureDoesNotMatch, after 1 attempt") as caught:
            storage.get(f"{ceph_bucket}/a")
    storage.forget_clients()
    assert caught.value.fault is Fault.ACCESS_DENIED
    assert "not-the-secret" not in str(caught.value)


def test_pauses_grow_and_are_drawn_between_none_and_all(through, s3, monkeypatch):
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or 0.0)
    storage.configure(StorageConfig(retries=8, pause_seconds=0.5))
    storage.forget_clients()
    through.plan[KEY] = ["slow_down"] * 8
    assert storage.get(f"{s3}/film") == DATA
    assert asked == [(0.0, min(20.0, 0.5 * 2**number)) for number in range(8)]
