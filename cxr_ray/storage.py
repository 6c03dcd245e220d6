"""The one door to folders and object stores: list, get with retries and verification, put whole or not at all.

A uri is an absolute local path or `s3://bucket/key`. Credentials, region and endpoint come from boto3's own
chain (environment, profile, instance role) and are never written anywhere. Knows nothing of images or tables.
"""

import io
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pyarrow import fs

from cxr_ray.errors import ConfigError, Fault, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_SCHEME = "s3://"
_BACKOFF = 0.2  # seconds before the first repetition of a broken read, doubled each time


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as listed: its uri, its version (ETag, or size-mtime of a local file) and its size in bytes."""

    uri: str
    version: str
    size: int


def is_remote(uri: str) -> bool:
    """Whether the uri names an object store rather than a local path."""
    return uri.startswith(_SCHEME)


def absolute(uri: str) -> str:
    """The uri as it is written to rows: local paths absolute and normalised, s3:// as it is."""
    return uri if is_remote(uri) else _uri(Path(os.path.abspath(os.path.expanduser(uri))))


def join(base: str, *parts: str) -> str:
    """`base` with path parts appended; a part that is absolute or s3:// stands alone."""
    for part in parts:
        base = part if is_remote(part) or part.startswith("/") else f"{base.rstrip('/')}/{part}"
    return base


def list_objects(uri: str, *, missing_ok: bool = False) -> Iterator[ObjectInfo]:
    """Every object at or below `uri`, in order of name, without holding the list in memory.

    Raises:
        StorageError: Nothing is there (unless `missing_ok`), or the storage refuses to list.
    """
    found = False
    for item in _list_s3(uri) if is_remote(uri) else _list_local(uri):
        found = True
        yield item
    if not found and not missing_ok and (is_remote(uri) or not _path(uri).is_dir()):
        raise StorageError(Fault.NOT_FOUND, f"There is nothing at {uri}; check the path or the prefix.")


def _path(uri: str) -> Path:
    r"""The local path of a uri: bytes of a name that are no UTF-8, as old archives have them, stand in it as `\xNN`."""
    if "\\x" not in uri or os.path.lexists(uri):
        return Path(uri)
    given = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), uri.encode())
    return Path(os.fsdecode(given))


def _uri(path: Path) -> str:
    """The uri of a local path: see `_path`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _list_local(uri: str) -> Iterator[ObjectInfo]:
    """The files at or below a local path; hidden files and folders are left out."""
    path = _path(uri)
    if path.is_file():
        yield _info_local(path)
        return

    def fail(error: OSError) -> NoReturn:
        raise StorageError(_fault_of(error), f"{error.filename} cannot be listed ({error.strerror}).") from error

    if not path.exists():
        return
    for folder, folders, files in os.walk(path, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield _info_local(file)


def _info_local(path: Path) -> ObjectInfo:
    """Size and version of a local file."""
    status = path.stat()
    return ObjectInfo(_uri(path), f"{status.st_size}-{status.st_mtime_ns}", status.st_size)


def _list_s3(uri: str) -> Iterator[ObjectInfo]:
    """The objects below an s3:// prefix; folder markers (empty keys that end in /) are left out."""
    bucket, key = _split(uri)
    try:
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", []):
                whole_name = item["Key"] == key or not key or key.endswith("/") or item["Key"].startswith(f"{key}/")
                if whole_name and not item["Key"].endswith("/"):
                    yield ObjectInfo(f"{_SCHEME}{bucket}/{item['Key']}", item["ETag"].strip('"'), item["Size"])
    except _s3_errors() as error:
        raise _storage_error(error, uri, "listed") from error


def get(uri: str, *, retries: int = 4, max_bytes: int | None = None) -> bytes:
    """All bytes of one object, of the length the storage announced.

    Raises:
        StorageError: NOT_FOUND, ACCESS_DENIED, and TOO_LARGE for more than `max_bytes`, at once, before the bytes
            are read; STORAGE_UNAVAILABLE after `retries` repetitions.
    """
    return _retried(lambda: _get_s3(uri, max_bytes) if is_remote(uri) else _get_local(uri, max_bytes), retries)


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


def _get_local(uri: str, max_bytes: int | None) -> bytes:
    """The bytes of a local file."""
    try:
        with _path(uri).open("rb") as file:
            _check_size(uri, os.fstat(file.fileno()).st_size, max_bytes)
            return file.read()
    except OSError as error:
        raise StorageError(_fault_of(error), f"{uri} cannot be read ({error.strerror}).") from error


