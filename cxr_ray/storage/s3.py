"""Object stores that speak S3, through boto3: listed, read in whole or in part, written, removed.

Each request is asked again while its refusal may pass. Raises StorageError only, with the code of the server's answer
and the number of attempts.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from cxr_ray.storage import stores
from cxr_ray.storage.answers import BrokenBodyError, code_and_status, kinds_of_error, refusal_of
from cxr_ray.storage.repeating import repeated
from cxr_ray.storage.uris import SCHEME, ObjectInfo, check_size, split

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

Answer = TypeVar("Answer")


def pages(uri: str, **request: Any) -> Iterator[Any]:
    """The pages of ListObjectsV2 below the prefix that `uri` is, as boto3 gives them; `request` adds to it.

    Each page is asked for again by itself, so that a long listing survives what passes.
    """
    bucket, key = split(uri)
    wanted = {"Bucket": bucket, "Prefix": key, **request}
    while True:
        page = _asked(uri, "listed", lambda client, payer: client.list_objects_v2(**wanted, **payer))
        yield page
        if not page.get("IsTruncated"):
            return
        wanted["ContinuationToken"] = page["NextContinuationToken"]


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """The objects below an s3:// prefix; folder markers (empty keys that end in /) are left out."""
    below = uri if uri.endswith("/") or not split(uri)[1] else f"{uri}/"
    for page in pages(uri):
        for item in objects_on(page, uri):
            if item.uri == uri or item.uri.startswith(below):
                yield item


def objects_on(page: Any, uri: str) -> Iterator[ObjectInfo]:
    """The objects on a page of a listing of the bucket of `uri`, without folder markers."""
    bucket, _ = split(uri)
    for item in page.get("Contents", []):
        if not item["Key"].endswith("/"):
            yield listed(bucket, item)


def listed(bucket: str, item: Any) -> ObjectInfo:
    """One object of a page of a listing."""
    version = item["ETag"].strip('"')
    return ObjectInfo(f"{SCHEME}{bucket}/{item['Key']}", version, item["Size"], item["LastModified"], _class_of(item))


def stat(uri: str) -> ObjectInfo:
    """Version, size, age and storage class of one object."""
    bucket, key = split(uri)
    answer = _asked(uri, "read", lambda client, payer: client.head_object(Bucket=bucket, Key=key, **payer))
    version, size = answer["ETag"].strip('"'), answer["ContentLength"]
    return ObjectInfo(uri, version, size, answer["LastModified"], _class_of(answer))


def get(uri: str, *, version: str, max_bytes: int | None, stop: threading.Event | None = None) -> bytes:
    """The bytes of one object of this version, of the announced length and checksum."""

    def ask(client: "S3Client", payer: dict[str, Any]) -> bytes:
        bucket, key = split(uri)
        answer = client.get_object(Bucket=bucket, Key=key, **_of_version(version), **payer)
        with closing(answer["Body"]):  # a body that is not read must not go back to the pool of connections
            check_size(uri, answer["ContentLength"], max_bytes)
            return _whole_body(answer)

    return _asked(uri, "read", ask, stop)


def get_range(uri: str, start: int, length: int, *, version: str) -> bytes:
    """Part of one object of this version, of the announced length; nothing from beyond the end."""

    def ask(client: "S3Client", payer: dict[str, Any]) -> bytes:
        bucket, key = split(uri)
        wanted = f"bytes={start}-{start + length - 1}"
        try:
            answer = client.get_object(Bucket=bucket, Key=key, Range=wanted, **_of_version(version), **payer)
        except client.exceptions.ClientError as error:
            if code_and_status(error)[0] == "InvalidRange":
                return b""
            raise
        return _whole_body(answer)

    return _asked(uri, "read", ask)


def put(uri: str, data: bytes) -> None:
    """One PUT: an object appears whole or not at all."""
    bucket, key = split(uri)
    _asked(uri, "written", lambda client, payer: client.put_object(Bucket=bucket, Key=key, Body=data, **payer))


def put_if(uri: str, data: bytes, **condition: str) -> str | None:
    """One PUT under `condition` (IfMatch, IfNoneMatch): the new version, or None where it does not hold.

    An attempt whose answer was lost may have been the one that wrote; then the next finds the condition broken by
    itself. So what is there by then is read: `data` must be such that nobody else writes the same.
    """
    bucket, key = split(uri)
    attempts = 0

    def ask(client: "S3Client", payer: dict[str, Any]) -> str | None:
        nonlocal attempts
        attempts += 1
        try:
            answer = client.put_object(Bucket=bucket, Key=key, Body=data, **condition, **payer)  # type: ignore[arg-type]
        except client.exceptions.ClientError as error:
            code, status = code_and_status(error)
            if status == 412 or ("IfMatch" in condition and code == "NoSuchKey"):
                return None
            raise
        return answer["ETag"].strip('"')

    version = _asked(uri, "written", ask)
    return version if version is not None or attempts == 1 else _version_holding(uri, data)


def delete(uri: str) -> None:
    """Remove one object; it is no error when it is gone already."""
    bucket, key = split(uri)
    _asked(uri, "removed", lambda client, payer: client.delete_object(Bucket=bucket, Key=key, **payer))


def _version_holding(uri: str, data: bytes) -> str | None:
    """The version of what is there if it is `data`, else None."""

    def ask(client: "S3Client", payer: dict[str, Any]) -> str | None:
        bucket, key = split(uri)
        try:
            answer = client.get_object(Bucket=bucket, Key=key, **payer)
        except client.exceptions.NoSuchKey:
            return None
        return answer["ETag"].strip('"') if _whole_body(answer) == data else None

    return _asked(uri, "read", ask)


def _asked(
    uri: str,
    verb: str,
    ask: Callable[["S3Client", dict[str, Any]], Answer],
    stop: threading.Event | None = None,
) -> Answer:
    """What a request to the store of `uri` brings, asked again while its refusal may pass. Raises StorageError."""
    store = stores.current().of(uri)

    def once() -> Answer:
        store.wait(stop)
        return ask(store.client, store.payer)

    return repeated(
        once,
        uri,
        verb,
        config=store.stores.config,
        errors=kinds_of_error(),
        refusal=lambda error: refusal_of(error, store.endpoint),
        stop=stop,
    )


def _class_of(answer: Any) -> str | None:
    """The storage class; listings name the standard one, and HEAD does not."""
    named: str | None = answer.get("StorageClass")
    return None if named == "STANDARD" else named


def _of_version(version: str) -> dict[str, Any]:
    """What a GET says of the version it wants; without one, whatever is there."""
    return {"IfMatch": f'"{version}"'} if version else {}


def _whole_body(answer: Any) -> bytes:
    """The body of an answer; boto3 compares it with the checksum, where there is one."""
    body: bytes = answer["Body"].read()
    if len(body) != answer["ContentLength"]:
        raise BrokenBodyError(f"broke off after {len(body)} of {answer['ContentLength']} bytes")
    return body
