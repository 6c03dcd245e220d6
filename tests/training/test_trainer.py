"""Training through Ray Train: from a table to a bundle, and again without doing anything twice."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cxr_ray.config import ThresholdRule, TrackingConfig, TrainConfig, parse
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.models.ensemble import EnsembleSpec, load_ensemble
from cxr_ray.training.assembly import calibrate
from cxr_ray.training.comparison import compare, losses_of
from cxr_ray.training.state import read_state
from cxr_ray.training.trainer import train, worker_settings
from tests.conftest import PREPROCESS, write_image

FINDINGS = ("Bright", "Noise")


def make_table(folder: Path, num: int = 40) -> Path:
    """Films of which every second one is bright."""
    random = np.random.default_rng(0)
    table = []
    for number in range(num):
        path = write_image(folder / f"{number}.png", seed=number)
        if number % 2:
            from PIL import Image, ImageOps

            with Image.open(path) as film:
                ImageOps.invert(film).save(path)
        part = ("train", "train", "train", "validation", "test")[number // 2 % 5]
        table.append(
            {
                "uri": path.name,
                "patient_id": number // 2,
                "part": part,
                "Bright": number % 2,
                "Noise": int(random.random() < 0.5),
            }
        )
    pd.DataFrame(table).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def settings(table: Path, **changes: object) -> dict[str, object]:
    return {
        "manifest": {"path": str(table), "part_column": "part", "findings": list(FINDINGS)},
        "members": [{"name": "a", "backbone": "test_resnet"}, {"name": "b", "backbone": "test_efficientnet"}],
        "decode": {"preprocess": {"size": 48}},
        "optimize": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01},
        **changes,
    }


@pytest.mark.slow
def test_train_table_to_bundle_and_the_same_again_does_nothing(ray_local, tmp_path, server):
    address = {"mlflow": "http://user:secret@there"}
    config = TrainConfig.model_validate(settings(make_table(tmp_path), tracking=address))
    lines: list[str] = []
    result = train(config, str(tmp_path / "out"), log=lines.append)
    ensemble = load_ensemble(result.bundle)
    assert ensemble.spec.members == ("a", "b")
    assert ensemble.spec.findings == FINDINGS
    assert result.digest == ensemble.spec.digest
    assert set(result.member_auroc) == {"a", "b"}
    assert sum("epoch 2/2" in line for line in lines) == 2
    assert "| Bright |" in Path(result.bundle, "README.md").read_text()
    again: list[str] = []
    second = train(config, str(tmp_path / "out"), log=again.append)
    assert second.digest == result.digest
    assert sum("is trained already" in line for line in again) == 2
    assert any("Decoded images are there already" in line for line in again)
    assert sorted(run.name[0] for run in server.runs) == ["a", "b"]
    assert "secret" not in "".join(lines + again)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_worker_settings_are_all_but_the_tracking(tmp_path):
    config = TrainConfig.model_validate(settings(make_table(tmp_path), tracking={"mlflow": "http://user:secret@there"}))
    told = worker_settings(config)
    assert "secret" not in json.dumps(told)
    assert TrainConfig.model_validate(told) == config.model_copy(update={"tracking": TrackingConfig()})


@pytest.mark.slow
def test_train_validation_of_one_class_ends_in_a_bundle_and_says_what_is_undefined(ray_local, tmp_path):
    table = make_table(tmp_path)
    rows = pd.read_csv(table)
    rows.loc[rows["part"] == "validation", list(FINDINGS)] = 0
    rows.to_csv(table, index=False)
    values = settings(table, members=[{"name": "a", "backbone": "test_resnet"}])
    values["manifest"]["one_class"] = "allow"
    lines: list[str] = []
    result = train(TrainConfig.model_validate(values), str(tmp_path / "out"), log=lines.append)
    assert any(line.startswith("a: No finding of the validation part is stated both present") for line in lines)
    assert result.to_dict()["member_auroc"] == {"a": None}
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["ensemble_auroc"] is None
    assert load_ensemble(result.bundle).spec.members == ("a",)


@pytest.mark.slow
def test_train_killed_driver_ends_with_the_weights_of_one_that_was_not(tmp_path):
    config = settings(make_table(tmp_path), members=[{"name": "a", "backbone": "test_resnet", "drop_rate": 0.2}])
    config["optimize"] = {"epochs": 4, "batch_size": 2, "learning_rate": 0.001, "ema": 0.9}
    config["compute"] = {"checkpoint_steps": 4}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "cxr_ray.cli", "train", str(tmp_path / "train.yaml"), "--output"]
    log, killed = tmp_path / "log", tmp_path / "killed"
    with log.open("w") as sink:
        process = subprocess.Popen([*command, str(killed)], stderr=sink, stdout=sink, start_new_session=True)
        while not within_an_epoch(killed / "runs") and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "epoch 4/4" not in log.read_text(), "the run was over before it was killed"
    subprocess.run([*command, str(killed)], capture_output=True, timeout=300, check=True)
    subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, timeout=300, check=True)
    found, expected = (
        load_file(next((folder / "work").glob("a-*/best.safetensors"))) for folder in (killed, tmp_path / "whole")
    )
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
def test_train_member_that_fails_is_one_sentence_and_exit_code_1_and_a_traceback_only_with_debug(tmp_path, debug):
    one = settings(make_table(tmp_path), members=[{"name": "a", "backbone": "test_resnet"}])
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**one, "compute": {"max_failures": 0}}))
    code = (
        "from cxr_ray.cli import app; from cxr_ray.training import trainer; from tests.training import on_ray;"
        "trainer.fit_member = on_ray.fit_member_with_a_bug; app()"
    )
    command = [sys.executable, "-c", code, "train", str(tmp_path / "train.yaml"), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, *debug], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    sentence = (
        "Member a could not be trained: the first error was TypeError: object of type 'int' has no len(); --debug"
    )
    if debug:
        assert sentence in done.stderr
        assert "in buggy_loop" in done.stderr
    else:
        assert done.stderr.splitlines()[-1].startswith(f"Error: {sentence}")
        assert "Traceback" not in done.stderr


def within_an_epoch(runs: Path) -> bool:
    """Whether a second epoch has been left in its middle by the last checkpoint."""
    for path in sorted(runs.glob("a-*/checkpoint_*/state.pt"))[-1:]:
        with suppress(OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError):
            state = read_state(str(path.parent))
            return bool(state["epoch"] >= 1 and state["step"] > 2)
    return False


def test_train_unreadable_image_is_named(ray_local, tmp_path):
    table = make_table(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ManifestError, match=r"1 images of the manifest cannot be read .*3\.png: not_an_image"):
        train(TrainConfig.model_validate(settings(table)), str(tmp_path / "out"), log=lambda line: None)


def test_train_workers_the_cluster_cannot_hold_are_refused(ray_local, tmp_path):
    config = TrainConfig.model_validate(settings(make_table(tmp_path), compute={"gpus_per_worker": 64}))
    assert_refused_before_decoding(config, tmp_path / "out", "the cluster has 0; lower compute")


def test_train_mlflow_that_cannot_be_had_is_refused(ray_local, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    config = TrainConfig.model_validate(settings(make_table(tmp_path), tracking={"mlflow": "http://there"}))
    assert_refused_before_decoding(config, tmp_path / "out", "MLflow is not installed")


def assert_refused_before_decoding(config: TrainConfig, output: Path, words: str) -> None:
    losses = losses_of("bce,focal", config)
    with pytest.raises(ConfigError, match=words):
        train(config, str(output), log=lambda line: None)
    with pytest.raises(ConfigError, match=words):
        compare(config, str(output), losses, log=lambda line: None)
    assert not (output / "cache").exists()
    assert not (output / "work").exists()


def test_train_part_of_which_nothing_can_be_read_is_one_sentence(ray_local, tmp_path):
    table = make_table(tmp_path)
    rows = pd.read_csv(table)
    for name in rows.loc[rows["part"] == "validation", "uri"]:
        (tmp_path / name).write_bytes(b"no image")
    values = settings(table)
    values["manifest"]["max_unreadable"] = 0.5
    with pytest.raises(ManifestError, match=r"^No image of the part validation can be read: .*\.png: not_an_image"):
        train(TrainConfig.model_validate(values), str(tmp_path / "out"), log=lambda line: None)


@pytest.mark.parametrize("changes", [{"seed": 2**32}, {"members": [{"name": "a", "backbone": "x", "seed": 2**32}]}])
def test_seed_too_large_for_what_is_made_of_it_is_refused(tmp_path, changes):
    with pytest.raises(ConfigError, match=r"seed: Input should be less than or equal to 4294967295"):
        parse(TrainConfig, settings(make_table(tmp_path), **changes), source="train.yaml")


def test_parse_password_in_a_wrong_place_is_not_shown(tmp_path):
    with pytest.raises(ConfigError, match=r"tracking\.uri: Extra inputs are not permitted\.$") as caught:
        parse(
            TrainConfig, settings(make_table(tmp_path), tracking={"uri": "http://me:se@cret@there:5000/x"}), source="-"
        )
    assert "cret" not in str(caught.value)


def test_calibrate_thresholds_and_probabilities_fit_the_labels():
    random = np.random.default_rng(0)
    labels = (random.random((300, 2)) < 0.3).astype(np.float32)
    labels[::11, 1] = np.nan
    truth = torch.from_numpy(np.nan_to_num(labels))
    logits = torch.stack(
        [4 * truth + torch.randn(300, 2, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    )
    half = (0.5, 0.5)
    spec = EnsembleSpec(
        FINDINGS,
        ("a", "b", "c"),
        ("", "", ""),
        "mean",
        calibration=_identity(),
        thresholds=half,
        member_thresholds=(half,) * 3,
        grid=4,
        preprocess=PREPROCESS,
    )
    settings = {"patients": [str(i) for i in range(300)], "method": "platt", "rule": ThresholdRule()}
    fitted, probabilities = calibrate(logits, labels, spec, **settings)
    stated = ~np.isnan(labels[:, 1])
    assert probabilities[stated, 1].mean() == pytest.approx(labels[stated, 1].mean(), abs=0.02)
    for finding in range(2):
        rows = ~np.isnan(labels[:, finding])
        called = probabilities[rows, finding] >= fitted.thresholds[finding]
        assert (called == labels[rows, finding]).mean() > 0.95
    vote, shares = calibrate(logits, labels, EnsembleSpec(**{**_fields(spec), "combination": "vote"}), **settings)
    assert vote.thresholds == half
    assert set(np.unique(np.rint(shares * 3))) <= {0, 1, 2, 3}
    np.testing.assert_allclose(shares * 3, np.rint(shares * 3), atol=1e-5)


def _identity():
    from cxr_ray.models.calibration import Calibration

    return Calibration.identity(2)


def _fields(spec: EnsembleSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
