"""Training through Ray Train: from a table to a bundle, and again without doing anything twice."""

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

from cxr_ray.config import TrainConfig
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.models.ensemble import EnsembleSpec, load_ensemble
from cxr_ray.training.assembly import calibrate
from cxr_ray.training.state import read_state
from cxr_ray.training.trainer import train
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
def test_train_table_to_bundle_and_the_same_again_does_nothing(ray_local, tmp_path):
    config = TrainConfig.model_validate(settings(make_table(tmp_path)))
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
    with pytest.raises(ConfigError, match="the cluster has 0; lower compute"):
        train(config, str(tmp_path / "out"), log=lambda line: None)


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
    fitted, probabilities = calibrate(logits, labels, spec)
    stated = ~np.isnan(labels[:, 1])
    assert probabilities[stated, 1].mean() == pytest.approx(labels[stated, 1].mean(), abs=0.02)
    for finding in range(2):
        rows = ~np.isnan(labels[:, finding])
        called = probabilities[rows, finding] >= fitted.thresholds[finding]
        assert (called == labels[rows, finding]).mean() > 0.95
    vote, shares = calibrate(logits, labels, EnsembleSpec(**{**_fields(spec), "combination": "vote"}))
    assert vote.thresholds == half
    assert set(np.unique(np.rint(shares * 3))) <= {0, 1, 2, 3}
    np.testing.assert_allclose(shares * 3, np.rint(shares * 3), atol=1e-5)


def _identity():
    from cxr_ray.models.calibration import Calibration

    return Calibration.identity(2)


def _fields(spec: EnsembleSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
