"""Writing only where nothing is, or only over a known version: what two runs need to keep out of each other's way."""

import os
import uuid

from cxr_ray.errors import ConfigError
from cxr_ray.storage import local, s3, stores
from cxr_ray.storage.uris import is_remote, split


def create(uri: str, data: bytes) -> str | None:
    """Write an object whole if none is there: its version, or None where one is.

    `data` must be such that nobody else writes the same: see `s3.put_if`.

    Raises:
        StorageError: The storage does not take it.
        ConfigError: The store ignores conditions, so nothing would be safe there.
    """
    if not is_remote(uri):
        return local.create(uri, data)
    _check_conditions(uri)
    return s3.put_if(uri, data, IfNoneMatch="*")


def replace(uri: str, data: bytes, version: str) -> str | None:
    """Write an object whole over this `version` of it: the new version, or None where another or none is there.

    Raises like `create`.
    """
    if not is_remote(uri):
        return local.replace(uri, data, version)
    _check_conditions(uri)
    return s3.put_if(uri, data, IfMatch=version)


def _check_conditions(uri: str) -> None:
    """See once for each bucket that the store honours conditions, on an object made for that beside `uri`.

    Many stores that speak S3 take a conditional PUT and write anyway; that must be known before it hits a lease.
    Versions go without quotation marks: AWS takes both, Ceph 16 compares them as they are with those it keeps.
    """
    store = stores.current().of(uri)
    place = store.endpoint, split(uri)[0]
    if place in store.stores.honours_conditions:
        return
    probe = f"{uri.rpartition('/')[0]}/.probe-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        first = s3.put_if(probe, b"1", IfNoneMatch="*")
        if first is None or s3.put_if(probe, b"2", IfNoneMatch="*") is not None:
            raise _ignores(uri, store.endpoint, "If-None-Match")
        if s3.put_if(probe, b"3", IfMatch="0" * 32) is not None or s3.put_if(probe, b"4", IfMatch=first) is None:
            raise _ignores(uri, store.endpoint, "If-Match")
    finally:
        s3.delete(probe)
    store.stores.honours_conditions.add(place)


def _ignores(uri: str, endpoint: str, condition: str) -> ConfigError:
    """The sentence for a store on which two runs could not be kept apart."""
    return ConfigError(
        f"{uri} cannot be written safely: the store at {endpoint} does not heed {condition} on PUT, so that two runs on"
        " one output could not be kept apart; choose an --output on another store or a file system."
    )
