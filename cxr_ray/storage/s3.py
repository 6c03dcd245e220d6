"""Object stores that speak S3, through boto3: listed, read in whole or in part, written, removed.

Credentials, region and endpoint come from boto3's own chain (environment, profile, instance role) and are never
written anywhere. Raises StorageError only, with the code of the server's answer and never its free text.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage.uris import SCHEME, ObjectInfo, check_size, split

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@lru_cache(maxsize=1)
def session() -> Any:
    """The boto3 session of this process."""
    import boto3

    return boto3.Session()


@lru_cache(maxsize=1)
def client() -> "S3Client":
    """The S3 client of this process; boto3 clients may be shared by threads."""
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=64)
    made: S3Client = session().client("s3", config=config)
    return made


def forget_clients() -> None:
    """Make the next call read credentials, region and endpoint anew."""
    client.cache_clear()
    session.cache_clear()


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """The objects below an s3:// prefix; folder markers (empty keys that end in /) are left out."""
    below = uri if uri.endswith("/") or not split(uri)[1] else f"{uri}/"
    for page in pages(uri):
        for item in objects_on(page, uri):
            if item.uri == uri or item.uri.startswith(below):
                yield item


def pages(uri: str, **options: Any) -> Iterator[dict[str, Any]]:
    """The pages of a listing of every key that begins as that of `uri` does; `options` are those of a paginator."""
    bucket, prefix = split(uri)
    with _sentence(uri, "listed"):
        pages: Any = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options)
        yield from pages


def objects_on(page: dict[str, Any], uri: str) -> Iterator[ObjectInfo]:
    """The objects on a page of a listing of the bucket of `uri`, without folder markers."""
    bucket, _ = split(uri)
    for item in page.get("Contents", []):
        if not item["Key"].endswith("/"):
            yield _info(f"{SCHEME}{bucket}/{item['Key']}", item, item["Size"])


def _info(uri: str, stated: Any, size: int) -> ObjectInfo:
    """An object by what a listing or a HEAD states of it."""
    modified = stated["LastModified"].astimezone(UTC) if "LastModified" in stated else None
    return ObjectInfo(uri, stated["ETag"].strip('"'), size, modified, stated.get("StorageClass"))


def stat(uri: str) -> ObjectInfo:
    """Version and size of one object."""
    bucket, key = split(uri)
    with _sentence(uri, "read"):
        answer = client().head_object(Bucket=bucket, Key=key)
        return _info(uri, answer, answer["ContentLength"])


def get(uri: str, *, max_bytes: int | None) -> bytes:
    """One GET, its body checked against the announced length."""
    bucket, key = split(uri)
    with _sentence(uri, "read"):
        answer = client().get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]):  # a body that is not read must not go back to the pool of connections
            check_size(uri, answer["ContentLength"], max_bytes)
            return _whole_body(answer, uri)


def get_range(uri: str, start: int, length: int) -> bytes:
    """One ranged GET, its body checked against the announced length; nothing from beyond the end."""
    bucket, key = split(uri)
    with _sentence(uri, "read"):
        try:
            answer = client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")
        except _client_error() as error:
            if error.response["Error"]["Code"] == "InvalidRange":
                return b""
            raise
        return _whole_body(answer, uri)


def put(uri: str, data: bytes) -> None:
    """One PUT: an object appears whole or not at all."""
    bucket, key = split(uri)
    with _sentence(uri, "written"):
        client().put_object(Bucket=bucket, Key=key, Body=data)


def delete(uri: str) -> None:
    """Remove one object; it is no error when it is gone already."""
    bucket, key = split(uri)
    with _sentence(uri, "removed"):
        client().delete_object(Bucket=bucket, Key=key)


def _whole_body(answer: Any, uri: str) -> bytes:
    """The body of an answer; raises StorageError when it is shorter than announced."""
    body: bytes = answer["Body"].read()
    if len(body) != answer["ContentLength"]:
        detail = f"{uri} broke off after {len(body)} of {answer['ContentLength']} bytes."
        raise StorageError(Fault.STORAGE_UNAVAILABLE, detail)
    return body


def _client_error() -> Any:
    """What boto3 raises for an answer that is an error."""
    from botocore.exceptions import ClientError

    return ClientError


@contextmanager
def _sentence(uri: str, verb: str) -> Iterator[None]:
    """What boto3 raises as ours: answers of the server, and everything from no connection to no credentials."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, HTTPError) as error:
        raise _storage_error(error, uri, verb) from error


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
