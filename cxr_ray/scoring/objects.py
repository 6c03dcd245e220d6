"""Objects and members of archives as seekable files that fetch only what is read of them, and count it.

A member of a .tar or a .zip costs its beginning; one of a .tar.gz, or compressed otherwise, is fetched whole. Knows
nothing of images.
"""

import io
import zipfile
import zlib
from typing import Any

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, StorageError
from cxr_ray.images.packed import archives, zips
from cxr_ray.images.packed.deflate import RAW, inflated
from cxr_ray.images.packed.members import bad_archive, is_archive, split
from cxr_ray.images.packed.zips import ZipMember
from cxr_ray.storage import ObjectInfo

_CHUNK = 65_536  # deflated bytes that one request fetches
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


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


class InflatedPart(storage.RangedFile):
    """A deflated member as a seekable file, inflated as far as it is read; what was read is kept."""

    refusal: DecodeError | StorageError | None = None

    def __init__(self, uri: str, stored: RangedPart, size: int) -> None:
        """Nothing is read yet; `uri` is the member's, `size` the one it declares."""
        super().__init__(uri, size)
        self.stored, self.kept = stored, bytearray()
        self.pieces = inflated(iter(lambda: stored.read(_CHUNK), b""), wbits=RAW)

    @property
    def bytes_read(self) -> int:
        """Deflated bytes that were fetched."""
        return self.stored.bytes_read

    @property
    def requests(self) -> int:
        """How often."""
        return self.stored.requests

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
    zips.check_sizes(uri, member, limits)
    head = storage.get_range(archive, member.place, zips.LOCAL_HEADER)
    stored = RangedPart(archive, member.place + zips.data_start(uri, head), member.stored_size)
    stored.bytes_read, stored.requests = len(head), 1
    return stored if member.method == zipfile.ZIP_STORED else InflatedPart(uri, stored, member.size)
