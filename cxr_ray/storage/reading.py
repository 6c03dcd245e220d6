"""Reading objects: whole or by ranges, repeated with growing pauses while the storage is unavailable."""

import io
import time
from collections.abc import Callable
from typing import Any

from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage import local, s3
from cxr_ray.storage.uris import is_remote

_BACKOFF = 0.2  # seconds before the first repetition of a broken read, doubled each time


def get(uri: str, *, retries: int = 4, max_bytes: int | None = None) -> bytes:
    """All bytes of one object, of the length the storage announced.

    Raises:
        StorageError: NOT_FOUND, ACCESS_DENIED, and TOO_LARGE for more than `max_bytes`, at once, before the bytes
            are read; STORAGE_UNAVAILABLE after `retries` repetitions.
    """
    kind = s3 if is_remote(uri) else local
    return _retried(lambda: kind.get(uri, max_bytes=max_bytes), retries)


def get_range(uri: str, start: int, length: int, *, retries: int = 4) -> bytes:
    """The `length` bytes from `start` of one object, fewer where it ends before. Raises StorageError like `get`."""
    if length <= 0:
        return b""
    kind = s3 if is_remote(uri) else local
    return _retried(lambda: kind.get_range(uri, start, length), retries)


def _retried(read: Callable[[], bytes], retries: int) -> bytes:
    """What `read` returns, repeated with growing pauses while the storage is unavailable. Raises StorageError."""
    for attempt in range(retries + 1):
        try:
            return read()
        except StorageError as error:
            if error.fault is not Fault.STORAGE_UNAVAILABLE or attempt == retries:
                raise
            time.sleep(_BACKOFF * 2**attempt)
    raise AssertionError("unreachable")


class RangedFile(io.RawIOBase):
    """An object as a seekable file of known `size` that is read by ranges; wrap it in io.BufferedReader."""

    def __init__(self, uri: str, size: int) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.uri, self.size, self.position = uri, size, 0

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
        part = get_range(self.uri, self.position, min(len(view), self.size - self.position))
        view[: len(part)] = part
        self.position += len(part)
        return len(part)
