"""The score table as a ledger: what counts as done, what is taken back, what late files lose."""

from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import Fault
from cxr_ray.scoring import ledger, table
from cxr_ray.scoring.verify import verify
from cxr_ray.scoring.worklist import Worklist, build_worklist
from tests.scoring.conftest import CONTRACT, keys_in, write_rows

FIRST, SECOND, THIRD = "20261120T010203004", "20261121T010203004", "20261122T010203004"
GONE = Fault.STORAGE_UNAVAILABLE
MEMORY = 2**27


@pytest.fixture
def films(folder: str) -> dict[str, str]:
    """Six objects by name, with their versions."""
    for number in range(6):
        storage.put(f"{folder}/film_{number}.png", bytes(number + 1))
    return {item.uri: item.version for item in storage.list_objects(folder)}


def work_of(folder: str, output: str, run_id: str = THIRD, limit: int | None = None, **settings: object) -> Worklist:
    config = ScoreConfig.model_validate({"worklist_bytes": MEMORY, **settings})
    return build_worklist([folder], output, CONTRACT, run_id, config=config, limit=limit)


def todo_of(work: Worklist) -> list[str]:
    frames = [pd.read_parquet(item.uri)["uri"] for item in storage.list_objects(work.uri, missing_ok=True)]
    return list(pd.concat(frames)) if frames else []


def test_build_worklist_only_the_whole_key_counts_as_done(folder, films, tmp_path):
    output, uris = str(tmp_path / "out"), list(films)
    write_rows(output, FIRST, [(uris[0], films[uris[0]]), (uris[1], "an older version")])
    write_rows(output, SECOND, [(uris[2], films[uris[2]])], contract=replace(CONTRACT, ensemble_digest="other"))
    write_rows(
        output, SECOND[:-1] + "5", [(uris[3], films[uris[3]])], contract=replace(CONTRACT, preprocess_digest="q")
    )
    write_rows(output, SECOND, [(uris[4], films[uris[4]])], fault=Fault.CORRUPT, name=f"{output}/scores/flat.parquet")
    work = work_of(folder, output)
    assert (work.listed, work.already_done, work.todo, work.retried) == (6, 2, 4, 0)
    assert todo_of(work) == [uris[1], uris[2], uris[3], uris[5]]


