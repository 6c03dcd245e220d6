"""Stages that hand tables on to each other, each a bounded number of calls ahead, driven by whoever takes the last one.

Knows threads and tables, and nothing of images.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

Given = TypeVar("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Pending:
    """Stands where there is nothing yet: one of these calls has to end first.

    The stages hand it on to the last one, which alone waits, for all of them: a stage that waited for the one before
    would keep what it has done itself.
    """

    calls: set[Future[Any]]


def spread(
    threads: ThreadPoolExecutor,
    function: Callable[[Given], Answer],
    arguments: Iterable[Given | Pending],
    *,
    ahead: int,
) -> Generator[Answer | Pending]:
    """`function` of each argument, as the results come, and `Pending` where there are none.

    At most `ahead` calls are begun whose results are not taken. Where it ends early, calls that are not begun are
    cancelled.
    """
    source, drawn, running = iter(arguments), False, set[Future[Answer]]()
    try:
        while running or not drawn:
            calls: set[Future[Any]] = set()
            while not (drawn or calls) and len(running) < ahead:
                given = next(source, None)
                if isinstance(given, Pending):
                    calls = given.calls
                elif given is None:
                    drawn = True
                else:
                    running.add(threads.submit(function, given))
            done = {call for call in running if call.done()}
            running -= done
            for call in done:
                yield call.result()
            if not done and (running or calls):
                yield Pending(calls | running)
    finally:
        for call in running:
            call.cancel()


def regroup(tables: Iterable[pa.Table | Pending], sizes: Iterator[int]) -> Iterator[pa.Table | Pending]:
    """The same rows in tables of `sizes` rows, the last one shorter."""
    held, size = list[pa.Table](), next(sizes)
    for table in tables:
        if isinstance(table, Pending):
            yield table
            continue
        held.append(table)
        while sum(part.num_rows for part in held) >= size:
            whole = pa.concat_tables(held)
            yield whole.slice(0, size)
            held, size = [whole.slice(size)], next(sizes)
    rest = pa.concat_tables(held) if held else None
    if rest is not None and rest.num_rows:
        yield rest
