"""The members of a .zip: the central directory and the wanted members are fetched, nothing else.

The standard library reads the central directory, behind a border that refuses an unreasonable one before memory is
taken. Members are fetched and inflated here: one request each, and never more than the size they declare. Knows
nothing of what the members are.

Source: PKWARE APPNOTE 6.3.10, 4.3.7 (local header), 4.3.12 (central directory), 4.4.4 and 4.4.5 (flags, methods).
"""

import bz2
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.packed.members import ENCRYPTED, Member, bad_archive, check_size, join, too_many

LOCAL_HEADER = 30
"""Bytes before a member's name and extra field."""
_BUFFER = 64 * 2**10  # the end of the file, where the directory is announced, in one request
_SLACK = 1024  # fetched with the header: nearly every name and extra field is shorter
_OVERHEAD = 1.02  # what does not shrink may grow: bzip2 adds 1 %
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bzip2"}
_UNIX, _MACOS = 3, 19  # APPNOTE 4.4.2: systems whose file type stands in the upper half of the attributes
_MOST = 2**63 - 1  # what a worklist can hold; a larger declared size is a lie, and refused when the member is read
_DAMAGED = "is damaged or no zip file; transfer it again."


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A member with its size in the archive, its compression method and its CRC-32."""

    stored_size: int = 0
    method: int = zipfile.ZIP_STORED
    crc: int = 0


class _Guarded(io.BufferedReader):
    """A reader that refuses a central directory of more bytes or entries than the limits allow."""

    def __init__(self, raw: storage.RangedFile, limits: LimitsConfig) -> None:
        super().__init__(raw, _BUFFER)
        self.uri, self.limits = raw.uri, limits

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like BufferedReader; each entry begins with the signature, so counting it is no parsing."""
        if size is not None and size > self.limits.object_bytes:
            problem = f"has a directory of {size} bytes, more than limits.object_bytes = {self.limits.object_bytes};"
            raise bad_archive(self.uri, f"{problem} raise it or split the file.")
        data = super().read(size)
        if data.count(b"PK\x01\x02") > self.limits.archive_members:
            raise too_many(self.uri, self.limits)
        return data


def scan(uri: str, size: int, limits: LimitsConfig, *, version: str) -> Iterator[ZipMember | None]:
    """Every entry of the central directory, None for folders, links and devices.

    Raises DecodeError: BAD_ARCHIVE for a damaged or unreasonable directory, and for members that overlap.
    """
    try:
        with (
            _Guarded(storage.RangedFile(uri, size, version=version), limits) as reader,
            zipfile.ZipFile(reader) as archive,
        ):
            entries = archive.infolist()
    # ValueError holds names that are no UTF-8; NotImplementedError, a version of the format still to come.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise bad_archive(uri, _DAMAGED) from error
    _check_overlap(uri, entries, size)
    return (_member(entry) for entry in entries)


def _check_overlap(uri: str, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse members that share stored bytes: many of them inflate one block again and again.

    Source: Fifield, A better zip bomb, USENIX WOOT 2019.
    """
    spans = sorted((entry.header_offset, entry.compress_size) for entry in entries)
    for (start, stored), (following, _) in pairwise([*spans, (size, 0)]):
        if start < 0 or start + LOCAL_HEADER + stored > following:
            raise bad_archive(uri, "has members that overlap or lie outside of it; pack it again.")


def _member(entry: zipfile.ZipInfo) -> ZipMember | None:
    """One entry as a member."""
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system in (_UNIX, _MACOS) else 0
    if entry.filename.endswith("/") or kind not in (0, stat.S_IFREG):
        return None
    problem = ENCRYPTED if entry.flag_bits & 1 else ""
    if not problem and entry.compress_type not in _METHODS:
        problem = f"is compressed by method {entry.compress_type}; repack it with deflate."
    return ZipMember(
        name=entry.filename,
        size=min(entry.file_size, _MOST),
        place=entry.header_offset,
        problem=problem,
        stored_size=entry.compress_size,
        method=entry.compress_type,
        crc=entry.CRC,
    )


def read(archive: str, member: ZipMember, *, limits: LimitsConfig, version: str) -> bytes:
    """The bytes of one member, of the size and CRC that the directory declares.

    Raises DecodeError: TOO_LARGE, before anything is fetched; BAD_ARCHIVE for a damaged member. Raises StorageError.
    """
    uri = join(archive, member.name)
    check_sizes(uri, member, limits)
    stored = _stored(archive, member, version)
    try:
        data = _expanded(stored, member)
    except (zlib.error, OSError) as error:
        raise bad_archive(uri, "cannot be inflated; transfer the archive again.") from error
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise bad_archive(uri, "differs from the size or checksum in the archive; transfer it again.")
    return data


def check_sizes(uri: str, member: ZipMember, limits: LimitsConfig) -> None:
    """Refuse a member by what the directory declares. Raises DecodeError: TOO_LARGE."""
    check_size(uri, member.size, limits)
    if member.stored_size > _OVERHEAD * limits.object_bytes + _SLACK:
        check_size(uri, member.stored_size, limits)
    if member.size > limits.expansion_ratio * member.stored_size:
        detail = f"{uri} inflates {member.stored_size} bytes to {member.size}, more than limits.expansion_ratio ="
        raise DecodeError(Fault.TOO_LARGE, f"{detail} {limits.expansion_ratio:g} times; raise it if it is genuine.")


def data_start(uri: str, head: bytes | memoryview) -> int:
    """Where the data of a member begins, counted from its local header, with which `head` begins.

    Raises DecodeError: BAD_ARCHIVE where that is none.
    """
    if len(head) < LOCAL_HEADER or bytes(head[:4]) != b"PK\x03\x04":
        raise bad_archive(uri, "is not where the directory says; transfer the archive again.")
    start: int = LOCAL_HEADER + sum(struct.unpack_from("<HH", head, 26))
    return start


def _stored(archive: str, member: ZipMember, version: str) -> memoryview:
    """The member's bytes as they lie in the archive, fetched together with the local header."""
    length = LOCAL_HEADER + _SLACK + member.stored_size
    found = memoryview(storage.get_range(archive, member.place, length, version=version))
    start = data_start(join(archive, member.name), found)
    if start + member.stored_size <= len(found):
        return found[start : start + member.stored_size]
    return memoryview(storage.get_range(archive, member.place + start, member.stored_size, version=version))


def _expanded(stored: memoryview, member: ZipMember) -> bytes:
    """The inflated bytes, at most one more than declared."""
    if member.method == zipfile.ZIP_STORED:
        return bytes(stored)
    engine: Any = zlib.decompressobj(-zlib.MAX_WBITS) if _METHODS[member.method] == "deflate" else bz2.BZ2Decompressor()
    data: bytes = engine.decompress(stored, member.size + 1)
    return data
