"""Images on their way in: fetched while others are decoded, each fault in its place, the deadline as ever."""

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_ray import storage
from cxr_ray.config import LimitsConfig, PreprocessConfig, StorageConfig, StoreConfig
from cxr_ray.errors import Fault
from cxr_ray.images.intake import Decoded, Intake, decode_images, decode_one
from cxr_ray.images.packed import archives
from tests.storage.faulty import FaultyProxy

INTAKE = Intake(PreprocessConfig(size=64), LimitsConfig(object_bytes=100_000))


@pytest.fixture(autouse=True)
def _as_configured() -> Iterator[None]:
    archives.forget_archives()
    yield
    storage.configure(StorageConfig())


def png(seed: int) -> bytes:
    """A film that is all noise."""
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (70, 90), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def packed(films: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in films.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def archive_of_all_kinds(folder: str) -> list[storage.Item]:
    """Films, one of them in two parts, and everything that may have happened since they were listed."""
    objects = {f"film {number}.png": png(number) for number in range(6)}
    objects |= {
        "empty.png": b"",
        "half.png": png(9)[:700],
        "large.png": bytes(100_001),
        "night.tar": packed({"in.png": png(7)}),
    }
    for name, data in objects.items():
        storage.put(f"{folder}/{name}", data)
    items: list[storage.Item] = []
    for found in sorted(storage.list_objects(folder), key=lambda item: item.uri):
        uri = f"{found.uri}!/in.png" if found.uri.endswith(".tar") else found.uri
        items.append((uri, found.version, found.size))
    storage.delete(f"{folder}/film 1.png")
    storage.put(f"{folder}/film 4.png", png(4) + b"more")
    return items


EXPECTED = {
    "film 1.png": Fault.NOT_FOUND,
    "film 4.png": Fault.CHANGED,
    "empty.png": Fault.EMPTY_FILE,
    "half.png": Fault.CORRUPT,
    "large.png": Fault.TOO_LARGE,
}


def faults_of(found: list[Decoded]) -> dict[str, Fault]:
    return {Path(image.uri).name: image.fault for image in found if image.fault}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "archive") if request.param == "local" else str(request.getfixturevalue("s3"))


def test_decode_images_alone_in_a_store_that_only_the_settings_know(s3, s3_endpoint, monkeypatch):
    storage.put(f"{s3}/a.png", png(1))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage.configure(StorageConfig(stores=(StoreConfig(prefix=s3, endpoint=s3_endpoint),)))
    (found,) = decode_images([(f"{s3}/a.png", "", None)], INTAKE, alone=True)
    assert found.fault_detail is None


@pytest.mark.parametrize("alone", [False, True])
def test_decode_images_same_as_one_by_one_with_each_fault_in_its_place(folder, alone):
    items = archive_of_all_kinds(folder)
    found = list(decode_images(items, INTAKE, alone=alone))
    assert [(image.uri, image.object_version) for image in found] == [item[:2] for item in items]
    assert faults_of(found) == EXPECTED
    for image in found:
        single = decode_one(image.uri, image.object_version, INTAKE)
        assert (image.fault, image.fault_detail) == (single.fault, single.fault_detail)
        if image.pixels is not None:
            np.testing.assert_array_equal(image.pixels, single.pixels)
    assert sum(image.pixels is not None for image in found) == 5


def test_decode_images_archive_replaced_after_listing_its_members_are_changed(folder):
    uri = f"{folder}/night.tar"
    storage.put(uri, packed({"a.png": png(1), "b.png": png(2)}))
    version = storage.stat(uri).version
    items = [(f"{uri}!/{name}.png", version, 1) for name in "ab"]
    first = next(iter(decode_images(items, INTAKE, alone=False)))
    assert first.fault is None  # the directory is in memory now
    storage.put(uri, packed({"a.png": png(3), "b.png": png(4), "c.png": png(5)}))
    assert {image.fault for image in decode_images(items, INTAKE, alone=False)} == {Fault.CHANGED}
    archives.forget_archives()
    assert {image.fault for image in decode_images(items, INTAKE, alone=False)} == {Fault.CHANGED}


def test_decode_images_fetching_goes_on_while_decoding(s3, s3_endpoint, monkeypatch):
    for number in range(12):
        storage.put(f"{s3}/film {number:02}.png", png(number))
    items = [(item.uri, item.version, item.size) for item in storage.list_objects(s3)]
    with FaultyProxy(s3_endpoint, latency=0.02) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        decoded = decode_images(items, INTAKE, alone=False)
        next(decoded)
        until = time.monotonic() + 10
        while len(proxy.requests) < 12:  # nobody asks for the next image meanwhile
            assert time.monotonic() < until
            time.sleep(0.01)
        rest = list(decoded)
    assert len(rest) == 11
    assert sum(image.fetch_seconds for image in rest) < 0.02 * 11  # they were there when they were wanted


def test_decode_images_faults_of_storage_in_their_rows_with_code_and_attempts(s3, s3_endpoint, monkeypatch):
    for number in range(4):
        storage.put(f"{s3}/{number}.png", png(number))
    items = [(item.uri, item.version, item.size) for item in storage.list_objects(s3)]
    plan = {
        "bucket/archive/1.png": ["slow_down"] * 9,
        "bucket/archive/2.png": ["forbidden"],
        "bucket/archive/3.png": ["reset"],
    }
    with FaultyProxy(s3_endpoint, plan=plan) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.configure(StorageConfig(pause_seconds=0.01, retries=2))
        storage.forget_clients()
        found = list(decode_images(items, INTAKE, alone=False))
    assert [image.fault for image in found] == [None, Fault.STORAGE_UNAVAILABLE, Fault.ACCESS_DENIED, None]
    assert "(SlowDown, after 3 attempts)" in str(found[1].fault_detail)
    assert "(AccessDenied, after 1 attempt)" in str(found[2].fault_detail)


DECODE_TOO_LONG = """
import sys
from cxr_ray import storage
from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.images import intake
from cxr_ray.images.intake import Intake, decode_images

def stuck(*_, **__):
    while True:
        pass

intake.read_header = stuck
items = [(item.uri, item.version, item.size) for item in storage.list_objects(sys.argv[1])]
list(decode_images(items, Intake(PreprocessConfig(), LimitsConfig(decode_seconds=1.0)), alone=False))
"""


def test_decode_images_deadline_holds_while_others_are_fetched(s3, s3_endpoint):
    for number in range(3):
        storage.put(f"{s3}/{number}.png", png(number))
    plan = {f"bucket/archive/{number}.png": ["silence"] for number in (1, 2)}
    with FaultyProxy(s3_endpoint, plan=plan) as proxy:
        environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.url}
        command = [sys.executable, "-c", DECODE_TOO_LONG, s3]
        done = subprocess.run(command, env=environment, timeout=60, check=False, capture_output=True)
    assert done.returncode == -14, done.stderr.decode()  # SIGALRM
