"""A listing in parts: every object in exactly one, on local files, on moto, and on a server that knows any key."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_ray import storage
from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage import Span
from tests.listing_server import LAST, ListingServer, etag

NASTY = [
    *("plain", "a b/c d.png", "a+b", "a%20b", "a%2Fb", "ümlaut/é", "日本/語.dcm", "a//b", "a//", "//", "/lead"),
    *(
        "x/../y",
        "./c",
        "..",
        "x\x01y",
        "x\ny",
        "nul\0x",
        "tab\ty",
        "q?x=1",
        "h#1",
        "a&b<c>",
        "\\x41",
        "folder/",
        "folder/in",
    ),
    *("folder", f"{LAST}z", f"{LAST}{LAST}z", f"x{LAST}", "tail ", " ", "~", "x" * 900),
]
CHARACTERS = st.sampled_from(["a", "b", "/", ".", " ", "%", "+", "\x01", "\n", "é", "語", LAST])
KEYS = st.lists(st.text(CHARACTERS, min_size=1, max_size=7), unique=True, min_size=1, max_size=40)


@pytest.fixture(scope="module")
def server() -> Iterator[ListingServer]:
    with ListingServer([]) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def bucket(server: ListingServer) -> Iterator[ListingServer]:
    """The server as the object store of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        storage.forget_clients()
        yield server
    storage.forget_clients()


def in_spans(uri: str, *, wanted: int, page: int = 1000) -> Counter[str]:
    """How often each uri lies in a span."""
    return Counter(
        item.uri for span in storage.spans(uri, wanted=wanted, page=page) for item in storage.list_span(span)
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=KEYS, wanted=st.integers(1, 12), page=st.integers(1, 5), below=st.sampled_from(["", "/a", "/a/", "/a/b"]))
def test_spans_any_keys_each_object_in_one_span(bucket, keys, wanted, page, below):
    bucket.keys = sorted(keys)
    uri = f"s3://bucket{below}"
    prefix = below.removeprefix("/")
    expected = {
        f"s3://bucket/{key}"
        for key in keys
        if (not prefix or key == prefix or key.startswith(f"{prefix.removesuffix('/')}/")) and not key.endswith("/")
    }
    nothing = not any(key == prefix or key.startswith(f"{prefix.removesuffix('/')}/") or not prefix for key in keys)
    if nothing:
        with pytest.raises(StorageError, match="There is nothing at"):
            storage.spans(uri, wanted=wanted, page=page)
    else:
        assert in_spans(uri, wanted=wanted, page=page) == Counter(expected)
    assert Counter(item.uri for item in storage.list_objects(uri, missing_ok=True)) == Counter(expected)


def test_spans_nasty_keys_on_an_independent_server(s3):
    client = boto3.client("s3")
    # moto cannot store a line break, nor list what follows a control character.
    keys = [key for key in NASTY if not any(character in key for character in "\x01\n\0\t")]
    for key in keys:
        client.put_object(Bucket="bucket", Key=key, Body=b"x")
    expected = {f"s3://bucket/{key}": 1 for key in keys if not key.endswith("/")}
    for page in (1, 3, 1000):
        assert in_spans("s3://bucket", wanted=30, page=page) == expected
    client.close()


def test_spans_nasty_keys_in_spans_of_every_size(bucket):
    bucket.keys = sorted(NASTY)
    expected = {f"s3://bucket/{key}": 1 for key in NASTY if not key.endswith("/")}
    for wanted in (1, 2, 9, 100):
        for page in (1, 2, 1000):
            assert in_spans("s3://bucket/", wanted=wanted, page=page) == expected


def test_spans_flat_prefix_cut_by_its_characters_behind_what_is_common(bucket):
    bucket.keys = [f"archive/2026/IMG{number:05d}.dcm" for number in range(3_000)]
    found = storage.spans("s3://bucket/archive", wanted=20)
    assert found == [Span(f"s3://bucket/archive/2026/IMG0{digit}") for digit in range(3)]  # a page each
    assert len(storage.spans("s3://bucket/archive", wanted=20, page=500)) == 30
    assert sum(in_spans("s3://bucket/archive", wanted=20).values()) == 3_000


