"""From inputs to what one run has to do: listed in shards, one row per uri, without what has a row already.

The driver holds a bounded number of rows, whatever the inputs and the output hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.images.packed.members import MEMBER_PATTERN
from cxr_ray.scoring import ledger, table
from cxr_ray.scoring.database import database, number, stream
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.worklist import parts
from cxr_ray.scoring.worklist.candidates import Selection
from cxr_ray.scoring.worklist.parts import LISTED, WORKLIST, Counts, Over, in_turn, list_shard
from cxr_ray.scoring.worklist.shards import plan_shards

SHARDS = 64


@dataclass(frozen=True, slots=True)
class Worklist:
    """What one run has to do. listed = already_done + deferred + todo; left_out and too_old never were candidates.

    `uri` is the folder of its parts. Of `todo`, `retried` had a row with a passing fault, which was taken back. An
    archive without any file that could be an image is one file left out. `known` are the score files that were read,
    with their versions: see `ledger.settle`.
    """

    uri: str
    listed: int
    already_done: int
    deferred: int
    todo: int
    left_out: int
    too_old: int = 0
    retried: int = 0
    known: Mapping[str, str] = field(default_factory=dict, repr=False)


def build_worklist(
    inputs: Sequence[str],
    output: str,
    contract: Contract,
    run_id: str,
    *,
    config: ScoreConfig,
    limit: int | None = None,
    over: Over = in_turn,
    shards: int = SHARDS,
    progress: Callable[[Counts], None] | None = None,
) -> Worklist:
    """List `inputs`, drop repeated uris and what `output` already holds, and write the rest as a Parquet worklist.

    The worklist is in order of uri, but the members of one archive are in the order in which they lie there, so that a
    task reads them in one pass. Rows with a fault of `config.retry_faults` are withdrawn, once the worklist is whole.

    Args:
        inputs: Files, folders, prefixes, archives, members, tables of uris, S3 Inventory manifests.
        output: Folder of the scores.
        contract: Whose rows count as done.
        run_id: Names the worklist.
        config: Selection by name and age, limits, and memory.
        limit: Most objects to do; None does all.
        over: How the shards are listed: see `Over`. It draws its arguments while it goes.
        shards: Into how many the folders and prefixes are cut, about.
        progress: Takes the counts so far after each shard.

    Raises:
        StorageError: An input cannot be listed, or the output not be read or written.
        ConfigError: An input does not exist, or the inputs hold no file that could be an image.
    """
    folder = storage.join(output, "worklists", run_id)
    total = _list(inputs, Selection.of(config), f"{folder}/listed", over=over, shards=shards, progress=progress)
    with database(config.worklist_bytes) as connection:
        listed = _load(connection, f"{folder}/listed")
        if listed == 0 and total.too_old == 0:
            raise ConfigError(
                f"There is no image file in {', '.join(inputs)} ({total.left_out} files were left out by their names);"
                " check the path."
            )
        files = table.score_files(output, contract)
        ledger.find_done(connection, list(files), contract, retry_faults=config.retry_faults)
        todo, deferred = _choose(connection, limit)
        parts.write_todo(_in_order(connection), f"{folder}/todo", contract)
        counts = {"listed": listed, "already_done": listed - todo - deferred, "deferred": deferred, "todo": todo}
        parts.mark_whole(folder, contract, counts)
        retried, rewritten = ledger.withdraw(connection, list(files), contract, retry_faults=config.retry_faults)
    parts.forget_listed(output)
    known = {uri: version for uri, version in files.items() if uri not in rewritten}
    return Worklist(
        uri=f"{folder}/todo", **counts, left_out=total.left_out, too_old=total.too_old, retried=retried, known=known
    )


def _list(
    inputs: Sequence[str],
    selection: Selection,
    folder: str,
    *,
    over: Over,
    shards: int,
    progress: Callable[[Counts], None] | None,
) -> Counts:
    """List all shards into `folder`; returns what they held."""
    total = Counts()

    def add(counts: Counts) -> None:
        nonlocal total
        total += counts
        if progress:
            progress(total)

    planned = enumerate(plan_shards(inputs, wanted=shards))
    over(list_shard, ((shard, selection, folder, number) for number, shard in planned), add)
    return total


def _load(connection: duckdb.DuckDBPyConnection, folder: str) -> int:
    """Make the table `listed` of the parts in a folder, with one row per uri; returns how many.

    Inputs may overlap, and an object may change while they are listed: what was modified last counts.
    """
    files = [item.uri for item in storage.list_objects(folder, missing_ok=True)]
    connection.register("found", stream(files, LISTED, LISTED.names))
    connection.execute("create temp table listed as from found")
    connection.unregister("found")
    connection.execute("create temp table again as select uri from listed group by uri having count(*) > 1")
    connection.execute(
        "delete from listed where rowid in (select id from (select listed.rowid as id, row_number() over"
        " (partition by uri order by modified desc nulls last, object_version, listed.rowid) as place"
        " from listed join again using (uri)) where place > 1)"
    )
    return number(connection, "select count(*) from listed")


def _choose(connection: duckdb.DuckDBPyConnection, limit: int | None) -> tuple[int, int]:
    """Make the table `todo` (id) of what is listed and not done, the first `limit`; returns how many, and the rest."""
    missing = "select listed.rowid as id from listed anti join done on listed.rowid = done.id"
    in_order = "" if limit is None else f" order by {_ORDER} limit {limit}"
    connection.execute(f"create temp table todo as {missing}{in_order}")
    listed, done, todo = (number(connection, f"select count(*) from {name}") for name in ("listed", "done", "todo"))
    return todo, listed - done - todo


_ORDER = f"regexp_replace(uri, '{MEMBER_PATTERN}', '\\1'), place, uri"


def _in_order(connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """The rows of the table `todo` as they are to be done."""
    query = f"select {', '.join(WORKLIST.names)} from listed semi join todo on listed.rowid = todo.id order by {_ORDER}"
    reader: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(parts.TODO_ROWS)
    yield from reader
