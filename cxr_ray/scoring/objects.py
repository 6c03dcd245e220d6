"""Objects and members of archives as seekable files that fetch only what is read of them, and count it.

A member of a .tar or a .zip costs its beginning; one of a .tar.gz, or compressed otherwise, is fetched whole. Knows
nothing of images.
"""

import io
import struct
import zipfile
import zlib
from typing import Any

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault, StorageError
from cxr_ray.images.packed import archives
from cxr_ray.images.packed.deflate import RAW, inflated
from cxr_ray.images.packed.members import bad_archive, check_size, is_archive, split
from cxr_ray.images.packed.zips import ZipMember
from cxr_ray.storage import ObjectInfo

_CHUNK = 65_536  # deflated bytes that one request fetches
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name. Source: APPNOTE 4.3.7.


class RangedPart(storage.RangedFile):
    """`size` bytes of an object from `start` on, as a file of their own that counts what it fetches.

    A refusal of the storage is kept: a parser would take it for damage of the file.
    """

    bytes_read = requests = 0
    refusal: DecodeError | StorageError | None = None

    def __init__(self, uri: str, start: int, size: int) -> None:
        """Nothing is read yet."""
        super().__init__(uri, start + size)
        self.start = self.position = start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the part."""
        return super().seek(offset + (self.start if whence == io.SEEK_SET else 0), whence) - self.start

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position - self.start

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`. Raises StorageError."""
        try:
            length = super().readinto(buffer)
        except StorageError as error:
            self.refusal = error
            raise
        self.bytes_read += length
        self.requests += length > 0
        return length


class InflatedPart(io.RawIOBase):
    """A deflated member as a seekable file, inflated as far as it is read; what was read is kept."""

    refusal: DecodeError | StorageError | None = None

    def __init__(self, uri: str, stored: RangedPart, size: int) -> None:
        """Nothing is read yet; `uri` is the member's, `size` the one it declares."""
        super().__init__()
        self.uri, self.stored, self.size, self.position = uri, stored, size, 0
        self.kept = bytearray()
        self.pieces = inflated(iter(lambda: stored.read(_CHUNK), b""), wbits=RAW)

    @property
    def bytes_read(self) -> int:
        """Deflated bytes that were fetched."""
        return self.stored.bytes_read

    @property
    def requests(self) -> int:
        """How often."""
        return self.stored.requests

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the member; nothing is inflated before it is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`. Raises StorageError, and DecodeError: BAD_ARCHIVE."""
        view = memoryview(buffer).cast("B")
        end = min(self.position + len(view), self.size)
        try:
            while len(self.kept) < end:
                self.kept += next(self.pieces)[0]
        except (StopIteration, zlib.error, EOFError) as error:
            self.refusal = bad_archive(self.uri, "cannot be inflated; transfer the archive again.")
            raise self.refusal from error
        except StorageError as error:
            self.refusal = error
            raise
        part = self.kept[self.position : end]
        view[: len(part)] = part
        self.position += len(part)
        return len(part)


class Whole(io.BytesIO):
    """An object that had to be fetched whole."""

    requests = 1
    refusal: DecodeError | StorageError | None = None

    def __init__(self, data: bytes) -> None:
        """Everything is read already."""
        super().__init__(data)
        self.bytes_read = len(data)


def open_object(item: ObjectInfo, limits: LimitsConfig) -> RangedPart | InflatedPart | Whole:
    """An object or a member as a file.

    Raises:
        DecodeError: TOO_LARGE by `limits`, or BAD_ARCHIVE, as scoring would.
        StorageError: The storage refuses.
    """
    archive, name = split(item.uri)
    if name is None and not is_archive(item.uri):
        return RangedPart(item.uri, 0, item.size)
    if name is not None and not is_sequential(item.uri):
        member = archives.open_archive(archive, item.version, limits).members.get(name)
        if isinstance(member, ZipMember) and member.method in _METHODS and not member.problem:
            return _in_zip(item.uri, archive, member, limits)
        if member and archive.lower().endswith(".tar") and not member.problem:
            return RangedPart(archive, member.place, member.size)
    return Whole(archives.fetch(item.uri, item.version, limits=limits))


def is_sequential(uri: str) -> bool:
    """Whether it lies in an archive that can be read from its beginning only."""
    archive, name = split(uri)
    return name is not None and not archive.lower().endswith((".zip", ".tar"))


def _in_zip(uri: str, archive: str, member: ZipMember, limits: LimitsConfig) -> RangedPart | InflatedPart:
    """A member of a .zip, stored or deflated. Raises DecodeError."""
    check_size(uri, member.size, limits)
    if member.size > limits.expansion_ratio * member.stored_size:
        detail = f"{uri} inflates to {member.size} bytes, more than limits.expansion_ratio allows; raise it."
        raise DecodeError(Fault.TOO_LARGE, detail)
    head = storage.get_range(archive, member.place, _LOCAL_HEADER)
    if len(head) < _LOCAL_HEADER or not head.startswith(b"PK\x03\x04"):
        raise bad_archive(uri, "is not where the directory says; transfer the archive again.")
    start = member.place + _LOCAL_HEADER + sum(struct.unpack_from("<HH", head, 26))
    stored = RangedPart(archive, start, member.stored_size)
    stored.bytes_read, stored.requests = len(head), 1
    return stored if member.method == zipfile.ZIP_STORED else InflatedPart(uri, stored, member.size)
