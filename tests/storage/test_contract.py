"""The one door to storage, with the same expectations of local files, of moto and of Ceph."""

import io
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from cxr_ray import storage
from cxr_ray.errors import Fault, StorageError


def test_put_and_get_bytes_come_back_and_are_listed(folder):
    names = ["a.png", "b/with blank.png", "b/ünïcode%20.png", "50% +&=?#.png", "b/%2F%.png", "b/\u0065\u0301.png"]
    for number, name in enumerate(names):
        storage.put(storage.join(folder, name), bytes([number]) * (number + 1))
    listed = list(storage.list_objects(folder))
    assert sorted(item.uri for item in listed) == sorted(storage.join(folder, name) for name in names)
    assert sorted(item.size for item in listed) == [1, 2, 3, 4, 5, 6]
    assert {item.uri: item.version for item in listed} == {
        uri: storage.stat(uri).version for uri in [item.uri for item in listed]
    }
    for number, name in enumerate(names):
        assert storage.get(storage.join(folder, name)) == bytes([number]) * (number + 1)


def test_stat_changed_object_has_another_version(folder):
    uri = storage.join(folder, "a")
    storage.put(uri, b"one")
    first = storage.stat(uri)
    if not storage.is_remote(uri):
        os.utime(uri, ns=(1, 1))
    storage.put(uri, b"two")
    second = storage.stat(uri)
    assert first.version != second.version
    listed = next(storage.list_objects(uri))
    assert (listed.uri, listed.version, listed.size) == (uri, second.version, 3)


def test_list_objects_prefix_is_a_whole_name(folder):
    storage.put(storage.join(folder, "day1/a"), b"x")
    storage.put(storage.join(folder, "day10/a"), b"x")
    found = [item.uri for item in storage.list_objects(storage.join(folder, "day1"))]
    assert found == [storage.join(folder, "day1/a")]


def test_get_absent_object_is_not_found(folder):
    storage.put(storage.join(folder, "a"), b"x")
    with pytest.raises(StorageError) as caught:
        storage.get(storage.join(folder, "b"))
    assert caught.value.fault is Fault.NOT_FOUND
    assert storage.join(folder, "b") in caught.value.detail


def test_list_objects_absent_prefix_is_not_found_unless_allowed(folder):
    with pytest.raises(StorageError, match="There is nothing at"):
        list(storage.list_objects(storage.join(folder, "absent")))
    assert list(storage.list_objects(storage.join(folder, "absent"), missing_ok=True)) == []


def test_exists_and_delete(folder):
    uri = storage.join(folder, "a")
    assert not storage.exists(uri)
    storage.put(uri, b"x")
    assert storage.exists(uri)
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_filesystem_reads_what_put_wrote(folder):
    uri = storage.join(folder, "deep/a.bin")
    storage.put(uri, b"parquet")
    filesystem, path = storage.filesystem(uri)
    with filesystem.open_input_file(path) as file:
        assert file.read() == b"parquet"


def test_put_folder_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot be written \((Not a directory|File exists)\)"):
        storage.put(str(tmp_path / "file" / "x"), b"data")


def test_put_readers_never_see_half_a_file(tmp_path):
    uri, sizes, done = str(tmp_path / "a"), set(), threading.Event()
    storage.put(uri, b"0" * 1_000_000)

    def read() -> None:
        while not done.is_set():
            sizes.add(len(storage.get(uri)))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        storage.put(uri, b"1" * 2_000_000)
    done.set()
    reader.join()
    assert sizes <= {1_000_000, 2_000_000}
    assert [item.uri for item in storage.list_objects(str(tmp_path))] == [uri]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/a", "b", "c"), "/a/b/c"),
        (("/a/", "b"), "/a/b"),
        (("/a", "/b"), "/b"),
        (("s3://x/y", "z"), "s3://x/y/z"),
        (("/a", "s3://x/y"), "s3://x/y"),
    ],
)
def test_join_absolute_parts_stand_alone(parts, expected):
    assert storage.join(*parts) == expected


def test_ranged_file_any_seek_and_read_same_bytes_as_a_file(folder):
    whole = bytes(range(256)) * 40
    uri = f"{folder}/whole.bin"
    storage.put(uri, whole)
    reader, expected = io.BufferedReader(storage.RangedFile(uri, len(whole)), buffer_size=97), io.BytesIO(whole)
    for offset, whence, length in ((0, 0, 10), (5_000, 0, 300), (-7, 2, 50), (-20, 1, 5), (len(whole) + 3, 0, 4)):
        assert reader.seek(offset, whence) == expected.seek(offset, whence)
        assert reader.read(length) == expected.read(length)
    assert storage.get_range(uri, len(whole) + 5, 10) == b""


