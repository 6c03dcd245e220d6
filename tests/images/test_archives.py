"""Members of archives, on local files and on S3: read rightly, or one fault; never an accident, never a lost file."""

import bz2
import gzip
import io
import os
import random
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import uid

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault, StorageError
from cxr_ray.images.dicom.reading import read_dicom
from cxr_ray.images.packed import members
from cxr_ray.images.packed.archives import absolute, fetch, forget_archives, open_archive

LIMITS = LimitsConfig()
FILES = {"b/IM0002": b"second" * 100, "IM0001": os.urandom(3000), "b/c/empty": b"", "a.png": bytes(1500)}
KINDS = ("zip", "tar", "tar.gz", "TGZ")
Contents = dict[str, bytes]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "archives") if request.param == "local" else str(request.getfixturevalue("s3"))


@pytest.fixture(autouse=True)
def forget() -> None:
    """S3 objects of one test have the uris and versions of those of another."""
    forget_archives()


def packed(kind: str, files: Contents | list[tuple[str, bytes]]) -> bytes:
    """The files as an archive of this kind, in the given order."""
    pairs = files if isinstance(files, list) else list(files.items())
    target = io.BytesIO()
    if kind == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, data in pairs:
                archive.writestr(name, data)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w" if kind == "tar" else "w:gz") as tar:
        for name, data in pairs:
            tar.addfile(tar_entry(name, size=len(data)), io.BytesIO(data))
    return target.getvalue()


def tar_entry(name: str, **attributes: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(entry, key, value)
    return entry


def stored(folder: str, kind: str, data: bytes) -> str:
    uri = f"{folder}/archive.{kind}"
    storage.put(uri, data)
    return uri


def read_all(uri: str, limits: LimitsConfig = LIMITS) -> Contents:
    """Every member by name, in the order of the archive."""
    version = storage.stat(uri).version
    found = open_archive(uri, version, limits).members
    ordered = sorted(found.values(), key=lambda member: member.place)
    return {member.name: fetch(members.join(uri, member.name), version, limits=limits) for member in ordered}


def fault_of(uri: str, limits: LimitsConfig = LIMITS) -> DecodeError | StorageError:
    """The fault of fetching this object, archive or member."""
    version = storage.stat(members.split(uri)[0]).version
    with pytest.raises((DecodeError, StorageError)) as caught:
        fetch(uri, version, limits=limits)
    assert members.split(uri)[0] in caught.value.detail
    return caught.value


@pytest.mark.parametrize(
    ("uri", "archive", "name"),
    [
        ("s3://b/a.zip!/folder/IM0001", "s3://b/a.zip", "folder/IM0001"),
        ("/d/a.TAR.GZ!/x.dcm", "/d/a.TAR.GZ", "x.dcm"),
        ("/d/a.tgz!/in.zip!/x", "/d/a.tgz", "in.zip!/x"),
        ("/d/a.tar!/line\nfeed\n", "/d/a.tar", "line\nfeed\n"),
        ("/d/a.zip", "/d/a.zip", None),
        ("/d/odd!/a.png", "/d/odd!/a.png", None),
        ("/d/a.zip/b!/c", "/d/a.zip/b!/c", None),
    ],
)
def test_split_uri_gives_archive_and_member(uri, archive, name):
    assert members.split(uri) == (archive, name)
    assert members.is_archive(uri) == (uri == "/d/a.zip")
    assert name is None or members.join(archive, name) == uri


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("./b/IM1", "b/IM1"),
        ("/etc/IM1", "etc/IM1"),
        ("b//IM1", "b/IM1"),
        ("../../IM1", "../../IM1"),
        (".DS_Store", ""),
        (".hidden/IM1", ""),
        ("__MACOSX/b/._IM1", ""),
        ("b\\IM1", "b\\IM1"),
        ("", ""),
    ],
)
def test_clean_name_names_candidates_without_needless_parts(name, clean):
    assert members.clean_name(name) == clean


def test_absolute_of_a_member_keeps_parents_in_its_name():
    assert absolute("/d/./a.zip!/../x") == "/d/a.zip!/../x"
    assert absolute("/d/./a.zip!/./x") == "/d/a.zip!/x"
    assert absolute("/d/./x") == "/d/x"


