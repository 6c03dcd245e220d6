"""Reading objects: whole or by ranges, repeated with growing pauses while the storage is unavailable."""

import io
from typing import Any

from cxr_ray.storage import local, s3
from cxr_ray.storage.uris import is_remote


def get(uri: str, *, version: str = "", max_bytes: int | None = None) -> bytes:
    """All bytes of one object, of the length and checksum that the storage announced.

    Raises:
        StorageError: NOT_FOUND, ACCESS_DENIED, ARCHIVED, CHANGED for another version than `version` (of '' it may be
            any), and TOO_LARGE for more than `max_bytes`, at once, before the bytes are read; STORAGE_UNAVAILABLE
            after `storage.retries` repetitions.
    """
    read = s3.get if is_remote(uri) else local.get
    return read(uri, version=version, max_bytes=max_bytes)


def get_range(uri: str, start: int, length: int, *, version: str = "") -> bytes:
    """The `length` bytes from `start` of one object, fewer where it ends before. Raises StorageError like `get`."""
    if length <= 0:
        return b""
    read = s3.get_range if is_remote(uri) else local.get_range
    return read(uri, start, length, version=version)


class RangedFile(io.RawIOBase):
    """An object as a seekable file of known `size` that is read by ranges; wrap it in io.BufferedReader."""

    def __init__(self, uri: str, size: int, *, version: str = "") -> None:
        """Nothing is read yet."""
        super().__init__()
        self.uri, self.size, self.version, self.position = uri, size, version, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the object; reads beyond its end give nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the object. Raises StorageError."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), self.size - self.position)
        part = get_range(self.uri, self.position, length, version=self.version)
        view[: len(part)] = part
        self.position += len(part)
        return len(part)