def test_spans_folders_are_cut_level_by_level_and_no_further_than_wanted(bucket):
    bucket.keys = sorted(
        [f"site {site}/{day:02d}/{film}.dcm" for site in "ab" for day in range(5) for film in range(40)] + ["readme"]
    )
    two = storage.spans("s3://bucket", wanted=2)
    assert two == [Span("s3://bucket/", "direct"), Span("s3://bucket/site a/"), Span("s3://bucket/site b/")]
    bucket.requests = 0
    ten = storage.spans("s3://bucket", wanted=10)
    assert ten == [two[0], *(Span(f"s3://bucket/site {site}/{day:02d}/") for site in "ab" for day in range(5))]
    assert bucket.requests <= 5


def test_spans_few_objects_are_one_span(bucket):
    bucket.keys = ["a/1", "a/2"]
    assert storage.spans("s3://bucket/a", wanted=50) == [Span("s3://bucket/a/")]
    assert storage.spans("s3://bucket/a/1", wanted=50) == [Span("s3://bucket/a/1", "itself")]


def test_spans_store_that_lists_in_no_order_is_not_cut_by_characters(bucket):
    bucket.keys = sorted(f"{number:03d}" for number in range(300))
    ordered = bucket.page
    bucket.page = lambda prefix, delimiter, after, place, most: (  # the first key again, whatever was asked for
        ordered(prefix, delimiter, "", 0, most) if after else ordered(prefix, delimiter, after, place, most)
    )
    try:
        assert storage.spans("s3://bucket", wanted=9, page=100) == [Span("s3://bucket/")]
    finally:
        del bucket.page


def test_spans_nothing_there_not_found(bucket, tmp_path):
    bucket.keys = ["day10/a"]
    for uri in ("s3://bucket/day1", "s3://bucket/day10/a/", str(tmp_path / "absent")):
        with pytest.raises(StorageError, match="There is nothing at") as caught:
            storage.spans(uri, wanted=4)
        assert caught.value.fault is Fault.NOT_FOUND


def test_spans_local_folders_each_file_once_and_links_not_followed(tmp_path):
    for name in ("a.png", "x/b.png", "x/y/c.png", "x/y/d.png", "z/e.png", ".hidden/f.png", "x/.g.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    os.mkdir(os.fsencode(tmp_path) + b"/M\xfcller")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")) / "h.png").write_bytes(b"1")
    plain = Counter(item.uri for item in storage.list_objects(str(tmp_path)))
    assert len(plain) == 6
    for wanted in (1, 2, 4, 50):
        assert in_spans(str(tmp_path), wanted=wanted) == plain
    assert len(storage.spans(str(tmp_path), wanted=4)) >= 4
    assert in_spans(str(tmp_path / "a.png"), wanted=4) == {str(tmp_path / "a.png"): 1}


def test_list_span_objects_say_when_they_changed_and_how_they_are_stored(bucket, tmp_path):
    bucket.keys = ["a/1"]
    (span,) = storage.spans("s3://bucket/a", wanted=1)
    (item,) = storage.list_span(span)
    assert (item.version, item.size, item.storage_class) == (etag("a/1"), 8_000_003, None)
    assert item.modified == datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
    (tmp_path / "a").write_bytes(b"12")
    os.utime(tmp_path / "a", ns=(0, 1_790_000_000_000_000_000))
    (local,) = storage.list_span(Span(str(tmp_path / "a")))
    assert local.modified == datetime.fromtimestamp(1_790_000_000, UTC)
    assert local == storage.stat(local.uri)


def test_list_span_glacier_storage_class_is_told(s3):
    client = boto3.client("s3")
    client.put_object(Bucket="bucket", Key="archive/a", Body=b"x", StorageClass="GLACIER")
    (item,) = storage.list_span(Span("s3://bucket/archive/"))
    assert item.storage_class == storage.stat(item.uri).storage_class == "GLACIER"
    client.close()
