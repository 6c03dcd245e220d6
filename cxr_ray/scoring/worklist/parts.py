"""The worklist on disk: parts of bounded rows in OUT/worklists/RUN, of which the driver never holds more than one.

While inputs are listed their rows lie in `listed/`; what is to be done lies in `todo/`, in order; `worklist.json` is
written last and tells a whole worklist from one that broke off.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.worklist.candidates import Candidate, Listing, Selection
from cxr_ray.scoring.worklist.shards import Shard

WORKLIST = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("object_version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("us", tz="UTC")),
    ]
)
LISTED = WORKLIST.append(pa.field("place", pa.int64(), nullable=False))
TODO_ROWS = 50_000
_LISTED_ROWS = 65_536
_ENSEMBLE = b"cxr_ray_ensemble"
_MARKER = "worklist.json"


@dataclass(frozen=True, slots=True)
class Counts:
    """What shards held: candidates, what its name left out, and what its age left out."""

    candidates: int = 0
    left_out: int = 0
    too_old: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(self.candidates + other.candidates, self.left_out + other.left_out, self.too_old + other.too_old)


Over = Callable[[Callable[..., Counts], Iterable[tuple[Any, ...]], Callable[[Counts], None]], None]
"""Calls a function with each of the tuples of arguments, anywhere, and hands each result over, in any order."""


def in_turn(
    function: Callable[..., Counts], arguments: Iterable[tuple[Any, ...]], each: Callable[[Counts], None]
) -> None:
    """The `Over` of one process: one call after the other."""
    for given in arguments:
        each(function(*given))


def list_shard(shard: Shard, selection: Selection, folder: str, number: int) -> Counts:
    """Write the candidates of a shard as parts in `folder`, and count them.

    Listed again, a shard replaces its parts. Raises ConfigError, StorageError.
    """
    listing, total = Listing(selection), 0
    candidates = listing.of(shard)
    part = 0
    while batch := list(islice(candidates, _LISTED_ROWS)):
        storage.put(storage.join(folder, f"{number:06d}-{part:05d}.parquet"), encode(_table(batch)))
        total, part = total + len(batch), part + 1
    return Counts(total, listing.left_out, listing.too_old)


def _table(batch: list[Candidate]) -> pa.Table:
    """Candidates as rows of LISTED."""
    names = ("uri", "version", "size", "modified", "place")
    return pa.table([[getattr(item, name) for item in batch] for name in names], schema=LISTED)


def encode(rows: pa.Table, contract: Contract | None = None) -> bytes:
    """A part as Parquet, which names its ensemble if it has one."""
    sink = pa.BufferOutputStream()
    named = rows.replace_schema_metadata({_ENSEMBLE: contract.ensemble_digest.encode()} if contract else None)
    pq.write_table(named, sink, compression="zstd")
    return bytes(sink.getvalue())


def write_todo(batches: Iterable[pa.RecordBatch], folder: str, contract: Contract) -> None:
    """Write batches of any length as the parts of a worklist, 00000.parquet and so on."""
    for number, rows in enumerate(_evenly(batches)):
        storage.put(storage.join(folder, f"{number:05d}.parquet"), encode(rows.cast(WORKLIST), contract))


def _evenly(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of TODO_ROWS rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(part.num_rows for part in held) >= TODO_ROWS:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, TODO_ROWS)
            held = whole.slice(TODO_ROWS).to_batches()
    if held:
        yield pa.Table.from_batches(held)


@dataclass(frozen=True, slots=True)
class Finished:
    """A whole worklist in an output folder: its run, the ensemble it is for, and its parts."""

    run_id: str
    ensemble_digest: str
    parts: tuple[str, ...]


def mark_whole(folder: str, contract: Contract, counts: dict[str, int]) -> None:
    """Say that the worklist in `folder` is whole."""
    values = {"ensemble_digest": contract.ensemble_digest, "preprocess_digest": contract.preprocess_digest, **counts}
    storage.put(storage.join(folder, _MARKER), json.dumps(values, indent=2).encode())


def worklists(output: str) -> Iterator[Finished]:
    """The whole worklists of an output folder in order of their runs; single files are those of old versions."""
    below = storage.join(output, "worklists")
    parts: dict[str, list[str]] = {}
    whole = set[str]()
    for item in storage.list_objects(below, missing_ok=True):
        run_id, _, name = item.uri.removeprefix(f"{below}/").partition("/")
        if not name:
            yield Finished(run_id.removesuffix(".parquet"), _ensemble_of(item.uri), (item.uri,))
        elif name == _MARKER:
            whole.add(run_id)
        elif name.startswith("todo/"):
            parts.setdefault(run_id, []).append(item.uri)
    for run_id in sorted(whole):
        digest = json.loads(storage.get(storage.join(below, run_id, _MARKER)))["ensemble_digest"]
        yield Finished(run_id, digest, tuple(sorted(parts.get(run_id, ()))))


def forget_listed(output: str) -> None:
    """Remove what listings left behind, those that broke off included."""
    below = storage.join(output, "worklists")
    for item in storage.list_objects(below, missing_ok=True):
        if item.uri.removeprefix(f"{below}/").partition("/")[2].startswith("listed/"):
            storage.delete(item.uri)


def _ensemble_of(uri: str) -> str:
    """The digest of the ensemble that a worklist of one file was made for."""
    filesystem, path = storage.filesystem(uri)
    metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
    return bytes(metadata.get(_ENSEMBLE, b"")).decode()