def test_build_worklist_passing_faults_are_taken_back_and_listed_again(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    mixed = write_rows(output, FIRST, keys[:2])
    faulted = write_rows(output, FIRST, [*keys[2:4], ("s3://elsewhere/x", "1")], fault=GONE)
    alone = write_rows(output, SECOND, keys[4:5], fault=GONE)
    before = pq.read_schema(faulted)
    work = work_of(folder, output)
    assert (work.already_done, work.todo, work.retried) == (2, 4, 3)
    assert keys_in(output) == sorted([*keys[:2], ("s3://elsewhere/x", "1")])
    assert pq.read_schema(faulted).equals(before, check_metadata=True)
    assert not storage.exists(alone)
    assert set(work.known) == {mixed}
    again = work_of(folder, output, run_id=THIRD[:-1] + "5")
    assert (again.already_done, again.todo, again.retried) == (2, 4, 0)


def test_build_worklist_passing_faults_beyond_the_limit_keep_their_rows(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    write_rows(output, FIRST, keys, fault=GONE)
    work = work_of(folder, output, limit=2)
    assert (work.todo, work.deferred, work.retried) == (2, 4, 2)
    assert keys_in(output) == keys[2:]


def test_build_worklist_no_fault_is_passing_when_none_is_named(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    write_rows(output, FIRST, keys, fault=GONE)
    assert work_of(folder, output, retry_faults=()).todo == 0
    assert work_of(folder, output, retry_faults=("corrupt",)).todo == 0


def test_build_worklist_rows_that_two_dead_runs_wrote_are_made_one(folder, films, tmp_path):
    """What is left when the driver is killed between its last file and `settle`."""
    output, keys = str(tmp_path / "out"), list(films.items())
    write_rows(output, FIRST, keys[:3])
    write_rows(output, FIRST, keys[3:4], fault=Fault.CORRUPT)
    write_rows(output, SECOND, keys[1:5])
    write_rows(output, SECOND, keys[:1], fault=GONE)
    work = work_of(folder, output)
    assert (work.already_done, work.todo) == (5, 1)
    assert keys_in(output) == keys[:5]
    rows = table.rows_of(output, wanted=["uri", "status"], contract=CONTRACT).to_pylist()
    assert {row["status"] for row in rows} == {"scored"}


def test_settle_late_file_of_a_dead_run_loses_what_this_run_wrote(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    early = write_rows(output, FIRST, keys[:1])
    work = work_of(folder, output, run_id=SECOND)
    write_rows(output, SECOND, keys[1:])
    assert ledger.settle(output, CONTRACT, SECOND, work.known, memory_bytes=MEMORY) == 0
    late = write_rows(output, FIRST, [*keys[1:3], ("s3://elsewhere/x", "1")])
    write_rows(output, FIRST, keys[3:4], fault=GONE)
    other = write_rows(output, FIRST[:-1] + "9", keys[4:], contract=replace(CONTRACT, ensemble_digest="other"))
    assert ledger.settle(output, CONTRACT, SECOND, work.known, memory_bytes=MEMORY) == 3
    assert keys_in(output) == sorted([*keys, ("s3://elsewhere/x", "1")])
    assert storage.exists(early)
    assert storage.exists(late)
    assert storage.exists(other)
    assert ledger.settle(output, CONTRACT, SECOND, work.known, memory_bytes=MEMORY) == 0


def test_settle_file_that_was_rewritten_since_counts_as_late(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    file = write_rows(output, FIRST, keys[:1], name=f"{tmp_path}/out/scores/{FIRST}-{'0' * 16}.parquet")
    work = work_of(folder, output, run_id=SECOND)
    write_rows(output, SECOND, keys[1:])
    write_rows(output, FIRST, keys[:2], name=file)
    assert ledger.settle(output, CONTRACT, SECOND, work.known, memory_bytes=MEMORY) == 1
    assert keys_in(output) == keys


def test_verify_worklist_without_its_end_does_not_count(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    work_of(folder, output, run_id=SECOND)
    write_rows(output, SECOND, keys[:4])
    assert verify(output).problems == (
        f"2 images of run {SECOND} have no row, for example {keys[4][0]}; run the same score command again.",
    )
    storage.delete(f"{output}/worklists/{SECOND}/worklist.json")
    assert verify(output).problems == ()


def test_verify_worklist_of_one_file_as_old_versions_wrote_it_is_read(folder, films, tmp_path):
    output, keys = str(tmp_path / "out"), list(films.items())
    work_of(folder, output, run_id=SECOND)
    write_rows(output, SECOND, keys[:5])
    (part,) = storage.list_objects(f"{output}/worklists/{SECOND}/todo")
    rows = pq.read_table(part.uri)
    for item in list(storage.list_objects(f"{output}/worklists")):
        storage.delete(item.uri)
    pq.write_table(rows.drop_columns("modified"), f"{output}/worklists/{THIRD}.parquet")
    (problem,) = verify(output).problems
    assert problem.startswith(f"1 images of run {THIRD} have no row")


def test_verify_repeated_rows_and_rows_that_contradict_themselves_are_found(tmp_path):
    output = str(tmp_path / "out")
    keys = [(f"s3://bucket/{number}", "1") for number in range(5)]
    write_rows(output, FIRST, keys)
    write_rows(output, SECOND, [*keys[1:3], ("s3://bucket/0", "2")])
    odd = write_rows(output, THIRD, [("s3://bucket/odd", "1")])
    rows = pq.ParquetFile(odd).read()
    place = rows.schema.get_field_index("fault")
    wrong = rows.set_column(place, rows.schema.field("fault"), [["corrupt"]])
    storage.put(odd, table.encode(wrong))
    found = verify(output, memory_bytes=MEMORY)
    assert found.scored == 9
    assert found.problems == (
        "2 images have more than one row under ensemble e, for example s3://bucket/1.",
        "1 rows have a fault but are not faulted, or the reverse.",
    )
