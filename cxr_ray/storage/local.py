"""Local files: listed, read in whole or in part, written whole or not at all, removed. Raises StorageError only."""

import errno
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage import stores
from cxr_ray.storage.repeating import Refusal, repeated
from cxr_ray.storage.uris import ObjectInfo, check_size, path_of, uri_of

Answer = TypeVar("Answer")

_LASTING = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL))
_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_LOCK_SECONDS = 30.0  # a lock is held for the milliseconds of one write


def list_objects(uri: str, *, direct: bool = False) -> Iterator[ObjectInfo]:
    """The files at or below a local path, or `direct`ly in it; hidden files and folders are left out."""
    path = path_of(uri)
    if path.is_file():
        yield _info(path)
        return

    def fail(error: OSError) -> NoReturn:
        raise _refusal(error).error(str(error.filename), "listed") from error

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
    """Version, size and age of a local file."""
    return _read(uri, lambda: _info(path_of(uri)))


def get(uri: str, *, version: str, max_bytes: int | None, stop: threading.Event | None = None) -> bytes:
    """The bytes of a local file of this version."""

    def read() -> bytes:
        with path_of(uri).open("rb") as file:
            check_size(uri, os.fstat(file.fileno()).st_size, max_bytes)
            _check_version(uri, file, version)
            data = file.read()
            _check_version(uri, file, version)  # again: it may have been written to while it was read
            return data

    return _read(uri, read, stop)


def get_range(uri: str, start: int, length: int, *, version: str) -> bytes:
    """Part of a local file of this version."""

    def read() -> bytes:
        with path_of(uri).open("rb") as file:
            file.seek(start)
            data = file.read(length)
            _check_version(uri, file, version)
            return data

    return _read(uri, read)


def put(uri: str, data: bytes) -> None:
    """Write a local file whole or not at all."""
    path = path_of(uri)
    with _sentence(uri, "written"), _partial(path, data) as partial:
        partial.replace(path)


def create(uri: str, data: bytes) -> str | None:
    """Write a local file whole if none is there: its version, or None where one is."""
    path = path_of(uri)
    with _sentence(uri, "written"), _partial(path, data) as partial:
        try:
            os.link(partial, path)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with _locked(uri, path):
                if path.exists():
                    return None
                partial.replace(path)
        return _info(path).version


def replace(uri: str, data: bytes, version: str) -> str | None:
    """Write a local file whole over this `version` of it: the new one, or None where another or none is there."""
    path = path_of(uri)
    with _sentence(uri, "written"), _partial(path, data) as partial, _locked(uri, path):
        try:
            before = path.stat()
        except FileNotFoundError:
            return None
        if _version(before) != version:
            return None
        step = 1  # ns; a clock of 4 ms ticks would give two quick writes of one size the same version
        while partial.stat().st_mtime_ns <= before.st_mtime_ns:
            os.utime(partial, ns=(before.st_atime_ns, before.st_mtime_ns + step))
            step *= 10
        partial.replace(path)
        return _info(path).version


def delete(uri: str) -> None:
    """Remove a local file; it is no error when it is gone already."""
    with _sentence(uri, "removed"):
        path_of(uri).unlink(missing_ok=True)


@contextmanager
def _partial(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` with the data safely on disk, gone afterwards unless it was given its place."""
    # The name begins with a dot so that a half-written file is never listed.
    partial = path.with_name(f".{path.name[:150]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _locked(uri: str, path: Path) -> Iterator[None]:
    """Hold the lock beside `path`, which its owner's death frees. Raises StorageError when it cannot be had."""
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("wb") as file:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    why = Refusal(Fault.STORAGE_UNAVAILABLE, "locked", f"end the process that holds {lock}")
                    raise why.error(uri, "written") from error
                time.sleep(0.01)
        yield


def _read(uri: str, read: Callable[[], Answer], stop: threading.Event | None = None) -> Answer:
    """What `read` returns, tried again while the file system is unavailable, as one in a network may be."""
    config = stores.current().config
    return repeated(read, uri, "read", config=config, errors=(OSError,), refusal=_refusal, stop=stop)


def _check_version(uri: str, file: BinaryIO, version: str) -> None:
    """Raise StorageError when an open file is not of the wanted version."""
    if version and _version(os.fstat(file.fileno())) != version:
        detail = f"{uri} is not the file that was listed: it was replaced; the next run scores it."
        raise StorageError(Fault.CHANGED, detail)


def _version(status: os.stat_result) -> str:
    """The version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _info(path: Path) -> ObjectInfo:
    """Size, version and time of a local file."""
    status = path.stat()
    return ObjectInfo(uri_of(path), _version(status), status.st_size, _instant(status.st_mtime))


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
        raise _refusal(error).error(uri, verb) from error


def _refusal(error: Exception) -> Refusal:
    """Why the operating system did not do as asked."""
    code = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return Refusal(Fault.NOT_FOUND, code)
    if isinstance(error, PermissionError):
        return Refusal(Fault.ACCESS_DENIED, code)
    return Refusal(Fault.STORAGE_UNAVAILABLE, code, passing=getattr(error, "errno", None) not in _LASTING)
