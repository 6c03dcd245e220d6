"""The dry run: what it finds wrong in a sentence, what it estimates, and that it starts nothing."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from cxr_ray.config import MemberConfig, TrainConfig
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.manifest import read_manifest
from cxr_ray.models.member import create
from cxr_ray.training.rehearsal import _activation_bytes, check_workers, rehearse
from tests.training.test_trainer import make_table, settings


def configured(table: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate(settings(table, **changes))


def test_rehearse_good_table_gives_class_table_and_estimates(tmp_path):
    found = rehearse(configured(make_table(tmp_path)), log=lambda line: None)
    assert found.images == {"train": 24, "validation": 8, "test": 8}
    assert found.table[0].split() == ["finding", "train", "validation", "test", "weight"]
    assert [item.name for item in found.members] == ["a", "b"]
    network, _ = create(
        MemberConfig(name="a", backbone="test_resnet"), findings=("A", "B"), size=48, preprocess_digest=""
    )
    assert found.members[0].parameters == sum(parameter.numel() for parameter in network.parameters())
    assert all(item.seconds > 0 and item.memory_bytes > 20 * item.parameters for item in found.members)
    assert "Nothing was started and nothing was written." in found.lines()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv"] + [".png"] * 40


def test_rehearse_more_epochs_and_larger_batches_cost_more(tmp_path):
    table = make_table(tmp_path)
    small, large = (
        rehearse(
            configured(
                table,
                members=[{"name": "a", "backbone": "test_resnet"}],
                optimize={"epochs": epochs, "batch_size": batch},
            ),
            log=lambda line: None,
        ).members[0]
        for epochs, batch in ((1, 2), (100, 16))
    )
    assert large.seconds > 5 * small.seconds
    assert large.memory_bytes > small.memory_bytes


def test_activation_bytes_are_those_of_all_layers():
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU())
    assert _activation_bytes(layers, torch.zeros(2, 1, 3, 4)) == 4 * 2 * (12 + 5 + 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": [{"name": "a", "backbone": "resnet1"}]}, r"timm knows no backbone 'resnet1'; did you mean resnet"),
        (
            {"compute": {"workers": 9}},
            "9 workers share 24 training images in batches of 8: one would have none; lower compute.workers",
        ),
        ({"tracking": {"mlflow": "http://nowhere"}}, "MLflow is not installed"),
    ],
)
def test_rehearse_what_cannot_work_is_one_sentence(tmp_path, monkeypatch, changes, words):
    monkeypatch.setitem(__import__("sys").modules, "mlflow.exceptions", None)
    with pytest.raises(ConfigError, match=words):
        rehearse(configured(make_table(tmp_path), **changes), log=lambda line: None)


def test_check_workers_as_many_as_a_batch_holds_are_allowed(tmp_path):
    table = make_table(tmp_path)
    config = configured(table, compute={"workers": 8})
    check_workers(config, read_manifest(config.manifest, seed=0))


def test_rehearse_pretrained_weights_that_cannot_be_had_say_how_to_bring_them(tmp_path):
    missing = {"pretrained": True, "options": {"checkpoint_path": str(tmp_path / "absent.safetensors")}}
    members = [{"name": "a", "backbone": "test_resnet", **missing}]
    with pytest.raises(ConfigError, match=r"weights of test_resnet cannot be had .*HF_HOME.*checkpoint_path"):
        rehearse(configured(make_table(tmp_path), members=members), log=lambda line: None)


def test_rehearse_all_negative_finding_is_an_error_in_validation_and_a_note_in_test(tmp_path):
    table = make_table(tmp_path)
    rows = pd.read_csv(table)
    rows.loc[rows["part"] == "test", "Bright"] = 0
    rows.to_csv(table, index=False)
    notes = rehearse(configured(table), log=lambda line: None).notes
    assert "Never present in the part test: Bright; their AUROC there is undefined." in notes
    rows.loc[rows["part"] == "validation", "Bright"] = 0
    rows.to_csv(table, index=False)
    with pytest.raises(ManifestError, match="no image of the part validation has Bright present"):
        rehearse(configured(table), log=lambda line: None)


def test_rehearse_unreadable_image_is_noted(tmp_path):
    table = make_table(tmp_path)
    (tmp_path / "0.png").write_bytes(b"no image")
    notes = rehearse(configured(table), log=lambda line: None).notes
    assert any(note.startswith(f"Cannot be read: {tmp_path / '0.png'}") for note in notes)
