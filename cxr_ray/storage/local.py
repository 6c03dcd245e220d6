"""Local files: listed, read in whole or in part, written whole or not at all, removed. Raises StorageError only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage.uris import ObjectInfo, check_size, path_of, uri_of


def list_objects(uri: str, *, direct: bool = False) -> Iterator[ObjectInfo]:
    """The files at or below a local path, or `direct`ly in it; hidden files and folders are left out."""
    path = path_of(uri)
    if path.is_file():
        yield _info(path)
        return

    def fail(error: OSError) -> NoReturn:
        raise StorageError(_fault_of(error), f"{error.filename} cannot be listed ({error.strerror}).") from error

    if not path.exists():
        return
    for folder, folders, files in os.walk(path, onerror=fail):
        folders[:] = [] if direct else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield _info(file)


def subfolders(uri: str) -> list[str]:
    """The folders right below a local folder that `list_objects` enters: neither hidden ones nor links."""
    with _sentence(uri, "listed"), os.scandir(path_of(uri)) as entries:
        names = (e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
        return [uri_of(path_of(uri) / name) for name in sorted(names)]


def stat(uri: str) -> ObjectInfo:
    """Version and size of a local file."""
    with _sentence(uri, "read"):
        return _info(path_of(uri))


def get(uri: str, *, max_bytes: int | None) -> bytes:
    """The bytes of a local file."""
    with _sentence(uri, "read"), path_of(uri).open("rb") as file:
        check_size(uri, os.fstat(file.fileno()).st_size, max_bytes)
        return file.read()


def get_range(uri: str, start: int, length: int) -> bytes:
    """Part of a local file."""
    with _sentence(uri, "read"), path_of(uri).open("rb") as file:
        file.seek(start)
        return file.read(length)


def put(uri: str, data: bytes) -> None:
    """Write a local file whole or not at all."""
    path = path_of(uri)
    # The name begins with a dot so that a half-written file is never listed.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _sentence(uri, "written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def delete(uri: str) -> None:
    """Remove a local file; it is no error when it is gone already."""
    with _sentence(uri, "removed"):
        path_of(uri).unlink(missing_ok=True)


def _info(path: Path) -> ObjectInfo:
    """Size, version and time of a local file."""
    status = path.stat()
    version = f"{status.st_size}-{status.st_mtime_ns}"
    return ObjectInfo(uri_of(path), version, status.st_size, _instant(status.st_mtime))


def _instant(seconds: float) -> datetime | None:
    """Seconds since 1970 as a time, or None for a time of no calendar, which a damaged file system may state."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


@contextmanager
def _sentence(uri: str, verb: str) -> Iterator[None]:
    """The operating system's errors as ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(_fault_of(error), f"{uri} cannot be {verb} ({error.strerror}).") from error


def _fault_of(error: OSError) -> Fault:
    """The fault code of an operating-system error."""
    if isinstance(error, FileNotFoundError):
        return Fault.NOT_FOUND
    return Fault.ACCESS_DENIED if isinstance(error, PermissionError) else Fault.STORAGE_UNAVAILABLE