def test_absolute_of_hidden_members_tells_them_apart():
    assert absolute("/d/a.zip!/.x") == "/d/a.zip!/.x"


@pytest.mark.parametrize("kind", KINDS)
def test_read_every_member_same_bytes_as_packed(folder, kind):
    uri = stored(folder, kind, packed(kind.lower(), FILES))
    assert read_all(uri) == FILES
    version = storage.stat(uri).version
    sizes = {name: member.size for name, member in open_archive(uri, version, LIMITS).members.items()}
    assert sizes == {name: len(data) for name, data in FILES.items()}


def test_fetch_plain_object_its_bytes(folder):
    storage.put(f"{folder}/a.png", b"plain")
    assert fetch(f"{folder}/a.png", "", limits=LIMITS) == b"plain"


@pytest.mark.parametrize("kind", KINDS)
def test_read_in_any_order_same_bytes(folder, kind):
    """Backwards too, where a .tar.gz has to start again; pieces and chunks are much smaller than these members."""
    files = {f"IM{number}": random.Random(number).randbytes(700_000 + number) for number in range(12)}
    uri = stored(folder, kind, packed(kind.lower(), files))
    for name in random.Random(0).sample(sorted(files), len(files)):
        assert fetch(members.join(uri, name), "", limits=LIMITS) == files[name]


@pytest.mark.parametrize("kind", KINDS)
def test_fetch_name_that_is_not_there_not_found(folder, kind):
    uri = stored(folder, kind, packed(kind.lower(), FILES))
    fault = fault_of(f"{uri}!/gone")
    assert fault.fault is Fault.NOT_FOUND
    assert "list the input again" in fault.detail


