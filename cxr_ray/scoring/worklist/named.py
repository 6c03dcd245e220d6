"""Objects that a user names: the `uri` column of a table, and the version each of them has now."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.images.packed import archives
from cxr_ray.images.packed.members import split
from cxr_ray.storage import ObjectInfo

ABSENT = "absent"  # version of an object that a table names but the storage does not have
TABLES = (".csv", ".parquet", ".pq")
CHUNK = 10_000  # uris of one shard
_ABREAST = 16  # objects asked for side by side


def is_table(uri: str) -> bool:
    """Whether the name is that of a table of uris."""
    return uri.lower().endswith(TABLES)


def chunks(uri: str) -> Iterator[list[str]]:
    """The absolute uris that a CSV or Parquet table names: in a chunk each once, and those of an archive together.

    Raises ConfigError for a table without the column `uri` or that cannot be read.
    """
    folder = uri.rpartition("/")[0]
    with _readable(uri):
        for names in _columns(uri):
            yield sorted({archives.absolute(storage.join(folder, name)) for name in names})


def look_up(uris: Sequence[str]) -> Iterator[ObjectInfo]:
    """What the storage has under the names, in their order; a member has its archive's version, size and date.

    What is not there is of version ABSENT, and so is what we may not look at, unless we may look at nothing: reading
    it will say why. Raises StorageError.
    """
    objects = list(dict.fromkeys(split(uri)[0] for uri in uris))
    # The first alone: boto3 makes its client on first use, which threads must not do side by side.
    first = [_stat(objects[0])] if objects else []
    with ThreadPoolExecutor(_ABREAST) as pool:
        found = dict(zip(objects, [*first, *pool.map(_stat, objects[1:])], strict=True))
    refusals = [item for item in found.values() if isinstance(item, StorageError)]
    if refusals and len(refusals) == len(found):
        raise refusals[0]
    for uri in uris:
        item = found[split(uri)[0]]
        yield replace(item, uri=uri) if isinstance(item, ObjectInfo) else ObjectInfo(uri, ABSENT, 0)


def _stat(uri: str) -> ObjectInfo | StorageError | None:
    """The object, None where there is none, or the refusal to let us look at it. Raises StorageError."""
    try:
        return storage.stat(uri)
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            return None
        if error.fault is Fault.ACCESS_DENIED:
            return error
        raise


def _columns(uri: str) -> Iterator[list[str]]:
    """The uri column of a table, in pieces. Raises ConfigError, and what pandas and pyarrow raise."""
    filesystem, path = storage.filesystem(uri)
    if not uri.lower().endswith(".csv"):
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            _require_uri(uri, file.schema_arrow.names)
            for batch in file.iter_batches(CHUNK, columns=["uri"]):
                yield [str(name) for name in batch["uri"].to_pylist()]
        return
    with filesystem.open_input_stream(path) as stream:
        options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
        for frame in pd.read_csv(stream, chunksize=CHUNK, **options):
            _require_uri(uri, list(frame.columns))
            yield frame["uri"].tolist()


def _require_uri(uri: str, columns: Sequence[object]) -> None:
    """Raise ConfigError when there is no such column."""
    if "uri" not in columns:
        raise ConfigError(f"The worklist {uri} has no column 'uri'; it has {', '.join(map(str, columns))}.")


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    """What pandas and pyarrow raise for a table that is absent or damaged, as ours."""
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would be cut, and the wrong columns read.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except (OSError, StorageError) as error:
        raise ConfigError(f"The worklist {uri} cannot be read ({error}); check the path.") from error
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ConfigError(f"The worklist {uri} is neither CSV nor Parquet ({type(error).__name__}).") from error
