"""List inputs into a Parquet worklist, and leave out what is done.

An input is a file, a folder, an s3:// prefix, or a table (CSV, Parquet) with a `uri` column. An archive (.zip, .tar,
.tar.gz) among them is listed as its members. Knows no pixels, no model and no Ray.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import ConfigError, DecodeError, Fault, StorageError
from cxr_ray.images.packed import archives
from cxr_ray.images.packed.members import MEMBER_PATTERN, Member, is_archive, join, split
from cxr_ray.labels.tables import read_table
from cxr_ray.scoring import table
from cxr_ray.scoring.table import Contract

WORKLIST = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("object_version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
_LISTED = WORKLIST.append(pa.field("place", pa.int64(), nullable=False))
TABLES = (".csv", ".parquet", ".pq")
_BATCH = 65_536  # objects listed at a time
_ENSEMBLE = b"cxr_ray_ensemble"
ABSENT = "absent"  # version of an object that a worklist names but the storage does not have


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may be an image, and where it lies in its archive (0 for what lies in none)."""

    uri: str
    version: str
    size: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Worklist:
    """What one run has to do. listed = already_done + deferred + todo; `left_out` files never were candidates.

    An archive without any file that could be an image is one file left out.
    """

    uri: str
    listed: int
    already_done: int
    deferred: int
    todo: int
    left_out: int


def build_worklist(
    inputs: Sequence[str],
    output: str,
    contract: Contract,
    run_id: str,
    *,
    exclude: Sequence[str],
    limit: int | None,
    limits: LimitsConfig | None = None,
) -> Worklist:
    """List `inputs`, drop repeated uris and what `output` already holds, and write the rest as a Parquet worklist.

    Files whose name matches a pattern of `exclude` are left out, unless they are named as an input themselves. The
    worklist is in order of uri, but the members of one archive are in the order in which they lie there, so that a
    task reads them in one pass. `limits` bound the archives; None takes the defaults.

    Raises:
        StorageError: An input does not exist or cannot be listed.
        ConfigError: The inputs hold no file that could be an image.
    """
    listing = Listing(tuple(exclude), limits or LimitsConfig())
    parts = list(_batches(listing.objects(inputs)))
    everything = pa.concat_tables(parts) if parts else _LISTED.empty_table()
    unique = _first_of_each(everything)
    if unique.num_rows == 0:
        raise ConfigError(
            f"There is no image file in {', '.join(inputs)} ({listing.left_out} files were left out by their names);"
            " check the path."
        )
    todo = unique.join(done_keys(output, contract), keys=["uri", "object_version"], join_type="left anti")
    todo = _in_order(todo).select(WORKLIST.names).cast(WORKLIST)
    taken = todo if limit is None else todo.slice(0, limit)
    uri = storage.join(output, "worklists", f"{run_id}.parquet")
    storage.put(uri, _encode(taken, contract))
    return Worklist(
        uri=uri,
        listed=unique.num_rows,
        already_done=unique.num_rows - todo.num_rows,
        deferred=todo.num_rows - taken.num_rows,
        todo=taken.num_rows,
        left_out=listing.left_out,
    )


def done_keys(output: str, contract: Contract) -> pa.Table:
    """The keys (uri, object_version) that `output` holds for this ensemble and preprocessing."""
    rows = table.rows_of(output, wanted=["uri", "object_version", "preprocess_digest"], contract=contract)
    same = pc.equal(rows["preprocess_digest"], contract.preprocess_digest)
    return rows.filter(same).select(["uri", "object_version"])