def test_fetch_member_of_an_absent_archive_not_found(folder):
    with pytest.raises(StorageError) as caught:
        fetch(f"{folder}/gone.zip!/a", "", limits=LIMITS)
    assert caught.value.fault is Fault.NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_open_archive_new_version_its_new_members(tmp_path, kind):
    uri = stored(str(tmp_path), kind, packed(kind.lower(), {"old": b"1"}))
    assert read_all(uri) == {"old": b"1"}
    storage.put(uri, packed(kind.lower(), {"new": b"22"}))
    os.utime(uri, ns=(7, 7))
    assert read_all(uri) == {"new": b"22"}


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_the_same_name_last_wins(tmp_path, kind):
    files = [("a", b"first"), ("b", b"between"), ("./a", b"the last")]
    uri = stored(str(tmp_path), kind, packed(kind.lower(), files))
    assert read_all(uri) == {"a": b"the last", "b": b"between"}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_all_read(tmp_path, kind):
    names = ["../up", "/etc/passwd", "ünïcode/骨", "a!/b", "x" * 300 + "/" + "y" * 200, "line\nfeed", "back\\slash"]
    files = {name: name.encode() for name in names}
    found = read_all(stored(str(tmp_path), kind, packed(kind.lower(), files)))
    assert found == {members.clean_name(name): data for name, data in files.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_and_resource_forks_no_members(tmp_path, kind):
    files = {"IM1": b"1", ".DS_Store": b"2", ".git/IM2": b"3", "__MACOSX/._IM1": b"4"}
    assert read_all(stored(str(tmp_path), kind, packed(kind.lower(), files))) == {"IM1": b"1"}


@pytest.mark.parametrize("kind", KINDS)
def test_archive_inside_an_archive_one_fault_for_it(tmp_path, kind):
    uri = stored(str(tmp_path), kind, packed(kind.lower(), {"in.ZIP": packed("zip", FILES), "a": b"1"}))
    assert fetch(f"{uri}!/a", "", limits=LIMITS) == b"1"
    for inner in ("in.ZIP", "in.ZIP!/IM0001"):
        assert fault_of(f"{uri}!/{inner}").fault in (Fault.BAD_ARCHIVE, Fault.NOT_FOUND)
    assert "unpack it beside the outer one" in fault_of(f"{uri}!/in.ZIP").detail


@pytest.mark.parametrize("kind", KINDS)
def test_more_members_than_the_limit_bad_archive(folder, kind):
    uri = stored(folder, kind, packed(kind.lower(), {str(number): b"" for number in range(8)}))
    assert len(read_all(uri, LimitsConfig(archive_members=8))) == 8
    fault = fault_of(uri, LimitsConfig(archive_members=7))
    assert fault.fault is Fault.BAD_ARCHIVE
    assert "more than limits.archive_members = 7 entries; raise it" in fault.detail


@pytest.mark.parametrize("kind", KINDS)
def test_member_larger_than_the_limit_too_large_and_the_others_read(folder, kind):
    uri = stored(folder, kind, packed(kind.lower(), {"large": os.urandom(9_001), "small": os.urandom(9_000)}))
    limits = LimitsConfig(object_bytes=9_000)
    assert len(fetch(f"{uri}!/small", "", limits=limits)) == 9_000
    fault = fault_of(f"{uri}!/large", limits)
    assert fault.fault is Fault.TOO_LARGE
    assert "9001 bytes, more than limits.object_bytes = 9000; raise it" in fault.detail


@pytest.mark.parametrize("kind", KINDS)
def test_archive_cut_short_anywhere_bad_archive(tmp_path, kind):
    whole = packed(kind.lower(), FILES)
    # A tar ends with zeros up to a multiple of 10,240; the first 1,024 of them are its end.
    needed = max(index for index, byte in enumerate(whole) if byte) if kind == "tar" else len(whole)
    for length in {0, 1, 511, 512, 513, 1_024, needed // 2, needed - 1}:
        uri = stored(str(tmp_path), f"{length}.{kind}", whole[:length])
        fault = fault_of(uri)
        assert fault.fault is Fault.BAD_ARCHIVE, length
        assert "transfer it again" in fault.detail


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_bytes_under_an_archives_name_bad_archive(tmp_path, kind):
    for number, data in enumerate((b"", b"no archive", os.urandom(5_000), b"\x89PNG\r\n\x1a\n" + bytes(600))):
        assert fault_of(stored(str(tmp_path), f"{number}.{kind}", data)).fault is Fault.BAD_ARCHIVE


@pytest.mark.parametrize("kind", KINDS)
def test_empty_archive_no_members(tmp_path, kind):
    assert read_all(stored(str(tmp_path), kind, packed(kind.lower(), {}))) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_archive_fetched_where_members_can_be_listed_bad_archive(tmp_path, kind):
    uri = stored(str(tmp_path), kind, packed(kind.lower(), FILES))
    assert "start the run again" in fault_of(uri).detail


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_mutated_archive_members_or_faults_and_nothing_else(tmp_path, data, kind):
    whole = bytearray(packed(kind.lower(), {**FILES, "long" * 40: b"long"}))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(-len(whole), len(whole) - 1))
        whole[position] = data.draw(st.sampled_from((0, 1, 0x20, 0x30, 0x37, 0x4B, 0x7F, 0x80, 0xFF)))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    uri = f"{tmp_path}/mutated.{kind}"
    Path(uri).write_bytes(bytes(whole[:end]))
    forget_archives()
    found = outcome(lambda: open_archive(uri, "", LIMITS).members)
    if isinstance(found, Fault):
        assert found is Fault.BAD_ARCHIVE
        return
    for name, member in found.items():
        name.encode()  # can be written to a table
        got = outcome(lambda name=name: fetch(members.join(uri, name), "", limits=LIMITS))
        assert got in (Fault.BAD_ARCHIVE, Fault.TOO_LARGE) if isinstance(got, Fault) else len(got) == member.size


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or its fault."""
    try:
        return call()
    except DecodeError as error:
        return error.fault


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most memory that Python objects took during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# .zip


def zip_patched(data: bytes, *, signature: bytes, offset: int, value: bytes, which: int = 0) -> bytes:
    """A zip with bytes of one of its headers replaced."""
    position = -1
    for _ in range(which + 1):
        position = data.index(signature, position + 1)
    return data[: position + offset] + value + data[position + offset + len(value) :]


CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"


def test_zip_folders_and_links_no_members(tmp_path):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.mkdir("folder")
        link = zipfile.ZipInfo("folder/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "IM1")
        archive.writestr("folder/IM1", b"1")
    assert read_all(stored(str(tmp_path), "zip", target.getvalue())) == {"folder/IM1": b"1"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("streamed", [False, True])
def test_zip_methods_and_data_descriptors_same_bytes(tmp_path, method, streamed):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return not streamed

    target = Pipe()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=name == "IM0001") as member:
                member.write(data)
    assert read_all(stored(str(tmp_path), "zip", target.getvalue())) == FILES


def test_zip_bzip2_agrees_with_bz2(tmp_path):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", bytes(200_000))
    assert bz2.compress(bytes(200_000)) in target.getvalue()
    limits = LimitsConfig(expansion_ratio=1e6)
    assert read_all(stored(str(tmp_path), "zip", target.getvalue()), limits) == {"a": bytes(200_000)}


def test_zip_behind_other_bytes_same_members(tmp_path):
    assert read_all(stored(str(tmp_path), "zip", b"#!/bin/sh\n" * 99 + packed("zip", FILES))) == FILES


def test_zip_long_local_extra_field_same_bytes(tmp_path):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        entry = zipfile.ZipInfo("IM1")
        entry.extra = struct.pack("<HH", 0xFFFF, 9_000) + bytes(9_000)
        archive.writestr(entry, FILES["IM0001"])
    assert read_all(stored(str(tmp_path), "zip", target.getvalue())) == {"IM1": FILES["IM0001"]}


def test_zip_name_in_code_page_437_read(tmp_path):
    data = packed("zip", {"R_ntgen.dcm": b"1"}).replace(b"R_ntgen", "Röntgen".encode("cp437"))
    assert read_all(stored(str(tmp_path), "zip", data)) == {"Röntgen.dcm": b"1"}


def test_zip_name_that_says_utf8_and_is_not_bad_archive(tmp_path):
    data = packed("zip", {"Rö.dcm": b"1"}).replace("Rö".encode(), b"R\xff\xfe")
    assert fault_of(stored(str(tmp_path), "zip", data)).fault is Fault.BAD_ARCHIVE


def test_zip_one_member_encrypted_one_fault_all_encrypted_one_for_the_archive(tmp_path):
    whole = packed("zip", {"a": b"1", "b": b"2"})
    one = zip_patched(whole, signature=CENTRAL, offset=8, value=b"\x01\x00")
    uri = stored(str(tmp_path), "one.zip", one)
    assert "is encrypted; repack the archive without a password" in fault_of(f"{uri}!/a").detail
    assert fetch(f"{uri}!/b", "", limits=LIMITS) == b"2"
    uri = stored(str(tmp_path), "all.zip", zip_patched(one, signature=CENTRAL, offset=8, value=b"\x01\x00", which=1))
    assert fault_of(uri).detail == f"{uri} is encrypted; repack the archive without a password."


@pytest.mark.parametrize("method", [9, 14, 93, 99])
def test_zip_unknown_method_one_fault(tmp_path, method):
    data = zip_patched(
        packed("zip", {"a": b"1", "b": b"2"}), signature=CENTRAL, offset=10, value=struct.pack("<H", method)
    )
    uri = stored(str(tmp_path), "zip", data)
    assert fault_of(f"{uri}!/a").detail == f"{uri}!/a is compressed by method {method}; repack it with deflate."
    assert fetch(f"{uri}!/b", "", limits=LIMITS) == b"2"


def test_zip_wrong_checksum_bad_archive(tmp_path):
    data = zip_patched(packed("zip", {"a": b"1", "b": b"2"}), signature=CENTRAL, offset=16, value=b"\0\0\0\0")
    uri = stored(str(tmp_path), "zip", data)
    assert fault_of(f"{uri}!/a").fault is Fault.BAD_ARCHIVE
    assert "checksum" in fault_of(f"{uri}!/a").detail
    assert fetch(f"{uri}!/b", "", limits=LIMITS) == b"2"


def test_zip_damaged_deflate_bad_archive(tmp_path):
    uri = stored(
        str(tmp_path), "zip", packed("zip", {"a": b"1" * 50}).replace(zlib.compress(b"1" * 50)[2:-4], b"\xff" * 5)
    )
    assert fault_of(f"{uri}!/a").fault is Fault.BAD_ARCHIVE


def test_zip_declared_size_too_small_bad_archive_and_no_more_inflated(tmp_path):
    """A member of 100 MB that says it has 10 bytes."""
    data = zip_patched(packed("zip", {"a": bytes(10**8)}), signature=CENTRAL, offset=24, value=struct.pack("<I", 10))
    uri = stored(str(tmp_path), "zip", data)
    assert "differs from the size" in fault_of(f"{uri}!/a", LimitsConfig(object_bytes=200_000)).detail
    assert peak_bytes(lambda: fault_of(f"{uri}!/a")) < 2 * 10**6


def test_zip_bomb_too_large(tmp_path):
    uri = stored(str(tmp_path), "zip", packed("zip", {"a": bytes(10**6)}))
    fault = fault_of(f"{uri}!/a")
    assert fault.fault is Fault.TOO_LARGE
    assert "more than limits.expansion_ratio = 250 times; raise it" in fault.detail
    assert fetch(f"{uri}!/a", "", limits=LimitsConfig(expansion_ratio=2_000)) == bytes(10**6)


def test_zip_overlapping_members_bad_archive(tmp_path):
    """Two entries of the directory that share one deflated block, as in Fifield's bomb."""
    whole = packed("zip", {"a": b"1", "b": b"2"})
    uri = stored(str(tmp_path), "zip", zip_patched(whole, signature=CENTRAL, offset=42, value=bytes(4), which=1))
    fault = fault_of(uri)
    assert fault.fault is Fault.BAD_ARCHIVE
    assert "overlap" in fault.detail


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_zip_directory_of_an_absurd_size_bad_archive(tmp_path, size):
    whole = zip_patched(packed("zip", FILES), signature=END, offset=12, value=struct.pack("<I", size))
    assert fault_of(stored(str(tmp_path), "zip", whole)).fault is Fault.BAD_ARCHIVE


def test_zip_huge_directory_refused_before_it_is_read(tmp_path):
    """A directory that truly is in the file: a gigabyte of zeros on disk, of which none is read."""
    path = tmp_path / "archive.zip"
    with path.open("wb") as file:
        file.truncate(2**30)
        file.seek(2**30)
        file.write(struct.pack("<4s4H2LH", END, 0, 0, 0, 0, 2**30, 0, 0))
    fault = fault_of(str(path))
    assert f"has a directory of {2**30} bytes, more than limits.object_bytes" in fault.detail


# .tar


def test_tar_folders_links_and_devices_no_members(tmp_path):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            tar.addfile(tar_entry(f"of type {kind!r}", type=kind, linkname="IM1"))
        tar.addfile(tar_entry("folder/IM1", size=1), io.BytesIO(b"1"))
    assert read_all(stored(str(tmp_path), "tar", target.getvalue())) == {"folder/IM1": b"1"}


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tar_layouts_long_names_same_bytes(tmp_path, layout, kind):
    files = {"x" * 90 + "/" + "y" * 90: b"long", "short": b"1"}
    files |= {} if layout == tarfile.USTAR_FORMAT else {"z" * 400: b"longer"}
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w" if kind == "tar" else "w:gz", format=layout) as tar:
        for name, data in files.items():
            tar.addfile(tar_entry(name, size=len(data)), io.BytesIO(data))
    assert read_all(stored(str(tmp_path), kind, target.getvalue())) == files


def test_tar_global_and_local_pax_records_local_wins(tmp_path):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", pax_headers={"path": "shared", "comment": "of all"}) as tar:
        tar.addfile(tar_entry("x", size=1), io.BytesIO(b"1"))
        tar.addfile(tar_entry("x", size=1, pax_headers={"path": "own"}), io.BytesIO(b"2"))
    assert read_all(stored(str(tmp_path), "tar", target.getvalue())) == {"shared": b"1", "own": b"2"}


def test_tar_size_in_a_pax_record_counts(tmp_path):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.addfile(tar_entry("a", pax_headers={"size": "600"}))
        target.write(b"1" * 600 + bytes(424))
        tar.offset += 1_024
        tar.addfile(tar_entry("b", size=1), io.BytesIO(b"2"))
    assert read_all(stored(str(tmp_path), "tar", target.getvalue())) == {"a": b"1" * 600, "b": b"2"}


def test_tar_name_that_is_no_utf8_can_be_written(tmp_path):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tar_entry("Röntgen", size=1), io.BytesIO(b"1"))
    assert read_all(stored(str(tmp_path), "tar", target.getvalue())) == {"R\\xf6ntgen": b"1"}


