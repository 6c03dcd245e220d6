"""The score table as a ledger: what has a row, rows that are taken back, rows that two runs wrote.

A file is replaced whole by one without the rows in question, so that whoever is killed here leaves rows that the next
run finds and treats in the same way.
"""

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.errors import Fault
from cxr_ray.scoring import table
from cxr_ray.scoring.database import database, number, stream
from cxr_ray.scoring.table import SCORED, Contract

_NAME = ["uri", "object_version"]


def find_done(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str], contract: Contract, *, retry_faults: Sequence[Fault]
) -> None:
    """Make the table `done` (id, copies) of what of the table `listed` (uri, object_version, ...) has final rows.

    Rows with a fault of `retry_faults` are not final. Reads the four columns of the key, and the fault.
    """
    final = pc.is_null(pc.field("fault")) | ~_is_fault(retry_faults)
    connection.register("keys", stream(files, table.schema(contract), _NAME, where=_of(contract) & final))
    connection.execute(
        "create temp table done as select listed.rowid as id, count(*) as copies from keys"
        " join listed using (uri, object_version) group by listed.rowid"
    )
    connection.unregister("keys")


def withdraw(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str], contract: Contract, *, retry_faults: Sequence[Fault]
) -> tuple[int, set[str]]:
    """Take back the rows of `retry_faults` whose objects are in the table `todo` (id), or in `done` by another row.

    Of a key that has several final rows all but one go too: the scored one stays, or the first. Returns how many
    objects of `todo` had a row, and the files that were rewritten. Raises StorageError.
    """
    connection.execute("create or replace temp table losing (id bigint, file varchar)")
    if retry_faults:
        chosen = _of(contract) & _is_fault(retry_faults)
        connection.register("failed", stream(files, table.schema(contract), [*_NAME, "file"], where=chosen))
        connection.execute(
            "insert into losing select listed.rowid, file from failed join listed using (uri, object_version)"
        )
        connection.execute("delete from losing where id not in (select id from todo union all select id from done)")
        connection.unregister("failed")
    retried = number(connection, "select count(distinct id) from losing where id in (select id from todo)")
    if number(connection, "select count(*) from done where copies > 1"):
        wanted = [*_NAME, "status", "file"]
        final = pc.is_null(pc.field("fault")) | ~_is_fault(retry_faults)
        connection.register("copies", stream(files, table.schema(contract), wanted, where=_of(contract) & final))
        connection.execute(
            "insert into losing select id, file from (select id, file, row_number() over"
            f" (partition by id order by status = '{SCORED}' desc, file) as place from copies join"
            " (select id, uri, object_version from listed join done on listed.rowid = done.id where copies > 1)"
            " using (uri, object_version)) where place > 1"
        )
        connection.unregister("copies")
    gone = "select file, uri, object_version from losing join listed on losing.id = listed.rowid"
    return retried, _drop(connection, gone)


def settle(output: str, contract: Contract, run_id: str, known: Mapping[str, str], *, memory_bytes: int) -> int:
    """Drop what late files of other runs have in common with the rows of this one, and say how many rows that were.

    Late is what was not there, or not of that version, when this run began: `known` holds uris and versions of then.
    Only a task of a run that died and was taken over comes late. Raises ConfigError, StorageError.
    """
    files = table.score_files(output, contract)
    own = [uri for uri in files if table.run_of(uri) == run_id]
    late = [uri for uri, version in files.items() if table.run_of(uri) != run_id and known.get(uri) != version]
    if not late or not own:
        return 0
    schema = table.schema(contract)
    with database(memory_bytes) as connection:
        connection.register("others", stream(late, schema, [*_NAME, "file"], where=_of(contract)))
        connection.execute("create temp table late as from others")
        connection.register("keys", stream(own, schema, _NAME, where=_of(contract)))
        connection.execute(
            "create temp table losing as select distinct file, uri, object_version from keys"
            " join late using (uri, object_version)"
        )
        _drop(connection, "select file, uri, object_version from losing")
        return number(connection, "select count(*) from losing")


def _drop(connection: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """Rewrite files without the rows (file, uri, object_version) of a query, one file at a time; returns which."""
    connection.execute(f"create or replace temp table gone as select distinct * from ({query}) order by file")
    files = [str(file) for (file,) in connection.execute("select distinct file from gone order by file").fetchall()]
    for file in files:
        keys = connection.execute("select uri, object_version from gone where file = ?", [file]).fetchall()
        _rewrite(file, set(keys))
    return set(files)


def _rewrite(uri: str, gone: set[tuple[str, str]]) -> None:
    """Replace a score file by one without the rows of these keys, or remove it when none is left."""
    filesystem, path = storage.filesystem(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        rows = file.read()
    keys = zip(*(rows[name].to_pylist() for name in _NAME), strict=True)
    rest = rows.filter(pa.array([key not in gone for key in keys], pa.bool_()))
    if rest.num_rows:
        storage.put(uri, table.encode(rest))
    else:
        storage.delete(uri)


def _of(contract: Contract) -> pc.Expression:
    """Rows of this ensemble and this preprocessing."""
    same = pc.field("ensemble_digest") == contract.ensemble_digest
    return same & (pc.field("preprocess_digest") == contract.preprocess_digest)


def _is_fault(faults: Sequence[Fault]) -> pc.Expression:
    """Rows with one of these faults."""
    return pc.field("fault").isin(pa.array([str(fault) for fault in faults], pa.string()))
