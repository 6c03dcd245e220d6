"""Many objects at a time: some in flight while earlier ones are being worked on, within a budget of bytes."""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cxr_ray.errors import StorageError
from cxr_ray.storage import local, s3, stores
from cxr_ray.storage.uris import check_size, is_remote

Item = tuple[str, str, int | None]  # uri, version or '', size in bytes or None


def fetch(items: Sequence[Item], *, max_bytes: int | None = None) -> Generator[bytes | StorageError]:
    """The bytes of each object in order, or the error that says why not; close it to stop early.

    `storage.requests_in_flight` objects are fetched at a time, as long as those that are fetched and those that wait
    for the consumer have no more than `storage.bytes_in_flight` by their listed sizes: a larger object goes alone, and
    one of unknown size counts as an even share.

    Args:
        items: Uri, version and size of each, as listed. Another version by now is Fault.CHANGED; '' takes any.
        max_bytes: Objects of more are TOO_LARGE and are not fetched.
    """
    config = stores.current().config
    share = config.bytes_in_flight // config.requests_in_flight
    rest = deque(items)
    waiting: deque[tuple[Future[bytes | StorageError], int]] = deque()
    held, stop = 0, threading.Event()
    pool = ThreadPoolExecutor(config.requests_in_flight, thread_name_prefix="cxr-ray-fetch")
    try:
        while rest or waiting:
            while rest and (not waiting or held + _cost(rest[0], share) <= config.bytes_in_flight):
                held += _cost(rest[0], share)
                waiting.append((pool.submit(_one, rest[0], max_bytes, stop), _cost(rest.popleft(), share)))
            yield waiting[0][0].result()
            held -= waiting.popleft()[1]  # only now: until here the consumer worked on it
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _cost(item: Item, share: int) -> int:
    """What an object takes from the budget."""
    return share if item[2] is None else item[2]


def _one(item: Item, max_bytes: int | None, stop: threading.Event) -> bytes | StorageError:
    """One object, or why not."""
    uri, version, size = item
    try:
        check_size(uri, size or 0, max_bytes)
        get = s3.get if is_remote(uri) else local.get
        return get(uri, version=version, max_bytes=max_bytes, stop=stop)
    except StorageError as error:
        return error