@pytest.mark.parametrize("how", ["old", "pax"])
def test_tar_sparse_member_one_fault_and_the_others_read(tmp_path, how):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        if how == "pax":
            tar.addfile(tar_entry("s", size=3, pax_headers={"GNU.sparse.major": "1"}), io.BytesIO(b"123"))
        else:
            block = bytearray(tar_entry("s", size=3, type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
            block[482] = 1  # the map goes on in a block of its own
            block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
            target.write(bytes(block) + bytes(512) + b"123" + bytes(509))
            tar.offset += 1_536
        tar.addfile(tar_entry("a", size=1), io.BytesIO(b"1"))
    uri = stored(str(tmp_path), "tar", target.getvalue())
    assert fetch(f"{uri}!/a", "", limits=LIMITS) == b"1"
    assert fault_of(f"{uri}!/s").detail == f"{uri}!/s is a sparse file; repack the archive without --sparse."


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize("size", [10**6, 2**40, 2**70, -512])
def test_tar_absurd_size_in_a_header_bad_archive(tmp_path, kind, size):
    data = tar_entry("a", size=size).tobuf(tarfile.GNU_FORMAT) + b"1" * 512 + bytes(1_024)
    uri = stored(str(tmp_path), kind, gzip.compress(data) if kind == "tar.gz" else data)
    assert fault_of(uri).fault is Fault.BAD_ARCHIVE


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**40, -1, 700])
def test_tar_absurd_size_of_an_extended_header_bad_archive(tmp_path, kind, size):
    data = tar_entry("a", size=size, type=kind).tobuf(tarfile.GNU_FORMAT) + bytes(600)
    assert fault_of(stored(str(tmp_path), "tar", data)).fault is Fault.BAD_ARCHIVE


