"""Objects and members of archives opened by ranges: the same bytes, and the same refusals, as when fetched whole."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.packed import archives
from cxr_ray.scoring.objects import open_object
from cxr_ray.storage import ObjectInfo

DATA = np.random.default_rng(7).integers(0, 16, 300_000, dtype=np.uint8).tobytes()
LIMITS = LimitsConfig(object_bytes=400_000)
METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def zipped(path: Path, data: bytes, method: int) -> str:
    """The uri of the second member, `data`, of a new archive; its local header has an extra field of its own."""
    entry = zipfile.ZipInfo("films/second.dcm")
    entry.compress_type, entry.extra = method, struct.pack("<HH5s", 0x7777, 5, b"extra")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first.dcm", b"x" * 1000)
        archive.writestr(entry, data)
    return f"{path}!/films/second.dcm"


def refusal(uri: str, limits: LimitsConfig, *, whole: bool) -> Fault | None:
    """The fault of opening a member, or of fetching it whole."""
    archives.forget_archives()
    try:
        if whole:
            archives.fetch(uri, "", limits=limits)
        else:
            open_object(ObjectInfo(uri, 0, ""), limits)
    except DecodeError as error:
        return error.fault
    return None


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_open_object_member_of_a_zip_reads_anywhere_like_a_file(method, tmp_path):
    opened = open_object(ObjectInfo(zipped(tmp_path / "a.zip", DATA, method), "", len(DATA)), LimitsConfig())
    reference = io.BytesIO(DATA)
    assert opened.seekable()
    assert opened.readable()
    for offset, whence, length in [
        (0, io.SEEK_SET, 132),
        (200_000, io.SEEK_SET, 7),
        (-150_000, io.SEEK_CUR, 70_000),
        (-10, io.SEEK_END, 100),
        (5, io.SEEK_END, 3),
        (1, io.SEEK_SET, 400_000),
    ]:
        assert opened.seek(offset, whence) == reference.seek(offset, whence)
        assert opened.read(length) == reference.read(length)
        assert opened.tell() == reference.tell()


def claim(path: Path, *, size: int | None = None, stored: int | None = None) -> None:
    """Overwrite what the central directory says of the last member."""
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    for place, value in ((start + 20, stored), (start + 24, size)):
        if value is not None:
            data[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(data)


@pytest.mark.parametrize("whole", [False, True], ids=["opened", "fetched"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_member_declared_too_large_too_large(method, whole, tmp_path):
    uri = zipped(tmp_path / "a.zip", DATA, method)
    claim(tmp_path / "a.zip", size=400_001)
    assert refusal(uri, LIMITS, whole=whole) is Fault.TOO_LARGE


@pytest.mark.parametrize("whole", [False, True], ids=["opened", "fetched"])
def test_member_that_inflates_beyond_the_ratio_too_large(whole, tmp_path):
    uri = zipped(tmp_path / "a.zip", bytes(300_000), zipfile.ZIP_DEFLATED)
    assert refusal(uri, LIMITS, whole=whole) is Fault.TOO_LARGE
    assert refusal(uri, LimitsConfig(object_bytes=400_000, expansion_ratio=2000), whole=whole) is None


@pytest.mark.parametrize("whole", [False, True], ids=["opened", "fetched"])
def test_member_that_takes_more_of_the_archive_than_an_object_may_too_large(whole, tmp_path):
    uri = zipped(tmp_path / "a.zip", DATA * 2, zipfile.ZIP_STORED)
    claim(tmp_path / "a.zip", size=1000)
    assert refusal(uri, LIMITS, whole=whole) is Fault.TOO_LARGE


@pytest.mark.parametrize("whole", [False, True], ids=["opened", "fetched"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_member_without_a_local_header_bad_archive(method, whole, tmp_path):
    uri = zipped(tmp_path / "a.zip", DATA, method)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.rindex(b"PK\x03\x04")] = 0
    (tmp_path / "a.zip").write_bytes(data)
    assert refusal(uri, LIMITS, whole=whole) is Fault.BAD_ARCHIVE
