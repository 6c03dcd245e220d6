"""Questions to tables that need not fit into memory: DuckDB within a bound, fed from Parquet files by Arrow.

DuckDB opens no file of ours itself: whatever the storage, it goes through `storage`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from cxr_ray import storage
from cxr_ray.errors import ConfigError, Fault, StorageError

_THREADS = 4  # each holds buffers of its own; reading is slower than joining
_BATCH = 16_384  # rows
_FILES_OPEN = 128
_FILES_AHEAD = 8  # files read side by side: each costs two round trips in an object store
FILE = "file"
_FILENAME = "__filename"  # what Arrow calls the column


@contextmanager
def database(memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that holds `memory_bytes`, and the rest in files below TMPDIR until the block ends.

    In a join the table on the right is the one that is held; the one on the left streams past it.

    Raises:
        ConfigError: Neither the memory nor the disk suffice.
        StorageError: A table could not be read to its end.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-ray-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_bytes}B",
            "temp_directory": folder,
            "threads": _THREADS,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            # How many rows a stream will bring is not known beforehand, and guesses are wrong.
            "disabled_optimizers": "join_order,build_side_probe_side",
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("set enable_progress_bar = false")  # it would stand on stdout, before that of `--json`
            try:
                yield connection
            except (duckdb.OutOfMemoryException, MemoryError) as error:
                raise ConfigError(
                    "What is new cannot be sorted out: the memory of `worklist_bytes` and the disk below TMPDIR are"
                    " used up; raise it, or set TMPDIR to a larger disk."
                ) from error
            except (duckdb.IOException, duckdb.InvalidInputException) as error:
                sentence = " ".join(str(error).split())
                detail = f"The tables in the output cannot be read ({sentence}); check storage and TMPDIR."
                raise StorageError(Fault.STORAGE_UNAVAILABLE, detail) from error


def number(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """The answer to a query for one number."""
    ((found,),) = connection.execute(query).fetchall()
    return int(found)


def stream(
    files: Sequence[str], schema: pa.Schema, wanted: Sequence[str], *, where: pc.Expression | None = None
) -> pa.RecordBatchReader:
    """The wanted columns of Parquet files of one storage, a few batches at a time; the column `file` is the uri.

    It can be read once. Columns that a file lacks are null.
    """
    part = pa.schema([pa.field(FILE, pa.string()) if name == FILE else schema.field(name) for name in wanted])
    return pa.RecordBatchReader.from_batches(part, _batches(files, schema, part, where))


def _batches(
    files: Sequence[str], schema: pa.Schema, part: pa.Schema, where: pc.Expression | None
) -> Iterator[pa.RecordBatch]:
    """The rows of `stream`. Arrow keeps the footer of each file as long as its dataset: 0.3 MB for a score table."""
    for first in range(0, len(files), _FILES_OPEN):
        some = files[first : first + _FILES_OPEN]
        filesystem, paths = storage.paths_on(some)
        scanner = pds.dataset(paths, filesystem=filesystem, format="parquet", schema=schema).scanner(
            columns=[_FILENAME if name == FILE else name for name in part.names],
            filter=where,
            batch_size=_BATCH,
            batch_readahead=2,
            fragment_readahead=_FILES_AHEAD,
        )
        uris = dict(zip(paths, some, strict=True))
        for batch in scanner.to_reader():
            columns = list(batch.columns)
            if FILE in part.names:
                place = part.names.index(FILE)
                columns[place] = pa.array([uris[path] for path in columns[place].to_pylist()], pa.string())
            yield pa.RecordBatch.from_arrays(columns, schema=part)
