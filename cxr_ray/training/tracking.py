"""What a training run leaves to be looked at: JSON lines, TensorBoard events, learning curves, and MLflow when asked.

Below OUTPUT/runs/NAME-DIGEST, one folder per member: epochs.jsonl, tensorboard/ and curves.png. The JSON lines are the
ledger, one per epoch, and the rest is made from them: an epoch that is told twice is written once, and one that a
killed driver did not hear of comes with the member's history. Knows no Ray and no network.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from cxr_ray import storage
from cxr_ray.config import TrackingConfig, without_password
from cxr_ray.errors import ConfigError
from cxr_ray.training.curves import draw_curves

Entry = dict[str, Any]  # an epoch as it was reported, with None for NaN, and `time`, seconds since 1970
Say = Callable[[str], None]
_GROUPS = {"train_loss": "loss/train", "validation_loss": "loss/validation"}
_UNTOLD = ("number", "best", "time")


class Tracking:
    """The epochs of all members of one training run; used as a context, because event files have to be closed."""

    def __init__(self, folders: Mapping[str, str], config: TrackingConfig, *, say: Say) -> None:
        """`folders` has the folder of each member by its name; raises ConfigError when MLflow cannot be had."""
        self._folders, self._say = dict(folders), say
        self._entries = {name: read_ledger(folder) for name, folder in folders.items()}
        self._writers: dict[str, Events] = {}
        self._mlflow = None if config.mlflow is None else Mlflow(config.mlflow, config.experiment, say=say)
        self._stack = ExitStack()

    def __enter__(self) -> "Tracking":
        """Nothing is opened before the first epoch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the event files, and bring them to where they belong."""
        self._stack.close()

    def add(self, name: str, epoch: Mapping[str, Any]) -> None:
        """Write one epoch of one member, unless it is there already."""
        if any(entry["number"] == epoch["number"] for entry in self._entries[name]):
            return
        entry = {key: _plain(value) for key, value in epoch.items()} | {"time": time.time()}
        # By number: what a history adds later belongs before what was heard since.
        self._entries[name] = sorted([*self._entries[name], entry], key=lambda item: item["number"])
        self._events(name).add(entry)
        write_ledger(self._folders[name], self._entries[name])
        if self._mlflow is not None:
            self._mlflow.send(self._folders[name], self._entries[name], finished=False)

    def finish(self, name: str, history: Sequence[Mapping[str, Any]], *, best_epoch: int) -> None:
        """Add what of a finished member's history is not there yet, and draw its curves; again, it does nothing."""
        for epoch in history:
            self.add(name, epoch)
        curves = storage.join(self._folders[name], "curves.png")
        if not storage.exists(curves):
            storage.put(curves, draw_curves(self._entries[name], title=name, best_epoch=best_epoch))
        if self._mlflow is not None:
            self._mlflow.send(self._folders[name], self._entries[name], finished=True)

    def _events(self, name: str) -> "Events":
        """The event file of a member, begun anew from the ledger in each run of the driver."""
        if name not in self._writers:
            folder = storage.join(self._folders[name], "tensorboard")
            earlier = read_ledger(self._folders[name])
            self._writers[name] = self._stack.enter_context(Events(folder, earlier))
        return self._writers[name]


def check_tracking(config: TrackingConfig) -> None:
    """Ask once whether MLflow is there, and leave nothing behind. Raises ConfigError when it is not."""
    if config.mlflow is not None:
        Mlflow(config.mlflow, config.experiment, say=print)


def read_ledger(folder: str) -> list[Entry]:
    """The epochs in epochs.jsonl of a member's folder; none when it has not begun."""
    place = storage.join(folder, "epochs.jsonl")
    return [json.loads(line) for line in storage.get(place).splitlines()] if storage.exists(place) else []


def write_ledger(folder: str, entries: Sequence[Entry]) -> None:
    """Write epochs.jsonl, whole or not at all."""
    lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
    storage.put(storage.join(folder, "epochs.jsonl"), lines.encode())