def test_get_range_of_an_absent_object_not_found(folder):
    with pytest.raises(StorageError) as caught:
        storage.get_range(f"{folder}/absent", 0, 4)
    assert caught.value.fault is Fault.NOT_FOUND


def test_get_more_bytes_than_wanted_too_large_and_the_next_read_works(folder):
    storage.put(f"{folder}/large.bin", bytes(10_000))
    storage.put(f"{folder}/small.bin", b"small")
    for _ in range(70):  # more often than there are connections in the pool
        with pytest.raises(StorageError, match=r"limits\.object_bytes = 9999") as caught:
            storage.get(f"{folder}/large.bin", max_bytes=9_999)
    assert caught.value.fault is Fault.TOO_LARGE
    assert storage.get(f"{folder}/small.bin", max_bytes=5) == b"small"


def test_list_and_get_local_name_that_is_no_utf_8_escaped_and_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    for name, content in ((b"/f\xe9vrier.dcm", b"old"), (b"/plain\\xe9.dcm", b"literal")):
        with open(folder + name, "wb") as file:
            file.write(content)
    listed = list(storage.list_objects(str(tmp_path)))
    assert [item.uri for item in listed] == [
        f"{tmp_path}/M\\xfcller/f\\xe9vrier.dcm",
        f"{tmp_path}/M\\xfcller/plain\\xe9.dcm",
    ]
    assert storage.get(listed[0].uri) == b"old"
    assert storage.stat(listed[0].uri) == listed[0]
    listed[0].uri.encode()


def test_list_objects_and_stat_tell_age_in_utc_and_the_standard_class_is_none(folder):
    before = datetime.now(UTC) - timedelta(seconds=2)
    storage.put(f"{folder}/a", b"x")
    (listed,) = storage.list_objects(folder)
    stated = storage.stat(f"{folder}/a")
    for item in (listed, stated):
        assert item.modified is not None
        assert item.modified.utcoffset() == timedelta(0)
        assert before <= item.modified <= datetime.now(UTC) + timedelta(seconds=2)
        assert item.storage_class is None


def test_get_and_get_range_another_version_by_now_changed(folder):
    uri = f"{folder}/a"
    storage.put(uri, b"first")
    listed = storage.stat(uri)
    assert storage.get(uri, version=listed.version) == b"first"
    assert storage.get_range(uri, 1, 2, version=listed.version) == b"ir"
    storage.put(uri, b"the second")
    for read in (
        lambda: storage.get(uri, version=listed.version),
        lambda: storage.get_range(uri, 1, 2, version=listed.version),
        lambda: storage.RangedFile(uri, 5, version=listed.version).read(3),
    ):
        with pytest.raises(StorageError) as caught:
            read()
        assert caught.value.fault is Fault.CHANGED
        assert "the next run scores it" in caught.value.detail
    assert storage.get(uri) == b"the second"


def test_get_object_without_bytes_is_empty(folder):
    storage.put(f"{folder}/empty", b"")
    (listed,) = storage.list_objects(folder)
    assert listed.size == 0
    assert storage.get(listed.uri, version=listed.version) == b""
    assert storage.get_range(listed.uri, 0, 10) == b""
    assert list(storage.fetch([(listed.uri, listed.version, 0)])) == [b""]


@pytest.mark.parametrize("server", ["s3", "ceph_bucket"])
def test_get_keys_no_file_system_has_come_back_as_they_are(request, server):
    folder = request.getfixturevalue(server)
    keys = ["double//slash", "../up", "./here", "a/../b", "/leading", "trailing. ", "%2e%2e/x"]
    for number, key in enumerate(keys):
        storage.put(f"{folder}/{key}", bytes([number]))
    listed = {item.uri: item for item in storage.list_objects(folder)}
    assert sorted(listed) == sorted(f"{folder}/{key}" for key in keys)
    items = [(f"{folder}/{key}", listed[f"{folder}/{key}"].version, 1) for key in keys]
    assert list(storage.fetch(items)) == [bytes([number]) for number in range(len(keys))]


@pytest.mark.parametrize("server", ["s3", "ceph_bucket"])
def test_list_objects_bucket_that_does_not_exist_not_found(request, server):
    request.getfixturevalue(server)
    with pytest.raises(StorageError, match="NoSuchBucket, after 1 attempt") as caught:
        list(storage.list_objects("s3://no-such-bucket/x"))
    assert caught.value.fault is Fault.NOT_FOUND


@pytest.mark.parametrize("server", ["s3", "ceph_bucket"])
def test_list_objects_more_than_a_page_all_once(request, server):
    folder = request.getfixturevalue(server)
    for number in range(7):
        storage.put(f"{folder}/{number}", b"x")
    pages = [
        [item["Key"].rpartition("/")[2] for item in page["Contents"]]
        for page in storage.s3.pages(f"{folder}/", MaxKeys=3)
    ]
    assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
