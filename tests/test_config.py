"""Settings: one YAML file, strict, with a sentence for what is wrong."""

from pathlib import Path

import pytest
import yaml

from cxr_ray.config import NightlyConfig, ScoreConfig, TrainConfig, digest_of, load_yaml, parse
from cxr_ray.errors import ConfigError

GOOD = {"manifest": {"path": "labels.csv", "findings": ["A"]}, "members": [{"name": "a", "backbone": "resnet18"}]}


def write(folder: Path, values: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_load_yaml_overrides_reach_sections_and_list_items(tmp_path):
    overrides = ("optimize.epochs=3", "members.0.backbone=densenet201", "decode.preprocess.size=96")
    config = load_yaml(TrainConfig, write(tmp_path, GOOD), overrides=overrides)
    assert config.optimize.epochs == 3
    assert config.members[0].backbone == "densenet201"
    assert config.decode.preprocess.size == 96


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**GOOD, "optimise": {}}, "optimise: Extra inputs are not permitted"),
        (
            {**GOOD, "optimize": {"epochs": 0}},
            r"optimize\.epochs: Input should be greater than or equal to 1 \(got 0\)",
        ),
        ({"members": GOOD["members"]}, "manifest: Field required"),
        ({**GOOD, "members": GOOD["members"] * 2}, "member names are used twice: a"),
        ({**GOOD, "members": []}, "members must list at least one backbone"),
        ({**GOOD, "manifest": {"path": "x", "findings": ["A", "A"]}}, "findings are named twice: A"),
        (["a"], "must be a mapping of sections, not list"),
    ],
)
def test_load_yaml_wrong_settings_are_named(tmp_path, values, words):
    with pytest.raises(ConfigError, match=words):
        load_yaml(TrainConfig, write(tmp_path, values))


@pytest.mark.parametrize("override", ["epochs", "=3", "members.4.name=x"])
def test_load_yaml_wrong_override_is_named(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        load_yaml(TrainConfig, write(tmp_path, GOOD), overrides=(override,))


def test_load_yaml_absent_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(TrainConfig, tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_yaml(TrainConfig, tmp_path / "broken.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_yaml(TrainConfig, tmp_path / "latin.yaml")
    (tmp_path / "date.yaml").write_text("a: 2026-99-99")
    with pytest.raises(ConfigError, match="is not YAML: month must be in"):
        load_yaml(TrainConfig, tmp_path / "date.yaml")


def test_configurations_in_the_repository_are_valid():
    found = list(Path(__file__).parents[1].glob("jobs/*.yaml"))
    assert found
    for path in found:
        load_yaml(NightlyConfig if path.stem == "nightly" else TrainConfig, path)


def test_sections_survive_the_way_into_a_worker():
    config = parse(TrainConfig, GOOD, source="test")
    assert TrainConfig.model_validate(config.model_dump()) == config
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
    assert ScoreConfig.model_validate(ScoreConfig().model_dump()) == ScoreConfig()


def test_digest_of_order_of_keys_does_not_matter():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_score_config_batch_follows_the_device_unless_it_is_said():
    assert [ScoreConfig().batch_on(device) for device in ("cpu", "cuda")] == [16, 32]
    assert [ScoreConfig(batch_size=5).batch_on(device) for device in ("cpu", "cuda")] == [5, 5]
