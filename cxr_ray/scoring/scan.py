"""Preflight of an archive from headers alone: what is there, what will fault, and what scoring it will cost.

Lists like `score` does, reads the beginning of each object, and counts. Knows no Ray, no model and no pixels.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.config import ScanConfig, ScoreConfig
from cxr_ray.errors import ConfigError, Fault
from cxr_ray.images.dicom.survey import Survey
from cxr_ray.scoring import estimate
from cxr_ray.scoring.census import Census
from cxr_ray.scoring.estimate import Estimate
from cxr_ray.scoring.headers import CHUNK, FEW, Scanned, read_headers
from cxr_ray.scoring.worklist import ABSENT, Listing, Selection, is_table
from cxr_ray.storage import ObjectInfo

Log = Callable[[str], None]

_NUMBERS = ("rows", "columns", "samples_per_pixel", "bits_allocated", "bits_stored", "num_frames")
SCANNED = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("object_version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        *(pa.field(item.name, pa.int32() if item.name in _NUMBERS else pa.string()) for item in fields(Survey)),
        pa.field("bytes_read", pa.int64(), nullable=False),
        pa.field("requests", pa.int32(), nullable=False),
    ]
)
"""One row per object: what `Survey` says of it, and what that took from the storage."""

_LISTING = pa.schema([("uri", pa.string()), ("version", pa.string()), ("size", pa.int64())])
_BATCH = 256 * CHUNK  # objects listed at a time
_ROWS = 64 * CHUNK  # rows written at a time
_FORMATS = (".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What `scan` found. `left_out` files were not read because of their names; `output` is None without a table."""

    inputs: tuple[str, ...]
    left_out: int
    census: Census
    estimate: Estimate
    output: str | None
    wall_seconds: float

    @property
    def fault_share(self) -> float:
        """Share of the objects that are expected to fault."""
        return self.census.faults.total() / self.census.objects

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "inputs": list(self.inputs),
            "left_out": self.left_out,
            **self.census.to_dict(),
            "estimate": self.estimate.to_dict(),
            "output": self.output,
            "wall_seconds": self.wall_seconds,
        }

    def lines(self) -> list[str]:
        """The result for a person."""
        census = self.census
        share = census.bytes_read / max(1, census.bytes)
        return [
            f"{census.objects:,} objects of {_megabytes(census.bytes)} in {', '.join(self.inputs)}"
            f" ({self.left_out:,} files left out by their names).",
            f"Read {_megabytes(census.bytes_read)} ({share:.1%}) in {census.requests:,} requests,"
            f" {self.wall_seconds:.1f} s.",
            *census.lines(),
            *estimate.lines(self.estimate),
            *([f"One row per object in {self.output}."] if self.output else []),
        ]


def scan(
    inputs: Sequence[str],
    *,
    config: ScoreConfig,
    scan_config: ScanConfig,
    output: str | None = None,
    limit: int | None = None,
    log: Log,
) -> ScanResult:
    """Read the header of every object of `inputs`, or of the first `limit`, and sum up.

    Args:
        inputs: Files, folders, prefixes, archives or worklists, as for `score`.
        config: Exclusions, limits, gate and stores, as scoring will have them.
        scan_config: How to read, and for which cluster to estimate.
        output: A .parquet or .csv file for one row per object, local or s3://; None writes none.
        limit: Most objects that are read.
        log: Takes progress lines.

    Raises:
        ConfigError: There is nothing to read, or `output` cannot be written.
        StorageError: An input cannot be listed.
    """
    clock = time.monotonic()
    storage.configure(config.storage)
    output = None if output is None else _checked_output(output)
    census = Census()
    listing = Listing(Selection.of(config))
    candidates = _without_repetitions(listing.objects(inputs), inputs)
    with tempfile.TemporaryDirectory(prefix="cxr-ray-scan-") as folder:
        total, items = _counted(islice(candidates, limit), Path(folder), log)
        if total == 0:
            raise ConfigError(
                f"There is no image file in {', '.join(inputs)} ({listing.left_out} files were left out by their"
                " names); check the path."
            )
        log(f"{total:,} objects listed.")
        many, progress = total > FEW, _Progress(total, log=log, every=config.progress_every)
        read = read_headers(items, many=many, config=scan_config, limits=config.limits, gate=config.gate)
        with closing(read) as chunks, _Table(output, Path(folder)) as table:
            for chunk in chunks:
                rows = [_settled(row) for row in chunk]
                for row in rows:
                    census.add(row)
                table.write(rows)
                progress.show(census)
    return ScanResult(
        inputs=tuple(storage.absolute(uri) for uri in inputs),
        left_out=listing.left_out,
        census=census,
        estimate=estimate.estimate(
            images=census.scored,
            megapixels=census.scored_megapixels,
            fetched_bytes=census.bytes_by_place,
            config=scan_config,
        ),
        output=output,
        wall_seconds=round(time.monotonic() - clock, 3),
    )