class Listing:
    """Lists candidates and counts the files whose names say that they are no images."""

    def __init__(self, exclude: tuple[str, ...], limits: LimitsConfig) -> None:
        """Nothing is listed yet; `exclude` are patterns of names, `limits` bound the archives."""
        self.exclude, self.limits = exclude, limits
        self.left_out = 0

    def objects(self, inputs: Sequence[str]) -> Iterator[Candidate]:
        """Every object of the inputs, and every member of their archives, that may be an image."""
        for given in inputs:
            uri = archives.absolute(given)
            is_table = uri.lower().endswith(TABLES) and split(uri)[1] is None
            for item in _from_table(uri, self.limits) if is_table else self._below(uri):
                yield from self._members(item) if is_archive(item.uri) and item.version != ABSENT else (item,)

    def _below(self, uri: str) -> Iterator[Candidate]:
        """The objects of a file, folder or prefix without those left out; what is named itself always is one."""
        for item in _listed(uri, self.limits):
            if item.uri != uri and self._is_excluded(item.uri):
                self.left_out += 1
            else:
                yield item

    def _members(self, item: Candidate) -> Iterator[Candidate]:
        """The members of an archive; the archive itself where it cannot be listed: decoding that row says why."""
        members = _directory(item.uri, item.version, self.limits)
        if members is None:
            yield item
            return
        wanted = [member for member in members.values() if not self._is_excluded(member.name)]
        self.left_out += len(members) - len(wanted) if members else 1
        for member in wanted:
            yield Candidate(join(item.uri, member.name), item.version, member.size, member.place)

    def _is_excluded(self, uri: str) -> bool:
        """Whether the last part of the uri matches a pattern, ignoring case."""
        name = PurePosixPath(uri).name.lower()
        return any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.exclude)


def _listed(uri: str, limits: LimitsConfig) -> Iterator[Candidate]:
    """The objects of a file, folder or prefix, or one member; raises ConfigError when there is none."""
    try:
        if split(uri)[1] is not None:
            yield _named(uri, limits)
        else:
            yield from (Candidate(item.uri, item.version, item.size) for item in storage.list_objects(uri))
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            raise ConfigError(f"The input cannot be used: {error.detail}") from error
        raise


def _from_table(uri: str, limits: LimitsConfig) -> Iterator[Candidate]:
    """The objects that a CSV or Parquet table names, with the version they have now; those of an archive together."""
    frame = read_table(uri)
    if "uri" not in frame.columns:
        raise ConfigError(f"The worklist {uri} has no column 'uri'; it has {', '.join(map(str, frame.columns))}.")
    folder = uri.rpartition("/")[0]
    for target in sorted(archives.absolute(storage.join(folder, name)) for name in pd.Series(frame["uri"]).astype(str)):
        try:
            yield _named(target, limits)
        except StorageError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            yield Candidate(target, ABSENT, 0)


def _named(uri: str, limits: LimitsConfig) -> Candidate:
    """One object, or one member of an archive, that is named itself: it gets its row, whatever it is.

    Raises StorageError for an object or an archive that cannot be found.
    """
    archive, name = split(uri)
    found = storage.stat(archive)
    if name is None:
        return Candidate(uri, found.version, found.size)
    member = (_directory(archive, found.version, limits) or {}).get(name)
    return Candidate(uri, found.version, member.size if member else 0, member.place if member else 0)


def _directory(uri: str, version: str, limits: LimitsConfig) -> Mapping[str, Member] | None:
    """The members of an archive by name, or None when it cannot be listed."""
    try:
        return archives.open_archive(uri, version, limits).members
    except (DecodeError, StorageError):
        return None


def _batches(items: Iterable[Candidate]) -> Iterator[pa.Table]:
    """The objects as Arrow tables of bounded length."""
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        columns = [[getattr(item, name) for item in batch] for name in ("uri", "version", "size", "place")]
        yield pa.table(columns, schema=_LISTED)


def _first_of_each(rows: pa.Table) -> pa.Table:
    """One row per uri: inputs may overlap."""
    others = _LISTED.names[1:]
    grouped = rows.group_by("uri", use_threads=False).aggregate([(name, "first") for name in others])
    return grouped.select(["uri", *(f"{name}_first" for name in others)]).rename_columns(_LISTED.names)


def _in_order(rows: pa.Table) -> pa.Table:
    """Rows by uri; the members of one archive together, by their place in it."""
    container = pc.replace_substring_regex(rows["uri"], MEMBER_PATTERN, r"\1")
    order = [("container", "ascending"), ("place", "ascending"), ("uri", "ascending")]
    return rows.append_column("container", container).sort_by(order)


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
