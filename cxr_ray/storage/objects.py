"""Objects by their uris, wherever they lie: listed, written whole or not at all, removed, asked for."""

import os
from collections.abc import Iterator

from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.storage import local, s3
from cxr_ray.storage.uris import ObjectInfo, is_remote, join, path_of


def list_objects(uri: str, *, missing_ok: bool = False) -> Iterator[ObjectInfo]:
    """Every object at or below `uri`, in order of name, without holding the list in memory.

    Raises:
        StorageError: Nothing is there (unless `missing_ok`), or the storage refuses to list.
    """
    found = False
    for item in (s3 if is_remote(uri) else local).list_objects(uri):
        found = True
        yield item
    if not found and not missing_ok and (is_remote(uri) or not path_of(uri).is_dir()):
        raise StorageError(Fault.NOT_FOUND, f"There is nothing at {uri}; check the path or the prefix.")


def put(uri: str, data: bytes) -> None:
    """Write one object whole or not at all, replacing what was there. Raises StorageError."""
    (s3 if is_remote(uri) else local).put(uri, data)


def delete(uri: str) -> None:
    """Remove one object; it is no error when it is gone already. Raises StorageError."""
    (s3 if is_remote(uri) else local).delete(uri)


def stat(uri: str) -> ObjectInfo:
    """Version and size of one object. Raises StorageError."""
    return s3.stat(uri) if is_remote(uri) else local.stat(uri)


def exists(uri: str) -> bool:
    """Whether this very object is there."""
    try:
        stat(uri)
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            return False
        raise
    return True


def check_writable(folder: str) -> None:
    """Write and remove a small object in `folder`; raises ConfigError when that fails."""
    probe = join(folder, f".probe-{os.getpid()}")
    try:
        put(probe, b"cxr-ray")
        delete(probe)
    except StorageError as error:
        raise ConfigError(f"The output cannot be used: {error.detail} Choose another --output.") from error
