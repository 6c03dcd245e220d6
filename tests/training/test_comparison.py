"""Losses side by side: what `--compare` names, what is measured, and that nothing is trained twice."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from cxr_ray.config import LossConfig, TrainConfig
from cxr_ray.errors import ConfigError
from cxr_ray.labels.manifest import read_manifest
from cxr_ray.models.member import create
from cxr_ray.training.cache import ModelInputs, open_part
from cxr_ray.training.comparison import (
    Comparison,
    LossResult,
    compare,
    losses_of,
    measure,
    rare_findings,
    rehearse_losses,
    title,
)
from tests.training.test_trainer import FINDINGS, make_table, settings


def configured(table: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate(settings(table, **changes))


def test_losses_of_names_keep_all_else_of_the_configuration(tmp_path):
    optimize = {"loss": {"name": "focal", "gamma": 1.5, "weighting": "inverse"}}
    config = configured(make_table(tmp_path), optimize=optimize)
    bce, focal = losses_of("bce:none, focal", config)
    assert (bce.name, bce.weighting) == ("bce", "none")
    assert focal == config.optimize.loss
    assert title(focal) == "focal weighting=inverse gamma=1.5"


def test_losses_of_yaml_list_names_any_setting(tmp_path):
    (tmp_path / "losses.yaml").write_text("- {name: ldam, max_margin: 0.3, deferred: 0.8}\n- {name: bce}\n")
    ldam, bce = losses_of(str(tmp_path / "losses.yaml"), configured(make_table(tmp_path)))
    assert ldam == LossConfig(name="ldam", max_margin=0.3, deferred=0.8)
    assert bce == LossConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bce", "does not name two losses or more that differ"),
        ("bce,focal,bce", "does not name two losses or more that differ"),
        ("bce,fokal", "--compare bce,fokal cannot be used: name: Input should be 'bce', "),
        ("bce:most,focal", "weighting: Input should be 'none', "),
        ("absent.yaml", r"configuration absent\.yaml cannot be read \(No such file or directory\); check the path"),
        ("mapping.yaml", r"--compare mapping\.yaml must be a list of losses"),
        ("broken.yaml", r"configuration broken\.yaml is not YAML"),
    ],
)
def test_losses_of_what_is_no_list_of_losses_is_one_sentence(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    Path("mapping.yaml").write_text("name: focal\n")
    Path("broken.yaml").write_text("- {name: focal\n")
    with pytest.raises(ConfigError, match=words):
        losses_of(text, configured(make_table(tmp_path)))


def test_measure_means_are_over_defined_findings_and_rare_ones_apart():
    random = np.random.default_rng(0)
    labels = np.column_stack([random.random(80) < 0.5, random.random(80) < 0.1, np.zeros(80)]).astype(np.float32)
    logits = random.normal(size=(80, 3)).astype(np.float32)
    inputs = ModelInputs(tuple(map(str, range(80))), labels, (), np.zeros((80, 2), np.int64))
    found = measure("bce", logits, inputs, findings=("A", "B", "C"), rare=("B", "C"), seconds=1.0)
    precisions = [average_precision_score(labels[:, f], logits[:, f]) for f in range(2)]
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))
    assert found.rare_average_precision == pytest.approx(precisions[1])
    none = measure("bce", logits, inputs, findings=("A", "B", "C"), rare=(), seconds=1.0)
    assert math.isnan(none.rare_average_precision)
    table = Comparison("m", (), (none,))
    assert table.to_dict()["losses"][0]["rare_average_precision"] is None
    assert table.lines()[1].split()[:4] == ["bce", f"{none.macro_auroc:.3f}", f"{np.mean(precisions):.3f}", "nan"]


def test_lines_are_a_table():
    rows = (LossResult("bce", 0.75, 0.5, 0.25, 0.5, 0.125, 12.0), LossResult("focal gamma=1", 0.5, 0.5, 0.5, 0.5, 0, 9))
    assert Comparison("m", ("Hernia",), rows).lines() == [
        "loss           AUROC    mAP  rare mAP     F1    ECE  seconds",
        "bce            0.750  0.500     0.250  0.500  0.125       12",
        "focal gamma=1  0.500  0.500     0.500  0.500  0.000        9",
        "Member m, validation part. Rare, in less than 5% of the training images: Hernia.",
        "F1 at the best threshold of the same part; ECE before calibration. Nothing was written into a bundle.",
    ]


def test_rare_findings_are_those_of_the_training_part(tmp_path):
    config = configured(make_table(tmp_path))
    assert rare_findings(read_manifest(config.manifest, seed=0)) == ()


def test_rehearse_losses_estimates_the_first_member_with_each(tmp_path):
    config = configured(make_table(tmp_path))
    found = rehearse_losses(config, losses_of("bce:none,asymmetric", config), log=lambda line: None)
    assert [item.name for item in found.members] == ["a with bce weighting=none", "a with asymmetric"]
    assert found.members[0].seconds == found.members[1].seconds > 0
    assert "The weights are those of bce weighting=none." in found.lines()


@pytest.mark.slow
def test_compare_first_member_with_each_loss_and_again_trains_nothing(ray_local, tmp_path):
    config = configured(make_table(tmp_path), optimize={"epochs": 1, "batch_size": 8, "learning_rate": 0.01})
    losses = losses_of("bce:none,ldam", config)
    first = compare(config, str(tmp_path / "out"), losses, log=lambda line: None)
    assert [row.loss for row in first.rows] == ["bce weighting=none", "ldam"]
    assert first.member == "a"
    assert not (tmp_path / "out" / "ensemble").exists()
    _check_logits_are_those_of_the_weights(tmp_path / "out", config)
    lines: list[str] = []
    again = compare(config, str(tmp_path / "out"), losses, log=lines.append)
    assert sum("is trained already" in line for line in lines) == 2
    assert not any(" epoch " in line for line in lines)
    for before, after in zip(first.rows, again.rows, strict=True):
        assert (before.macro_auroc, before.calibration_error) == (after.macro_auroc, after.calibration_error)


def _check_logits_are_those_of_the_weights(output: Path, config: TrainConfig) -> None:
    """Both parts' filed logits of each member are what its filed weights give."""
    folders, (cache,) = sorted((output / "work").glob("a-*")), filter(Path.is_dir, (output / "cache").iterdir())
    assert len(folders) == 2
    for folder in folders:
        network, _ = create(config.members[0], findings=FINDINGS, size=48, preprocess_digest="d")
        network.load_state_dict(load_file(folder / "best.safetensors"))
        for part in ("validation", "test"):
            inputs = open_part(str(cache), part)
            with torch.no_grad():
                found = network.eval()(torch.from_numpy(inputs.pixels(range(len(inputs)))))
            np.testing.assert_allclose(np.load(folder / f"{part}.npy"), found, rtol=1e-3, atol=1e-4)