def _checked_output(output: str) -> str:
    """Where the table goes; raises ConfigError for an ending that says no format, and for what cannot be written."""
    if not output.lower().endswith(_FORMATS):
        raise ConfigError(f"--output takes a file that ends in {' or '.join(_FORMATS)}, not {output}.")
    target = storage.absolute(output)
    storage.check_writable(target.rpartition("/")[0])
    return target


def _without_repetitions(items: Iterable[Any], inputs: Sequence[str]) -> Iterator[ObjectInfo]:
    """Each object once. One folder or prefix repeats nothing, and then nothing has to be remembered."""
    may_repeat = len(inputs) > 1 or is_table(inputs[0])
    seen: set[bytes] = set()
    for item in items:
        if may_repeat:
            key = hashlib.blake2b(item.uri.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            if key in seen:
                continue
            seen.add(key)
        yield ObjectInfo(item.uri, item.version, item.size)


def _counted(items: Iterator[ObjectInfo], folder: Path, log: Log) -> tuple[int, Iterator[ObjectInfo]]:
    """How many objects there are, and the objects: many lie in a file below `folder`, not in memory."""
    path, total = folder / "listing.arrow", 0
    batch = list(islice(items, FEW + 1))
    if len(batch) <= FEW:
        return len(batch), iter(batch)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _LISTING) as writer:
        while batch:
            columns = [[getattr(item, name) for item in batch] for name in _LISTING.names]
            writer.write_table(pa.table(columns, schema=_LISTING))
            total += len(batch)
            if total > _BATCH:
                log(f"{total:,} objects listed so far.")
            batch = list(islice(items, _BATCH))
    return total, _listed(path)


def _listed(path: Path) -> Iterator[ObjectInfo]:
    """The objects in the file of a listing."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield from (ObjectInfo(**row) for row in batch.to_pylist())


def _settled(row: Scanned) -> Scanned:
    """The row, or that a worklist names what the storage does not have."""
    if row.object_version != ABSENT:
        return row
    return replace(row, survey=Survey(expected_fault=Fault.NOT_FOUND))


class _Table:
    """Writes rows in batches to a file in `folder` and puts it at `output` when all went well; None writes nothing."""

    def __init__(self, output: str | None, folder: Path) -> None:
        self.output, self.partial = output, folder / "rows"
        self.writer: Any = None
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        if self.output is not None:
            kind = pa.csv.CSVWriter if self.output.lower().endswith(".csv") else pq.ParquetWriter
            self.writer = kind(str(self.partial), SCANNED)
        return self

    def write(self, rows: Iterable[Scanned]) -> None:
        """Take rows."""
        if self.writer is not None:
            self.rows += [_row(row) for row in rows]
            if len(self.rows) >= _ROWS:
                self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.writer is None or self.output is None:
            return
        if error is None:
            self._flush()
        self.writer.close()
        if error is None:
            storage.put(self.output, self.partial.read_bytes())

    def _flush(self) -> None:
        """Write what was taken."""
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=SCANNED))
        self.rows = []


def _row(row: Scanned) -> dict[str, Any]:
    """One object as a row of the table."""
    told = {item.name: getattr(row.survey, item.name) for item in fields(Survey)}
    whole = {name: getattr(row, name) for name in ("uri", "object_version", "size", "bytes_read", "requests")}
    return whole | told


class _Progress:
    """Says how far the scan is, at what rate, and how long it will take."""

    def __init__(self, total: int, *, log: Log, every: float) -> None:
        self.total, self.log, self.every = total, log, every
        self.started = self.spoke = time.monotonic()

    def show(self, census: Census) -> None:
        """Log a line when it is time for one, and at the end."""
        now = time.monotonic()
        if now - self.spoke < self.every and census.objects < self.total:
            return
        self.spoke = now
        rate = census.objects / max(now - self.started, 1e-9)
        left = (self.total - census.objects) / rate
        self.log(
            f"{census.objects:,} of {self.total:,} headers ({census.faults.total():,} faults expected),"
            f" {rate:.1f} objects/s, about {left:.0f} s left"
        )


def _megabytes(size: int) -> str:
    """Bytes in the unit that fits."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
