"""MLflow as it is: its own server on loopback, with a database of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cxr_ray.config import TrackingConfig
from cxr_ray.errors import ConfigError
from cxr_ray.training.tracking import Tracking, check_tracking
from tests.training.test_tracking import epoch

pytest.importorskip("mlflow")
pytest.importorskip("alembic", reason="a server needs a database")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::Warning:mlflow[.].*"),  # what MLflow says of the libraries it uses
]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Host and port of a server that runs as long as this module."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--default-artifact-root", str(folder / "artifacts")]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *store, *where]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | quiet)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(uri: str, server: subprocess.Popen[bytes]) -> None:
    """Until the server answers, two minutes at most."""
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(uri, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError("the server did not start")


def test_tracking_epochs_arrive_once_and_the_run_ends(address, tmp_path):
    from mlflow.tracking import MlflowClient

    config = TrackingConfig(mlflow=f"http://user:secret@{address}", experiment="films")
    client, said = MlflowClient(f"http://{address}"), []
    check_tracking(config)
    assert client.get_experiment_by_name("films") is None, "asking leaves nothing behind"
    folder = str(tmp_path / "a-1")
    with Tracking({"a": folder}, config, say=said.append) as tracking:
        tracking.add("a", epoch(0))
    with Tracking({"a": folder}, config, say=said.append) as tracking:  # a driver that came after
        tracking.add("a", epoch(1))
        tracking.finish("a", [epoch(number) for number in range(3)], best_epoch=2)
    (run,) = client.search_runs([client.get_experiment_by_name("films").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a-1", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "macro_auroc")
    assert sorted((item.step, item.value) for item in history) == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert "map" not in run.data.metrics, "an undefined value is none"
    assert said == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_check_tracking_server_that_is_not_there_is_one_sentence_without_the_password():
    started = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"^tracking\.mlflow: http://127\.0\.0\.1:9 does not answer .*; check"
    ) as caught:
        check_tracking(TrackingConfig(mlflow="http://user:secret@127.0.0.1:9"))
    assert "secret" not in str(caught.value)
    assert time.monotonic() - started < 60, "MLflow's own defaults take four minutes"