@pytest.mark.parametrize(
    "record", [b"x", b"99 path=a\n", b"0 path=a\n", b"-5 path=a\n", b"11 size=-5\n", b"10 size=x\n"]
)
def test_tar_spoilt_pax_record_bad_archive(tmp_path, record):
    data = tar_entry("p", size=len(record), type=tarfile.XHDTYPE).tobuf() + record.ljust(512, b"\0")
    uri = stored(str(tmp_path), "tar", data + tar_entry("a").tobuf() + bytes(1_024))
    assert fault_of(uri).fault is Fault.BAD_ARCHIVE


def test_tar_endless_extended_headers_bad_archive(tmp_path):
    data = tar_entry("p", size=0, type=tarfile.XHDTYPE).tobuf() * 100
    assert fault_of(stored(str(tmp_path), "tar", data + bytes(1_024))).fault is Fault.BAD_ARCHIVE


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archive_replaced_since_its_directory_was_read_changed(tmp_path, kind):
    uri = stored(str(tmp_path), kind, packed(kind, {"a": b"1" * 2_000, "b": b"2" * 2_000}))
    assert len(fetch(f"{uri}!/a", "", limits=LIMITS)) == 2_000
    storage.put(uri, packed(kind, {"a": b"3" * 9_000}))
    with pytest.raises(StorageError) as caught:
        fetch(f"{uri}!/a", "", limits=LIMITS)
    assert caught.value.fault is Fault.CHANGED


