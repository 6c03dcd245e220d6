"""List inputs into a Parquet worklist, and leave out what is done.

An input is a file, a folder, an s3:// prefix, or a table (CSV, Parquet) with a `uri` column. Knows no pixels, no
model and no Ray.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.labels.manifest import read_table
from cxr_ray.scoring import table
from cxr_ray.scoring.table import Contract

WORKLIST = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("object_version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
_TABLES = (".csv", ".parquet", ".pq")
_BATCH = 65_536  # objects listed at a time
_ENSEMBLE = b"cxr_ray_ensemble"
ABSENT = "absent"  # version of an object that a worklist names but the storage does not have


@dataclass(frozen=True, slots=True)
class Worklist:
    """What one run has to do. listed = already_done + deferred + todo; `left_out` files never were candidates."""

    uri: str
    listed: int
    already_done: int
    deferred: int
    todo: int
    left_out: int


def build_worklist(
    inputs: Sequence[str], output: str, contract: Contract, run_id: str, *, exclude: Sequence[str], limit: int | None
) -> Worklist:
    """List `inputs`, drop repeated uris and what `output` already holds, and write the rest as a Parquet worklist.

    Files whose name matches a pattern of `exclude` are left out, unless they are named as an input themselves.

    Raises:
        StorageError: An input does not exist or cannot be listed.
        ConfigError: The inputs hold no file that could be an image.
    """
    counter = _LeftOut(tuple(exclude))
    parts = list(_batches(counter.candidates(inputs)))
    everything = pa.concat_tables(parts) if parts else WORKLIST.empty_table()
    unique = _first_of_each(everything)
    if unique.num_rows == 0:
        raise ConfigError(
            f"There is no image file in {', '.join(inputs)} ({counter.left_out} files were left out by their names);"
            " check the path."
        )
    todo = unique.join(done_keys(output, contract), keys=["uri", "object_version"], join_type="left anti")
    todo = todo.select(WORKLIST.names).cast(WORKLIST).sort_by("uri")
    taken = todo if limit is None else todo.slice(0, limit)
    uri = storage.join(output, "worklists", f"{run_id}.parquet")
    storage.put(uri, _encode(taken, contract))
    return Worklist(
        uri=uri,
        listed=unique.num_rows,
        already_done=unique.num_rows - todo.num_rows,
        deferred=todo.num_rows - taken.num_rows,
        todo=taken.num_rows,
        left_out=counter.left_out,
    )


def done_keys(output: str, contract: Contract) -> pa.Table:
    """The keys (uri, object_version) that `output` holds for this ensemble and preprocessing."""
    rows = table.rows_of(output, wanted=["uri", "object_version", "preprocess_digest"], contract=contract)
    same = pc.equal(rows["preprocess_digest"], contract.preprocess_digest)
    return rows.filter(same).select(["uri", "object_version"])


class _LeftOut:
    """Lists candidates and counts the files whose names say that they are no images."""

    def __init__(self, exclude: tuple[str, ...]) -> None:
        self.exclude = exclude
        self.left_out = 0

    def candidates(self, inputs: Sequence[str]) -> Iterator[storage.ObjectInfo]:
        """Every object of the inputs that may be an image."""
        for given in inputs:
            uri = storage.absolute(given)
            if uri.lower().endswith(_TABLES):
                yield from _from_table(uri)
                continue
            for item in _listed(uri):
                if item.uri != uri and self._is_excluded(item.uri):
                    self.left_out += 1
                else:
                    yield item

    def _is_excluded(self, uri: str) -> bool:
        """Whether the last part of the uri matches a pattern, ignoring case."""
        name = PurePosixPath(uri).name.lower()
        return any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.exclude)


def _listed(uri: str) -> Iterator[storage.ObjectInfo]:
    """The objects of a file, folder or prefix; raises ConfigError when there is none."""
    try:
        yield from storage.list_objects(uri)
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            raise ConfigError(f"The input cannot be used: {error.detail}") from error
        raise


def _from_table(uri: str) -> Iterator[storage.ObjectInfo]:
    """The objects that a CSV or Parquet table names, with the version they have now."""
    frame = read_table(uri)
    if "uri" not in frame.columns:
        raise ConfigError(f"The worklist {uri} has no column 'uri'; it has {', '.join(map(str, frame.columns))}.")
    folder = uri.rpartition("/")[0]
    for name in pd.Series(frame["uri"]).astype(str):
        target = storage.absolute(storage.join(folder, name))
        try:
            yield storage.stat(target)
        except StorageError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            yield storage.ObjectInfo(target, ABSENT, 0)


def _batches(items: Iterable[storage.ObjectInfo]) -> Iterator[pa.Table]:
    """The objects as Arrow tables of bounded length."""
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        columns = [[item.uri for item in batch], [item.version for item in batch], [item.size for item in batch]]
        yield pa.table(columns, schema=WORKLIST)


def _first_of_each(rows: pa.Table) -> pa.Table:
    """One row per uri: inputs may overlap."""
    grouped = rows.group_by("uri", use_threads=False).aggregate([("object_version", "first"), ("size", "first")])
    return grouped.select(["uri", "object_version_first", "size_first"]).rename_columns(WORKLIST.names)


def _encode(rows: pa.Table, contract: Contract) -> bytes:
    """The worklist as Parquet that names its ensemble."""
    sink = pa.BufferOutputStream()
    named = rows.replace_schema_metadata({_ENSEMBLE: contract.ensemble_digest.encode()})
    pq.write_table(named, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_worklist(uri: str) -> tuple[pa.Table, str]:
    """A worklist and the digest of the ensemble it was made for."""
    filesystem, path = storage.filesystem(uri)
    rows = pq.read_table(path, filesystem=filesystem)
    return rows, (rows.schema.metadata or {}).get(_ENSEMBLE, b"").decode()
