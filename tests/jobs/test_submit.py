"""The jobs as they are run: `ray job submit` against a head, and on a cluster that scales from nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from cxr_ray.scoring.verify import verify
from tests.conftest import write_image
from tests.jobs.heads import ENVIRONMENT, SCRIPTS, Head, head, head_that_scales

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[Head]:
    with head("--num-cpus=2") as found:
        yield found


@pytest.fixture
def settings(archive: Path, bundle: str, tmp_path: Path) -> Path:
    """The settings of a night over the archive with three bad files."""
    path = tmp_path / "nightly.yaml"
    night = {"inputs": [str(archive)], "ensemble": bundle, "output": str(tmp_path / "out"), "score": {"actors": 1}}
    path.write_text(yaml.safe_dump(night))
    return path


def submit(running: Head, name: str, *command: str) -> tuple[JobStatus, str, int]:
    """Submit one job as a user does; its status, its log and the exit code of the submission."""
    called = [str(SCRIPTS / "ray"), "job", "submit", f"--address={running.dashboard}", f"--submission-id={name}"]
    done = subprocess.run(
        [*called, "--working-dir", ".", "--", "python", *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    client = JobSubmissionClient(running.dashboard)
    return client.get_job_status(name), client.get_job_logs(name), done.returncode


def last_line(log: str) -> str:
    """What whoever looks in the morning reads: the last line that is not Ray's own."""
    return [line for line in log.splitlines() if line.startswith("Night ")][-1]


def test_submit_nightly_succeeds_and_says_in_its_log_what_happened(running, settings, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    status, log, code = submit(running, "night", "jobs/nightly.py", str(settings))
    assert (status, code) == (JobStatus.SUCCEEDED, 0), log
    line = last_line(log)
    assert "13 of 13 images were new: 10 scored, 3 faulted (" in line
    assert line.endswith("done (exit 0).")
    assert "13 images listed" in log
    output = settings.parent / "out"
    (record,) = (output / "nights").iterdir()
    assert json.loads(record.read_text())["line"] == line
    assert verify(str(output)).problems == ()
    kept = (running.folder / "session_latest").glob("runtime_resources/working_dir_files/_ray_pkg_*")
    (carried,) = (path for path in kept if path.is_dir())  # its archive and a lock lie beside it
    assert {"cxr_ray", "jobs", "cluster.yaml"} <= {path.name for path in carried.iterdir()}
    assert not {".git", "tests", "docs", "benchmarks", ".ci"} & {path.name for path in carried.iterdir()}
    assert sum(path.stat().st_size for path in carried.rglob("*") if path.suffix != ".pyc") < 4_000_000


def test_submit_score_and_train_are_the_commands(running, archive, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    arguments = [str(archive / "site 0"), "--ensemble", bundle, "--output", str(tmp_path / "out"), "--set", "actors=1"]
    status, log, _ = submit(running, "score", "jobs/score.py", "--cpus", "2", *arguments)
    assert status == JobStatus.SUCCEEDED, log
    assert "5 images listed = 5 scored + 0 faulted + 0 done already" in log
    rows = ["uri,patient_id,part,Mass"]
    for number in range(12):
        write_image(tmp_path / f"{number}.png", seed=number)
        rows.append(f"{number}.png,{number},{'train' if number < 8 else 'validation'},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "train.yaml").write_text(
        f"manifest: {{path: {tmp_path}/labels.csv, part_column: part, findings: [Mass]}}\n"
        "members: [{name: a, backbone: test_resnet}]\ndecode: {preprocess: {size: 64}}\n"
    )
    status, log, _ = submit(running, "train", "jobs/train.py", str(tmp_path / "train.yaml"), "--dry-run")
    assert status == JobStatus.SUCCEEDED, log
    assert "Mass" in log


def test_nightly_on_a_cluster_that_scales_from_nothing_waits_for_its_nodes(settings, tmp_path):
    kinds = {"cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3}}
    command = [sys.executable, str(ROOT / "jobs" / "nightly.py"), str(settings)]
    with head_that_scales(kinds, tmp_path) as running:
        # Both are refused before the one that waits, so that the cluster still has nothing.
        for options, code, words in (
            ([], 2, "needs a cluster of at least 2 CPUs, this one has 0"),
            (
                ["cluster.gpus=1", "cluster.wait_minutes=0.1"],
                1,
                "cluster has 0 GPUs and 0 CPUs, and needs at least",
            ),
            (["cluster.cpus=2", "cluster.wait_minutes=2"], 0, "13 of 13 images were new"),
        ):
            changed = [part for option in options for part in ("--set", option)]
            done = subprocess.run(
                [*command, *changed],
                env=running.environment(PYTHONPATH=str(ROOT)),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == code, done.stdout + done.stderr
            assert words in last_line(done.stdout)
        assert "asking for 0 GPUs and 2 CPUs" in done.stderr