# .tar.gz


def test_tar_gz_of_several_gzip_members_and_padding_same_bytes(tmp_path):
    whole = packed("tar", FILES)
    halves = gzip.compress(whole[:3_000]) + gzip.compress(whole[3_000:]) + bytes(700)
    assert read_all(stored(str(tmp_path), "tar.gz", halves)) == FILES


def test_tar_gz_wrong_checksum_bad_archive(tmp_path):
    data = packed("tar.gz", FILES)
    assert fault_of(stored(str(tmp_path), "tgz", data[:-8] + bytes(4) + data[-4:])).fault is Fault.BAD_ARCHIVE


def test_tar_gz_bomb_bad_archive(tmp_path):
    uri = stored(str(tmp_path), "tar.gz", gzip.compress(packed("tar", {"a": bytes(10**8)})))
    fault = fault_of(uri)
    assert fault.fault is Fault.BAD_ARCHIVE
    assert "inflates by more than limits.expansion_ratio = 250; raise it" in fault.detail
    assert peak_bytes(lambda: fault_of(uri)) < 10**7


def test_tar_gz_member_that_is_skipped_takes_no_memory(tmp_path):
    limits = LimitsConfig(expansion_ratio=2_000, object_bytes=10)
    uri = stored(str(tmp_path), "tar.gz", gzip.compress(packed("tar", {"a": bytes(10**8), "b": b"2"})))
    assert peak_bytes(lambda: fetch(f"{uri}!/b", "", limits=limits)) < 10**7


