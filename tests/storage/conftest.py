"""Where the tests of storage keep their objects: a folder, moto, and Ceph where it is installed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cxr_ray import storage
from cxr_ray.config import StorageConfig
from tests.storage import ceph


@pytest.fixture(autouse=True)
def _as_configured() -> Iterator[None]:
    """Whatever a test configures ends with it."""
    yield
    storage.configure(StorageConfig())


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[str]:
    if not ceph.is_installed():
        pytest.skip("Ceph is not installed (ceph-mon ceph-osd radosgw ceph-common)")
    with tempfile.TemporaryDirectory(prefix="ceph-", dir="/tmp") as folder, ceph.gateway(Path(folder)) as endpoint:
        yield endpoint


@pytest.fixture
def ceph_bucket(ceph_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket in Ceph, reached through the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": ceph_endpoint,
        "AWS_ACCESS_KEY_ID": ceph.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": ceph.SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    storage.forget_clients()
    client = boto3.Session().client("s3")  # the default session remembers other credentials
    client.create_bucket(Bucket="bucket")
    yield "s3://bucket/archive"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    client.delete_bucket(Bucket="bucket")
    client.close()
    storage.forget_clients()


@pytest.fixture(params=["local", "moto", "ceph"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for objects: the same is expected of all three."""
    if request.param == "local":
        return str(tmp_path / "archive")
    return str(request.getfixturevalue("s3" if request.param == "moto" else "ceph_bucket"))
