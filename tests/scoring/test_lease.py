"""One run at a time on one output: who may take the lease, who is sent away, and who has lost it."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cxr_ray import storage
from cxr_ray.errors import LeaseError
from cxr_ray.scoring.lease import Holder, Lease, check_held, holder_of, lease_uri, this_process

ELSEWHERE = {"host": "node-7", "boot": "another machine", "namespace": "pid:[1]"}


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path) -> str:
    return str(tmp_path / "out") if request.param == "local" else str(request.getfixturevalue("s3"))


def lease(output: str, run_id: str, *, seconds: float = 3.0, lines: list[str] | None = None) -> Lease:
    return Lease(output, run_id, seconds=seconds, log=(lines if lines is not None else []).append)


def leave(output: str, **values: object) -> Holder:
    """A lease of some other run, as it lies in the output."""
    other = Holder(**{**asdict(this_process("other")), **values})
    storage.put(lease_uri(output), other.to_json())
    return other


def stat_of(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_lease_is_there_for_the_block_and_gone_after_it(output):
    with lease(output, "one"):
        assert holder_of(output).run_id == "one"
        check_held(output, "one")
    assert holder_of(output) is None
    with pytest.raises(LeaseError, match="has lost its lease"):
        check_held(output, "one")


def test_lease_second_run_of_a_living_process_is_refused_at_once(output):
    with lease(output, "one", seconds=60):
        started = time.monotonic()
        with pytest.raises(LeaseError, match=r"Run one on .* is at work on .*cxr-ray status.* --output"):
            lease(output, "two", seconds=60).__enter__()
        assert time.monotonic() - started < 5
        assert holder_of(output).run_id == "one"


def test_lease_of_a_dead_process_of_this_machine_is_taken_at_once(output):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        leave(output, pid=child.pid, started=stat_of(child.pid)[19])
        with pytest.raises(LeaseError, match="is at work"):
            lease(output, "two", seconds=60).__enter__()
        child.kill()  # not waited for: a zombie is as dead
        while stat_of(child.pid)[0] != "Z":
            pass
        lines: list[str] = []
        with lease(output, "two", seconds=600, lines=lines):
            assert holder_of(output).run_id == "two"
        assert "is dead; taking over" in lines[0]
    # A process with the same number that started at another time is another process.
    leave(output, pid=os.getpid(), started=str(int(stat_of(os.getpid())[19]) - 1))
    with lease(output, "three", seconds=600):
        assert holder_of(output).run_id == "three"


def test_lease_of_another_machine_that_stands_still_is_taken_after_its_time(output):
    leave(output, **ELSEWHERE)
    lines: list[str] = []
    started = time.monotonic()
    with lease(output, "two", seconds=3.0, lines=lines):
        assert time.monotonic() - started >= 3.0
        assert holder_of(output).run_id == "two"
    assert "watching for up to 3 s" in lines[0]


def test_lease_of_another_machine_that_is_renewed_is_respected(output):
    other = leave(output, **ELSEWHERE)
    ended = threading.Event()

    def renew() -> None:
        for renewals in range(1, 100):
            if ended.wait(0.5):
                return
            storage.put(lease_uri(output), replace(other, renewals=renewals).to_json())

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(LeaseError, match="Run other on node-7"):
            lease(output, "two", seconds=10.0).__enter__()
    finally:
        ended.set()
        renewing.join()
    assert holder_of(output).run_id == "other"


def test_lease_given_back_while_it_is_watched_is_taken(output):
    leave(output, **ELSEWHERE)
    threading.Timer(1.0, lambda: storage.delete(lease_uri(output))).start()
    started = time.monotonic()
    with lease(output, "two", seconds=30.0):
        assert time.monotonic() - started < 20
        assert holder_of(output).run_id == "two"


def test_renew_keeps_the_lease_and_notices_when_it_is_lost(output):
    with lease(output, "one") as mine:
        for _ in range(3):
            mine.renew()
        assert holder_of(output) == mine.holder
        assert mine.holder.renewals == 3
        leave(output, **ELSEWHERE)
        with pytest.raises(LeaseError, match="Run one has lost its lease"):
            mine.renew()
    assert holder_of(output).run_id == "other"  # not given back: it is not ours any more


def test_renew_whose_answer_was_lost_is_ours_all_the_same(output):
    with lease(output, "one") as mine:
        storage.put(lease_uri(output), replace(mine.holder, renewals=1).to_json())
        mine.renew()
        mine.renew()
        assert holder_of(output).renewals == 2


def test_lease_only_one_of_many_at_once_gets_it(tmp_path):
    output, got, refused = str(tmp_path), [], []
    begin = threading.Barrier(8)

    def attempt(number: int) -> None:
        mine = lease(output, f"run {number}", seconds=60)
        begin.wait()
        try:
            mine.__enter__()
            got.append(number)
        except LeaseError:
            refused.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_lease_holds_no_secret_and_reads_back(tmp_path):
    with lease(str(tmp_path), "one") as mine:
        assert set(json.loads(storage.get(lease_uri(str(tmp_path))))) == set(asdict(mine.holder))