def test_tar_gz_black_border_at_its_beginning_read(tmp_path):
    """A film's first megabyte may be black, and deflate 1,000-fold."""
    data = bytes(2**20) + random.Random(0).randbytes(10**5)
    assert read_all(stored(str(tmp_path), "tar.gz", packed("tar.gz", {"a": data}))) == {"a": data}


# A deflated DICOM dataset


def deflated_dicom(build_dicom: Callable[..., bytes], pixels: NDArray[Any]) -> bytes:
    return build_dicom(pixels, syntax=uid.DeflatedExplicitVRLittleEndian)


def test_read_dicom_deflated_within_the_limits_read(build_dicom):
    pixels = np.random.default_rng(0).integers(0, 4_096, (70, 90), dtype=np.uint16)
    image = read_dicom(deflated_dicom(build_dicom, pixels), limits=LimitsConfig(object_bytes=20_000))
    assert image.dataset.PixelData == pixels.tobytes()


@pytest.mark.parametrize(
    ("limits", "limit"),
    [(LimitsConfig(), "expansion_ratio = 250"), (LimitsConfig(object_bytes=10**6), "object_bytes = 1000000")],
)
@pytest.mark.parametrize("skipped", [0, 128, 132])
def test_read_dicom_deflate_bomb_too_large(build_dicom, limits, limit, skipped):
    data = deflated_dicom(build_dicom, np.zeros((4_000, 4_000), np.uint16))
    with pytest.raises(DecodeError, match=limit) as caught:
        read_dicom(data[skipped:], limits=limits)
    assert caught.value.fault is Fault.TOO_LARGE
    assert "raise it" in caught.value.detail
    assert (
        peak_bytes(lambda: outcome(lambda: read_dicom(data[skipped:], limits=limits))) < 12 * 10**6
    )  # the limit, not the 32 MB


def test_read_dicom_deflated_damaged_corrupt(build_dicom):
    data = deflated_dicom(build_dicom, np.random.default_rng(0).integers(0, 99, (40, 30), dtype=np.uint16))
    with pytest.raises(DecodeError) as caught:
        read_dicom(data[:-500] + b"\xff" * 500)
    assert caught.value.fault is Fault.CORRUPT


def test_fetch_leaves_no_file_open(tmp_path):
    uri = stored(str(tmp_path), "zip", packed("zip", FILES))
    read_all(uri)
    assert uri not in [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


def test_fetch_from_a_damaged_archive_again_not_read_again(tmp_path):
    uri = stored(str(tmp_path), "tar.gz", packed("tar.gz", FILES)[:-9])
    assert outcome(lambda: fetch(f"{uri}!/IM0001", "", limits=LIMITS)) is Fault.BAD_ARCHIVE
    storage.put(uri, packed("tar.gz", FILES))
    assert outcome(lambda: fetch(f"{uri}!/IM0001", "", limits=LIMITS)) is Fault.BAD_ARCHIVE
    assert outcome(lambda: fetch(f"{uri}!/IM0001", storage.stat(uri).version, limits=LIMITS)) == FILES["IM0001"]
