"""What a night begins with, at scale: keys listed over HTTP by several processes, and held against the score table.

A server of its own process answers ListObjectsV2 for invented keys: half of them lie in folders by site and day, half
in one flat folder. The score table has the real schema and files of the real size; it holds all keys but every tenth,
and old versions and other archives besides. Prints seconds, rates, and the highest resident memory of the driver and
of the largest worker.

    python benchmarks/listing.py [--keys 1000000] [--rows 10000000] [--workers 2]
"""

import argparse
import hashlib
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.scoring import table
from cxr_ray.scoring.table import SCORED, Contract
from cxr_ray.scoring.verify import verify
from cxr_ray.scoring.worklist import Counts, build_worklist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' server lies beside, in no package
from tests.listing_server import ListingServer, etag

ROWS_PER_FILE = 4_096
CONTRACT = Contract(
    findings=tuple(f"Finding {number}" for number in range(15)),
    members=("a", "b", "c", "d", "e"),
    grid=7,
    size=512,
    thresholds=(0.5,) * 15,
    ensemble_digest="e" * 16,
    preprocess_digest="p" * 16,
)
NEW = 10  # every tenth key has no row


def key_of(number: int) -> str:
    """An invented key: of even numbers in folders by site and day, of odd ones in one flat folder."""
    name = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    if number % 2:
        return f"archive/flat/1.2.826.0.1.3680043.{name}.dcm"
    day = datetime(2020, 1, 1) + timedelta(days=number // 2 % 1_500)
    return f"archive/site {'abcd'[number // 2 % 4]}/{day:%Y/%m/%d}/P{number % 9_973:06d}/1.2.826.0.1.{name}.dcm"


def serve(keys: int, port: Connection) -> None:
    """Be the object store."""
    with ListingServer(sorted(map(key_of, range(keys)))) as server:
        port.send(server.url)
        server.serve_forever()


def rows_of(keys: int, rows: int) -> Iterator[tuple[str, str]]:
    """Uri and version of every row of the score table."""
    for number in range(rows):
        if number < keys and number % NEW == 0:
            yield f"s3://other-bucket/{key_of(number)}", etag(key_of(number))
        elif number < keys:
            yield f"s3://bucket/{key_of(number)}", etag(key_of(number))
        elif number < 2 * keys:
            yield f"s3://bucket/{key_of(number - keys)}", "0" * 32  # a version that was replaced
        else:
            yield f"s3://bucket/{key_of(number)}", etag(key_of(number))


def write_scores(output: str, keys: int, rows: int) -> None:
    """The score table, by nights of 100 files."""
    schema, source = table.schema(CONTRACT), rows_of(keys, rows)
    started = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(0, rows, ROWS_PER_FILE):
        count = min(ROWS_PER_FILE, rows - number)
        uris, versions = zip(*(next(source) for _ in range(count)), strict=True)
        night = started + timedelta(days=number // ROWS_PER_FILE // 100)
        run_id = f"{night:%Y%m%dT%H%M%S%f}"[:18]
        stated: dict[str, Any] = {
            "uri": uris,
            "object_version": versions,
            "status": [SCORED] * count,
            "ensemble_digest": [CONTRACT.ensemble_digest] * count,
            "preprocess_digest": [CONTRACT.preprocess_digest] * count,
            "run_id": [run_id] * count,
            "scored_at": [night] * count,
        }
        columns = [pa.array(stated.get(item.name, [None] * count), item.type) for item in schema]
        storage.put(table.file_uri(output, run_id, f"{number:016x}"), table.encode(pa.table(columns, schema=schema)))


def peak_bytes() -> int:
    """Highest resident memory of this process so far. Not ru_maxrss, which a process inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measured(function: Callable[..., Counts], arguments: tuple[Any, ...]) -> tuple[Counts, int]:
    """A call in a worker, and what the worker took for it."""
    return function(*arguments), peak_bytes()


@dataclass
class Pool:
    """Processes that list shards; `peak` is the highest memory of any of them."""

    workers: int
    peak: int = 0
    shards: int = 0

    def __call__(
        self, function: Callable[..., Counts], arguments: Iterable[tuple[Any, ...]], each: Callable[[Counts], None]
    ) -> None:
        """The `Over` of this benchmark."""
        with ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = set[Future[tuple[Counts, int]]]()
            for given in arguments:
                waiting.add(pool.submit(measured, function, given))
                if len(waiting) >= 4 * self.workers:
                    waiting = self._take(waiting, each)
            while waiting:
                waiting = self._take(waiting, each)

    def _take(
        self, waiting: set[Future[tuple[Counts, int]]], each: Callable[[Counts], None]
    ) -> set[Future[tuple[Counts, int]]]:
        """Hand over what is done; returns the rest."""
        done, rest = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            counts, peak = future.result()
            self.peak, self.shards = max(self.peak, peak), self.shards + 1
            each(counts)
        return rest


def drive(output: str, keys: int, rows: int, workers: int) -> None:
    """List, hold against the table, verify; print the table."""
    pool, clock, listed_at = Pool(workers), time.monotonic(), [0.0]

    def progress(counts: Counts) -> None:
        listed_at[0] = time.monotonic()
        print(f"{counts.candidates:,} keys after {listed_at[0] - clock:.1f} s", file=sys.stderr, flush=True)

    config = ScoreConfig()
    work = build_worklist(
        ["s3://bucket/archive"], output, CONTRACT, "20261123T010203004", config=config, over=pool, progress=progress
    )
    finished, driver = time.monotonic(), peak_bytes()
    expected = len(range(0, keys, NEW))
    assert (work.listed, work.todo, work.already_done) == (keys, expected, keys - expected), work
    listing, joining = listed_at[0] - clock, finished - listed_at[0]
    print(f"{keys:,} keys in {pool.shards} shards, {workers} workers; score table of {rows:,} rows\n")
    print("| step | s | rows/s | driver, peak MiB | largest worker, peak MiB |")
    print("|---|---|---|---|---|")
    print(f"| listing | {listing:.1f} | {keys / listing:,.0f} | | {pool.peak / 2**20:.0f} |")
    print(f"| one row per uri, anti-join, worklist | {joining:.1f} | {rows / joining:,.0f} | {driver / 2**20:.0f} | |")
    clock = time.monotonic()
    problems = verify(output).problems
    checking = time.monotonic() - clock
    assert [problem.split()[0] for problem in problems] == [str(expected)], problems  # which nobody scored yet
    print(f"| verify | {checking:.1f} | {rows / checking:,.0f} | {peak_bytes() / 2**20:.0f} | |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(arguments.keys, theirs), daemon=True)
    with tempfile.TemporaryDirectory(prefix="cxr-ray-listing-") as output:
        server.start()
        try:
            writer = spawn.Process(target=write_scores, args=(output, arguments.keys, arguments.rows))
            writer.start()
            os.environ |= {"AWS_ENDPOINT_URL": ours.recv(), "AWS_DEFAULT_REGION": "us-east-1"}
            os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
            writer.join()
            versions = ", ".join(f"{name} {version(name)}" for name in ("boto3", "duckdb", "pyarrow"))
            print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}", flush=True)
            measure = (output, arguments.keys, arguments.rows, arguments.workers)
            driver = spawn.Process(target=drive, args=measure)
            driver.start()
            driver.join()
        finally:
            server.kill()
    sys.exit(driver.exitcode)


if __name__ == "__main__":
    main()