def _check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Raise StorageError(TOO_LARGE) for an object of more bytes than are wanted."""
    if max_bytes is not None and size > max_bytes:
        detail = f"{uri} has {size} bytes, more than limits.object_bytes = {max_bytes}; raise it."
        raise StorageError(Fault.TOO_LARGE, detail)


def _get_s3(uri: str, max_bytes: int | None) -> bytes:
    """One GET, its body checked against the announced length."""
    bucket, key = _split(uri)
    try:
        answer = _client().get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]):  # a body that is not read must not go back to the pool of connections
            _check_size(uri, answer["ContentLength"], max_bytes)
            return _whole_body(answer, uri)
    except _s3_errors() as error:
        raise _storage_error(error, uri, "read") from error


def _whole_body(answer: Any, uri: str) -> bytes:
    """The body of an answer; raises StorageError when it is shorter than announced."""
    body: bytes = answer["Body"].read()
    if len(body) != answer["ContentLength"]:
        detail = f"{uri} broke off after {len(body)} of {answer['ContentLength']} bytes."
        raise StorageError(Fault.STORAGE_UNAVAILABLE, detail)
    return body


def get_range(uri: str, start: int, length: int, *, retries: int = 4) -> bytes:
    """The `length` bytes from `start` of one object, fewer where it ends before. Raises StorageError like `get`."""
    if length <= 0:
        return b""
    return _retried(
        lambda: _range_s3(uri, start, length) if is_remote(uri) else _range_local(uri, start, length), retries
    )


def _range_local(uri: str, start: int, length: int) -> bytes:
    """Part of a local file."""
    try:
        with _path(uri).open("rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as error:
        raise StorageError(_fault_of(error), f"{uri} cannot be read ({error.strerror}).") from error


def _range_s3(uri: str, start: int, length: int) -> bytes:
    """One ranged GET, its body checked against the announced length."""
    bucket, key = _split(uri)
    try:
        answer = _client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")
        return _whole_body(answer, uri)
    except _s3_errors() as error:
        if getattr(error, "response", {}).get("Error", {}).get("Code") == "InvalidRange":
            return b""
        raise _storage_error(error, uri, "read") from error


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


def put(uri: str, data: bytes) -> None:
    """Write one object whole or not at all, replacing what was there. Raises StorageError."""
    if is_remote(uri):
        bucket, key = _split(uri)
        try:
            _client().put_object(Bucket=bucket, Key=key, Body=data)
        except _s3_errors() as error:
            raise _storage_error(error, uri, "written") from error
        return
    path = _path(uri)
    # The name begins with a dot so that a half-written file is never listed.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(_fault_of(error), f"{uri} cannot be written ({error.strerror}).") from error


def delete(uri: str) -> None:
    """Remove one object; it is no error when it is gone already. Raises StorageError."""
    try:
        if is_remote(uri):
            bucket, key = _split(uri)
            _client().delete_object(Bucket=bucket, Key=key)
        else:
            _path(uri).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(_fault_of(error), f"{uri} cannot be removed ({error.strerror}).") from error
    except _s3_errors() as error:
        raise _storage_error(error, uri, "removed") from error


def stat(uri: str) -> ObjectInfo:
    """Version and size of one object. Raises StorageError."""
    try:
        if not is_remote(uri):
            return _info_local(_path(uri))
        bucket, key = _split(uri)
        answer = _client().head_object(Bucket=bucket, Key=key)
        return ObjectInfo(uri, answer["ETag"].strip('"'), answer["ContentLength"])
    except OSError as error:
        raise StorageError(_fault_of(error), f"{uri} cannot be read ({error.strerror}).") from error
    except _s3_errors() as error:
        raise _storage_error(error, uri, "read") from error


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


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a uri and the path on it, for reading Parquet."""
    if not is_remote(uri):
        return fs.LocalFileSystem(), uri
    client = _client()
    credentials = _session().get_credentials()
    frozen = credentials.get_frozen_credentials() if credentials else None
    filesystem = fs.S3FileSystem(
        access_key=frozen.access_key if frozen else None,
        secret_key=frozen.secret_key if frozen else None,
        session_token=frozen.token if frozen else None,
        anonymous=frozen is None,
        region=client.meta.region_name,
        endpoint_override=client.meta.endpoint_url,
    )
    return filesystem, uri.removeprefix(_SCHEME)


def paths_on(uris: Sequence[str]) -> tuple[fs.FileSystem, list[str]]:
    """The one filesystem of several uris of one storage, and their paths on it; there must be at least one."""
    arrow, _ = filesystem(uris[0])
    return arrow, [uri.removeprefix(_SCHEME) for uri in uris]


def _split(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// uri."""
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    return bucket, key


@lru_cache(maxsize=1)
def _session() -> Any:
    """The boto3 session of this process."""
    import boto3

    return boto3.Session()


@lru_cache(maxsize=1)
def _client() -> "S3Client":
    """The S3 client of this process; boto3 clients may be shared by threads."""
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=64)
    client: S3Client = _session().client("s3", config=config)
    return client


def forget_clients() -> None:
    """Make the next call read credentials, region and endpoint anew."""
    _client.cache_clear()
    _session.cache_clear()


def _s3_errors() -> tuple[type[Exception], ...]:
    """What boto3 raises: answers of the server, and everything from no connection to no credentials."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, HTTPError)


def _storage_error(error: Exception, uri: str, verb: str) -> StorageError:
    """boto3's exception as ours, with the code of the answer and never its free text."""
    answer = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", type(error).__name__))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status == 404 or code in ("NoSuchKey", "NoSuchBucket", "404"):
        return StorageError(Fault.NOT_FOUND, f"{uri} cannot be {verb} ({code}); check bucket and prefix.")
    if status == 403 or code in ("NoCredentialsError", "PartialCredentialsError"):
        return StorageError(Fault.ACCESS_DENIED, f"{uri} cannot be {verb} ({code}); check credentials and permissions.")
    return StorageError(Fault.STORAGE_UNAVAILABLE, f"{uri} cannot be {verb} ({code}); check endpoint and network.")


def _fault_of(error: OSError) -> Fault:
    """The fault code of an operating-system error."""
    if isinstance(error, FileNotFoundError):
        return Fault.NOT_FOUND
    return Fault.ACCESS_DENIED if isinstance(error, PermissionError) else Fault.STORAGE_UNAVAILABLE