def _plain(value: Any) -> Any:
    """JSON knows no NaN: an undefined value is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scalars(entry: Entry) -> dict[str, float]:
    """What of an epoch is a curve, by its tag; undefined values are left out."""
    return {_GROUPS.get(key, key): float(entry[key]) for key in entry if key not in _UNTOLD and entry[key] is not None}


class Events:
    """One TensorBoard event file, made from earlier epochs and then added to; uploaded at the end when remote.

    Event files of before are removed: they hold the same epochs, and perhaps one that the ledger does not.
    """

    def __init__(self, folder: str, earlier: Sequence[Entry]) -> None:
        """Begin the file in `folder`, local or s3://, with the `earlier` epochs."""
        self._folder, self._stack = folder, ExitStack()
        self._local = folder
        if storage.is_remote(folder):
            self._local = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._outdated = {item.uri for item in storage.list_objects(folder, missing_ok=True)}
        if not storage.is_remote(folder):
            self._remove_outdated()
        self._writer = SummaryWriter(logdir=self._local)
        for entry in earlier:
            self.add(entry)

    def __enter__(self) -> "Events":
        """The file is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and, when remote, upload it in place of the earlier ones."""
        self._writer.close()
        if storage.is_remote(self._folder):
            for path in sorted(Path(self._local).iterdir()):
                uri = storage.join(self._folder, path.name)
                storage.put(uri, path.read_bytes())
                self._outdated.discard(uri)  # their names tell the second only
            self._remove_outdated()
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """Add one epoch, counted from 1, and let it be seen at once."""
        for tag, value in scalars(entry).items():
            self._writer.add_scalar(tag, value, global_step=int(entry["number"]) + 1, walltime=entry["time"])
        self._writer.flush()

    def _remove_outdated(self) -> None:
        """Remove the files of before: local ones at the beginning, remote ones when the new one is there."""
        for uri in self._outdated:
            storage.delete(uri)


class Mlflow:
    """One MLflow run per member, found again by the member's folder, which its digest names.

    A server that fails later than the first call is reported and costs no epoch: the next one sends what is missing.
    The address may hold a password, and is never shown with it.
    """

    def __init__(self, uri: str, experiment: str, *, say: Say) -> None:
        """Look for the experiment at a tracking URI, which the first epoch creates when there is none.

        Raises:
            ConfigError: MLflow is not installed or not there.
        """
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ConfigError(
                "tracking.mlflow is set, but MLflow is not installed; pip install 'cxr-ray[mlflow]', or leave it out."
            ) from error
        # MLflow's own defaults wait four minutes for a server that is not there, and with them the driver.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._error, self._say, self._uri = MlflowException, say, without_password(uri)
        self._runs: dict[str, str] = {}
        self._name = experiment
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment)
        except MlflowException as error:
            # From none, because the traceback of --debug would show the address.
            raise ConfigError(
                f"tracking.mlflow: {self._uri} does not answer ({_reason(error)}); check the address."
            ) from None
        self._experiment: str | None = known.experiment_id if known else None

    def send(self, folder: str, entries: Sequence[Entry], *, finished: bool) -> None:
        """Send the epochs of a member that its run does not hold yet, and end the run when it is finished."""
        try:
            run = self._run(folder)
            there = {metric.step for metric in self._client.get_metric_history(run, "learning_rate")}
            for entry in entries:
                step = int(entry["number"]) + 1
                if step not in there:
                    self._send_epoch(run, entry, step)
            if finished:
                self._client.set_terminated(run)
        except self._error as error:
            self._say(
                f"MLflow at {self._uri} takes nothing now ({_reason(error)}); the next epoch sends what is missing."
            )

    def _send_epoch(self, run: str, entry: Entry, step: int) -> None:
        """Send one epoch; the learning rate, which is always defined, last, as the sign that it is whole."""
        values = sorted(scalars(entry).items(), key=lambda item: item[0] == "learning_rate")
        for tag, value in values:
            self._client.log_metric(run, tag, value, timestamp=int(1000 * entry["time"]), step=step)

    def _run(self, folder: str) -> str:
        """The run of a member, begun when there is none."""
        if self._experiment is None:
            self._experiment = self._client.create_experiment(self._name)
        if folder not in self._runs:
            name = folder.rstrip("/").rpartition("/")[2]
            tag = f"tags.`cxr_ray.run` = '{name}'"
            found = self._client.search_runs([self._experiment], filter_string=tag, max_results=1)
            tags = {"cxr_ray.run": name}
            run = found[0] if found else self._client.create_run(self._experiment, run_name=name, tags=tags)
            self._runs[folder] = run.info.run_id
        return self._runs[folder]


def _reason(error: Exception) -> str:
    """What MLflow says, which may quote the address, in one line."""
    return without_password(" ".join(str(error).split()))[:200]
