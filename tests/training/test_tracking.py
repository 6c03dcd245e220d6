"""Tracking: every epoch once in the JSON lines and the events, whatever is told twice or not at all."""

import json
import struct
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from cxr_ray import storage
from cxr_ray.config import TrackingConfig
from cxr_ray.errors import ConfigError
from cxr_ray.training.tracking import Tracking, check_tracking, read_ledger


def epoch(number: int, **changes: object) -> dict[str, object]:
    return {
        "number": number,
        "train_loss": 1.0 / (number + 1),
        "validation_loss": 0.75,
        "macro_auroc": 0.5 + number / 10,
        "map": float("nan"),
        "learning_rate": 0.25,
        "best": True,
        **changes,
    }


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar below a folder, read as TensorBoard's record format says."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def track(folder: str, *numbers: int, config: TrackingConfig | None = None, said: list[str] | None = None) -> None:
    sink = [] if said is None else said
    with Tracking({"a": folder}, config or TrackingConfig(), say=sink.append) as tracking:
        for number in numbers:
            tracking.add("a", epoch(number))


def test_add_every_defined_value_is_one_event_and_one_line(tmp_path):
    track(str(tmp_path), 0, 1)
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1]
    assert lines[0]["map"] is None
    assert sorted(events(tmp_path / "tensorboard")) == [
        ("learning_rate", 1, 0.25),
        ("learning_rate", 2, 0.25),
        ("loss/train", 1, 1.0),
        ("loss/train", 2, 0.5),
        ("loss/validation", 1, 0.75),
        ("loss/validation", 2, 0.75),
        ("macro_auroc", 1, 0.5),
        ("macro_auroc", 2, pytest.approx(0.6)),
    ]


def test_add_resumed_driver_writes_nothing_twice(tmp_path):
    track(str(tmp_path), 0, 1)
    track(str(tmp_path), 1, 2)
    assert [entry["number"] for entry in read_ledger(str(tmp_path))] == [0, 1, 2]
    assert sorted(step for tag, step, _ in events(tmp_path / "tensorboard") if tag == "macro_auroc") == [1, 2, 3]


def test_add_event_that_the_ledger_does_not_hold_is_not_doubled(tmp_path):
    track(str(tmp_path), 0, 1)
    first = (tmp_path / "epochs.jsonl").read_text().splitlines()[0]
    (tmp_path / "epochs.jsonl").write_text(first + "\n")  # as if the driver had died between the two
    track(str(tmp_path), 1)
    assert sorted(step for tag, step, _ in events(tmp_path / "tensorboard") if tag == "macro_auroc") == [1, 2]


def test_finish_history_fills_what_a_killed_driver_did_not_hear(tmp_path):
    track(str(tmp_path), 0, 3)
    for _ in range(2):
        with Tracking({"a": str(tmp_path)}, TrackingConfig(), say=print) as tracking:
            tracking.finish("a", [epoch(number) for number in range(4)], best_epoch=2)
    assert [entry["number"] for entry in read_ledger(str(tmp_path))] == [0, 1, 2, 3]
    assert sorted(step for tag, step, _ in events(tmp_path / "tensorboard") if tag == "macro_auroc") == [1, 2, 3, 4]
    with Image.open(tmp_path / "curves.png") as image:
        grey = np.asarray(image.convert("L"))
        colours = np.asarray(image.convert("RGB")).astype(int)
    assert grey.min() < 50 < 200 < grey.max()
    assert np.abs(colours - colours.mean(axis=2, keepdims=True)).max() < 2, "lines must not differ by hue"


def test_add_remote_output_has_lines_at_once_and_events_at_the_end(s3, tmp_path):
    folder = f"{s3}/runs/a-1"
    with Tracking({"a": folder}, TrackingConfig(), say=print) as tracking:
        tracking.add("a", epoch(0))
        assert [entry["number"] for entry in read_ledger(folder)] == [0]
    track(folder, 1)
    (stored,) = storage.list_objects(f"{folder}/tensorboard")
    name = stored.uri.rpartition("/")[2]
    (tmp_path / name).write_bytes(storage.get(stored.uri))
    assert sorted(step for tag, step, _ in events(tmp_path) if tag == "macro_auroc") == [1, 2]


def test_mlflow_epochs_arrive_once_also_after_the_server_was_away(server, tmp_path):
    folder, said, config = str(tmp_path / "a-1"), [], TrackingConfig(mlflow="http://user:secret@there")
    track(folder, 0, config=config, said=said)
    with Tracking({"a": folder}, config, say=said.append) as tracking:
        server.down = True
        tracking.add("a", epoch(1))
    assert said == [
        "MLflow at http://there takes nothing now (POST http://there/api: no connection); the next epoch sends what is"
        " missing."
    ]
    server.down = False
    with Tracking({"a": folder}, config, say=said.append) as tracking:
        tracking.add("a", epoch(2))
        tracking.finish("a", [epoch(number) for number in range(3)], best_epoch=2)
    assert [run.name for run in server.runs] == ["a-1"]
    assert [metric[2:] for metric in server.metrics if metric[1] == "loss/train"] == [(1.0, 1), (0.5, 2), (1 / 3, 3)]
    assert server.ended == ["run 0"]


def test_check_tracking_leaves_nothing_behind_and_shows_no_password(server):
    config = TrackingConfig(mlflow="http://user:secret@there")
    check_tracking(config)
    assert (server.experiments, server.runs) == ({}, [])
    server.down = True
    with pytest.raises(ConfigError) as caught:
        check_tracking(config)
    assert str(caught.value) == (
        "tracking.mlflow: http://there does not answer (GET http://there/api: no connection); check the address."
    )
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_mlflow_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    with pytest.raises(ConfigError, match=r"MLflow is not installed; pip install 'cxr-ray\[mlflow\]'"):
        Tracking({}, TrackingConfig(mlflow="file:x"), say=print)
