from pathlib import Path

from cxr_ray.evaluation.runs import newest_run
from tests.evaluation.invented import CONTRACT, Scored, write_run


def test_newest_run_last_started_of_this_ensemble(scored: Scored) -> None:
    run = newest_run(scored.output, CONTRACT.ensemble_digest)
    assert run is not None
    assert (run.run_id, run.listed, run.scored, run.faulted, run.already_done) == ("run-2", 10, 6, 3, 1)
    assert run.adds_up is True


def test_newest_run_without_manifests_is_none(tmp_path: Path) -> None:
    assert newest_run(str(tmp_path), CONTRACT.ensemble_digest) is None


def test_newest_run_numbers_that_do_not_add_up_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, "run", started_at="2026-03-14T02:00:00Z")
    manifest = tmp_path / "runs" / "run.json"
    manifest.write_text(manifest.read_text().replace('"listed": 10', '"listed": 11'))
    run = newest_run(str(tmp_path), CONTRACT.ensemble_digest)
    assert run is not None
    assert run.adds_up is False


def test_newest_run_missing_counts_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").write_text(f'{{"ensemble": {{"digest": "{CONTRACT.ensemble_digest}"}}}}')
    run = newest_run(str(tmp_path), CONTRACT.ensemble_digest)
    assert run is not None
    assert (run.listed, run.wall_seconds, run.started_at, run.adds_up) == (None, None, None, None)
