"""Reading the headers of many objects: by ranges, in threads, and in processes where there are many.

What a worker process imports is kept small. Knows no Ray, no model, and nothing of what is counted.
"""

import io
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

from cxr_ray import storage
from cxr_ray.config import GateConfig, LimitsConfig, ScanConfig
from cxr_ray.errors import ConfigError, DecodeError, StorageError
from cxr_ray.images.dicom.survey import Survey, survey
from cxr_ray.scoring.objects import is_sequential, open_object
from cxr_ray.storage import ObjectInfo

CHUNK = 64  # objects handed to a process at a time: what Ctrl-C has to wait for
FEW = 200  # objects up to which processes take longer to start than to be of use
_FIRST_BYTES = 65_536  # of one request: holds nearly every header
_AHEAD = 3  # chunks in hand for each process


@dataclass(frozen=True, slots=True)
class Scanned:
    """One object, what its header tells, and what that took from the storage."""

    uri: str
    object_version: str
    size: int
    survey: Survey
    bytes_read: int = 0
    requests: int = 0


def read_headers(
    items: Iterable[ObjectInfo], *, many: bool, config: ScanConfig, limits: LimitsConfig, gate: GateConfig
) -> Generator[list[Scanned]]:
    """The headers of all objects in their order, chunk by chunk; `many` spreads them over processes.

    Raises ConfigError when a process is killed from outside.
    """
    chunks = _chunks(items)
    if not many:
        for chunk in chunks:
            yield read_chunk(chunk, limits, gate, config.threads)
        return
    workers = config.workers or len(os.sched_getaffinity(0))
    stores, share = storage.configured()
    told = partial(storage.configure, stores, share=share / workers)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=told)
    waiting: deque[Future[list[Scanned]]] = deque()
    try:
        with _deaf_to_interrupts():
            waiting.append(pool.submit(read_chunk, next(chunks), limits, gate, config.threads))
        for chunk in chunks:
            waiting.append(pool.submit(read_chunk, chunk, limits, gate, config.threads))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "A process that read headers was ended from outside; lower --workers, or scan again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def read_chunk(items: list[ObjectInfo], limits: LimitsConfig, gate: GateConfig, threads: int) -> list[Scanned]:
    """The headers of a few objects, several at a time while the storage lets us wait."""
    if any(is_sequential(item.uri) for item in items):
        threads = 1  # out of order, each would inflate its archive from the beginning
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda item: read_one(item, limits, gate), items))


def read_one(item: ObjectInfo, limits: LimitsConfig, gate: GateConfig) -> Scanned:
    """The header of one object, or what will be said of it instead."""
    try:
        raw = open_object(item, limits)
    except (DecodeError, StorageError) as error:
        return Scanned(item.uri, item.version, item.size, Survey(expected_fault=error.fault))
    try:
        found = survey(io.BufferedReader(raw, _FIRST_BYTES), item.size, limits=limits, gate=gate)
    except (DecodeError, StorageError) as error:
        found = Survey(expected_fault=error.fault)
    if raw.refusal:
        found = replace(found, expected_fault=raw.refusal.fault)
    return Scanned(item.uri, item.version, item.size, found, raw.bytes_read, raw.requests)


def _chunks(items: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    """The objects in lists of bounded length."""
    chunk: list[ObjectInfo] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes inside: they stay deaf to Ctrl-C, which reaches all of them and is for the parent to answer.

    An initializer would come too late: a process spends its first second on imports, and would die with a traceback.
    All processes of a pool start with its first task, since they are spawned.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
