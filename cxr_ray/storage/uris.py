"""What a uri is: an absolute local path, or `s3://bucket/key`; and what is known of the object it names."""

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cxr_ray.errors import Fault, StorageError

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as listed: its uri, its version (ETag, or size-mtime of a local file) and its size in bytes.

    `modified` is in UTC, to the precision of who tells: a listing knows milliseconds, a HEAD seconds; `storage_class`
    is what a store says of where it keeps the object, None for the standard. Both are None where they are not stated,
    and do not make two of the same object differ.
    """

    uri: str
    version: str
    size: int
    modified: datetime | None = field(default=None, compare=False)
    storage_class: str | None = field(default=None, compare=False)


def is_remote(uri: str) -> bool:
    """Whether the uri names an object store rather than a local path."""
    return uri.startswith(SCHEME)


def absolute(uri: str) -> str:
    """The uri as it is written to rows: local paths absolute and normalised, s3:// as it is."""
    return uri if is_remote(uri) else uri_of(Path(os.path.abspath(os.path.expanduser(uri))))


def join(base: str, *parts: str) -> str:
    """`base` with path parts appended; a part that is absolute or s3:// stands alone."""
    for part in parts:
        base = part if is_remote(part) or part.startswith("/") else f"{base.rstrip('/')}/{part}"
    return base


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// uri."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key


def path_of(uri: str) -> Path:
    r"""The local path of a uri: bytes of a name that are no UTF-8, as old archives have them, stand in it as `\xNN`."""
    if "\\x" not in uri or os.path.lexists(uri):
        return Path(uri)
    given = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), uri.encode())
    return Path(os.fsdecode(given))


def uri_of(path: Path) -> str:
    """The uri of a local path: see `path_of`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Raise StorageError(TOO_LARGE) for an object of more bytes than are wanted."""
    if max_bytes is not None and size > max_bytes:
        detail = f"{uri} has {size} bytes, more than limits.object_bytes = {max_bytes}; raise it."
        raise StorageError(Fault.TOO_LARGE, detail)
